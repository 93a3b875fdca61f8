r"""Signals of 64 real numbers, sums of two waves: a perceptron, continuous VP.

python main.py --mode train,sample,likelihood --config configs/signals.py --workdir runs/signals
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data = {"name": "signals"}
    config.codec = {"name": "reals", "part": "signal", "std": 2.5**0.5}
    config.net = {"name": "mlp.MLP", "features": (256, 256), "embedding_dim": 32, "num_classes": 2}

    config.objective.time_law = "uniform(stratified=True)"
    config.optim.learning_rate = 1e-3
    config.optim.warmup = 100
    config.optim.schedule = "cosine"

    config.train.steps = 3000
    config.train.checkpoint_every = 1000
    config.train.sample_every = 500
    config.train.ema_rates = (0.99,)

    config.sampling.solver = "dpmpp"
    config.sampling.grid = "log_snr"
    config.sampling.steps = 20
    config.sampling.t_min = 1e-3
    config.likelihood.batch_size = 200
    config.likelihood.rtol = 1e-4
    config.likelihood.atol = 1e-4
    config.evaluate.parts = ("loss", "likelihood")
    return config
