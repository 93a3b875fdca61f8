r"""CIFAR-10, VP, DDPM++ deep, continuous training; 106.6M parameters.

    python main.py --mode train --config configs/vp/cifar10_ddpmpp_deep_continuous.py \
        --workdir runs/vp_ddpmpp_deep_continuous

Published (Song et al. 2021): FID 2.41, IS 9.68; by the ODE FID 3.08, 3.13 bits/dim.
Cost: 950,000 steps of batch 128.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config() -> ConfigDict:
    return paper.cifar10("vp", "ddpmpp", deep=True)
