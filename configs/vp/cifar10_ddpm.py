r"""CIFAR-10, VP, DDPM, discrete training; 35.2M parameters.

    python main.py --mode train --config configs/vp/cifar10_ddpm.py \
        --workdir runs/vp_ddpm

Cost: 1,300,000 steps of batch 128.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config() -> ConfigDict:
    return paper.cifar10("vp", "ddpm", continuous=False)
