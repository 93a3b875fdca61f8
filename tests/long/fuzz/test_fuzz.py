"""Readers of damaged files: they read them, or refuse them in one line, whatever is in them.

FUZZ=10000 reads so many files with each reader; FUZZ=1 FUZZ_FIRST=SEED reads the one of a failure.
"""

import json
import os
import subprocess
import sys

import pytest

from tests.long.fuzz.cases import CASES
from tests.soak import ROOT


@pytest.fixture(scope="module")
def results(request, tmp_path_factory):
    """The folder of what the readers of the tests that were chosen did."""
    chosen = [
        item.callspec.params["name"] for item in request.session.items if item.path == request.path
    ]
    folder = tmp_path_factory.mktemp("results")
    numbers = [os.environ.get("FUZZ", "0"), os.environ.get("FUZZ_FIRST", "0")]
    command = [sys.executable, "-m", "tests.long.fuzz.reading", str(folder), *numbers, *chosen]
    subprocess.run(command, cwd=ROOT, check=True)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_a_damaged_file_is_read_or_refused_in_a_line(name, results):
    path = results / f"{name}.json"
    if not path.exists() or not path.stat().st_size:  # its process ended
        last = (results / name).read_text() if (results / name).exists() else "none"
        pytest.fail(f"ended at the file of seed {last}: {(results / 'log').read_text()[-3000:]}")
    told = json.loads(path.read_text())
    print(f"{name}: {told['count']} files in {told['seconds']:.1f} s")
    failures = [f"FUZZ_FIRST={seed}, {target}: {why}" for seed, target, why in told["failures"]]
    assert not failures, "\n" + "\n".join(failures)
