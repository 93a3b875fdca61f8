r"""8x8 digits in one to four evaluations: reflow, from the pairs of a rectified flow.

    python main.py --mode train,pairs --config configs/digits_flow.py --workdir runs/flow
    python main.py --mode train,evaluate --config configs/digits_reflow.py --workdir runs/reflow

Of seed 0: a Frechet distance of pixels to the test images of 0.208, 0.208 and 0.207 with 1, 2 and 4
evaluations, where that of the training images is 0.141. 4,000 steps, 343 s of processor time.
"""

from ml_collections import ConfigDict

from configs import base, digits_flow


def get_config() -> ConfigDict:
    config = digits_flow.get_config()
    config.objective = ConfigDict(
        {
            "name": "reflow",
            "teacher": "runs/flow",
            "pairs": "pairs.npz",  # in the workdir of the teacher
            "time_law": "uniform(stratified=True)",
            "weighting": "flow",
        }
    )
    config.optim.learning_rate = 1e-3
    config.train.steps = 4000
    config.sampling.t_min = None
    return base.in_few_evaluations(config, "ddim")  # on the rectified flow, Euler's method
