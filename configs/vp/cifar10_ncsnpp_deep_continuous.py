r"""CIFAR-10, VP, NCSN++ deep, continuous training; 107.5M parameters.

    python main.py --mode train --config configs/vp/cifar10_ncsnpp_deep_continuous.py \
        --workdir runs/vp_ncsnpp_deep_continuous

Cost: 950,000 steps of batch 128.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config() -> ConfigDict:
    return paper.cifar10("vp", "ncsnpp", deep=True)
