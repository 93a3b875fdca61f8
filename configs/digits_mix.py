"""8x8 digits: the low frequencies of one latent with the high ones of the next.

    python main.py --mode edit --config configs/digits_mix.py --workdir runs/digits

On the workdir of configs/digits.py.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.edit.task = "mix(cutoffs=(1.0, 1.5, 2.0, 3.0))"
    return config
