"""Mode encode and its data set: what is stored, and that training on it is the same training."""

import json
import shutil

import chex
import jax
import numpy as np
import pytest

from score_sde.data import digits, gather, train_iterator
from score_sde.data.encoded import encoded
from score_sde.errors import ConfigError, DataError
from score_sde.experiment import build, stored_data, workdirs
from score_sde.experiment.program import compiled_step, stack
from score_sde.modes import encode as mode
from score_sde.modes.train import train
from score_sde.runtime import resumable
from score_sde.types import Feature
from tests import latents
from tests.latents import small


@pytest.fixture(scope="module", autouse=True)
def networks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workdirs, "load_frozen", latents.load)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("latent")
    return workdir, mode.encode(small(), workdir)


def on_cache(workdir, folder="one", **changes):
    config = small(folder, **changes)
    config.data = {"name": "encoded", "path": str(workdir / "encoded")}
    return config


def test_what_is_stored(made):
    """The squares of each image as channels, the least log variance, and the label; in the order
    of the data set."""
    workdir, result = made
    assert (result["train"], result["test"], result["made"]) == (1500, 297, True)
    data = encoded(workdir / "encoded")
    assert (data.name, data.made_by) == ("digits, encoded", {"autoencoder": "one"})
    assert data.features["moments"] == Feature((4, 4, 8))
    assert data.features["label"].values == 10
    assert data.made_of == {"image": latents.digits_image()}
    for ours, theirs in ((data.train, digits().train), (data.test, digits().test)):
        few = np.array([0, 1, 77, len(theirs) - 1])
        found, truth = gather(ours, few), gather(theirs, few)
        assert len(ours) == len(theirs)
        np.testing.assert_array_equal(found["label"], truth["label"])
        squares = truth["image"].reshape(4, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(4, 4, 4, 4)
        np.testing.assert_array_equal(found["moments"][..., :4], squares.astype(np.float32) / 8 - 1)
        np.testing.assert_array_equal(found["moments"][..., 4:], latents.CERTAIN)
        assert found["moments"].dtype == np.float32
    file = np.load(workdir / "encoded/train/moments.npy", mmap_mode="r")
    assert isinstance(file, np.memmap)
    assert not mode.encode(small(), workdir)["made"]
    assert not (workdir / "partial").exists()
    assert not (workdir / "encoded.partial").exists()


def test_training_on_moments_is_training_through_the_encoder(made):
    """Three steps, bit for bit: the noise of the posterior has the same keys. The encoder here is
    exact in every program; one of convolutions rounds as its program does."""
    found = []
    for config in (small(), on_cache(made[0])):
        experiment = workdirs.load(config)
        state = build.initial_state(config, experiment)
        step = compiled_step(config, experiment, 1)
        batches = train_iterator(experiment.data.train, batch_size=16, seed=0)
        for _ in range(3):
            batch = stack(batches, 1, experiment.sharded(axis=1))
            state, metrics = step(jax.random.key(1), state, batch)
        found.append((state, metrics))
    chex.assert_trees_all_equal(*jax.device_get(found), strict=True)


def test_what_other_networks_made_is_refused(made, tmp_path):
    workdir, _ = made
    with pytest.raises(ConfigError, match=r"made with another autoencoder .* run --mode encode"):
        workdirs.load(on_cache(workdir, "two"))
    with pytest.raises(ConfigError, match="is encoded already"):
        mode.encode(on_cache(workdir), tmp_path)
    plain = small()
    plain.codec = "pixels()"
    with pytest.raises(ConfigError, match="encode has nothing to do: codec pixels and conditioner"):
        mode.encode(plain, tmp_path)
    with pytest.raises(ConfigError, match=r"encode\.dtype is 'int8': one of float16, float32"):
        mode.encode(small(**{"encode.dtype": "int8"}), tmp_path)


def test_a_model_remembers_its_autoencoder(made, tmp_path, monkeypatch):
    """By its SHA-256: the folder may move, and another network in it is refused."""
    train(on_cache(made[0]), tmp_path)
    assert json.loads((tmp_path / "frozen.json").read_text()) == {"autoencoder": "one"}
    moved = {**latents.NETS, "elsewhere": latents.NETS["one"]}
    monkeypatch.setattr(latents, "NETS", moved)
    with pytest.raises(ConfigError, match="was trained with another autoencoder than"):
        workdirs.restore(small("elsewhere"), tmp_path)
    monkeypatch.setattr(workdirs, "load_frozen", lambda folder: latents.load("one"))
    assert workdirs.restore(small("elsewhere"), tmp_path).step == 3


def test_half_of_the_space(made, tmp_path):
    mode.encode(small(**{"encode.dtype": "float16"}), tmp_path)
    ours, truth = encoded(tmp_path / "encoded").test, encoded(made[0] / "encoded").test
    half = np.load(tmp_path / "encoded/test/moments.npy")
    assert half.dtype == np.float16
    found = gather(ours, np.arange(297))["moments"]
    assert found.dtype == np.float32
    exact = gather(truth, np.arange(297))["moments"]
    np.testing.assert_array_equal(found, exact)  # eighths: float16 has them
    latents.NETS["large"] = Large()
    with pytest.raises(ConfigError, match=r"encode\.dtype=float16: moments has numbers .*not fin"):
        mode.encode(small("large", **{"encode.dtype": "float16"}), tmp_path)
    np.testing.assert_array_equal(np.load(tmp_path / "encoded/test/moments.npy"), half)


class Large(latents.Blocks):
    def encode(self, x):
        return 1e5 * super().encode(x)


def test_killed_work_goes_on(made, tmp_path, monkeypatch):
    """What was there stays until the new one is whole; another batch size may follow."""
    mode.encode(small("two"), tmp_path)
    before = json.loads((tmp_path / "encoded/encoded.json").read_text())
    monkeypatch.setattr(resumable, "EVERY", 0.0)
    put, calls = stored_data.Building.put, []

    def killed(self, split, numbers, mask, parts):
        calls.append((split, int(numbers[0])))
        if len(calls) == 4:
            raise KeyboardInterrupt
        put(self, split, numbers, mask, parts)

    monkeypatch.setattr(stored_data.Building, "put", killed)
    with pytest.raises(KeyboardInterrupt):
        mode.encode(small(**{"encode.batch_size": 400}), tmp_path)
    assert json.loads((tmp_path / "encoded/encoded.json").read_text()) == before
    assert calls == [("train", 0), ("train", 400), ("train", 800), ("train", 1200)]
    calls[:] = [None] * 10
    assert mode.encode(small(**{"encode.batch_size": 304}), tmp_path)["made"]
    assert calls[10:] == [("train", 912), ("train", 1216), ("test", 0)]
    for path in (made[0] / "encoded").rglob("*.npy"):
        ours = np.load(tmp_path / "encoded" / path.relative_to(made[0] / "encoded"))
        np.testing.assert_array_equal(ours, np.load(path))
    assert {path.name for path in tmp_path.iterdir()} == {"encoded", "encode.json"}


def test_damaged_folders_are_told(made, tmp_path):
    with pytest.raises(DataError, match=r"holds no encoded\.json: run --mode encode, or name"):
        encoded(tmp_path)
    folder = tmp_path / "encoded"
    shutil.copytree(made[0] / "encoded", folder)
    np.save(folder / "test/label.npy", np.zeros(7, np.int32))
    with pytest.raises(
        DataError, match=r"label\.npy holds int32 \[7\], and not what encoded\.json"
    ):
        encoded(folder)
    (folder / "test/label.npy").write_bytes(b"half")
    with pytest.raises(DataError, match=r"label\.npy is damaged"):
        encoded(folder)
    (folder / "test/label.npy").unlink()
    with pytest.raises(DataError, match=r"label\.npy does not exist"):
        encoded(folder)
    (folder / "encoded.json").write_text('{"data": 1')
    with pytest.raises(DataError, match=r"encoded\.json is damaged"):
        encoded(folder)
