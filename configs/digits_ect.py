r"""8x8 digits in one to four evaluations: easy consistency tuning of digits_edm.py.

    python main.py --mode train --config configs/digits_edm.py --workdir runs/edm
    python main.py --mode train,evaluate --config configs/digits_ect.py --workdir runs/ect

A step has one forward pass more than one of digits_edm.py.

Of seed 0: a Frechet distance of pixels to the test images of 0.237, 0.250 and 0.227 with 1, 2 and 4
evaluations, where that of the training images is 0.141. 2,500 steps, 295 s of processor time.
"""

from ml_collections import ConfigDict

from configs import digits_edm
from configs.digits_consistency_distillation import one_time


def get_config() -> ConfigDict:
    config = one_time(digits_edm.get_config())
    config.objective = ConfigDict(
        {
            "name": "ect",
            "teacher": "runs/edm",
            "time_law": "log_normal(mean=-1.1, std=2.0, stratified=True)",
            "distance": "norm",
            "q": 2.0,
            "k": 8.0,
            "b": 1.0,
            "stages": 6,
            "stage_length": 400,
            "gap_power": 1.0,
        }
    )
    config.train.steps = 2500
    return config
