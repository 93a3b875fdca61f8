r"""LSUN church at 256x256, VE, NCSN++, continuous training; 65.6M parameters.

    python main.py --mode train --config configs/ve/church_ncsnpp_continuous.py \
        --workdir runs/church

Cost: 2,400,000 steps of batch 64.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config() -> ConfigDict:
    return paper.ve_large("lsun/church_outdoor", image_size=256, sigma_max=380.0)
