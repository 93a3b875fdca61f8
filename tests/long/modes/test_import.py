"""Mode import: a workdir of someone else's checkpoint, used like our own; or one line."""

import hashlib
import json
import os
import pickle
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import diffusers as config_file
from score_sde.errors import CheckpointError, ConfigError, DataError
from score_sde.experiment import build, workdirs
from score_sde.models.model import num_params
from score_sde.modes import import_ as mode
from score_sde.modes.import_ import import_
from score_sde.modes.train import train
from score_sde.published.diffusers_files import own_scheduler
from score_sde.runtime.signals import only_run
from tests import perceptron
from tests.command import main
from tests.modes.test_train import equal, final_state
from tests.published_cases import FOLDERS, GOLDEN, config_of
from tests.stored import arrays

SMALL = FOLDERS / "velocity"
WEIGHTS = SMALL / "unet" / "diffusion_pytorch_model.safetensors"


def prepared(tmp_path, monkeypatch, **changes):
    """A config that trains in no time, and an import for it; what is read does not matter here."""
    config = perceptron.get_config()
    images = tmp_path / "images.npz"
    rng = np.random.default_rng(0)
    np.savez(images, image=rng.integers(0, 256, (40, 4, 4, 1), dtype=np.uint8))
    config.data = {"name": "npz", "path": str(images), "augment": "flip"}
    config.train.update(steps=9, batch_size=8, log_every=1, sample_every=0, ema_rates=(0.9, 0.999))
    config.optim.update(learning_rate=2e-4, warmup=4)
    config.update_from_flattened_dict(changes)
    params = build.build_model(config).init(jax.random.key(1), jnp.zeros((1, 4, 4, 1)))
    double = jax.tree.map(lambda a: 2 * a, params)
    imported = mode.published.Imported("a test", WEIGHTS, params, double, 7)
    monkeypatch.setattr(mode.published, "load", lambda *_: imported)
    return config, imported


def test_train_goes_on_from_an_import(tmp_path, monkeypatch, capsys):
    """The state is the source's with a fresh optimiser; its rate warms up from the import on."""
    config, imported = prepared(tmp_path, monkeypatch)
    workdir = tmp_path / "run"
    result = import_(config, workdir, SMALL)
    assert "above" not in capsys.readouterr().out
    assert result == {
        "source": str(SMALL),
        "file": "diffusion_pytorch_model.safetensors",
        "sha256": hashlib.sha256(WEIGHTS.read_bytes()).hexdigest(),
        "kind": "a test",
        "step": 7,
        "parameters": num_params(imported.params),
        "averaged": True,
    }
    assert json.loads((workdir / "import.json").read_text()) == result
    restored = final_state(config, workdir)
    assert (restored.step, int(restored.state.step), restored.data) == (7, 7, None)
    equal(restored.state.params, imported.params)
    for average in restored.state.ema:
        equal(average, imported.ema)
    assert all(not np.any(a) for a in jax.tree.leaves(restored.state.opt_state))

    train(config, workdir)
    assert "resuming at step 7 to step 9:" in capsys.readouterr().out
    after = final_state(config, workdir)
    assert after.step == 9
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [8, 9]
    rates = [row["learning_rate"] for row in rows]
    np.testing.assert_allclose(rates, [2e-4 / 4, 2e-4 / 2])
    # Adam's first step moves a weight by the rate, and its second by the rate at most
    moved = jax.tree.map(
        lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max(),
        after.state.params,
        imported.params,
    )
    assert max(jax.tree.leaves(moved)) == pytest.approx(sum(rates), rel=0.02)


def test_train_that_has_nothing_left_to_do(tmp_path, monkeypatch, capsys):
    config, imported = prepared(tmp_path, monkeypatch, **{"train.steps": 7})
    workdir = tmp_path / "run"
    import_(config, workdir, SMALL)
    assert "train.steps=7 is not above the imported step 7" in capsys.readouterr().out
    with pytest.raises(ConfigError, match=r"step 7, and train\.steps=7 is not above it: set"):
        train(config, workdir)
    equal(final_state(config, workdir).state.params, imported.params)


def test_one_set_of_parameters_is_every_average(tmp_path, monkeypatch):
    config, imported = prepared(tmp_path, monkeypatch)
    monkeypatch.setattr(mode.published, "load", lambda *_: imported._replace(ema=None))
    assert import_(config, tmp_path, SMALL)["averaged"] is False
    state = final_state(config, tmp_path).state
    for average in state.ema:
        equal(average, state.params)
    # an import into a used workdir changes nothing
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    with pytest.raises(CheckpointError, match=r"has checkpoints already, .*step 7: choose another"):
        import_(config, tmp_path, SMALL)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")} == before
    # nor does one into a workdir that another run has just begun
    new = tmp_path / "new"
    new.mkdir()
    with only_run(new), pytest.raises(CheckpointError, match=r"another run .* writes into .*/new"):
        import_(config, new, SMALL)
    assert [path.name for path in new.iterdir()] == ["lock"]


def test_an_import_says_what_it_samples_with(tmp_path, monkeypatch, capsys):
    """And that the folder had another scheduler; files have none."""
    config, imported = prepared(tmp_path, monkeypatch)
    import_(config, tmp_path / "file", SMALL)
    assert "sampling.solver" not in capsys.readouterr().out
    config.sampling.update(solver="dpmpp", grid="linspace", steps=50)
    folder = imported._replace(scheduler=own_scheduler(FOLDERS / "ho" / "scheduler_config.json"))
    monkeypatch.setattr(mode.published, "load", lambda *_: folder)
    import_(config, tmp_path / "folder", SMALL)
    assert (
        "samples are drawn by sampling.solver=dpmpp, sampling.grid=linspace, sampling.steps=50; "
        "the folder's own scheduler is DDPMScheduler(timestep_spacing='leading', clip_sample=True, "
        "thresholding=False), and docs/coming_from/diffusers.md"
    ) in capsys.readouterr().out


def test_without_data_there_is_no_training(tmp_path):
    config = config_file.get_config(str(SMALL))
    with pytest.raises(DataError, match="names no data set, which only sampling can do without"):
        train(config, tmp_path)
    assert not list(tmp_path.iterdir())


class Runs:
    """Pickles to a call of os.mkdir."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def half_of(case):
    def make(path):
        content = (GOLDEN / case).read_bytes()
        path.write_bytes(content[: len(content) // 2])

    return make


def whole(case):
    return lambda path: shutil.copy(GOLDEN / case, path)


NAME = "vp_ddpmpp_continuous"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (half_of(f"{NAME}.torch.pth"), "is damaged or is no file of torch.save"),
        (half_of(f"{NAME}.jax.msgpack"), "is damaged or is no checkpoint of the JAX code"),
        (lambda path: path.write_text("hello"), "is damaged or is no checkpoint"),
        (lambda path: path.write_bytes(b""), "is damaged or is no checkpoint"),
        (
            lambda path: path.write_bytes(pickle.dumps(Runs(path.parent / "made"), 2)),
            r"is refused: it names \w+\.mkdir, and only tensors",
        ),
        (whole("torch_zip.pth"), "is no checkpoint of the PyTorch port"),
        (whole("ve_ncsnpp_continuous.torch.pth"), r"does not fit the network: .*is missing|shape"),
        (whole("vp_ddpm_continuous.jax.msgpack"), r"does not fit the network: .*left over|shape"),
        (lambda path: path.mkdir(), "has no config.json"),
    ],
)
def test_sources_that_are_refused(make, message, tmp_path):
    source, workdir = tmp_path / "source", tmp_path / "run"
    make(source)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match=message) as error:
        import_(config_of(NAME), workdir, source)
    assert len(str(error.value).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("part", ["params", "ema"])
def test_weights_that_are_not_finite_are_refused(part, tmp_path, monkeypatch):
    config, imported = prepared(tmp_path, monkeypatch)
    weights = jax.tree.map(np.array, getattr(imported, part))
    weights["dense_0"]["bias"][2] = np.inf
    damaged = imported._replace(**{part: weights})
    monkeypatch.setattr(mode.published, "load", lambda *_: damaged)
    before = sorted(tmp_path.rglob("*"))
    message = rf"weights that are not finite, the first in {part}/dense_0/bias: take another file"
    with pytest.raises(CheckpointError, match=message):
        import_(config, tmp_path / "run", SMALL)
    assert sorted(tmp_path.rglob("*")) == before


def test_networks_of_our_own_cannot_be_imported(tmp_path):
    config = config_file.get_config(str(SMALL))
    config.net = {"name": "mlp.MLP"}
    with pytest.raises(CheckpointError, match=r"class NCSNpp, .* and none of MLP"):
        import_(config, tmp_path / "run", SMALL)


def test_a_workdir_of_a_network_with_fewer_fields(tmp_path):
    """What a field does not say in an older config.json is its default, and only that."""
    config = config_file.get_config(str(SMALL))
    workdirs.store_config(config, tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["net"]["remat"], stored["net"]["num_classes"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    workdirs.check_config(config, tmp_path)
    del stored["net"]["head_dim"]  # 4, and not the default
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ConfigError, match=r"holds another model \(net\.head_dim None -> 4\)"):
        workdirs.check_config(config, tmp_path)


# The command line


def test_import_and_sample_in_one_command(tmp_path):
    code, out, err = main(
        *("--mode", "import,sample", "--config", f"configs/diffusers.py:{SMALL}"),
        *("--source", str(SMALL), "--workdir", str(tmp_path)),
        *("--config.sampling.steps=3", "--config.sampling.num_samples=8"),
    )
    assert code == 0, err
    assert "diffusers, UNet2DModel" in out
    samples = arrays(tmp_path / "samples.npz")["samples"]
    assert samples.shape == (8, 4, 4, 1)
    assert samples.std() > 10  # nothing is stuck at an infinity
    assert {"import.json", "sample.json", "config.json", "checkpoints", "samples.png"} <= {
        path.name for path in tmp_path.iterdir()
    }


def test_import_needs_a_source(tmp_path):
    code, _, err = main(
        *("--mode", "import", "--config", f"configs/diffusers.py:{SMALL}"),
        *("--workdir", str(tmp_path / "run")),
    )
    assert (code, err) == (
        1,
        "error: --source is missing: --mode import --source FILE_OR_FOLDER\n",
    )
    assert not (tmp_path / "run").exists()
