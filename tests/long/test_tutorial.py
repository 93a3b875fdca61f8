"""docs/start/paper_figure.md from its first line to its figure: each block and each command in the
order of the page, with a small network and few samples."""

import os
import shutil

import matplotlib as mpl
import numpy as np
import pytest

from tests import command
from tests.documents import BLOCK
from tests.long.test_commands import calls
from tests.soak import ROOT

PAGE = "docs/start/paper_figure.md"
SHORT = {
    "net.nf": 8,
    "net.ch_mult": (1,),
    "net.attn_resolutions": (),
    "train.steps": 2,
    "train.batch_size": 8,
    "train.sample_every": 0,
    "sampling.solver": "ddim",
    "sampling.num_samples": 4,
    "sampling.batch_size": 16,
    "evaluate.num_samples": 16,
    "evaluate.samplers": ("ddim on log_snr",),
    "evaluate.nfe": (2, 4),
    "solvers.solvers": ("ddim",),
    "solvers.nfe": (5,),
    "solvers.num_samples": 4,
    "solvers.batches": 1,
}


@pytest.fixture
def followed(tmp_path, monkeypatch):
    """What is left in a folder after the page, and the names of its Python."""
    monkeypatch.chdir(tmp_path)
    before, after = BLOCK.findall((ROOT / PAGE).read_text())
    names = {}
    exec(compile(before, PAGE, "exec"), names)
    flags = [f"--config.{field}={value}" for field, value in SHORT.items()]
    for call in calls():
        if call.file != PAGE:
            continue
        # a tuple that is given twice is both
        words = [
            w for w in call.arguments if w.partition("=")[0].removeprefix("--config.") not in SHORT
        ]
        words = [w.replace("runs/", f"{tmp_path}/runs/") for w in words]
        words = [w.replace("IMAGES", f"{tmp_path}/IMAGES") for w in words]
        if call.program == "mv":
            shutil.move(*words)
            continue
        script = words.pop(0)
        if script == "docs/figures.py":  # what drew the picture of the page
            continue
        assert (call.program, script) == ("python", "main.py"), call
        ended = command.main(*words, *flags, devices=1)
        assert ended.returncode == 0, f"{call}\n{ended.stderr}"
    os.chdir(tmp_path)
    with mpl.rc_context():  # the page sets the look of all plots
        exec(compile(after, PAGE, "exec"), names)
    return tmp_path, names


def test_the_tutorial_ends_with_its_figure(followed):
    """The points and bars of the figure are the means and standard deviations of three seeds, which
    differ; the workdir has a result of every mode."""
    folder, names = followed
    assert (folder / "figure.pdf").read_bytes().startswith(b"%PDF")
    for name in ("train.json", "sample.json", "solvers.md", "samples.png", "loss.png"):
        assert (folder / "runs/mine" / name).exists(), name
    runs = names["runs"]
    assert len(runs) == 3
    found = np.array([[row["frechet"] for row in run[1:]] for run in runs])
    assert found.shape == (3, 2)
    assert (found.std(axis=0) > 0).all()
    line, _, (bars,) = names["axes"].containers[0]
    np.testing.assert_allclose(line.get_ydata(), found.mean(axis=0))
    np.testing.assert_array_equal(line.get_xdata(), [2, 4])
    half = np.array([np.ptp(segment[:, 1]) for segment in bars.get_segments()]) / 2
    np.testing.assert_allclose(half, found.std(axis=0, ddof=1))
