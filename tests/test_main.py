"""The command line as a user meets it."""

import json
import os
import subprocess
import sys

import pytest

from tests.command import main
from tests.soak import ROOT


def digits(workdir, mode="train"):
    return ["--mode", mode, "--config", "configs/digits.py", "--workdir", str(workdir)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "train"], "--workdir is missing"),
        (["--mode=fly"], "unknown mode 'fly': one of import, train, sample, likelihood, evaluate"),
        (["--config.train.stepz=3"], "no field 'stepz'; did you mean 'steps'?"),
        (["--config.sde=VPP"], "unknown name 'VPP'; did you mean 'VP'?"),
        (["--config", "configs/digitz.py"], "No such file"),
        (["--mode=sample"], "has no checkpoint: run --mode train"),
        (["--distributed"], "--distributed found no other processes"),
        (["--mode=sample", "--profile"], "--profile is for --mode train"),
        (
            [
                "--config.data.name=tfds",
                "--config.data.dataset=cifar10",
                "--config.data.data_dir=no",
            ],
            "cifar10 is not prepared in",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path, arguments, message):
    base = [] if message.startswith("--workdir") else digits(tmp_path)
    out = main(*base, *arguments)
    assert out.returncode == 1
    assert out.stderr.startswith("error: ")
    assert message in out.stderr
    assert len(out.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_modes_in_one_command(tmp_path):
    options = ["--config.net.ch_mult=(1,)", "--config.net.nf=8", "--config.train.steps=2"]
    options += ["--config.net.attn_resolutions=()"]
    options += ["--config.sampling.solver=ddim(eta=0.5)", "--config.sampling.num_samples=4"]
    command = [sys.executable, "main.py", *digits(tmp_path, "train,sample"), *options]
    one = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    out = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"XLA_FLAGS": one}
    )
    assert out.returncode == 0, out.stderr
    result = json.loads((tmp_path / "sample.json").read_text())
    assert {"num_samples", "nfe", "seconds"} <= set(result)
    assert result["num_samples"] == 4
    assert json.loads((tmp_path / "train.json").read_text())["step"] == 2
    for line in ("Everything is in", "Try next:", "samples.npz"):
        assert line in out.stdout
