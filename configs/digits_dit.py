r"""8x8 digits with a small transformer: patches of 2x2, four blocks of 64 channels, v prediction.

    python main.py --mode train,sample,likelihood,evaluate --config configs/digits_dit.py \
        --workdir runs/digits_dit

bits/dim of the 297 test images 1.97 +- .015; Frechet distance of 1,500 samples, pixels, to the test
images .20, where that of the training images is .14. 328,260 parameters, 3,500 steps.
Training takes 95 s on two idle cores (measured).
"""

from ml_collections import ConfigDict

from configs import digits
from score_sde.experiment.base import net_fields
from score_sde.nets.dit import DiT


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.net = net_fields("dit.DiT", DiT)
    config.net.update({"patch_size": 2, "width": 64, "depth": 4, "num_heads": 2})
    config.parametrization = "v"
    config.objective.weighting = "v"
    config.optim.learning_rate = 2e-3
    config.train.steps = 3500
    return config
