"""The error that mode app tells: that of a solver against the ODE from the same noise."""

import numpy as np
import pytest

from score_sde.app.studio import Studio
from score_sde.app.watching import Watch
from score_sde.modes.train import train
from tests.app.test_studio import drawing, settings


def test_the_reference_starts_from_the_same_noise(tmp_path):
    """Another adaptive solver of the ODE comes as close as its tolerance, and DDIM comes closer by
    its order, 1, as its steps grow."""
    train(settings(), tmp_path)
    ours = Studio(settings(), tmp_path, ["python", "main.py", "--config=x", "--workdir=y"])
    tight = "probability_flow(rtol=1e-05, atol=1e-05, method='Tsit5')"
    errors = {}
    for solver, steps in ((tight, 1), ("ddim", 64), ("ddim", 128)):
        asked = drawing(solver=solver, steps=steps, grid="log_snr", guidance="unguided")
        drawn = ours.sample(asked, Watch())
        truth = ours.refer(asked, drawn, Watch())
        errors[solver, steps] = float(truth.about.split()[2])
        rms = np.sqrt(np.mean((drawn.x - truth.x) ** 2))
        assert errors[solver, steps] == pytest.approx(rms, rel=0.01)  # three digits
    assert errors[tight, 1] < 1e-3
    assert 1.7 < errors["ddim", 64] / errors["ddim", 128] < 2.3
