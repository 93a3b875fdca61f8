r"""8x8 digits with a watermark: a key in their noise, found again by encoding them.

    python main.py --mode sample,detect --config configs/digits_watermark.py --workdir runs/digits

Of the samples all, of the test images about one in a thousand has a p-value below 1e-3 in
detect.json. `--config.sampling.truncate=True` keeps more of the noise in the images: 256 levels
instead of 17.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.watermark.key = 2023
    config.watermark.num_control = 297
    config.sampling.num_samples = 300
    return config
