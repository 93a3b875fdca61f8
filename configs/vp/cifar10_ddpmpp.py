r"""CIFAR-10, VP, DDPM++, discrete training; 61.8M parameters.

    python main.py --mode train --config configs/vp/cifar10_ddpmpp.py \
        --workdir runs/vp_ddpmpp

Cost: 1,300,000 steps of batch 128.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config() -> ConfigDict:
    return paper.cifar10("vp", "ddpmpp", continuous=False)
