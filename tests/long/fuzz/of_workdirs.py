"""Readers of what a workdir holds, which another may have written."""

import json
from typing import Any

import numpy as np

from score_sde.evaluation.metrics import summary
from score_sde.experiment import digests, uses, workdirs
from score_sde.models import covariance
from score_sde.processes import VP
from score_sde.runtime import metrics_log
from score_sde.runtime.checkpoint import Checkpoints
from score_sde.runtime.resumable import Partial
from score_sde.solvers import learned_coefficients
from score_sde.training.stored_averages import StoredAverages
from tests import perceptron
from tests.long.fuzz.case import Case, numbers

PARAMS = {"a": np.ones((2, 3), np.float32), "b": np.zeros(2, np.float32)}


def _config(at):
    (at / "checkpoints").mkdir()
    workdirs.store_config(perceptron.get_config(), at)


def _read_config(at):
    config = workdirs.stored_config(at)
    workdirs.check_config(perceptron.get_config(), at)
    return config


def _small(at):
    (at / "base.json").write_text(json.dumps({"sha256": "ab" * 32}))
    (at / "frozen.json").write_text(json.dumps({"autoencoder": "cd" * 32}))
    (at / "train.json").write_text(json.dumps({"gives": "denoiser", "step": 3}))
    (at / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n{"step": 2, "loss": 0.25}\n')
    level = {"log_snr": [-1.0, 0.0, 1.0], "value": [0.5, 0.4, 0.3]}
    (at / "evaluate.json").write_text(json.dumps({"loss": {"noise_error": level}}))


def _read_small(at):
    digests.base_of(at)
    digests.is_of_latents(at)
    uses.commands(at)
    uses.fields(at)
    metrics_log.read(at)
    covariance.measured(VP(), str(at / "evaluate.json"))


def _partial(at, make=True):
    found = [Partial(at, name, {"a": 1}) for name in ("state", "result")]
    if make:
        for place in found:
            place._written = -1e9
        found[0].save(a=numbers(2, 3), b=np.array("text"))
        found[1].finish({"a": 1})
        for place, name in zip(found, ("state.npz", "result.json"), strict=True):
            path = place._state if name.endswith("npz") else place._result
            path.rename(at / "partial" / name)
    return found


def _read_partial(at):
    state, result = _partial(at, make=False)
    state._state, result._result = at / "partial" / "state.npz", at / "partial" / "result.json"
    return state.load(), result.result


def _averages(at):
    stored = StoredAverages(at)
    stored.begin(0, (0.05, 0.1))
    for step in (2, 4):
        stored.save(step, (0.05, 0.1), (PARAMS, PARAMS), "float32")


def _summary(at):
    summary.save(at / "reference.npz", summary.empty(3, 2, splits=2, capacity=4), {"data": "mine"})


def _learned(at):
    n = 3
    fields = [-5.0, np.linspace(-4.0, 5.0, n + 1), 1.0, np.ones(n), np.tril(np.ones((n, n)))]
    found: Any = [np.asarray(field) for field in fields]
    numbers = learned_coefficients.LearnedCoefficients(*found)
    learned_coefficients.save(at / "sampler.json", numbers)


def _checkpoints(at):
    checkpoints = Checkpoints(at)
    for step in (1, 2):
        checkpoints.save(step, PARAMS, {"position": step}, {"a": 1})
        checkpoints.wait()
    checkpoints.close()
    (files,) = [sorted((at / "checkpoints" / "2").rglob("*"))]
    TARGETS.update({str(path.relative_to(at)): "bytes" for path in files if path.is_file()})


TARGETS: dict[str, str] = {}


def _read_checkpoints(at):
    checkpoints = Checkpoints(at)
    try:
        return checkpoints.restore(PARAMS)
    finally:
        checkpoints.close()


CASES = {
    "the config of a workdir": Case(_config, _read_config, {"config.json": "json"}),
    "small files of a workdir": Case(
        _small,
        _read_small,
        {
            "base.json": "json",
            "frozen.json": "json",
            "train.json": "json",
            "metrics.jsonl": "json lines",
            "evaluate.json": "json",
        },
    ),
    "partial results": Case(
        _partial, _read_partial, {"partial/state.npz": "zip", "partial/result.json": "json"}
    ),
    "stored averages": Case(
        _averages,
        lambda at: StoredAverages(at).reconstruct(PARAMS, 0.08),
        {"averages/2.npz": "zip", "averages/4.npz": "zip"},
    ),
    "summaries": Case(
        _summary, lambda at: summary.load(at / "reference.npz"), {"reference.npz": "zip"}
    ),
    "learned samplers": Case(
        _learned,
        lambda at: learned_coefficients._read(at / "sampler.json"),
        {"sampler.json": "json"},
    ),
    "checkpoints": Case(_checkpoints, _read_checkpoints, TARGETS, 30),
}
