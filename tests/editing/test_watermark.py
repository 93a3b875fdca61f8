"""Watermarks: an exact null law, the least divergence from the prior, and detection."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from score_sde import sampling, solvers
from score_sde.conditioning.labels import Labels
from score_sde.editing.watermark import mark, p_values, survival, tree_ring
from score_sde.errors import ConfigError, DataError
from score_sde.inverse.fourier import frequencies
from score_sde.modes import detect
from score_sde.processes import VP
from score_sde.processes.exact import Dataset
from score_sde.sampling import grids
from score_sde.sampling.likelihood import invert

SHAPE = (8, 6, 2)


def rows(ring, shape=SHAPE):
    """`read` as a matrix [m, d]."""
    d = int(np.prod(shape))
    return np.asarray(ring.read(jnp.eye(d).reshape(d, *shape))).T


def test_the_ring_is_orthonormal_and_of_its_frequencies(x64):
    a = rows(tree_ring(SHAPE, 0, inner=1.0, outer=3.0))
    np.testing.assert_allclose(a @ a.T, np.eye(len(a)), atol=1e-12)
    down, across = frequencies(*SHAPE[:2])
    np.testing.assert_array_equal(down[:, 0], [0, 1, 2, 3, -4, -3, -2, -1])
    np.testing.assert_array_equal(across[0], [0, 1, 2, -3, -2, -1])
    radius = np.hypot(down, across)
    # A wave of a frequency of the ring is of what is read, one of another is not at all; those
    # that are their own mirror image are left out.
    row, column = np.mgrid[:8, :6]
    for i, j in np.ndindex(8, 6):
        wave = np.cos(2 * np.pi * (i * row / 8 + j * column / 6) + 0.3)
        wave = np.stack([wave, 0 * wave], -1).ravel()
        own = (2 * i) % 8 == 0 and (2 * j) % 6 == 0
        share = np.sum((a @ wave) ** 2) / np.sum(wave**2)
        assert share == pytest.approx(float(1 <= radius[i, j] <= 3 and not own), abs=1e-12)


P_VALUE = 1e-6


@pytest.fixture(scope="module")
def marked():
    """`(directions [2000, m], noise [2000, ...]) -> marked`, float64."""
    ring = tree_ring(SHAPE, 0, p_value=P_VALUE)

    def one(direction, x):
        return mark(ring._replace(direction=direction), x[None])[0]

    return jax.jit(jax.vmap(one))


def test_marked_noise_is_the_prior_given_a_small_p_value(x64, marked):
    """For one key. The p-value is P_VALUE times that of the noise, so it is uniform below P_VALUE.
    The law has 1/P_VALUE times the density of the prior, on a set of probability P_VALUE."""
    ring = tree_ring(SHAPE, 3)
    noise = 2.5 * jax.random.normal(jax.random.key(0), (2000, *SHAPE))
    x = marked(jnp.broadcast_to(ring.direction, (2000, len(ring.direction))), noise)
    p = p_values(ring, x)
    np.testing.assert_allclose(p, P_VALUE * p_values(ring, noise), rtol=2e-3)
    assert stats.kstest(p / P_VALUE, "uniform").pvalue > 1e-3
    before, after = (np.asarray(ring.read(a)) for a in (noise, x))
    np.testing.assert_allclose(  # lengths stay
        np.linalg.norm(after, axis=1), np.linalg.norm(before, axis=1), rtol=1e-9
    )
    # they turn in the plane of the key, and towards it: the part across it keeps its direction
    across = [c - np.outer(c @ ring.direction, ring.direction) for c in (before, after)]
    across = [c / np.linalg.norm(c, axis=1, keepdims=True) for c in across]
    np.testing.assert_allclose(*across, atol=1e-9)
    a = rows(ring)
    rest = np.eye(96) - a.T @ a  # and so does all that is not read
    kept = [np.asarray(a).reshape(-1, 96) @ rest for a in (noise, x)]
    np.testing.assert_allclose(*kept, atol=1e-12)
    # in the direction of the key it is far from the prior
    assert stats.kstest(after @ ring.direction / 2.5, "norm").pvalue < 1e-9


def test_over_keys_marked_noise_is_the_prior(x64, marked):
    """A coefficient, the sum of two, and the length: laws of white noise (Kolmogorov and Smirnov at
    1e-3)."""
    ring, n = tree_ring(SHAPE, 0), 2000
    m = len(ring.direction)
    directions = jax.random.normal(jax.random.key(0), (n, m))
    directions /= jnp.linalg.norm(directions, axis=1, keepdims=True)
    noise = jax.random.normal(jax.random.key(1), (n, *SHAPE))
    keyed = np.asarray(ring.read(marked(directions, noise)))
    assert stats.kstest(keyed[:, 0], "norm").pvalue > 1e-3
    assert stats.kstest((keyed[:, 1] + keyed[:, 2]) / np.sqrt(2), "norm").pvalue > 1e-3
    assert stats.kstest(np.sum(keyed**2, axis=1), stats.chi2(m).cdf).pvalue > 1e-3


def test_p_values_of_any_image_are_uniform_over_keys():
    """Nothing is assumed of the image: flat but for one pixel, heavy-tailed, or smooth.
    Kolmogorov and Smirnov at 1e-3 over 300 keys each."""
    rng = np.random.default_rng(0)
    spot = np.zeros(SHAPE)
    spot[2, 3, 1] = 1.0
    images = np.stack(
        [spot, rng.standard_cauchy(SHAPE), np.cumsum(rng.normal(size=SHAPE), axis=0)]
    ).astype(np.float32)
    coefficients = tree_ring(SHAPE, 0).read(jnp.asarray(images))  # they do not depend on the key
    p = np.array(
        [
            p_values(tree_ring(SHAPE, key)._replace(read=lambda x: coefficients), images)
            for key in range(300)
        ]
    )
    for column in p.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-3


def test_the_p_value_is_that_of_its_definition():
    """Against draws of directions: the share with a larger cosine, within four errors."""
    ring = tree_ring(SHAPE, 0)
    m = len(ring.direction)
    directions = np.random.default_rng(0).normal(size=(100_000, m))
    cosines = directions[:, 0] / np.linalg.norm(directions, axis=1)
    at = np.array([-0.1, 0.1, 0.25])
    share = np.mean(cosines[:, None] >= at, axis=0)
    assert np.all(np.abs(survival(at, m) - share) < 4 * np.sqrt(share * (1 - share) / 1e5))


# Three of the four orthonormal patterns of 2 x 2 pixels: the mean, and a difference across and down
PATTERNS = jnp.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1]]) / 2


def encoded(x):
    """[b, h, w, 1] to [b, h/2, w/2, 3], without the fourth pattern."""
    b, h, w, _ = x.shape
    squares = x.reshape(b, h // 2, 2, w // 2, 2).transpose(0, 1, 3, 2, 4)
    return squares.reshape(b, h // 2, w // 2, 4) @ PATTERNS.T


def decoded(z):
    """The images of latents; `encoded` gives the latents back."""
    b, h, w, _ = z.shape
    squares = (z @ PATTERNS).reshape(b, h, w, 2, 2).transpose(0, 1, 3, 2, 4)
    return squares.reshape(b, 2 * h, 2 * w, 1)


def same(x):
    return x


@pytest.mark.parametrize(
    ("encode", "decode"), [(same, same), (encoded, decoded)], ids=["pixels", "latents"]
)
def test_marked_images_are_found_and_others_are_not(encode, decode):
    """The exact denoiser of 8 blurred pictures of 16x16, or of their latents, sampled by
    DPM-Solver++. Images are kept as uint8."""
    sde = VP(t_min=1e-3)
    rng = np.random.default_rng(1)
    smooth = np.cumsum(np.cumsum(rng.normal(size=(8, 16, 16, 1)), axis=1), axis=2)
    points = encode(jnp.asarray(0.8 * np.tanh(smooth / 8), jnp.float32))
    shape = points.shape[1:]
    data = Dataset(points, std=0.1)
    denoiser, ring = data.denoiser(sde), tree_ring(shape, 11)
    noise = sde.prior_sample(jax.random.key(0), (60, *shape), jnp.float32)

    @jax.jit
    def latents(marked, unmarked, real):
        start, times = jnp.concatenate([marked, unmarked]), grids.log_snr(sde, 12)
        solver = solvers.dpmpp(sde)
        drawn = sampling.sample(jax.random.key(0), solver, denoiser, start, times, denoise=True).x
        images = decode(jnp.concatenate([drawn, real]))
        kept = jnp.clip(jnp.round(255 * (images + 1) / 2), 0, 255)
        x = encode(2 * kept / 255 - 1)
        return jnp.split(invert(sde, denoiser, x, rtol=1e-2, atol=1e-2, method="Bosh3"), 3)

    real = data.sample(jax.random.key(1), 60)
    marked, unmarked, real = latents(mark(ring, noise), noise, real)
    assert np.mean(p_values(ring, marked) < 1e-3) >= 0.95
    assert np.mean(p_values(ring, unmarked) < 1e-3) <= 0.01
    assert np.mean(p_values(ring, real) < 1e-3) <= 0.01
    # with another key they are as others
    assert np.mean(p_values(tree_ring(shape, 12), marked) < 1e-3) <= 0.01


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inner": 0.5, "outer": 1.0}, "holds 4 real coefficients of an image of 8x6, too few"),
        ({"p_value": 0.0}, "between 0 and 1"),
        ({"p_value": 1.5}, "between 0 and 1"),
        ({"inner": 7.0, "outer": 9.0}, "holds 0 real coefficients of an image of 8x6"),
    ],
)
def test_a_ring_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        tree_ring((8, 6, 1), 0, **options)


def test_what_is_no_image_has_no_ring():
    with pytest.raises(ValueError, match=r"height, width and channels, not the shape \(64,\)"):
        tree_ring((64,), 0)


def test_keys_beyond_32_bits_are_keys_of_their_own():
    directions = [tree_ring(SHAPE, key).direction for key in (0, 1, 2**32, 2**32 + 1, 2**64)]
    assert np.linalg.matrix_rank(directions) == 5
    with pytest.raises(ValueError, match="non-negative"):
        tree_ring(SHAPE, -1)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(3, int), r"`labels` should be one for each of 2 samples, not int64 \[3\]"),
        (np.zeros(2), r"x\.npz: label 0\.0 is none of the 3 classes"),
        (np.array([0, 2**32]), r"x\.npz: label 4294967296 is none of the 3 classes"),
        (np.array([0, -2]), r"x\.npz: label -2 is none of the 3 classes"),
    ],
)
def test_labels_of_a_foreign_archive(tmp_path, labels, message):
    path = tmp_path / "x.npz"
    np.savez(path, labels=labels)
    with pytest.raises((DataError, ConfigError), match=message):
        detect.told(path, 2, Labels(3))
    np.savez(path, labels=np.array([2, -1], np.int64))
    np.testing.assert_array_equal(detect.told(path, 2, Labels(3))["label"], [2, -1])
    np.savez(path, samples=np.zeros(2))
    np.testing.assert_array_equal(detect.told(path, 2, Labels(3))["label"], [-1, -1])
