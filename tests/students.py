"""Runs of tests that rest on another workdir: `--config tests/students.py:KIND,WORKDIR`."""

from pathlib import Path

from configs import digits_autoencoder
from tests import perceptron

KINDS = ("latents", "adapter", "distillation")


def get_config(spec):
    """The config of a kind over a workdir; or of that workdir, of "below_KIND"."""
    kind, _, workdir = spec.partition(",")
    return _OF[kind](workdir)


def config_files(kind, folder):
    """`--config` of a run of a kind and of the run below it, and the workdir of the latter."""
    below = Path(folder) / f"below_{kind}"
    return f"{__file__}:{kind},{below}", f"{__file__}:below_{kind},", below


def _autoencoder(_):
    config = digits_autoencoder.get_config()
    config.net.update(channels=4, ch_mult=(1, 1), num_res_blocks=1, latent_channels=1, groups=2)
    config.optim.warmup = 3
    return config


def _latents(workdir):
    config = perceptron.get_config()
    config.codec = f"autoencoder(workdir={workdir!r})"
    return config


def _plain(_):
    return perceptron.get_config()


def _adapter(workdir):
    config = perceptron.get_config()
    config.adapter = f"lora(workdir={workdir!r}, rank=2)"
    return config


def _flow(_):
    config = perceptron.get_config()
    config.sde, config.parametrization, config.sampling.t_min = "Flow", "flow", None
    return config


def _distillation(workdir):
    config = _flow(workdir)
    config.net.numbers = ("jump",)
    config.objective = {
        "name": "progressive_distillation",
        "teacher": workdir,
        "time_law": "uniform",
        "weighting": "truncated_snr",
        "steps": 4,
        "stages": 3,
        "stage_length": 10,
    }
    config.sampling.solver = "flow_map(gamma=0.0)"
    return config


_OF = {
    "below_latents": _autoencoder,
    "latents": _latents,
    "below_adapter": _plain,
    "adapter": _adapter,
    "below_distillation": _flow,
    "distillation": _distillation,
}
