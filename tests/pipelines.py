"""Tiny pipelines of Stable Diffusion: what diffusers drew with them, and what is drawn here."""

import functools
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from configs import diffusers as config_file
from score_sde.experiment import samplers, workdirs
from score_sde.published import load
from score_sde.published.diffusers_config import process
from score_sde.published.diffusers_sampling import own_sampling
from tests.published_cases import GOLDEN
from tests.stored import arrays

FOLDERS = GOLDEN / "pipelines"
CASES = ("sd15", "sd21", "sdxl")


class Drawn(NamedTuple):
    """x: latents. images: as they are shown. nfe: of the network."""

    x: np.ndarray
    images: np.ndarray
    nfe: int


def about(case: str) -> dict[str, Any]:
    """The prompts, and the schedulers of the runs of diffusers."""
    return json.loads((FOLDERS / f"{case}.json").read_text())


def golden(case: str, number: int) -> Drawn:
    """What diffusers drew."""
    found = arrays(FOLDERS / f"{case}.npz")
    return Drawn(found[f"latents_{number}"], found[f"images_{number}"], about(case)["calls"])


def sampling_of(fields: dict[str, Any], calls: int) -> dict[str, Any]:
    """Of a scheduler's fields those of a config: the process, the prediction, the sampling."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scheduler_config.json"
        path.write_text(json.dumps(fields))
        found = process(path, path, "positional")
        return found | {"sampling": own_sampling(path, found["num_steps"], calls)}


@functools.cache
def loaded(case: str):
    """The config of a folder, its experiment and the parameters of its U-Net."""
    config = config_file.get_config(str(FOLDERS / case))
    experiment = workdirs.load(config)
    params = load(FOLDERS / case, experiment.model.net, experiment.codec.shape).params
    return config, experiment, params


def run(case: str, number: int, scale: float = 1.0) -> Drawn:
    """The same here, from the same noise, times `scale`."""
    config, experiment, params = loaded(case)
    of_run, config = about(case)["runs"][number], config.copy_and_resolve_references()
    fields = sampling_of(of_run["scheduler"], about(case)["calls"])
    config.sde, config.parametrization = fields["sde"], fields["parametrization"]
    config.sampling.update(fields["sampling"])
    config.sampling.prompts = tuple(about(case)["prompts"])
    config.sampling.negative = tuple(of_run["negative"])
    config.sampling.guidance = f"classifier_free(weight={about(case)['guidance']})"
    if fields["sde"] != loaded(case)[0].sde:
        experiment = workdirs.load(config)

    def told(codec, ends):
        return ends.x, codec.show(codec.decode(ends.x)), ends.nfe

    draw = samplers.build_paths(
        config, experiment, 2, jax.tree_util.Partial(told, experiment.codec)
    )
    x = scale * arrays(FOLDERS / f"{case}.npz")["x"]
    found, images, nfe = jax.device_get(draw(params, jax.random.key(0), 0, x))
    return Drawn(found, images, int(nfe))


def error(found: Drawn, wanted: Drawn) -> tuple[float, int]:
    """The largest of latents, relative to the largest of the latents of a sample; and of images."""
    axes = (1, 2, 3)
    latents = np.abs(found.x - wanted.x).max(axes) / np.abs(wanted.x).max(axes)
    images = np.abs(found.images.astype(int) - wanted.images.astype(int))
    return float(latents.max()), int(images.max())
