"""8x8 digits: the middle is known, a box of 4x4, and continued to all sides.

    python main.py --mode edit --config configs/digits_outpaint.py --workdir runs/digits

On the workdir of configs/digits.py. The box stays exactly as it is.
"""

from ml_collections import ConfigDict

from configs import digits_inpaint


def get_config() -> ConfigDict:
    config = digits_inpaint.get_config()
    config.edit.task = "outpaint(fraction=0.5)"
    return config
