"""What each edit shows and reports. Its results are held against truth in tests/modes/test_edit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import inverse, solvers
from score_sde.config import build
from score_sde.editing import tasks
from score_sde.processes import VP
from score_sde.processes.exact import Gaussian
from score_sde.sampling import grids

SHAPE = (8, 8, 1)
STEPS = 2
X = np.asarray(jax.random.normal(jax.random.key(0), (2, *SHAPE)))


def edited(spec, method=inverse.pigdm, **options):
    sde = VP(t_min=0.1)
    tools = tasks.Tools(
        shape=SHAPE,
        sde=sde,
        solver=solvers.dpmpp(sde),
        grid=lambda sde: grids.log_snr(sde, STEPS),
        method=lambda observation: method(sde, observation),
        **options,
    )
    denoiser = Gaussian(jnp.zeros(64), jnp.eye(64)).denoiser(sde)
    edit = build("editing.tasks", spec, tools)
    sources = (X, X[::-1])[: edit.sources]
    run = jax.jit(lambda key, *x: edit.run(key, lambda k: denoiser, *x))
    return jax.device_get(run(jax.random.key(1), *sources))


def blocks(x, factor):
    """Means over blocks, [n, 8/factor, 8/factor, 1]."""
    sides = (8 // factor, factor)
    return x.reshape(-1, *sides, *sides, 1).mean(axis=(2, 4))


def blurred(x, std):
    """By the Fourier transform of a Gaussian, wrapped round the edges."""
    away = np.arange(-40, 41)
    line = np.bincount(away % 8, np.exp(-((away / std) ** 2) / 2))
    kernel = np.outer(line, line) / line.sum() ** 2
    spectrum = np.fft.fft2(x[..., 0], axes=(1, 2)) * np.fft.fft2(kernel)
    return np.fft.ifft2(spectrum).real[..., None]


def only(rows, columns):
    """X there, and 0 elsewhere."""
    shown = np.zeros_like(X)
    shown[:, rows, columns] = X[:, rows, columns]
    return shown


ALL, BOX = slice(None), slice(3, 5)


@pytest.mark.parametrize(
    ("spec", "observed"),
    [
        ("inpaint(keep='left', fraction=0.25)", only(ALL, slice(0, 2))),
        ("outpaint(fraction=0.25)", only(BOX, BOX)),
        ("super_resolution(factor=4)", blocks(X, 4).repeat(4, axis=1).repeat(4, axis=2)),
        ("deblur(std=0.6)", blurred(X, 0.6)),
    ],
)
def test_what_is_shown_of_an_image(spec, observed):
    np.testing.assert_allclose(edited(spec).seen["observed"], observed, atol=1e-5)


def test_random_pixels_have_a_seed():
    shown = [edited(f"inpaint(keep='random', seed={seed})").seen["observed"] for seed in (0, 1)]
    for image in shown:
        assert np.count_nonzero(image[0]) == 32
    assert np.any((shown[0] != 0) != (shown[1] != 0))


def test_errors_and_evaluations_are_those_of_the_results():
    """With noise results stay as the method left them; each particle has evaluations of its own."""
    options = {"method": inverse.twisted, "completions": 3, "particles": 2}
    out = edited("super_resolution(factor=2)", noise=0.2, **options)
    assert out.x.shape == (2, 3, *SHAPE)
    y = blocks(out.seen["observed"], 2)
    error = blocks(out.x, 2).reshape(2, 3, -1) - y.reshape(2, 1, -1)
    np.testing.assert_allclose(out.errors["misfit"], np.sqrt(np.mean(error**2, axis=2)), rtol=1e-4)
    np.testing.assert_allclose(out.errors["known_error"], np.abs(error).max(axis=2), rtol=1e-4)
    assert out.nfe == 2 * (STEPS + 2)  # a step each, the end of the method, and E[x_0 | x]


@pytest.mark.parametrize("denoise", [True, False])
def test_sampling_ends_with_a_denoising_or_without(denoise):
    """One evaluation more, and another image; the ends of an interpolation come back without."""
    assert edited("image_to_image", denoise=denoise).nfe == STEPS + denoise
    out = edited("interpolate(points=2)", denoise=denoise).x
    error = np.abs(out - np.stack([X, X[::-1]], axis=1)).max()
    assert (error > 0.01) == denoise


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("interpolate(tolerance=0.0)", "a positive tolerance"),
        ("image_to_image(log_snr=40.0)", "log_snr must be between"),
    ],
)
def test_options_that_make_no_sense(spec, message):
    with pytest.raises(ValueError, match=message):
        edited(spec)
