r"""8x8 digits, rectified flow: velocity prediction, logit-normal times, 30 steps.

python main.py --mode train,sample,likelihood --config configs/digits_flow.py --workdir runs/flow
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.sde = "Flow"
    config.parametrization = "flow"
    config.objective.time_law = "logit_normal(stratified=True)"
    config.objective.weighting = "sd3"
    config.sampling.solver = "dpmpp"
    config.sampling.steps = 30
    config.sampling.t_min = 1e-3
    return config
