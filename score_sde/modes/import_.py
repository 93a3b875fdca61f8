"""Mode import: a workdir made of a published checkpoint (--source)."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from score_sde import published
from score_sde.config import build, call, parse
from score_sde.errors import CheckpointError, ConfigError
from score_sde.experiment import digests, encoders, workdirs
from score_sde.experiment.build import Experiment, build_conditioner, completed
from score_sde.experiment.trained import check_finite, over
from score_sde.experiment.workdirs import load
from score_sde.models.low_rank import delta_of, kernels_of, spec_of
from score_sde.models.model import num_params
from score_sde.published import Imported, lora_text
from score_sde.published.lora_names import text_names
from score_sde.runtime.checkpoint import Checkpoints
from score_sde.runtime.signals import only_run
from score_sde.training.state import create
from score_sde.types import Factors

ONE_PROCESS = True


def import_(config: ConfigDict, workdir: Path, source: Path) -> dict[str, Any]:
    """Makes a workdir of a published checkpoint: a checkpoint of ours, config.json, import.json.

    Parameters, averages and step are those of the source; without an average, the parameters take
    its place. The optimiser begins anew. The config says what the network is. If the source does
    not fit it, nothing is written.

    With `adapter="lora(workdir=BASE)"` the source is a file of LoRA, of diffusers, peft or kohya's
    sd-scripts, for the network of BASE; `adapter` then says its ranks and alphas. Its layers of
    text encoders are in DIR/text_encoder and DIR/text_encoder_2, as folders of peft, and
    `conditioner` names these. With
    `adapter="controlnet(workdir=BASE)"` it is a folder of diffusers' ControlNetModel; its hints are
    pictures (`sampling.images`).

    Raises:
      CheckpointError: the workdir has a checkpoint already, or another run writes there; the source
        is missing, damaged, not finite, of an unknown kind or another network's. ConfigError,
        DataError. OSError: the workdir cannot be written.
    """
    _check_is_new(config, workdir)
    workdirs.check_config(config, workdir)
    found = _read(config, source)
    imported = found.imported
    weights = {"params": imported.params, "ema": imported.ema, "encoders": found.encoders}
    check_finite(source, weights)
    result = {
        "source": str(source),
        "file": imported.file.name,
        "sha256": _sha256(imported.file),
        "kind": imported.kind,
        "step": imported.step,
        "parameters": num_params(imported.params),
        "averaged": imported.ema is not None,
    }
    _store(config, workdir, found)
    if imported.scheduler is not None:
        ours = config.sampling
        print(
            f"samples are drawn by sampling.solver={ours.solver}, sampling.grid={ours.grid}, "
            f"sampling.steps={ours.steps}; the folder's own scheduler is {imported.scheduler}, and "
            "docs/coming_from/diffusers.md has the fields for that"
        )
    if imported.step >= config.train.steps:
        print(
            f"train.steps={config.train.steps} is not above the imported step {imported.step}: to "
            "train on, set --config.train.steps"
        )
    return workdirs.store(workdir / "import.json", result)


class _Found(NamedTuple):
    """What was read of a source. encoders: the changes of text encoders, by the name of a layer."""

    experiment: Experiment
    imported: Imported
    encoders: tuple[dict[str, Factors], ...] = ()


def _read(config: ConfigDict, source: Path) -> _Found:
    """Sets the fields of the config that the source says."""
    if config.adapter is not None:
        is_controlnet = parse(config.adapter)[0] == "controlnet"
        return (_of_controlnet if is_controlnet else _of_lora)(config, source)
    experiment = load(config)
    with _reading(source):
        return _Found(
            experiment, published.load(source, experiment.model.net, experiment.codec.shape)
        )


def _store(config: ConfigDict, workdir: Path, found: _Found) -> None:
    """Writes the workdir."""
    experiment, imported = found.experiment, found.imported
    average = imported.params if imported.ema is None else imported.ema
    count = len(experiment.averages + experiment.objective.targets)
    start = functools.partial(
        create,
        optimizer=experiment.optimizer,
        num_ema=count,
        learning=experiment.objective.learning,
    )
    state = jax.jit(start)(imported.params)
    state = state.replace(step=jnp.asarray(imported.step, jnp.int32), ema=(average,) * count)
    workdir.mkdir(parents=True, exist_ok=True)
    with only_run(workdir):
        _check_is_new(config, workdir)  # another run may have begun since
        if any(found.encoders):
            experiment = _with_encoders(config, workdir, found)
        workdirs.store_config(config, workdir)  # before the checkpoint that it explains
        digests.store(experiment, workdir)
        checkpoints = Checkpoints(workdir, config.train.keep)
        checkpoints.save(imported.step, state, None, workdirs.as_json(config))
        checkpoints.close()


def _with_encoders(config: ConfigDict, workdir: Path, found: _Found) -> Experiment:
    """Writes a folder for each text encoder that the source changes. Sets `config.conditioner` to
    one that reads them."""
    folders = list(encoders.folders_of(config.conditioner))
    for i, (name, factors) in enumerate(zip(text_names(len(folders)), found.encoders, strict=True)):
        if factors:
            lora_text.write(workdir / name, factors, folders[i])
            folders[i] = str(workdir / name)
    config.conditioner = encoders.with_folders(config.conditioner, folders)
    about = found.experiment
    conditioner = build_conditioner(config.conditioner, about.data, about.codec)
    return found.experiment._replace(conditioner=completed(conditioner, workdirs.load_frozen))


@contextlib.contextmanager
def _reading(source: Path) -> Iterator[None]:
    """Tells in one line what is wrong with a source."""
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(f"--source {source} does not exist") from error
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(" ".join(str(error).split())) from error


def _of_controlnet(config: ConfigDict, source: Path) -> _Found:
    """The experiment of the ControlNet that a folder holds, and its small tree. Sets
    `config.adapter` and `config.conditioner`."""
    with _reading(source):
        found = published.hint_options(source)
    options = {**parse(config.adapter)[1], "hint": "picture", **found}
    config.adapter = call("controlnet", options)
    if parse(config.conditioner)[0] != "hints":
        config.conditioner = call("hints", {"text": config.conditioner, "of": ("picture",)})
    print(f'it is --config.adapter="{config.adapter}"')
    experiment = load(config)
    net: Any = experiment.model.net
    with _reading(source):
        read = published.load(source, net.controls[0], experiment.codec.shape)
    return _Found(experiment, read)


def _of_lora(config: ConfigDict, source: Path) -> _Found:
    """The experiment of the LoRA that a file holds, its small tree, and its changes of the text
    encoders. Sets `config.adapter`."""
    name, options = parse(config.adapter)
    given = build("models.adapters", config.adapter)
    if name != "lora":
        raise ConfigError(f"--mode import makes a LoRA of a file: adapter={config.adapter} is none")
    plain = config.copy_and_resolve_references()
    plain.adapter = None
    experiment = load(plain)
    base = workdirs.base_of(config, given, experiment.data)
    kernels = kernels_of(base.whole)
    folders = encoders.folders_of(config.conditioner)
    modules = [workdirs.load_frozen(folder).module for folder in folders]
    with _reading(source):
        found = published.load_lora(source, experiment.model.net, kernels, modules)
    config.adapter = spec_of(options["workdir"], kernels, found.factors)
    if config.adapter != f"lora(workdir={options['workdir']!r})":
        print(f'it is --config.adapter="{config.adapter}"')
    if found.left_out:
        print(
            f"left out: {found.left_out} layers of text encoders, which config.conditioner does "
            "not name: samples differ from those of the whole file"
        )
    adapter = build("models.adapters", config.adapter)
    delta = delta_of(kernels, found.factors)
    imported = Imported("LoRA", found.file, delta, None, 0)
    return _Found(over(base, adapter, experiment), imported, found.encoders)


def _check_is_new(config: ConfigDict, workdir: Path) -> None:
    if not (workdir / "checkpoints").is_dir():
        return
    checkpoints = Checkpoints(workdir, config.train.keep)
    steps = checkpoints.steps()
    checkpoints.close()
    if steps:
        raise CheckpointError(
            f"{workdir} has checkpoints already, the newest of step {steps[-1]}: choose another "
            "--workdir"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
