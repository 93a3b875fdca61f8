"""Rows of a table as the network sees them, and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from score_sde.codecs.codec import Codec
from score_sde.config import build
from score_sde.data.copula import KINDS
from score_sde.errors import ConfigError
from score_sde.evaluation.metrics.records import nearest_records
from score_sde.media.medium import Medium
from score_sde.types import Feature


@pytest.fixture(scope="module")
def data():
    return build("data", "copula")


@pytest.mark.parametrize("numbers", ["quantile", "standard"])
def test_rows_come_back(data, numbers):
    codec = build("codecs", {"name": "columns", "numbers": numbers}, data.features)
    assert isinstance(codec, Codec)
    raw = data.train.parts["row"]
    x = codec.encode(jax.random.key(0), raw)
    assert x.shape == (len(raw), *codec.shape) == (5000, 6)
    np.testing.assert_allclose(np.mean(x[:, :3], axis=0), 0, atol=0.01)
    np.testing.assert_allclose(np.std(x[:, :3], axis=0), 1, atol=0.02)
    np.testing.assert_array_equal(x[:, 3:], 2 * np.eye(3)[raw[:, 3].astype(int)] - 1)
    shown = np.asarray(codec.show(codec.decode(x)))
    np.testing.assert_array_equal(shown[:, 3], raw[:, 3])
    inside = slice(None)
    if numbers == "quantile":  # what is beyond the quantiles becomes the nearest: 1 row in 5000
        values = [np.asarray(c.values) for c in data.features["row"].columns[:3]]
        ends = np.array([[v[0], v[-1]] for v in values], np.float32)
        inside = np.all((raw[:, :3] >= ends[:, 0]) & (raw[:, :3] <= ends[:, 1]), axis=1)
        assert np.mean(inside) > 0.995
        for i in range(3):  # normal, whatever the law was
            assert stats.kstest(np.asarray(x[:, i]), stats.norm.cdf).statistic < 0.01
    np.testing.assert_allclose(shown[inside, :3], raw[inside, :3], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(codec.middle(raw[7]), x[7], rtol=1e-6)


def test_decoded_categories_are_the_largest(data):
    codec = build("codecs", "columns", data.features)
    x = jnp.array([[0.0, 0.0, 0.0, -0.2, 0.1, 0.05]])
    assert float(codec.decode(x)[0, 3]) == 1
    slope = jax.grad(lambda x: jnp.sum(codec.decode(x)))(x)[0]
    assert bool(jnp.all(slope[:3] > 0))
    assert not jnp.any(slope[3:])


def test_files_and_pictures(data, tmp_path):
    medium = build("media", build("codecs", "columns", data.features).medium)
    assert isinstance(medium, Medium)
    rows = data.test.parts["row"]
    medium.save(tmp_path / "a.csv", rows[:5])
    path = str(tmp_path / "a.csv")
    read = build("data", {"name": "csv_table", "path": path, "test_fraction": 0.5})
    found = np.concatenate([read.test.parts["row"], read.train.parts["row"]])
    np.testing.assert_array_equal(found[:, :3], rows[[0, 2, 4, 1, 3], :3])
    names = np.array(read.features["row"].columns[3].categories)[found[:, 3].astype(int)]
    assert names.tolist() == [KINDS[int(k)] for k in rows[[0, 2, 4, 1, 3], 3]]
    medium.save(tmp_path / "b.csv", rows[0])
    assert (tmp_path / "b.csv").read_text().count("\n") == 2
    medium.sheet(tmp_path / "s.png", rows)
    medium.rows(tmp_path / "r.png", rows[:6].reshape(2, 3, 4), ["a", "b", "c"])
    medium.over_time(tmp_path / "t.png", {1: tmp_path / "s.png"}, 5, (4,))
    assert all((tmp_path / f"{name}.png").stat().st_size > 500 for name in "srt")


def test_wrong_parts_are_named(data):
    with pytest.raises(ConfigError, match="row is no row of a table: its data set states no col"):
        build("codecs", "columns", {"row": Feature((4,))})
    with pytest.raises(ConfigError, match="numbers is 'rank': one of quantile, standard"):
        build("codecs", "columns(numbers='rank')", data.features)
    codec = build("codecs", "columns", data.features)
    with pytest.raises(ValueError, match=r"rows with categories \(kind\) have no density"):
        codec.dequantize(jax.random.key(0), data.train.parts["row"])


def test_copies_are_told_from_new_records():
    """Of one law the share is 1/2, within four errors of 1,000 coins that share neighbours; copies
    are at the distance 0."""
    rng = np.random.default_rng(0)
    samples, train, held_out = rng.normal(size=(3, 1000, 4))
    new = nearest_records(samples, train, held_out)
    assert abs(new.share - 0.5) < 4 * 0.5 / np.sqrt(1000)
    assert new.samples == pytest.approx(new.held_out, rel=0.1)
    copied = nearest_records(train + 1e-6, train, held_out)
    assert copied.share == 1
    assert copied.samples < 1e-5
