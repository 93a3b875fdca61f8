"""Every kind of data on two hosts, against one process: no mode knows which kind it is."""

import pytest

from score_sde.modes.train import train
from tests import kinds, soak, two_hosts
from tests.modes.test_train import final_state
from tests.stored import arrays

STEPS = 4


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_two_processes_learn_what_one_learns(kind, tmp_path):
    """The loss of every step, and the state, averages and place in the data at the end."""
    one, two = tmp_path / "one", tmp_path / "two"
    command = {"steps": STEPS, "config_file": f"tests/kinds.py:{kind}"}
    config = kinds.get_config(kind)
    given = {"steps": STEPS, "batch_size": 16, "log_every": 1, "checkpoint_every": 4}
    config.train.update(given, sample_every=0, ema_lengths=(0.1,), ema_every=4)
    train(config, one)  # not beside the two, which wait at most 30 s for each other
    processes = two_hosts.start([two], lambda workdir: soak.command(workdir, **command))
    assert two_hosts.ended(processes) == [0, 0], two.with_suffix(".0").read_text()
    ours, truth = two_hosts.losses(two), two_hosts.losses(one)
    assert ours.keys() == truth.keys() == set(range(1, STEPS + 1))
    two_hosts.close(ours, truth)
    ours, truth = final_state(config, two), final_state(config, one)
    assert ours.data == truth.data
    two_hosts.close(ours.state, truth.state)
    ours, truth = (arrays(w / "averages" / f"{STEPS}.npz") for w in (two, one))
    two_hosts.close(dict(ours), dict(truth))
