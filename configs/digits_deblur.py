"""8x8 digits: blurred, seen with some noise, and made sharp again.

    python main.py --mode edit --config configs/digits_deblur.py --workdir runs/digits

On the workdir of configs/digits.py. `misfit` should be about the noise.
"""

from ml_collections import ConfigDict

from configs import digits_inpaint


def get_config() -> ConfigDict:
    config = digits_inpaint.get_config()
    config.edit.task = "deblur(std=1.0)"
    config.edit.noise = 0.05
    return config
