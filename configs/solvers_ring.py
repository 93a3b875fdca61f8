r"""Solvers beside each other on a ring of eight Gaussians, whose score is known.

    python main.py --mode solvers --config configs/solvers_ring.py --workdir runs/solvers

Shows which solver and grid to take for how many network evaluations, and the order of each. There
is no network and nothing to train, so all of the error is the solver's. Stochastic solvers are
compared by their distribution, and eta of DDIM is swept. Two minutes of processor time (measured),
most of it for compiling. The same mode analyses a trained model, with its own config and workdir:

    python main.py --mode solvers --config configs/digits.py --workdir runs/digits \
        --config.solvers.solvers='("dpmpp", "unipc")' --config.solvers.nfe='(10, 20)'
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.sde = "EDM"
    config.solvers.problem = "ring(components=8)"
    config.solvers.solvers = (
        "ddim",
        "dpmpp",
        "dpmpp(order=3)",
        "deis(variable='log_rho')",
        "unipc",
        "heun",
        "probability_flow",
        "ddim(eta=(0.0, 0.5, 1.0))",
        "dpmpp_sde",
    )
    config.solvers.grids = ("log_snr", "karras", "polyexponential(rho=0.5)")
    config.solvers.nfe = (5, 7, 10, 14, 20, 28, 40)
    config.solvers.num_samples = 4096
    config.solvers.reference_tolerance = 1e-10
    return config
