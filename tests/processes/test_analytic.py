"""Analytic denoisers against sums written out, and against `Dataset` where they are the same."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling, solvers
from score_sde.config import build
from score_sde.errors import ConfigError
from score_sde.processes import EDM, VP
from score_sde.processes.analytic import jump_start, same_class, wiener
from score_sde.processes.exact import Dataset, Labelled

pytestmark = pytest.mark.usefixtures("x64")
SDE = VP()
T = np.array([0.15, 0.3, 0.6])


def images(n=20, shape=(4, 3, 2), seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, *shape)))


def times():
    """Of three examples, float64 where that is on."""
    return jnp.asarray(T)


def denoised(spec, points, x, t=None, std=0.0):
    law = build("processes.analytic", spec, points, std)
    return np.asarray(jax.jit(law.denoiser(SDE))(x, times() if t is None else t))


def by_hand(points, x, t, reach, std, everywhere):
    """Loops over pixels and candidates; beyond the edges nothing is compared."""
    points, x = np.asarray(points), np.asarray(x)
    alpha, sigma = float(SDE.alpha(t)), float(SDE.sigma(t))
    variance, (height, width) = (alpha * std) ** 2 + sigma**2, x.shape[:2]
    out = np.zeros_like(x)

    def window(i, j):
        """The offsets within the image."""
        rows, columns = (
            tuple(d for d in range(-reach, reach + 1) if 0 <= k + d < n)
            for k, n in ((i, height), (j, width))
        )
        return [(a, b) for a in rows for b in columns]

    for i in range(height):
        for j in range(width):
            offsets, logs, values = window(i, j), [], []
            places = np.ndindex(height, width) if everywhere else [(i, j)]
            for k, m in places:
                if window(k, m) != offsets:
                    continue
                for point in points:
                    away = [x[i + a, j + b] - alpha * point[k + a, m + b] for a, b in offsets]
                    logs.append(-np.sum(np.square(away)) / (2 * variance))
                    values.append(point[k, m])
            weight = np.exp(np.array(logs) - max(logs))
            mean = weight @ np.array(values) / weight.sum()
            out[i, j] = mean + alpha * std**2 / variance * (x[i, j] - alpha * mean)
    return out


@pytest.mark.parametrize("everywhere", [False, True], ids=["local", "equivariant"])
@pytest.mark.parametrize("patch", [1, 3])
def test_patches_are_weighed_as_written_out(everywhere, patch):
    points, x = images(), images(3, seed=1)
    name = "equivariant_local" if everywhere else "local"
    found = denoised(f"{name}(patch={patch})", points, x, std=0.2)
    each = zip(x, times(), strict=True)
    truth = [by_hand(points, *one, patch // 2, 0.2, everywhere) for one in each]
    np.testing.assert_allclose(found, truth, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["local", "equivariant_local"])
def test_a_patch_that_reaches_everything_is_the_data_set(name):
    """The zeros beyond the edges tell a convolution where it is, so it is so for both."""
    points, x = images(), images(3, seed=1)
    found = denoised(f"{name}(patch=7)", points, x, std=0.1)
    truth = Dataset(points, 0.1).denoiser(SDE)(x, times())
    np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-11)


def test_a_circular_patch_of_the_whole_image_is_the_data_set_of_all_shifts():
    points, x = images(7, (5, 5, 1)), images(3, (5, 5, 1), seed=1)
    shifts = [jnp.roll(points, shift, (1, 2)) for shift in np.ndindex(5, 5)]
    found = denoised("equivariant_local(patch=5, padding='circular')", points, x)
    truth = Dataset(jnp.concatenate(shifts)).denoiser(SDE)(x, times())
    np.testing.assert_allclose(found, truth, rtol=1e-9, atol=1e-11)
    alone = denoised("local(patch=5, padding='circular')", points, x)
    np.testing.assert_allclose(
        alone, Dataset(points).denoiser(SDE)(x, times()), rtol=1e-9, atol=1e-11
    )


def test_a_patch_of_one_pixel_is_the_law_of_each_pixel():
    points, x = images(shape=(3, 2, 1)), images(3, (3, 2, 1), seed=1)
    found = denoised("local(patch=1)", points, x)
    for place in np.ndindex(3, 2):
        law = Dataset(points[:, *place])
        truth = law.denoiser(SDE)(x[:, *place], times())
        np.testing.assert_allclose(found[:, *place], truth, rtol=1e-9, atol=1e-11)


def test_circular_patches_move_with_the_image():
    points, x = images(shape=(4, 4, 1)), images(3, (4, 4, 1), seed=1)
    spec = "equivariant_local(patch=3, padding='circular')"
    found = denoised(spec, points, jnp.roll(x, (1, 3), (1, 2)))
    np.testing.assert_allclose(found, np.roll(denoised(spec, points, x), (1, 3), (1, 2)))


@pytest.mark.parametrize("name", ["local", "equivariant_local"])
def test_derivatives_are_the_slopes(name):
    """`mmps` and the likelihood need them, and the sums over points are rescaled on the way."""
    points, x = images(40, (3, 3, 1)), images(1, (3, 3, 1), seed=1)
    denoiser = build("processes.analytic", f"{name}(patch=3)", points).denoiser(SDE)
    v, step, t = images(1, (3, 3, 1), seed=2), 1e-5, times()[1]

    @jax.jit
    def both(x):
        slope = denoiser(x + step * v, t) - denoiser(x - step * v, t)
        return jax.jvp(lambda x: denoiser(x, t), (x,), (v,))[1], slope / (2 * step)

    found, truth = both(x)
    np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1e-8)


def test_the_wiener_filter_is_the_best_affine_one():
    """Least squares on many noisy points finds no other."""
    points = images(200, (2, 2, 1))
    rng, t, repeats = np.random.default_rng(1), jnp.asarray(0.3), 2000
    flat = np.asarray(points).reshape(200, 4)
    x_0 = np.tile(flat, (repeats, 1))
    x_t = np.asarray(SDE.noised(jnp.asarray(x_0), jnp.asarray(rng.normal(size=x_0.shape)), t))
    design = np.concatenate([x_t, np.ones_like(x_t[:, :1])], axis=1)
    fitted = np.linalg.lstsq(design, x_0, rcond=None)[0]
    x = images(5, (2, 2, 1), seed=2)
    truth = np.asarray(x).reshape(5, 4) @ fitted[:4] + fitted[4]
    found = denoised("wiener", points, x, t).reshape(5, 4)
    # 400,000 rows, whose residual is about 0.6: each coefficient is known to about 0.001
    np.testing.assert_allclose(found, truth, atol=0.01)


def test_a_jump_is_exact_on_a_gaussian():
    """It ends where the ODE of the points' Gaussian ends, and what follows is as if from t_max."""
    sde, law = EDM(t_max=20.0), wiener(images(30, (2, 2, 1)), 0.1)
    x, s = sde.prior_std * images(4, (2, 2, 1), seed=3), jnp.asarray(0.7)
    found = jax.jit(lambda x: jump_start(sde, law, x, s))(x)
    values, basis = np.linalg.eigh(np.asarray(law.covs[0]))
    away = (np.asarray(x).reshape(4, 4) - np.asarray(law.means)) @ basis
    truth = away * np.sqrt((values + 0.7**2) / (values + 20.0**2)) @ basis.T + np.asarray(law.means)
    np.testing.assert_allclose(found.reshape(4, 4), truth, rtol=1e-12, atol=1e-12)

    times = jnp.exp(jnp.linspace(np.log(20.0), np.log(0.7), 65))
    solver = solvers.dpmpp(sde, order=3)
    run = jax.jit(lambda x: sampling.sample(jax.random.key(0), solver, law.denoiser(sde), x, times))
    np.testing.assert_allclose(run(x).x, found, atol=2e-4)


def test_the_chance_of_one_class_is_that_of_the_classifier():
    points = images(20, (2, 2, 1))
    classes, x = jnp.arange(20) % 3, images(3, (2, 2, 1), seed=1)
    law = Dataset(points, 0.2)
    found = same_class(law, classes, 3)(SDE, x, times())
    labelled = Labelled(law, classes)  # pyright: ignore[reportArgumentType]
    each = [
        np.exp(labelled.log_class(SDE, x, times(), {"label": jnp.full(3, k)})) for k in range(3)
    ]
    np.testing.assert_allclose(np.sum(each, axis=0), 1, rtol=1e-10)
    np.testing.assert_allclose(found, np.sum(np.square(each), axis=0), rtol=1e-10)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("local(patch=2)", "patch must be odd, from 1 to 7, not 2"),
        ("local(patch=9)", "patch must be odd, from 1 to 7, not 9"),
        ("local(patch=5, padding='circular')", "from 1 to 3, not 5"),
        ("local(patch=3, padding='edge')", "one of zero, circular"),
    ],
)
def test_patches_that_do_not_fit_are_refused(spec, message):
    with pytest.raises(ConfigError, match=message):
        build("processes.analytic", spec, images())
