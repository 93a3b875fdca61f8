"""Runs that survive: signals, SIGKILL, a full disk, a second run, steps that are not finite."""

import errno
import io
import os
import platform
import re
import resource
import shutil
import signal
import threading
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import islice
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.data import train_iterator
from score_sde.errors import CheckpointError, ConfigError, InterruptedRunError, NonFiniteError
from score_sde.experiment import build, program
from score_sde.experiment.program import compiled_step
from score_sde.modes import evaluate, likelihood, reference, sample
from score_sde.modes.train import train
from score_sde.runtime import metrics_log
from score_sde.runtime.signals import ending_in_order, only_run, writing
from score_sde.training.optimizer import updates
from tests import command, soak, students
from tests.modes.test_train import equal, final_state, rows, small


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One undisturbed run of eight steps on eight devices."""
    workdir = tmp_path_factory.mktemp("run")
    train(small(), workdir)
    return workdir


def test_killed_and_terminated_it_is_the_same_run_bit_for_bit(tmp_path):
    """SIGTERM ends in order, with 143; SIGKILL at random moments loses no step."""
    alone, disturbed, steps = tmp_path / "alone", tmp_path / "disturbed", 40
    first = soak.start(alone, steps)
    first.join()
    second = soak.start(disturbed, steps)
    assert soak.wait_for(disturbed, 3, second)
    second.terminate()
    second.join()
    assert (first.exitcode, second.exitcode) == (0, 143)
    last = soak.rows(disturbed)[-1]["step"]
    assert 3 <= last < steps
    assert soak.state_of(disturbed)[0] == last
    line = (tmp_path / "disturbed.log").read_text().splitlines()[-1]
    assert line.startswith(f"SIGTERM: the checkpoint of step {last} of {steps} is written to")
    assert len(soak.kill_at_random(disturbed, steps, kills=2, first=last)) == 2
    assert soak.differences(alone, disturbed) == []


@pytest.mark.parametrize("kind", students.KINDS)
def test_what_rests_on_another_run_is_killed_and_the_same(tmp_path, kind):
    """`python tests/soak.py --kills 20 --kind KIND` kills it oftener."""
    changes, steps = soak.of_kind(kind, tmp_path), 26
    soak.finished(soak.start(tmp_path / "alone", steps, **changes), tmp_path / "alone")
    killed = soak.kill_at_random(tmp_path / "killed", steps, 1, seed=len(kind), **changes)
    assert len(killed) == 1
    assert soak.differences(tmp_path / "alone", tmp_path / "killed") == []


def signalled(monkeypatch, when, signum):
    """Sends a signal to this process while step `when` is prepared."""
    count, stack = iter(range(1, 100)), program.stack

    def send(*arguments):
        if next(count) == when:
            signal.raise_signal(signum)
        return stack(*arguments)

    monkeypatch.setattr(program, "stack", send)


def test_ctrl_c_ends_after_the_step_under_way(tmp_path, monkeypatch):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patched:
        signalled(patched, 3, signal.SIGINT)
        with pytest.raises(InterruptedRunError, match="the checkpoint of step 3 of 8") as error:
            train(small(), tmp_path)
    assert error.value.code == 130
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    assert final_state(small(), tmp_path).step == 3  # and it goes on as the test above


def twice(first, second):
    """In a process of its own: two signals within one step, which would last a minute."""
    with ending_in_order():
        signal.raise_signal(first)
        signal.raise_signal(second)
        time.sleep(60)


def test_a_second_signal_exits_at_once():
    process = soak.FORKS.Process(target=twice, args=(signal.SIGTERM, signal.SIGINT))
    process.start()
    process.join(30)
    assert process.exitcode == 130


def test_another_thread_handles_no_signals():
    seen = []

    def loop():
        with ending_in_order() as signals:
            seen.extend([signal.getsignal(signal.SIGTERM), signals.received])

    thread = threading.Thread(target=loop)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM), None]


def test_a_run_of_eight_devices_goes_on_with_one(run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(run, workdir)
    shutil.rmtree(workdir / "checkpoints" / "8")
    process = soak.start(workdir, 8, devices=1, **{"train.log_every": 2, "train.ema_lengths": ()})
    process.join()
    assert process.exitcode == 0
    output = (tmp_path / "run.log").read_text()
    assert "resuming at step 4 to step 8" in output
    assert "1 device(s)" in output
    losses, truth = ([row["loss"] for row in rows(w)] for w in (workdir, run))
    np.testing.assert_allclose(losses, truth, rtol=1e-5)
    ours, theirs = final_state(small(), workdir), final_state(small(), run)
    assert ours.data == theirs.data
    chex.assert_trees_all_close(ours.state.params, theirs.state.params, rtol=0, atol=1e-5)


def test_two_runs_in_one_workdir_are_refused(run, tmp_path):
    with only_run(run):
        files = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
        with pytest.raises(CheckpointError) as error:
            train(small(**{"train.steps": 12}), run)
        assert str(error.value) == (
            f"another run (process {os.getpid()} of {platform.node()}) writes into {run}: wait for "
            "it, or choose another --workdir"
        )
        assert sample.restore(small(), run)[2] == 8  # who only reads is let in
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == files
    with only_run(run):  # it is free again
        pass


@contextmanager
def files_of_at_most(size):
    """A disk that is full: no file may grow beyond that many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_checkpoint_before(run, tmp_path, capfd):
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    good, config = final_state(small(), tmp_path), (tmp_path / "config.json").read_bytes()
    reason = os.strerror(errno.EFBIG)
    with capfd.disabled():  # pytest's own files are not meant
        # too small for the config, and for the arrays
        for size, name in ((100, "config.json"), (20_000, "checkpoints")):
            quiet = io.StringIO()
            with (
                pytest.raises(CheckpointError, match=rf"^{reason} \({tmp_path / name}\)") as error,
                redirect_stdout(quiet),
                redirect_stderr(quiet),
                writing(tmp_path),
                files_of_at_most(size),
            ):
                train(small(), tmp_path)
            assert "\n" not in str(error.value)
            assert "Traceback" not in quiet.getvalue()
            assert (tmp_path / "config.json").read_bytes() == config
        ours = final_state(small(), tmp_path)
        assert ours.step == 4
        equal(ours.state, good.state)
    train(small(), tmp_path)
    equal(final_state(small(), tmp_path).state, final_state(small(), run).state)
    losses, truth = ({r["step"]: r["loss"] for r in rows(w)} for w in (tmp_path, run))
    assert {step: losses[step] for step in (6, 8)} == {step: truth[step] for step in (6, 8)}


@pytest.mark.parametrize(
    ("mode", "file"),
    [
        (sample.sample, "samples.npz"),
        (likelihood.likelihood, "likelihood.json"),
        (evaluate.evaluate, "partial/loss-.*.json"),
        (reference.reference, "reference_train.npz"),
    ],
    ids=["sample", "likelihood", "evaluate", "reference"],
)
def test_a_full_disk_leaves_the_results_before(run, tmp_path, capfd, mode, file):
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    config = small(
        **{"likelihood.rtol": 0.1, "likelihood.atol": 0.1, "likelihood.probes": 1},
        **{"evaluate.parts": ("loss",), "evaluate.split": "train"},
    )
    mode(config, tmp_path)
    for path in tmp_path.glob("reference*.npz"):  # or nothing is to be written
        path.unlink()
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    quiet = io.StringIO()
    with (
        capfd.disabled(),
        pytest.raises(CheckpointError) as error,
        redirect_stdout(quiet),
        redirect_stderr(quiet),
        writing(tmp_path),
        files_of_at_most(100),
    ):
        mode(config, tmp_path)
    line = rf"^{os.strerror(errno.EFBIG)} \({tmp_path}/{file}\): mend that and run the same"
    assert re.match(line, str(error.value))
    assert "Traceback" not in quiet.getvalue()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_workdir_that_cannot_be_written_is_one_line(tmp_path):
    """In the modes that write before they read; and `main` has every mode within `writing`."""
    workdir = tmp_path / "file"
    workdir.write_text("mine")
    for place, reason in (
        (workdir, "File exists"),
        (workdir / "run", "Not a directory"),
        (Path("/proc/run"), "No such file or directory"),
    ):
        line = rf"^{reason} \({place}\): mend that and run the same command again"
        for run in (train, reference.reference):
            with pytest.raises(CheckpointError, match=line), writing(place):
                run(small(), place)
    ended = command.main(*soak.command(workdir, 8)[1:], "--mode", "reference")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: File exists ({workdir}): mend that")
    assert ended.stderr.count("\n") == 1
    assert workdir.read_text() == "mine"


@pytest.fixture
def poison(monkeypatch, request):
    """The third batch of a run is multiplied by NaN, or what is asked for, wherever it is met."""
    factor = getattr(request, "param", np.nan)
    data = build.build_experiment(small()).data.train
    third = list(islice(train_iterator(data, batch_size=16, seed=small().seed), 3))[2]
    bad, prepare = third["image"][:1], build._prepare

    def poisoned(codec, conditioner, key, raw):
        batch = prepare(codec, conditioner, key, raw)
        hit = jnp.any(jnp.all(raw["image"].astype(int) == bad.astype(int), axis=(1, 2, 3)))
        return {**batch, "x": jnp.where(hit, factor, 1.0) * batch["x"]}

    monkeypatch.setattr(build, "_prepare", poisoned)


@pytest.mark.parametrize(
    ("poison", "policy"),
    [
        (np.nan, {"train.non_finite": "skip"}),
        (1e4, {"train.spike": 30.0, "train.spike_after": 2}),
    ],
    indirect=["poison"],
    ids=["not finite", "spike"],
)
def test_a_skipped_step_is_a_batch_taken_out(poison, policy, tmp_path):
    """Bit for bit, with a key used up and the optimiser's count one less."""
    skip = small(**policy, **{"train.log_every": 1})
    train(skip, tmp_path / "skip")
    ours = final_state(skip, tmp_path / "skip")

    # The same program, to which the third batch is not given: XLA rounds the one without the policy
    # otherwise.
    config, experiment = skip, build.build_experiment(skip)
    step, root = compiled_step(config, experiment, 1), build.key_for(config, "train")
    state, losses = build.initial_state(config, experiment), []
    batches = train_iterator(experiment.data.train, batch_size=16, seed=config.seed)
    for n in range(8):
        batch = program.stack(batches, 1, experiment.sharded(axis=1))
        if n == 2:
            state = state.replace(step=state.step + 1)
        else:
            state, metrics = step(root, state, batch)
            losses.append(float(metrics["loss"][0]))
    equal(ours.state, jax.device_get(state))
    assert updates(ours.state.opt_state) == 7

    logged = rows(tmp_path / "skip")
    assert [row["skipped"] for row in logged] == [0, 0, 1, 0, 0, 0, 0, 0]
    assert [row["loss"] for row in logged if "loss" in row] == losses
    assert "loss" not in logged[2]
    rate = [3e-3 * min(n / 3, 1) for n in (1, 2, 2, 3, 4, 5, 6, 7)]
    assert [row["learning_rate"] for row in logged] == pytest.approx(rate)


def test_too_many_steps_that_are_not_finite_stop_the_run(poison, tmp_path):
    skip = small(**{"train.non_finite": "skip", "train.max_skipped": 0})
    with pytest.raises(NonFiniteError, match=r"in 1 steps in a row, .*; none was saved yet"):
        train(skip, tmp_path / "skip")
    for field, value, message in (
        ("train.non_finite", "go on", r"train\.non_finite is 'go on': one of stop, skip"),
        ("train.spike", 0.5, r"train\.spike=0\.5 is no factor above 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(small(**{field: value}), tmp_path)


def test_skipped_steps_are_counted_over_rows():
    count = metrics_log.check_skipped
    assert count(np.array([1.0, 0.0, 1.0, 1.0]), before=2, most=3) == 2
    assert count(np.array([0.0]), before=3, most=3) == 0
    with pytest.raises(NonFiniteError, match="in 4 steps in a row"):
        count(np.array([1.0, 1.0, 0.0]), before=2, most=3)
