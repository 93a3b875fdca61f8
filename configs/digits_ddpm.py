"""8x8 digits, DDPM: discrete training on 1,000 steps, ancestral sampling.

python main.py --mode train,sample,likelihood --config configs/digits_ddpm.py --workdir runs/ddpm
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.sde = "DDPM(num_steps=1000)"
    config.objective.time_law = "grid_points(num_steps=1000, stratified=True)"
    config.sampling.solver = "ancestral"
    config.sampling.steps = 999  # the last of the 1,000 evaluations is the denoising
    config.sampling.t_min = 0.0
    return config
