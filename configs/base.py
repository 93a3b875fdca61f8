"""What every config starts from: the fields are listed in `score_sde/experiment/base.py`."""

from ml_collections import ConfigDict

from score_sde.experiment.base import get_config as get_config


def in_few_evaluations(
    config: ConfigDict, solver: str, counts: tuple[int, ...] = (1, 2, 4)
) -> ConfigDict:
    """The same config, with samples of one evaluation, and metrics of samples of so many."""
    config.sampling.update({"solver": solver, "steps": 1, "denoise": False})
    config.evaluate.nfe = counts
    config.evaluate.parts = ("metrics",)
    return config
