"""8x8 digits: the middle of each digit is known, the border is drawn anew.

    python main.py --mode edit --config configs/digits_outpaint.py --workdir runs/digits

On the workdir of configs/digits.py.
"""

from ml_collections import ConfigDict

from configs import digits_inpaint


def get_config() -> ConfigDict:
    config = digits_inpaint.get_config()
    config.edit.task = "outpaint(fraction=0.5)"
    return config
