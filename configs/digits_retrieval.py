r"""8x8 digits by their neighbours: a small transformer sees the four nearest training images.

    python main.py --mode train,sample --config configs/digits_retrieval.py \
        --workdir runs/retrieval

Each sample has the neighbours of a test image, in turn. 3,500 steps, as configs/digits_dit.py.
"""

from ml_collections import ConfigDict

from configs import digits_dit


def get_config() -> ConfigDict:
    config = digits_dit.get_config()
    config.conditioner = "neighbours(k=4)"
    config.net.update(context="cross", context_features=64)
    config.objective.drop_cond = 0.1
    config.sampling.guidance = "classifier_free(weight=1.5)"
    config.evaluate.parts = ("metrics",)
    return config
