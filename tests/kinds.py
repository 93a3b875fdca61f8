"""The smallest networks on every kind of data: `--config tests/kinds.py:KIND`."""

from configs import digits_tokens, moving_shapes, series, solids, tones


def get_config(kind):
    """The config of a kind. A few steps of it change the parameters."""
    config = KINDS[kind]()
    config.optim.update(schedule="constant", warmup=3)
    return config


def _tokens():
    config = digits_tokens.get_config()
    config.net = {"name": "mlp.MLP", "features": (32,)}
    return config


def _clips():
    config = moving_shapes.get_config()
    config.data.update(frames=3, train=32, test=8)
    return _shrunken(config)


def _waves():
    config = tones.get_config()
    config.data = {"name": "tones", "length": 256, "train": 64, "test": 16, "augment": "none"}
    return _shrunken(config)


def _points():
    config = solids.get_config()
    config.data.update(points=16, train=64, test=8)
    return _shrunken(config)


def _series():
    return _shrunken(series.get_config())


def _shrunken(config):
    config.net.update(width=16, depth=1, num_heads=2)
    return config


KINDS = {
    "tokens": _tokens,
    "clips": _clips,
    "waves": _waves,
    "points": _points,
    "series": _series,
}
