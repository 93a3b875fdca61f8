r"""A text of your own, by masked diffusion of its bytes.

    python main.py --mode train,sample,likelihood --config configs/text.py --workdir runs/text \
        --config.data.path=book.txt

Rows of 128 bytes. The network is small, for two cores; `configs/text8.py` has a large one.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import digits, digits_tokens


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.data = ConfigDict(
        {
            "name": "text_file",
            "path": placeholder(str),
            "length": 128,
            "tokens": "bytes",
            "test_fraction": 0.1,
            "stride": placeholder(int),
        }
    )
    config.codec = "tokens"
    config = digits_tokens.as_tokens(config, 256)
    config.net.positions = "rope"
    config.sampling.update(num_samples=24, batch_size=24)
    config.train.update(steps=5000, batch_size=32)
    config.evaluate.parts = ("loss", "likelihood")
    config.likelihood.batch_size = 64
    return config
