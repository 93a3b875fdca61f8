r"""8x8 digits by class: label dropout in training, classifier-free guidance in sampling.

    python main.py --mode train,sample --config configs/digits_classes.py --workdir runs/classes \
        --config.sampling.labels="(0, 1, 2, 3, 4, 5, 6, 7, 8, 9)"
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.net.num_classes = 10
    config.objective.drop_cond = 0.1
    config.train.steps = 3500
    return config
