"""8x8 digits: from each to the next, through latents of the probability flow.

    python main.py --mode edit --config configs/digits_interpolate.py --workdir runs/digits

On the workdir of configs/digits.py. The first and the last column are the two digits, inverted
to noise and generated again.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.edit.task = "interpolate(points=9)"
    return config
