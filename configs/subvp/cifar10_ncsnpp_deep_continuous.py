r"""CIFAR-10, sub-VP, NCSN++ deep, continuous training; 107.5M parameters.

    python main.py --mode train --config configs/subvp/cifar10_ncsnpp_deep_continuous.py \
        --workdir runs/subvp_ncsnpp_deep_continuous

Cost: 950,000 steps of batch 128.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config() -> ConfigDict:
    return paper.cifar10("subvp", "ncsnpp", deep=True)
