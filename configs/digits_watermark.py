r"""8x8 digits with a watermark: a key in their noise, found again by inverting them.

    python main.py --mode sample,detect --config configs/digits_watermark.py --workdir runs/digits

Measured on 300 samples: p below 1e-3 for 98.7 % of them, and for 1 of 297 test images. With
`--config.codec.truncate=True`, images of 256 values instead of 17: 100 % and none.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.watermark.key = 2023
    config.watermark.num_control = 297
    config.sampling.num_samples = 300
    return config
