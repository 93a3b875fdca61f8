"""The command line as a user meets it."""

import json
import os
import subprocess
import sys
import types

import jax
import pytest

from configs import digits as digits_config
from score_sde import command_line
from score_sde.experiment import build, uses
from tests.command import main
from tests.soak import ROOT


def digits(workdir, mode="train"):
    return ["--mode", mode, "--config", "configs/digits.py", "--workdir", str(workdir)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--mode", "train"], "--workdir is missing"),
        (["--mode=fly"], "unknown mode 'fly': one of app, compare_solvers, detect, edit, encode,"),
        (["--config.train.stepz=3"], "no field 'stepz'; did you mean 'steps'?"),
        (["--config.sde=VPP"], "unknown name 'VPP'; did you mean 'VP'?"),
        (["--config", "configs/digitz.py"], "No such file"),
        (["--config.sampling.num_samples", "x"], "flag --config.sampling.num_samples=x: invalid"),
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


BASE = "from configs import base\ndef get_config():\n    config = base.get_config()\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "--config CONFIG: No such file"),
        ("def get_config():\n    x = (1\n    return x\n", "CONFIG, line 2: '(' was never closed"),
        ("x = 1\n", "CONFIG has no function get_config"),
        (
            "def get_config():\n    return {}\n",
            "CONFIG: get_config() gives a dict, not a ConfigDict",
        ),
        ("def get_config():\n    pass\n", "CONFIG: get_config() gives a NoneType"),
        ("def get_config():\n    1 / 0\n", "CONFIG, line 2: ZeroDivisionError: division by zero"),
        ("import nosuch\n", "CONFIG, line 1: ModuleNotFoundError: No module named 'nosuch'"),
        ("def get_config(name):\n    pass\n", "CONFIG: TypeError: get_config() missing 1 required"),
        ("def get_config():\n    open('x/y')\n", "CONFIG, line 2: FileNotFoundError: "),
        (
            f"{BASE}    del config.train\n    return config\n",
            "CONFIG: the config lacks train: begin",
        ),
        (
            f"{BASE}    del config.mesh.fsdp\n    return config\n",
            "CONFIG: the config lacks mesh.fsdp: ",
        ),
    ],
)
def test_a_config_file_that_cannot_be(tmp_path, text, message):
    path = tmp_path / "config.py"
    if text is not None:
        path.write_text(text)
    with pytest.raises(command_line.UsageError) as error:
        command_line.ConfigFile().parse(str(path))
    assert str(error.value).replace(str(path), "CONFIG").startswith(message)
    assert len(str(error.value).splitlines()) == 1


def test_a_config_file_that_is_a_folder_and_one_that_takes_an_argument(tmp_path):
    with pytest.raises(command_line.UsageError, match=f"--config {tmp_path}: It is a folder"):
        command_line.ConfigFile().parse(str(tmp_path))
    path = tmp_path / "config.py"
    path.write_text(
        BASE.replace("()", "(steps)", 1) + "    config.train.steps = int(steps)\n"
        "    return config\n"
    )
    config = command_line.ConfigFile().parse(f"{path}:7")
    assert config.train.steps == 7
    assert config.is_locked


def test_configs_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = command_line.ConfigFile().parse("configs/digits.py")
    assert found.to_dict() == digits_config.get_config().to_dict()
    with pytest.raises(command_line.UsageError, match="--config configs: No such file"):
        command_line.ConfigFile().parse("configs")
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/digits.py").write_text(
        BASE + "    config.train.steps = 7\n    return config\n"
    )
    assert command_line.ConfigFile().parse("configs/digits.py").train.steps == 7


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("configs/diffusers.py", "say which folder: --config configs/diffusers.py:FOLDER"),
        (
            "configs/diffusers.py:no/folder",
            "--config configs/diffusers.py:FOLDER: no/folder does not exist; a pipeline of the "
            "Hub is downloaded first: hf download NAME --local-dir folder",
        ),
    ],
)
def test_a_folder_of_diffusers_that_is_none(argument, message, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(command_line.UsageError) as error:
        command_line.ConfigFile().parse(argument)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("program", "flag"), [("main.py", "-h"), ("main.py", "--help"), ("-m score_sde", "--help")]
)
def test_help_is_there_at_once(program, flag):
    """Without JAX, whose import takes most of two seconds."""
    code = f"""
import runpy, sys
sys.argv = ["{program.removeprefix("-m ")}", "{flag}"]
run = runpy.run_path if sys.argv[0] == "main.py" else runpy.run_module
run(sys.argv[0], run_name="__main__")
assert not {{"jax", "flax", "numpy.random"}} & set(sys.modules), "slow imports"
"""
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (out.returncode, out.stderr) == (0, "")
    for mode, text in command_line.MODES.items():
        assert f"  {mode:14}{text}\n" in out.stdout
    for flag in ("--mode", "--config", "--workdir", "--source", "--distributed", "--profile"):
        assert f"\n  {flag} " in out.stdout
    assert "score_sde/experiment/base.py" in out.stdout
    assert out.stdout.count(f"  python {program} ") == 3


def test_an_environment_that_jax_does_not_take():
    out = subprocess.run(
        [sys.executable, "main.py", *digits("nowhere")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"JAX_NUM_CPU_DEVICES": "abc"},
    )
    assert out.returncode == 1
    assert out.stderr.startswith("error: ")
    assert len(out.stderr.splitlines()) == 1
    assert "JAX_NUM_CPU_DEVICES" in out.stderr


def test_a_long_message_is_cut():
    text = command_line._within_a_line(ValueError("a" * 10**6 + "\n\x1b[2Jb"))
    assert len(text) < 2000
    assert text.endswith("a [2Jb")  # a terminal is not cleared


def test_a_dry_run_tells_the_config_and_the_cost(tmp_path):
    """Nothing is written; the parameters are those of the network, and a product of matrices of
    known sizes is a known number of operations."""
    one = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    options = ["--config.net.nf=8", "--config.net.ch_mult=(1,)", "--config.net.attn_resolutions=()"]
    command = [sys.executable, "main.py", "--mode=train", "--config=configs/digits.py", "--dry_run"]
    out = subprocess.run(
        [*command, *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"XLA_FLAGS": one},
    )
    assert out.returncode == 0, out.stderr
    changed, whole = out.stdout.split("\n\nAll fields:\n")
    assert "  net.nf" in changed
    assert "  net.skip_rescale" not in changed
    assert "  net.skip_rescale" in whole
    told = dict(line.split() for line in whole.split("\n\ndry run\n")[1].splitlines())
    config = digits_config.get_config()
    config.net.update(nf=8, ch_mult=(1,), attn_resolutions=())
    state = build.abstract_state(build.build_experiment(config))
    leaves = jax.tree.leaves(state.params)
    assert int(told["parameters"]) == sum(leaf.size for leaf in leaves)
    whole_state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    assert int(told["state_bytes_a_device"]) == whole_state
    assert int(told["peak_bytes_a_device"]) > whole_state
    # forward and backward of the 3x3 convolutions alone: 2 operations for each weight, pixel and
    # example, and twice that again for the slopes of inputs and of kernels
    kernels = sum(leaf.size for leaf in leaves if leaf.ndim == 4)
    assert float(told["operations_a_step"]) > 0.9 * 3 * 2 * kernels * 64 * 128


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
    trained = json.loads((tmp_path / "train.json").read_text())
    assert (trained["gives"], trained["step"]) == ("denoiser", 2)
    for line in ("Everything is in", "Try next:", "samples.npz"):
        assert line in out.stdout


@pytest.mark.parametrize(
    ("gives", "told"),
    [
        ("denoiser", ["--mode sample", "--mode likelihood"]),
        ("flow_map", ["--config.sampling.steps=2", "--mode likelihood"]),
        ("jump", ["--config.sampling.steps=2"]),
        ("log_prob", ["--config.sampling.guidance=\"classifier(workdir='{}')\""]),
        ("reconstruction", ["--config.codec=\"autoencoder(workdir='{}')\""]),
    ],
)
def test_what_a_network_is_for(gives, told, tmp_path):
    """A classifier and an autoencoder draw nothing; a consistency model has no likelihood."""
    (tmp_path / "train.json").write_text(json.dumps({"gives": gives}))
    lines = [*uses.commands(tmp_path), *uses.fields(tmp_path)]
    assert len(lines) == len(told)
    assert all(part.format(tmp_path) in line for part, line in zip(told, lines, strict=True))


def test_a_bridge_is_told_to_begin_at_images(tmp_path):
    """It has no likelihood, and ODE solvers are wrong with it."""
    (tmp_path / "config.json").write_text(json.dumps({"conditioner": "starts(text='nothing')"}))
    (line,) = uses.commands(tmp_path)
    assert line == "--mode sample --config.sampling.images=IMAGES"


def test_what_is_told_to_try_next_works(tmp_path, capsys, monkeypatch):
    """There is no likelihood of latents; for them an edit is told. Fields of one mode are left to
    the next."""
    fields = ("edit.num_images=1", "seed=3", "sampling.prompts=('a',)", "sampling.steps=3")
    monkeypatch.setattr(sys, "argv", ["main.py", *(f"--config.{field}" for field in fields)])
    monkeypatch.setattr(
        command_line, "FLAGS", {"config": types.SimpleNamespace(config_filename="digits.py")}
    )
    (tmp_path / "checkpoints").mkdir()
    told = {}
    for name, digests in (
        ("pixels", None),
        ("text", {"text encoders": "a"}),
        ("latents", {"autoencoder": "b", "text encoders": "a"}),
    ):
        if digests:
            (tmp_path / "frozen.json").write_text(json.dumps(digests))
        command_line.summarise({}, tmp_path)
        told[name] = capsys.readouterr().out
        assert "--config.seed=3" in told[name]
        assert "num_images" not in told[name]
        assert "sampling.prompts=" in told[name]  # what is wanted stays
        assert "sampling.steps=3" not in told[name]
        assert "--mode sample" in told[name]
    assert ["--mode likelihood" in out for out in told.values()] == [True, True, False]
    assert ["--mode edit" in out for out in told.values()] == [False, False, True]
