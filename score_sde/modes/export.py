"""Mode export: a workdir's network for other code, in a new folder (--target)."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict
from ml_collections import ConfigDict

from score_sde import published
from score_sde.config import build
from score_sde.errors import CheckpointError, ConfigError
from score_sde.experiment import encoders, workdirs
from score_sde.experiment.build import build_model
from score_sde.experiment.workdirs import Trained
from score_sde.models.low_rank import kernels_of
from score_sde.models.model import Model, num_params
from score_sde.published import diffusers, textual_inversion

ONE_PROCESS = True


def export(config: ConfigDict, workdir: Path, target: Path) -> dict[str, Any]:
    """Writes the averaged parameters of the newest checkpoint into the new folder `target`, as
    `export.format` says, and DIR/export.json.

    "diffusers": a pipeline's folder, of a network and a process that diffusers has. Mode import
    makes the same workdir of it. "safetensors": model.safetensors, whose names are paths in the
    tree of parameters, and config.json, for any network.

    Of a LoRA over a network of Stable Diffusion "diffusers" is the file that diffusers loads, and
    "kohya" that of sd-scripts; of a ControlNet it is the folder that diffusers loads. Of learnt
    rows "diffusers" and "automatic1111" are a file of textual inversion, whose word is the name of
    the target. A larger network than its base (`extended`) is written whole, and so is one with
    `sampling.adapters`, which has their changes in it.

    Raises:
      ConfigError: an unknown format; diffusers has no counterpart; the target is there already.
        CheckpointError: there is nothing to export. OSError: the target cannot be written.
    """
    is_larger = bool(config.adapter and build("models.adapters", config.adapter).fields)
    whole = is_larger or config.sampling.adapters  # which are merged
    is_adapter = config.adapter is not None and not whole
    of_diffusers = _adapter if is_adapter else _diffusers
    formats = {
        "diffusers": of_diffusers,
        "kohya": _adapter,
        "automatic1111": _adapter,
        "safetensors": _safetensors,
    }
    if config.export.format not in formats:
        raise ConfigError(f"export.format is {config.export.format!r}: one of {', '.join(formats)}")
    if target.exists():
        raise ConfigError(f"--target {target} is there already: choose another")
    trained = workdirs.restore(config, workdir)
    if is_larger:
        trained = trained._replace(params=trained.whole)
    # whole or not at all: the folder gets its name when it is finished
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        temporary.mkdir(parents=True)
        formats[config.export.format](config, jax.device_get(trained), temporary, target.name)
        temporary.rename(target)
    except ValueError as error:
        raise ConfigError(" ".join(str(error).split())) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    result = {
        "target": str(target),
        "format": config.export.format,
        "step": trained.step,
        "parameters": num_params(trained.params),
    }
    return workdirs.store(workdir / "export.json", result)


def _safetensors(config: ConfigDict, trained: Trained, folder: Path, name: str) -> None:
    from safetensors.numpy import save_file

    arrays = {
        "/".join(path): np.ascontiguousarray(leaf)
        for path, leaf in flatten_dict(trained.params).items()
    }
    save_file(arrays, folder / "model.safetensors", {"step": str(trained.step)})
    text = json.dumps(workdirs.as_json(config), indent=2)
    (folder / "config.json").write_text(text + "\n")


def _adapter(config: ConfigDict, trained: Trained, folder: Path, name: str) -> None:
    experiment, form = trained.experiment, config.export.format
    if experiment.merge is None:
        kind = "LoRA" if form == "kohya" else "textual inversion"
        raise ValueError(f"export.format={form!r} writes a {kind}, and config.adapter is none")
    adapter = build("models.adapters", config.adapter)
    if adapter.control is not None and form == "diffusers":
        net: Any = experiment.model.net
        published.save_controlnet(folder, net.controls[0], trained.params)
        return
    learnt = None if form == "kohya" else adapter.rows
    if learnt is None and (adapter.factors is None or form == "automatic1111"):
        kind = "are no rows of words" if form == "automatic1111" else "is no LoRA"
        raise ValueError(
            f"adapter={config.adapter} {kind}: with the workdir of its base and "
            "sampling.adapters=(WORKDIR,), --mode export writes the whole network"
        )
    net, load = build_model(config).net, workdirs.load_frozen
    own = workdirs.base_of(config, adapter, experiment.data).whole
    base = jax.device_get(encoders.under(adapter, own, config.conditioner, load))
    if learnt is not None:
        rows = [*map(np.asarray, learnt(base, trained.params).values())]
        textual_inversion.write(folder, name, rows, form)
        return
    of_net, of_text = encoders.factors_of(adapter, base, trained.params, config.conditioner, load)
    of_text = of_text if any(of_text) else ()
    published.save_lora(folder, net, kernels_of(own), of_net, form, of_text)


def _diffusers(config: ConfigDict, trained: Trained, folder: Path, name: str) -> None:
    experiment = trained.experiment
    shape = experiment.codec.shape
    if len(shape) != 3 or shape[0] != shape[1]:
        raise ValueError(f"diffusers has square images, and these data are of shape {shape}")
    about = diffusers.Description(
        net={},
        sde=config.sde,
        parametrization=config.parametrization,
        c_noise=config.c_noise,
        num_steps=None,
        image_size=shape[0],
        channels=shape[2],
        centered=config.codec.get("centered"),
        weighting=config.objective.get("weighting", "simple"),
        sampling={"solver": config.sampling.solver, "steps": config.sampling.steps},
    )
    found = published.save(folder, experiment.model.net, trained.params, about)
    back = config.copy_and_resolve_references()
    for name in ("sde", "parametrization", "c_noise"):
        back[name] = found[name]
    _check_same(experiment.model, build_model(back), about)
    read = published.load(folder, experiment.model.net, experiment.codec.shape)
    for ours, theirs in zip(*map(jax.tree.leaves, (trained.params, read.params)), strict=True):
        if not np.array_equal(ours, theirs):
            raise CheckpointError("the folder does not hold the numbers of the workdir: a defect")


def _check_same(ours: Model, theirs: Model, about: diffusers.Description) -> None:
    """Raises a ValueError unless both see the same noise, by the same number, and predict the same
    thing, at times from one end to the other."""
    t = jnp.linspace(ours.sde.t_min, ours.sde.t_max, 101)

    def seen(model):
        alpha, sigma = model.sde.alpha(t), model.sde.sigma(t)
        parametrization = model.parametrization
        scales = parametrization.scales(alpha, sigma)
        return {
            f"sde={about.sde}": (alpha, sigma),
            f"parametrization={about.parametrization}": scales,
            f"c_noise={about.c_noise}": (parametrization.c_noise(model.sde, t),),
        }

    for (field, values), others in zip(seen(ours).items(), seen(theirs).values(), strict=True):
        for value, other in zip(values, others, strict=True):
            if not np.allclose(value, other, rtol=1e-4, atol=1e-6):
                raise ValueError(
                    f"diffusers has no scheduler for {field}: export.format='safetensors' takes any"
                )
