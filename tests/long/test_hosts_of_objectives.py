"""Every kind of objective in two processes of four devices each: they learn what one of eight
learns. One pair of processes trains all of them in turn."""

import os
import socket

import chex
import pytest

from configs import digits_deblur_bridge, ring_energy
from score_sde.experiment import build, teachers
from score_sde.modes.train import train
from score_sde.runtime.checkpoint import Checkpoints
from tests import soak, students, xla
from tests.modes.test_guided_modes import put
from tests.modes.test_token_modes import small as of_tokens
from tests.modes.test_train import rows

STEPS = 3
SECONDS = 900  # in which all end; more is a hang
CHANGES = {
    "train.steps": STEPS,
    "train.batch_size": 16,
    "train.log_every": 1,
    "train.checkpoint_every": STEPS,
    "train.sample_every": 0,
    "optim.schedule": "constant",
    "optim.warmup": 1,
}


def over(kind, folder):
    return students.get_config(f"{kind},{folder / f'below_{kind}'}")


def bridge(folder):
    config = digits_deblur_bridge.get_config()
    config.net.depth = 1
    return config


def adjoint(folder):
    config = ring_energy.get_config()
    config.net.features = (16,)
    config.objective.update(steps=4, times_per_path=2)
    return config


KINDS = {
    "adapter": lambda folder: over("adapter", folder),
    "adjoint": adjoint,
    "bridge": bridge,
    "distillation": lambda folder: over("distillation", folder),
    "tokens": lambda folder: of_tokens(),
}


def config_of(kind, folder):
    config = KINDS[kind](folder)
    config.update_from_flattened_dict(CHANGES)
    return config


def host(index, port, folder):
    """One of two processes."""
    with (folder / f"log.{index}").open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ |= {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(index),
        "XLA_FLAGS": xla.flags(4),
    }
    from score_sde.runtime import hosts

    hosts.start()
    for kind in KINDS:
        with hosts.own_workdir(folder / "two" / kind) as workdir:
            train(config_of(kind, folder), workdir)
    hosts.end()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of what two processes learnt, "two", and of what is below them."""
    folder = tmp_path_factory.mktemp("objectives")
    for kind in ("adapter", "distillation"):
        put(students.get_config(f"below_{kind},"), folder / f"below_{kind}", scale=0.1)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [soak.FORKS.Process(target=host, args=(i, port, folder)) for i in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(SECONDS)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
    assert codes == [0, 0], (folder / "log.0").read_text()[-3000:]
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_learn_what_one_learns(trained, kind):
    one, two = trained / "one" / kind, trained / "two" / kind
    train(config_of(kind, trained), one)
    ours, truth = ({row["step"]: row["loss"] for row in rows(w)} for w in (two, one))
    assert ours.keys() == set(range(1, STEPS + 1))
    assert ours == pytest.approx(truth, rel=1e-4)
    ours, truth = (state_of(config_of(kind, trained), workdir) for workdir in (two, one))
    assert (ours.step, ours.data) == (STEPS, truth.data)
    # Adam divides a gradient by its size: of one that nearly cancels the rounding counts
    chex.assert_trees_all_close(ours.state, truth.state, rtol=1e-3, atol=1e-5)


def state_of(config, workdir):
    checkpoints = Checkpoints(workdir)
    try:
        return checkpoints.restore(build.abstract_state(teachers.load(config)))
    finally:
        checkpoints.close()
