"""Mode pairs: pairs of noise and sample of a trained model, for the objective reflow."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from score_sde.config import at, build
from score_sde.data import pairs as files
from score_sde.errors import ConfigError
from score_sde.evaluation import solver_error
from score_sde.experiment import requests, samplers, workdirs
from score_sde.experiment.build import Experiment, key_for
from score_sde.experiment.workdirs import Trained
from score_sde.runtime.mesh import round_to_devices
from score_sde.runtime.progress import progress
from score_sde.runtime.resumable import Partial

ONE_PROCESS = True


def pairs(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Makes `pairs.number` pairs: DIR/pairs.npz (`data.pairs`) and DIR/pairs.json. The samples are
    drawn as `sampling` says, by a solver without noise of its own. Pairs that are there already are
    kept, and a run that was killed goes on.

    Raises:
      CheckpointError, ConfigError, DataError. ConvergenceError: a sample is not finite; nothing is
        written.
    """
    begin = time.perf_counter()
    trained = workdirs.restore(config, workdir)
    trained.experiment.check_reals()
    _check(config)
    about = {
        "sha256": trained.digest,
        "number": config.pairs.number,
        "sampling": workdirs.as_json(config)["sampling"],
        "seed": config.seed,
    }
    path = workdir / "pairs.npz"
    made = not (path.exists() and files.read(path).about == about)
    if made:
        place = Partial(workdir, "pairs", about)
        files.write(path, _drawn(config, trained, place, about))
        place.remove()
    result = {
        "step": trained.step,
        "file": str(path),
        "number": config.pairs.number,
        "megabytes": path.stat().st_size / 2**20,
        "made": made,
        "seconds": time.perf_counter() - begin,
    }
    return workdirs.store(workdir / "pairs.json", result)


def _check(config: ConfigDict) -> None:
    """Whether the numbers fit, and the solver follows the ODE."""
    if config.pairs.number < 1:
        raise ConfigError(f"pairs.number must be at least 1, not {config.pairs.number}")
    sde = requests.sampling_sde(config)
    solver = build("solvers", config.sampling.solver, sde)
    with at("sampling"):
        times = requests.build_grid(config)(sde)
    if solver_error.is_stochastic(solver, times):
        raise ConfigError(
            f"--mode pairs needs a sampler without noise of its own, such as probability_flow, "
            f"dpmpp or ddim, not sampling.solver={config.sampling.solver}"
        )


def _drawn(config: ConfigDict, trained: Trained, place: Partial, about: dict) -> files.Pairs:
    """The pairs, batch by batch, from where a run before this one stopped."""
    number, root = config.pairs.number, key_for(config, "pairs")
    size = round_to_devices(config.sampling.batch_size, number)
    draw = samplers.build_paths(config, trained.experiment, size, _pair(trained.experiment))
    found: list[dict[str, np.ndarray]] = []
    if stored := place.load():
        found.append(stored)
    with progress(number, "pair", "sampling") as bar:
        for first in range(0, math.ceil(number / size) * size, size):
            if found and first < len(found[0]["x"]):  # of the run before
                continue
            with at("sampling"):
                drawn = jax.device_get(draw(trained.params, root, first))
            finite = np.isfinite(drawn["x"]).reshape(size, -1).all(axis=1)
            samplers.check_finite(config, finite[: number - first])
            found = [_joined([*found, drawn])]
            place.save(**found[0])
            bar.update(min(size, number - first))
    arrays = {name: array[:number] for name, array in found[0].items()}
    return files.Pairs(arrays.pop("x"), arrays.pop("noise"), arrays, about)


def _pair(experiment: Experiment) -> Any:
    """Of the ends of paths, x and the z with which a straight path begins where they do."""
    sde = experiment.model.sde

    def pair(ends: samplers.Ends) -> dict[str, jax.Array]:
        z = sde.eps(ends.start, jnp.asarray(sde.t_max, ends.x.dtype), ends.x)
        return {"x": ends.x, "noise": z, **ends.raw}

    return pair


def _joined(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
