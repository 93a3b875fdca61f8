"""8x8 digits: the right half hidden, four completions of each digit.

    python main.py --mode edit --config configs/digits_inpaint.py --workdir runs/digits

On the workdir of configs/digits.py.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.edit.task = 'inpaint(keep="left")'

    config.sampling.solver = "dpmpp_sde"
    config.sampling.grid = "log_snr"
    config.sampling.steps = 50
    return config
