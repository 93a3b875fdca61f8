r"""CIFAR-10, sub-VP, DDPM++, continuous training; 61.8M parameters.

    python main.py --mode train --config configs/subvp/cifar10_ddpmpp_continuous.py \
        --workdir runs/subvp_ddpmpp_continuous

Published (Song et al. 2021): FID 2.61, IS 9.56; by the ODE FID 3.16, 3.02 bits/dim.
Cost: 1,300,000 steps of batch 128.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config() -> ConfigDict:
    return paper.cifar10("subvp", "ddpmpp")
