r"""CIFAR-10, sub-VP, DDPM, continuous training; 35.2M parameters.

    python main.py --mode train --config configs/subvp/cifar10_ddpm_continuous.py \
        --workdir runs/subvp_ddpm_continuous

Cost: 1,300,000 steps of batch 128.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config() -> ConfigDict:
    return paper.cifar10("subvp", "ddpm")
