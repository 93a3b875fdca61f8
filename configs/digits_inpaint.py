"""8x8 digits: the right half is hidden, and completed in four ways.

    python main.py --mode edit --config configs/digits_inpaint.py --workdir runs/digits

On the workdir of configs/digits.py. The left half stays exactly as it is. With a mask of
your own, white where pixels are known: `--config.edit.task="inpaint(keep='mask.png')"`.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.edit.task = "inpaint(keep='left')"
    config.sampling.solver = "dpmpp_sde"
    config.sampling.grid = "log_snr"
    config.sampling.steps = 50
    return config
