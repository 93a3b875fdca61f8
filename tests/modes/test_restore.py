"""Mode restore: what it draws, where it goes on, and that a network learns from it."""

import json

import numpy as np
import pytest

from score_sde.data import gather
from score_sde.data.encoded import encoded
from score_sde.errors import ConfigError
from score_sde.experiment.build import load_data
from score_sde.modes import restore as mode
from score_sde.runtime import resumable
from tests import perceptron

VALUES = np.random.default_rng(0).integers(0, 17, 120)


@pytest.fixture
def flat(tmp_path):
    """A file of images 2x2 whose four pixels are the same number."""
    image = np.broadcast_to(VALUES[:, None, None], (120, 2, 2)).astype(np.uint8)
    np.savez(tmp_path / "flat.npz", image=image, label=np.arange(120) % 3)
    return tmp_path / "flat.npz"


def config_of(path, **sampling):
    config = perceptron.get_config()
    source = f"npz(path={str(path)!r}, num_values=17)"
    config.data = {"name": "corrupted", "of": (source,), "missing": 0.3, "augment": "none"}
    config.restore.gaussian = 20
    config.sampling.update(
        {"solver": "dpmpp_sde", "grid": "log_snr", "steps": 20, "batch_size": 50, **sampling}
    )
    return config


def parts_of(data, split):
    source = getattr(data, split)
    return gather(source, np.arange(len(source)))


def test_missing_pixels_are_as_their_neighbours_tell(flat, tmp_path):
    """Dequantised, a pixel has the variance 1/12 given the number, so one that is missing is known
    to 1/12 + 1/(12 k) by k others; rounding adds 1/12. The prior has a deviation of 5."""
    config = config_of(flat)
    result = mode.restore(config, tmp_path / "run")
    assert (result["train"], result["test"], result["made"]) == (108, 12, True)
    assert json.loads((tmp_path / "run" / "restore.json").read_text()) == result
    data, before = encoded(tmp_path / "run" / "restored"), load_data(config)
    assert set(data.features) == {"image", "label"}
    assert data.features["image"] == before.features["image"]
    for split in ("train", "test"):
        found, seen = parts_of(data, split), parts_of(before, split)
        known = seen["known"].astype(bool)
        np.testing.assert_array_equal(found["image"][known], seen["image"][known])
        np.testing.assert_array_equal(found["label"], seen["label"])
    count = np.asarray(known := parts_of(before, "train")["known"]).sum(axis=(1, 2, 3))
    truth = np.asarray([example["image"].max() for example in before.train])
    some = (count > 0)[:, None, None, None] & (known == 0)
    away = parts_of(data, "train")["image"].astype(float) - truth[:, None, None, None]
    expected = np.mean((2 + 1 / np.maximum(count, 1))[np.nonzero(some)[0]] / 12)
    # of some 120 numbers the mean square has a standard error of 13 %
    np.testing.assert_allclose(np.mean(away[some] ** 2), expected, rtol=0.4)


def test_what_is_there_is_kept_and_batches_do_not_matter(flat, tmp_path, monkeypatch):
    config = config_of(flat, steps=2)
    config.restore.method = "dps"  # which leaves known pixels a little away
    mode.restore(config, tmp_path / "one")
    assert not mode.restore(config, tmp_path / "one")["made"]
    found = parts_of(encoded(tmp_path / "one" / "restored"), "train")["image"]
    seen = parts_of(load_data(config), "train")
    known = seen["known"].astype(bool)
    np.testing.assert_array_equal(found[known], seen["image"][known])

    monkeypatch.setattr(resumable, "EVERY", 0.0)
    monkeypatch.setattr(mode.stored_data, "Building", killed_after(2))
    with pytest.raises(KeyboardInterrupt):
        mode.restore(config, tmp_path / "two")
    monkeypatch.undo()
    assert mode.restore(config, tmp_path / "two")["made"]
    again = parts_of(encoded(tmp_path / "two" / "restored"), "train")["image"]
    np.testing.assert_array_equal(again, found)

    config.sampling.batch_size = 120
    mode.restore(config, tmp_path / "two")
    again = parts_of(encoded(tmp_path / "two" / "restored"), "train")["image"]
    # two programs round differently, and a number near a half may fall to the other side
    assert np.mean(again != found) < 0.01

    config.seed = 1
    assert mode.restore(config, tmp_path / "one")["made"]
    other = parts_of(encoded(tmp_path / "one" / "restored"), "train")["image"]
    assert np.any(other != found)


def killed_after(batches):
    """`Building`, whose process is killed before it writes another batch."""
    original = mode.stored_data.Building

    class Killed(original):
        def put(self, *args):
            self.left = getattr(self, "left", batches) - 1
            if self.left < 0:
                raise KeyboardInterrupt
            super().put(*args)

    return Killed


def test_what_cannot_be_restored_is_told(flat, tmp_path):
    config = config_of(flat)
    config.restore.gaussian = -1
    with pytest.raises(ConfigError, match=r"restore\.gaussian must be 0 or more"):
        mode.restore(config, tmp_path)
    config.restore.gaussian = 1
    config.restore.method = "ddrm"
    with pytest.raises(ConfigError, match="ddrm"):
        mode.restore(config, tmp_path)
    config.data = {"name": "npz", "path": str(flat), "num_values": 17}
    with pytest.raises(ConfigError, match=r"take data\.name='corrupted'"):
        mode.restore(config, tmp_path)
