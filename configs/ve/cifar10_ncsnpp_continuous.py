r"""CIFAR-10, VE, NCSN++, continuous training; 62.8M parameters.

    python main.py --mode train --config configs/ve/cifar10_ncsnpp_continuous.py \
        --workdir runs/ve_ncsnpp_continuous

Published (Song et al. 2021): FID 2.38, IS 9.83.
Cost: 1,300,000 steps of batch 128.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config() -> ConfigDict:
    return paper.cifar10("ve", "ncsnpp")
