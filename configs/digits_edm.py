r"""8x8 digits, EDM: preconditioned network, log-normal noise levels, Heun's method.

    python main.py --mode train,sample,likelihood,evaluate --config configs/digits_edm.py \
        --workdir runs/edm

Of seed 0: 1.91 +- 0.016 bits/dim of the test images, and a Frechet distance of pixels of 0.174 to
them with 37 evaluations, where that of the training images is 0.141. 78,385 parameters; 2,000
steps, each as long as one of digits.py.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.sde = "EDM(t_min=0.002, t_max=80.0)"
    config.parametrization = "edm(sigma_data=0.5)"
    config.c_noise = "quarter_log_sigma"
    config.objective.time_law = "log_normal(mean=-1.2, std=1.2, stratified=True)"
    config.objective.weighting = "edm(mean=-1.2, std=1.2, sigma_data=0.5)"
    config.sampling.solver = "heun"
    config.sampling.grid = "karras(rho=7.0)"
    config.sampling.steps = 18
    config.sampling.t_min = 0.002
    return config
