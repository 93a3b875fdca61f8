r"""8x8 digits in one to four evaluations: a mean flow, without a teacher.

    python main.py --mode train,evaluate --config configs/digits_mean_flow.py \
        --workdir runs/mean_flow

The configs of improved mean flows, alpha-flows and terminal velocity matching differ from this one.

Of seed 0: a Frechet distance of pixels to the test images of 0.343, 0.253 and 0.228 with 1, 2 and 4
evaluations, where that of the training images is 0.141. 2,000 steps; 5,000 give 0.361, 0.254 and
0.218.
"""

from ml_collections import ConfigDict

from configs import base, digits_flow


def get_config() -> ConfigDict:
    config = digits_flow.get_config()
    config.c_noise = "time(scale=1.0)"
    config.net.numbers = ("jump",)
    config.objective = ConfigDict(
        {
            "name": "mean_flow",
            "time_law": "logit_normal(mean=-0.4)",
            "distance": "adaptive(power=1.0)",
            "equal": 0.5,
        }
    )
    config.sampling.grid = "uniform"
    return base.in_few_evaluations(config, "flow_map(gamma=0.0)")
