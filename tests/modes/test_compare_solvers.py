"""Mode compare_solvers on the digits: its numbers by hand, and what it refuses."""

import itertools
import json

import numpy as np
import pytest
import scipy.fft

from configs import digits
from score_sde.data import sklearn_digits
from score_sde.errors import ConfigError
from score_sde.experiment import requests
from score_sde.modes.compare_solvers import compare_solvers
from score_sde.sampling import grids


@pytest.fixture
def config():
    config = digits.get_config()
    config.sde = "EDM(t_min=0.01, t_max=20.0)"
    config.sampling.update({"denoise": False, "t_min": None})
    config.solvers.update({"solvers": ("ancestral",), "grids": ("karras",), "nfe": (5, 9)})
    return config


def test_distances_are_those_of_a_recursion_of_the_variance(config, tmp_path):
    """The steps x_s = a x + b D + noise of each coefficient, written out."""
    result = compare_solvers(config, tmp_path)
    source = sklearn_digits.digits().train
    images = np.stack([source[i]["image"] for i in range(len(source))])
    x = (images + 0.5) / 17 * 2 - 1  # and uniform noise, 2/17 wide
    found = json.loads((tmp_path / "compare_solvers.json").read_text())
    waves = scipy.fft.dctn(x, axes=(1, 2), norm="ortho").reshape(-1, 64)
    mean, variance = waves.mean(axis=0), waves.var(axis=0) + (2 / 17) ** 2 / 12
    rows = {row["budget"]: row for row in found["rows"]}
    for budget, steps in ((5, 4), (9, 8)):
        assert rows[budget]["steps"] == steps
        times = np.asarray(grids.karras(sde_of(config), steps), np.float64)
        m, v = np.zeros(64), np.full(64, times[0] ** 2)
        for t, s in itertools.pairwise(times):
            old, gain = s**2 / t**2, variance / (variance + t**2)  # D = mean + gain (x - mean)
            kept = old + (1 - old) * gain
            m = kept * m + (1 - old) * (1 - gain) * mean
            v = kept**2 * v + s**2 * (1 - old)
        distance = np.mean((m - mean) ** 2 + (np.sqrt(v) - np.sqrt(variance)) ** 2)
        assert rows[budget]["error"] == pytest.approx(np.sqrt(distance), rel=1e-5)
        constant = np.sqrt(v[0] / variance[0])
        assert rows[budget]["std"][0] == pytest.approx(constant, rel=1e-5)
    assert result["best"] == {"5": "ancestral on karras", "9": "ancestral on karras"}
    assert "ancestral" in (tmp_path / "compare_solvers.md").read_text()


def sde_of(config):
    return requests.sampling_sde(config)


@pytest.mark.parametrize(
    ("solver", "words"),
    [
        ("probability_flow", "own steps"),
        ("predictor_corrector", "not affine"),
        ("flow_map", "asks for more"),
    ],
)
def test_solvers_without_such_a_law_are_refused(config, tmp_path, solver, words):
    config.solvers.solvers = (solver,)
    with pytest.raises(ConfigError, match=words):
        compare_solvers(config, tmp_path)
