"""Runs that survive: signals, SIGKILL, a full disk, two runs in one folder, steps that are skipped."""

import os
import signal
import threading
import time

import pytest

from score_sde import evaluate
from score_sde import train as mode
from score_sde.checkpoint import CheckpointError
from score_sde.survival import InterruptedRunError, ending_in_order, only_run
from score_sde.train import train
from tests import soak
from tests.test_train import equal, final_state, small


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


def signalled(monkeypatch, when, signum):
    """Sends a signal to this process while step `when` is prepared."""
    count, stack = iter(range(1, 100)), mode._stack

    def send(*arguments):
        if next(count) == when:
            signal.raise_signal(signum)
        return stack(*arguments)

    monkeypatch.setattr(mode, "_stack", send)


def test_ctrl_c_ends_after_the_step_under_way(run, tmp_path, monkeypatch):
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patched:
        signalled(patched, 3, signal.SIGINT)
        with pytest.raises(InterruptedRunError, match="the checkpoint of step 3 of 8") as error:
            train(small(), tmp_path)
    assert error.value.code == 130
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before
    train(small(), tmp_path)
    ours, truth = final_state(small(), tmp_path), final_state(small(), run)
    equal(ours.state, truth.state)
    assert ours.data == truth.data


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


def test_two_runs_in_one_workdir_are_refused(run, tmp_path):
    with only_run(run):
        files = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
        with pytest.raises(CheckpointError) as error:
            train(small(**{"train.steps": 12}), run)
        assert str(error.value) == (
            f"another run (process {os.getpid()}) writes into {run}: wait for it, or choose "
            "another --workdir"
        )
        assert evaluate.restore(small(), run)[2] == 8  # who only reads is let in
        assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == files
    train(small(), run)
