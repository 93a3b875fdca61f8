"""Two processes of four devices each, on the loopback, against one process of eight."""

import json
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from score_sde.data import digits, gather
from score_sde.modes import evaluate, sample
from score_sde.modes.train import train
from score_sde.runtime.hosts import gathered, meet, of_main
from tests import perceptron, soak, two_hosts
from tests.modes.test_train import equal, final_state, rows
from tests.stored import arrays
from tests.two_hosts import SECONDS, close, ended, losses

STEPS = 12
CHANGES = {
    "train.steps": STEPS,
    "train.batch_size": 16,
    "train.log_every": 1,
    "train.checkpoint_every": 4,
    "train.sample_every": 0,
    "train.ema_lengths": (0.1,),
    "train.ema_every": 6,
    "net.features": (256,),  # wide enough to be split
    "data.augment": "flip",
    "sampling.solver": "ddim",
    "sampling.steps": 2,
    "sampling.num_samples": 12,
    "likelihood.batch_size": 16,
    "likelihood.rtol": 1e-2,
    "likelihood.atol": 1e-2,
    "evaluate.parts": ("loss", "likelihood", "metrics", "field", "copies"),
    "codec.dequantize": False,  # or the ideal denoiser would take long
    "evaluate.num_samples": 12,
    "data.name": "npz",
    "data.num_values": 17,
}


@pytest.fixture(scope="module", autouse=True)
def few_images(tmp_path_factory):
    """So few digits that their ideal denoiser is computed soon; the 20 of the test, which also
    leave a part of 24 to be filled up."""
    data, path = digits(), tmp_path_factory.mktemp("data") / "few.npz"
    np.savez(
        path,
        train_images=gather(data.train, np.arange(48))["image"],
        test_images=gather(data.test, np.arange(20))["image"],
    )
    CHANGES["data.path"] = str(path)


def configured(**changes):
    config = perceptron.get_config()
    config.update_from_flattened_dict(CHANGES | changes)
    return config


def start(*workdirs, mode="train", heartbeat=600, only_first=(), **changes):
    """Two processes, as `two_hosts.start` has them, of the config with changes."""

    def arguments(workdir):
        command = soak.command(workdir, **{"steps": STEPS} | CHANGES | changes)
        return [*command, "--mode", mode]

    return two_hosts.start(workdirs, arguments, heartbeat, only_first)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """An undisturbed training in one process."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    train(configured(), workdir)
    return workdir


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A training in two processes, that SIGTERM to the second of them ended, and that went on; with
    every parameter of which there is much split over all eight devices."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    processes = start(workdir, **{"mesh.fsdp": 8})
    assert soak.wait_for(workdir, 2, processes[0], SECONDS)
    processes[1].terminate()
    assert ended(processes) == [143, 143]
    stopped = rows(workdir)[-1]["step"]
    processes = start(workdir, mode="train,sample,evaluate", **{"mesh.fsdp": 8})
    assert ended(processes) == [0, 0], workdir.with_suffix(".0").read_text()
    return workdir, stopped


def test_a_signal_to_one_ends_both_at_the_same_step(two):
    workdir, stopped = two
    first, second = (workdir.with_suffix(f".{i}").read_text() for i in range(2))
    assert 2 <= stopped < STEPS
    line = f"SIGTERM: the checkpoint of step {stopped} of {STEPS} is written to {workdir}, and"
    assert line in first
    assert f"resuming at step {stopped} to step {STEPS}" in first
    # the other says nothing but that it was signalled
    assert second.split("\n") == ["", "ending after this step; a second signal exits at once", ""]


def test_two_processes_learn_what_one_learns(one, two):
    workdir, _ = two
    ours, truth = losses(workdir), losses(one)
    assert ours.keys() == truth.keys() == set(range(1, STEPS + 1))
    close(ours, truth)
    ours, truth = final_state(configured(), workdir), final_state(configured(), one)
    assert ours.data == truth.data
    close(ours.state, truth.state)
    for step in (6, STEPS):
        ours, truth = (arrays(w / "averages" / f"{step}.npz") for w in (workdir, one))
        close(dict(ours), dict(truth))


def test_two_processes_sample_and_score_as_one(two, tmp_path):
    """The same checkpoint in one process, of a config that splits nothing."""
    workdir, _ = two
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True)
    sample.sample(configured(), tmp_path)
    ours, truth = (arrays(w / "samples.npz") for w in (workdir, tmp_path))
    np.testing.assert_array_equal(ours["labels"], truth["labels"])
    # of 768 pixels one may lie between two of the 17 levels and be rounded the other way
    assert np.sum(ours["samples"] != truth["samples"]) <= 1


def test_two_processes_evaluate_as_one(two, tmp_path):
    """All parts; and what is said, process 0 says once."""
    workdir, _ = two
    shutil.copytree(workdir, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("ref*"))
    evaluate.evaluate(configured(), tmp_path)
    ours, truth = (json.loads((w / "evaluate.json").read_text()) for w in (workdir, tmp_path))
    assert ours.keys() == {"step", "seconds", *CHANGES["evaluate.parts"]}
    for result in (ours, truth):
        assert result.pop("seconds") > 0
        assert result["likelihood"].pop("seconds") > 0
    assert ours["likelihood"]["num_examples"] == 20
    (names, ours), (named, truth) = (
        zip(*jax.tree_util.tree_leaves_with_path(result), strict=True) for result in (ours, truth)
    )
    assert names == named
    for name, a, b in zip(names, ours, truth, strict=True):
        # a pixel that lies between two of the 17 levels may be rounded the other way
        rel = 1e-2 if name[0].key in ("metrics", "copies") else 1e-4
        assert a == (b if isinstance(b, str) else pytest.approx(b, rel=rel, abs=1e-5)), name
    assert not (workdir / "partial").exists()
    output = workdir.with_suffix(".0").read_text()
    assert output.count("# run, step") == output.count("Everything is in") == 1
    assert not workdir.with_suffix(".1").read_text().split("exits at once\n")[1]


def test_a_process_that_is_killed_ends_the_other(one, tmp_path):
    """And two processes go on from a checkpoint of one. Its newest has a file that only the second
    of them compares with its checksum, and that is still JSON."""
    workdir = tmp_path / "run"
    shutil.copytree(one, workdir)
    file = workdir / "checkpoints" / str(STEPS) / "data" / "metadata"
    changed = re.sub(r"[0-9]", lambda digit: str(int(digit[0]) ^ 1), file.read_text(), count=1)
    file.write_text(changed)
    processes = start(workdir, heartbeat=10, **{"train.steps": 10_000})
    assert soak.wait_for(workdir, STEPS + 1, processes[0], SECONDS)
    processes[1].kill()
    begin = time.monotonic()
    assert processes[0].is_alive()
    first, second = ended(processes)
    assert time.monotonic() - begin < 40
    assert first not in (0, None)
    assert second == -signal.SIGKILL
    output = workdir.with_suffix(".0").read_text()
    assert f"resuming at step {STEPS - 4} to step" in output
    assert output.count("data/metadata is missing, or has changed") == 1
    assert "another process has ended" in output or "another task died" in output
    ours, truth = losses(workdir), losses(one)
    close({n: ours[n] for n in truth}, truth)


def test_a_mistake_of_one_process_ends_both(tmp_path):
    mistake = ["--config.train.non_finite=go on"]
    first, second = ended(start(tmp_path / "run", only_first=mistake))
    assert first == 1
    assert second not in (0, None)
    assert (tmp_path / "run.0").read_text().splitlines()[-1] == (
        "error: train.non_finite is 'go on': one of stop, skip"
    )
    # it hears of it from JAX, or meets a broken connection first
    assert re.search("another (task died|process has ended)", (tmp_path / "run.1").read_text())


def test_a_workdir_that_is_not_shared_is_one_line(tmp_path):
    workdirs = [tmp_path / "a", tmp_path / "b"]
    workdirs[1].mkdir()
    assert ended(start(*workdirs)) == [1, 1]
    first, second = (tmp_path / name for name in ("a.0", "b.1"))
    assert first.read_text().splitlines()[-1] == (
        f"error: process 1 does not see what process 0 writes into {workdirs[0]}: give a --workdir "
        "that all hosts share"
    )
    assert second.read_text() == ""


def test_alone_a_process_meets_nobody():
    meet("nobody")
    assert of_main([3, 1]) == [3, 1]
    equal(gathered({"a": jax.numpy.arange(3)}), {"a": np.arange(3, dtype=np.int32)})
