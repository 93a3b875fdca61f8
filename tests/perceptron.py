"""A perceptron on the digits, which compiles fast: the config of runs that a test makes."""

from configs import digits


def get_config():
    config = digits.get_config()
    config.net = {"name": "mlp.MLP", "features": (16,), "embedding_dim": 8}
    config.optim.schedule = "constant"
    config.optim.warmup = 3
    return config
