"""Small files of a workdir that are damaged, or that another made: one line, or made anew."""

import json

import numpy as np
import pytest

from score_sde.errors import CheckpointError, ConfigError, DataError
from score_sde.experiment import digests, frozen, uses, workdirs
from score_sde.models import covariance
from score_sde.processes import VP
from score_sde.solvers import learned_coefficients
from tests import perceptron

DAMAGED = (b"", b"{", b"\xff", b"[1]", b"3", b"[" * 10**5, b'{"sha256": [1], "gives": [1]}')
IDS = ("empty", "cut", "no text", "list", "number", "nested", "other values")


@pytest.mark.parametrize("content", DAMAGED, ids=IDS)
def test_digests_that_are_damaged(tmp_path, content):
    (tmp_path / "base.json").write_bytes(content)
    (tmp_path / "frozen.json").write_bytes(content)
    for read in (digests.base_of, digests.is_of_latents):
        with pytest.raises(
            CheckpointError, match=r"\.json is damaged, .*: restore the workdir"
        ) as e:
            read(tmp_path)
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("content", DAMAGED, ids=IDS)
def test_hints_do_without_a_damaged_file(tmp_path, content):
    (tmp_path / "train.json").write_bytes(content)
    assert uses.commands(tmp_path) == uses.commands(tmp_path / "none")
    assert uses.fields(tmp_path) == []


@pytest.mark.parametrize(
    "content", [*DAMAGED, b'{"loss": {"noise_error": {"log_snr": [%s]}}}' % (b"9" * 400)]
)
def test_a_measured_error_that_is_damaged(tmp_path, content):
    path = tmp_path / "evaluate.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"evaluate\.json has no noise error"):
        covariance.measured(VP(), str(path))


def test_a_learned_sampler_that_is_damaged(tmp_path):
    path, n = tmp_path / "sampler.json", 2
    numbers = learned_coefficients.LearnedCoefficients(
        prior=np.float64(-5.0),
        log_snr=np.linspace(-4.0, 5.0, n + 1),
        start=np.float64(1.0),
        linear=np.ones(n),
        weights=np.tril(np.ones((n, n))),
    )
    learned_coefficients.save(path, numbers)
    whole = json.loads(path.read_text())
    learned_coefficients._read(path)
    wrong = [json.dumps({**whole, key: 10**400}) for key in numbers._fields]
    wrong += [
        json.dumps({**whole, "weights": [[10**400], [1, 1]]}),
        *map(bytes.decode, DAMAGED[3:]),
    ]
    for content in wrong:
        path.write_text(content)
        with pytest.raises(ValueError, match=r"sampler\.json is not a file of a learned sampler"):
            learned_coefficients._read(path)


@pytest.mark.parametrize(
    "change",
    [
        {"a.b": 1},
        {"..": {"c": 1}},
        {"adapter": 3},
        {"sde": {"beta_max": 1}},
        {"data": [1]},
        {"optim": {"beta1": 1}, "objective": 3},
        {"net": {"features": [1] * 1000, "name": "x" * 5000}},
        {"sde": "VP("},
        {"sde": "\n\x1b[2J"},
    ],
    ids=str,
)
def test_a_config_of_other_forms_is_one_line(tmp_path, change):
    (tmp_path / "checkpoints").mkdir()
    config = perceptron.get_config()
    path = tmp_path / "config.json"
    path.write_text(json.dumps(workdirs.as_json(config) | change))
    for read in (
        lambda: workdirs.stored_config(tmp_path),
        lambda: workdirs.check_config(config, tmp_path),
    ):
        try:
            read()
        except ConfigError as error:
            message = str(error)
            assert message.startswith(str(tmp_path))
            assert len(message.replace(str(tmp_path), "")) < 600
            assert message.isprintable()


def test_a_config_without_end_is_one_line(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text('{"a":' * 10**5)
    with pytest.raises(ConfigError, match=r"config\.json is damaged: mend or remove it"):
        workdirs.stored_config(tmp_path)


def test_statistics_of_latents_are_numbers():
    good = {"shift": [0.0, 1.0], "scale": [1.0, 2.0]}
    assert frozen._are_statistics(good)
    for change in (
        {"shift": None},
        {"scale": [1.0]},
        {"scale": [1.0, float("nan")]},
        {"shift": "ab"},
    ):
        assert not frozen._are_statistics(good | change)
