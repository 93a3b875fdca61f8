r"""Eight Gaussians on a circle, learnt from their energy alone by adjoint sampling: no data.

    python main.py --mode train,sample --config configs/ring_energy.py --workdir runs/ring_energy

benchmarks/adjoint.py trains it too, and bounds ln Z. 800 steps, 20 s of processor time.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data = {"name": "zeros", "shape": (2,)}
    config.codec = {"name": "reals", "part": "signal"}
    config.net = {"name": "mlp.MLP", "features": (128, 128), "embedding_dim": 32}
    config.sde = "VP(t_min=1e-3)"
    config.parametrization = "edm(sigma_data=1.0)"  # at first D is that of N(0, I)
    config.objective = ConfigDict(
        {
            "name": "adjoint_sampling",
            "log_density": "ring(components=8, radius=1.5, std=0.35, log_mass=3.0)",
            "std": 1.0,
            "time_law": "log_snr_uniform",
            "weighting": "min_snr(gamma=5.0)",
            "steps": 32,
            "times_per_path": 8,
            "anneal": 400,
        }
    )
    config.optim.learning_rate = 2e-3
    config.optim.warmup = 50
    config.optim.schedule = "cosine"
    config.train.batch_size = 1024  # 128 paths
    config.train.steps = 800
    config.train.sample_every = 0
    config.train.ema_rates = (0.99,)

    config.sampling.solver = "dpmpp"
    config.sampling.grid = "log_snr"
    config.sampling.steps = 20
    return config
