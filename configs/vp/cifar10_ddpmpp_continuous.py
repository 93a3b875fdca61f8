r"""CIFAR-10, VP, DDPM++, continuous training; 61.8M parameters.

    python main.py --mode train --config configs/vp/cifar10_ddpmpp_continuous.py \
        --workdir runs/vp_ddpmpp_continuous

Published (Song et al. 2021): FID 2.55, IS 9.58; by the ODE FID 3.93, 3.16 bits/dim.
Cost: 1,300,000 steps of batch 128.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config() -> ConfigDict:
    return paper.cifar10("vp", "ddpmpp")
