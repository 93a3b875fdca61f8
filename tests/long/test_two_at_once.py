"""Two commands at once in one workdir: nothing is lost, and no file is half of one and half of the
other."""

import json

import numpy as np

from score_sde.runtime.signals import only_run
from tests import command, soak
from tests.stored import arrays

CHANGES = {
    "train.keep": 1,  # so that the checkpoint that is read is removed soon
    "train.checkpoint_every": 2,
    "train.ema_lengths": (),
    "sampling.solver": "ddim",
    "sampling.steps": 2,
    "sampling.num_samples": 8,
    "evaluate.parts": ("loss",),
}
STEPS = 150


def run(workdir, mode):
    arguments = soak.command(workdir, STEPS, **CHANGES)[1:]
    return command.main(*arguments, "--mode", mode, devices=1)


def test_samples_and_scores_while_a_training_goes_on(tmp_path):
    """The training is the same as without them, bit for bit. A second training is refused."""
    alone, workdir = tmp_path / "alone", tmp_path / "run"
    soak.finished(soak.start(alone, STEPS, **CHANGES | {"train.checkpoint_every": STEPS}), alone)
    training = soak.start(workdir, STEPS, **CHANGES)
    assert soak.wait_for(workdir, 4, training)
    second = run(workdir, "train")
    meanwhile = run(workdir, "sample,evaluate")
    training.join()
    assert second.returncode == 1
    assert second.stderr.startswith(f"error: another run (process {training.pid} of ")
    assert second.stderr.count("\n") == 1
    assert (training.exitcode, meanwhile.returncode) == (0, 0), meanwhile.stderr
    assert "damaged" not in meanwhile.stdout
    assert soak.differences(alone, workdir) == []
    samples, scores = arrays(workdir / "samples.npz")["samples"], workdir / "evaluate.json"
    assert (samples.shape, samples.dtype) == ((8, 8, 8, 1), np.uint8)
    assert 0 < json.loads(scores.read_text())["step"] <= STEPS


def test_a_mode_runs_once_at_a_time(tmp_path):
    with only_run(tmp_path, ".lock_sample"):
        refused = run(tmp_path, "sample")
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: another run (process ")
    assert refused.stderr.count("\n") == 1
    missing = run(tmp_path / "none", "sample")  # and a name that was mistyped makes no folder
    assert missing.returncode == 1
    assert not (tmp_path / "none").exists()
