"""8x8 digits: from means over 2x2 pixels to all of them.

    python main.py --mode edit --config configs/digits_super_resolution.py --workdir runs/digits

On the workdir of configs/digits.py. The results have exactly these means before they are
rounded to pixel values (`known_error`).
"""

from ml_collections import ConfigDict

from configs import digits_inpaint


def get_config() -> ConfigDict:
    config = digits_inpaint.get_config()
    config.edit.task = "super_resolution(factor=2)"
    return config
