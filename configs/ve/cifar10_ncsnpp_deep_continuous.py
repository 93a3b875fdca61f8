r"""CIFAR-10, VE, NCSN++ deep, continuous training; 107.6M parameters.

    python main.py --mode train --config configs/ve/cifar10_ncsnpp_deep_continuous.py \
        --workdir runs/ve_ncsnpp_deep_continuous

Published (Song et al. 2021): FID 2.20, IS 9.89.
Cost: 950,000 steps of batch 128.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config() -> ConfigDict:
    return paper.cifar10("ve", "ncsnpp", deep=True)
