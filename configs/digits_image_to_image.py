"""8x8 digits: noise added to each digit, and taken away again (SDEdit).

    python main.py --mode edit --config configs/digits_image_to_image.py --workdir runs/digits

On the workdir of configs/digits.py.
"""

from ml_collections import ConfigDict

from configs import digits_inpaint


def get_config() -> ConfigDict:
    config = digits_inpaint.get_config()
    config.edit.task = "image_to_image(log_snr=-0.5)"
    return config
