r"""8x8 digits by class in one to four evaluations, at any weight of guidance: latent consistency
distillation of digits_classes.py.

    python main.py --mode train --config configs/digits_classes.py --workdir runs/classes
    python main.py --mode train,evaluate --config configs/digits_lcm.py --workdir runs/lcm
    python main.py --mode sample --config configs/digits_lcm.py --workdir runs/lcm \
        --config.sampling.guidance="conditioned(weight=2.0)"
"""

from ml_collections import ConfigDict

from configs import digits_classes
from configs.digits_consistency_distillation import one_time


def get_config() -> ConfigDict:
    config = digits_classes.get_config()
    config.net.numbers = ("guidance",)
    config.objective = ConfigDict(
        {
            "name": "lcm",
            "teacher": "runs/classes",
            "solver": "ddim",
            "grid": "log_snr",
            "curriculum": "fixed(levels=101, rate=0.95)",
            "skip": 5,
            "weights": (1.0, 3.0),
            "time_law": "log_snr_uniform(stratified=True)",
            "distance": "elementwise_huber(scale=0.001)",
        }
    )
    config = one_time(config)
    config.sampling.guidance = "conditioned(weight=1.5)"
    return config
