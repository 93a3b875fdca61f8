r"""8x8 digits with a small transformer.

    python main.py --mode train,sample,likelihood,evaluate --config configs/digits_dit.py \
        --workdir runs/digits_dit
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.net = {
        "name": "dit.DiT",
        "patch_size": 2,
        "width": 64,
        "depth": 4,
        "num_heads": 4,
        "num_classes": 0,
        "dropout": 0.0,
    }
    config.optim.learning_rate = 2e-3
    config.train.steps = 3000
    return config
