"""Mode likelihood: bits per dimension of every image of a split."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from score_sde.config import at
from score_sde.errors import ConfigError, ConvergenceError
from score_sde.experiment import workdirs
from score_sde.experiment.build import key_for
from score_sde.experiment.likelihoods import build_likelihood, kind
from score_sde.experiment.workdirs import restore
from score_sde.runtime.mesh import round_to_devices
from score_sde.runtime.progress import progress
from score_sde.runtime.resumable import Partial


def likelihood(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Bits per dimension of every example of `likelihood.split` (nats where the codec has real
    values): DIR/likelihood.json. Without a `likelihood.bound` it is uniformly dequantised, and the
    density is that of the ODE.

    Each example has its own key, so `likelihood.batch_size` changes the result by rounding alone.
    In float32, rounding can decide whether a step of the ODE is refused, and then the example moves
    within the tolerance: up to 4 % of the standard error of 297 digits at rtol 1e-2 has been seen,
    .3 % at 1e-3. The standard error is that of the mean over examples. It includes the spread of
    dequantisation and probes. `kind` in the file says what the number is of the model's
    log-likelihood: "lower bound" (an unbiased estimate of one), "exact" or "estimate".
    """
    experiment, params, step = restore(config, workdir)
    options = config.likelihood
    if options.split not in ("train", "test"):
        raise ConfigError(f"likelihood.split is {options.split!r}: one of train, test")
    source = getattr(experiment.data, options.split)
    root = key_for(config, "likelihood")

    scores = build_likelihood(config, experiment)
    begin = time.perf_counter()
    size = round_to_devices(options.batch_size, len(source))
    total = len(source) // size * size if options.drop_last else len(source)
    if not total:
        raise ConfigError(f"likelihood.drop_last leaves nothing of {len(source)} images")
    about = workdirs.identity(config) | {"likelihood": workdirs.as_json(config)["likelihood"]}
    place = Partial(workdir, "likelihood", {"step": step, **about})
    stored = place.load() or {"values": np.zeros(0, np.float32), "nfes": np.zeros(0, np.int32)}
    values, nfes = [stored["values"]], [stored["nfes"]]
    done, measure = len(values[0]), "bits_per_dim"
    with progress(total, "image", "likelihood", initial=done) as bar:
        for numbers, mask, batch in experiment.batches(source, size):
            if not done <= numbers[0] < total:
                continue
            with at("likelihood"):  # what the ODE says of its options, when it is traced
                out = scores(params, root, batch)
            measure, value = out.best
            value, nfe = (np.asarray(a)[mask] for a in (value, out.nfe))
            values.append(value)
            nfes.append(nfe)
            bar.update(len(value))
            bar.set_postfix({measure: f"{np.mean(np.concatenate(values)):.4f}"}, refresh=False)
            place.save(values=np.concatenate(values), nfes=np.concatenate(nfes))
    place.remove()
    result = {
        "step": step,
        "split": options.split,
        **_summary(np.concatenate(values), np.concatenate(nfes), measure),
        "kind": kind(config, experiment),
        "seconds": time.perf_counter() - begin,
    }
    workdirs.store(workdir / "likelihood.json", result)
    if failed := result["num_failed"]:
        raise ConvergenceError(
            f"the ODE of {failed} of {total} examples did not converge ({workdir}/likelihood.json "
            "has the others): raise likelihood.rtol and likelihood.atol"
        )
    return result


def _summary(values: np.ndarray, nfes: np.ndarray, measure: str) -> dict[str, Any]:
    """The mean of the values that are finite, and its standard error."""
    converged = np.isfinite(values)
    return {
        measure: float(np.mean(values[converged])),
        "standard_error": float(np.std(values[converged], ddof=1) / np.sqrt(converged.sum())),
        "num_examples": int(converged.sum()),
        "num_failed": int(np.sum(~converged)),
        "nfe": float(np.mean(nfes)),
    }
