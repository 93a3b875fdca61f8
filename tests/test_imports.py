"""What a program waits for before its first sample."""

import subprocess
import sys

SAMPLER = """
from score_sde import sampling, solvers
from score_sde.models.model import Model
from score_sde.nets.dit import DiT
from score_sde.processes import VP
from score_sde.sampling import grids
"""
TRAINING = """
from score_sde.experiment import build
from score_sde.experiment.program import compiled_step
"""


def test_imports_leave_out_what_few_parts_need():
    """diffrax takes as long as JAX to import, and scipy.optimize half as long."""
    asked = "import sys; print([name for name in ('diffrax', 'scipy') if name in sys.modules])"
    told = subprocess.run(
        [sys.executable, "-c", SAMPLER + TRAINING + asked],
        check=True,
        capture_output=True,
        text=True,
    )
    assert told.stdout == "[]\n"
