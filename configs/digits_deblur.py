"""8x8 digits: sharpens what was blurred and measured with a little noise.

    python main.py --mode edit --config configs/digits_deblur.py --workdir runs/digits

On the workdir of configs/digits.py.
"""

from ml_collections import ConfigDict

from configs import digits_inpaint


def get_config() -> ConfigDict:
    config = digits_inpaint.get_config()
    config.edit.task = "deblur(std=1.0)"
    config.edit.noise = 0.05
    return config
