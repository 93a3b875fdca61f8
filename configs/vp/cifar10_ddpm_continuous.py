r"""CIFAR-10, VP, DDPM, continuous training; 35.2M parameters.

    python main.py --mode train --config configs/vp/cifar10_ddpm_continuous.py \
        --workdir runs/vp_ddpm_continuous

Published (Song et al. 2021): FID 3.24; by the ODE FID 3.37, 3.28 bits/dim.
Cost: 1,300,000 steps of batch 128.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config() -> ConfigDict:
    return paper.cifar10("vp", "ddpm")
