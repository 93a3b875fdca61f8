"""8x8 digits: noise is added to each, and taken away again (SDEdit).

    python main.py --mode edit --config configs/digits_image_to_image.py --workdir runs/digits

On the workdir of configs/digits.py. A lower log_snr makes more of the image anew; a drawing of your
own: `--config.edit.images=drawing.png`.
"""

from ml_collections import ConfigDict

from configs import digits_inpaint


def get_config() -> ConfigDict:
    config = digits_inpaint.get_config()
    config.edit.task = "image_to_image(log_snr=1.0)"
    return config
