r"""8x8 digits that a classifier takes for sevens: the model of configs/digits.py, fine-tuned to the
reward ln p(7 | x) by adjoint matching. No data are read.

    python main.py --mode train --config configs/digits.py --workdir runs/digits
    python main.py --mode train --config configs/digits_classifier.py --workdir runs/classifier
    python main.py --mode train,sample --config configs/digits_reward.py --workdir runs/reward

Of seed 0 a support vector machine takes 71 % of samples for sevens, and 12 % before. 120 steps of 8
paths; 60 s of processor time, most of it compilation.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.objective = ConfigDict(
        {
            "name": "adjoint_matching",
            "teacher": "runs/digits",
            "reward": "log_class(workdir='runs/classifier', label=7)",
            "time_law": "uniform",  # the paths end their steps at its quantiles
            "weighting": "simple",
            "steps": 20,
            "tau": 1.0,
            "times_per_path": 5,
        }
    )
    config.optim.learning_rate = 1e-3
    config.optim.warmup = 10
    config.train.batch_size = 40  # 8 paths
    config.train.steps = 120
    config.train.sample_every = 0
    config.train.checkpoint_every = 120
    config.train.ema_rates = (0.99,)

    config.sampling.solver = "dpmpp"
    config.sampling.grid = "log_snr"
    config.sampling.steps = 20
    return config
