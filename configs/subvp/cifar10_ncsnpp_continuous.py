r"""CIFAR-10, sub-VP, NCSN++, continuous training; 62.7M parameters.

    python main.py --mode train --config configs/subvp/cifar10_ncsnpp_continuous.py \
        --workdir runs/subvp_ncsnpp_continuous

Cost: 1,300,000 steps of batch 128.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config() -> ConfigDict:
    return paper.cifar10("subvp", "ncsnpp")
