r"""CIFAR-10, VE, DDPM, discrete training; 35.2M parameters.

    python main.py --mode train --config configs/ve/cifar10_ddpm.py \
        --workdir runs/ve_ddpm

Cost: 1,300,000 steps of batch 128.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config() -> ConfigDict:
    return paper.cifar10("ve", "ddpm", continuous=False)
