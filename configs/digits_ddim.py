"""8x8 digits, DDIM: the discrete training of DDPM, sampled in 50 deterministic steps.

python main.py --mode train,sample,likelihood --config configs/digits_ddim.py --workdir runs/ddim
"""

from ml_collections import ConfigDict

from configs import digits_ddpm


def get_config() -> ConfigDict:
    config = digits_ddpm.get_config()
    config.sampling.solver = "ddim(eta=0.0)"
    config.sampling.steps = 50
    return config
