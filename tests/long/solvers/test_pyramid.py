"""Frames at times of their own: the law of what comes out is that of a Kalman smoother."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.config import build
from score_sde.processes import VP, Flow
from score_sde.sampling import grids, sample
from score_sde.solvers.pyramid import delays, frame_times, pyramid
from tests.processes.test_exact_frames import turning

SDE = Flow(t_min=1e-4, t_max=0.9999)


def grid(steps, dtype=float):
    return jnp.asarray(grids.uniform(SDE, steps), dtype)


def test_every_frame_ends_at_the_last_time():
    """For all numbers of frames, delays, forms and steps: the published trapezoid leaves the middle
    frame of an even number undenoised."""
    every = (
        range(1, 10),
        (0.0, 0.1, 1 / 3, 0.5, 1.0, 2.0),
        ("pyramid", "trapezoid"),
        (1, 2, 7, 30),
    )
    for frames, delay, form, steps in itertools.product(*every):
        times = grid(steps)
        each = np.asarray(frame_times(times, delay * delays(frames, form)))
        assert each.shape == (steps + 1, frames)
        np.testing.assert_array_equal(each[0], times[0])
        np.testing.assert_array_equal(each[-1], times[-1])
        assert np.all(np.diff(each, axis=0) <= 0)
    np.testing.assert_array_equal(delays(4, "trapezoid"), [0, 1, 1, 0])
    np.testing.assert_array_equal(delays(5, "trapezoid"), [0, 1, 2, 1, 0])


def test_the_times_of_three_frames_one_after_another():
    times = jnp.array([8.0, 6.0, 4.0, 2.0, 1.0, 0.5, 0.25])
    ours = frame_times(times, delays(3, "pyramid").astype(float))
    down = [8.0, 2.0, 0.25]  # six steps for three frames: every third time of the grid
    truth = [[*down, *[0.25] * 4], [8.0, 8.0, *down, 0.25, 0.25], [*[8.0] * 4, *down]]
    np.testing.assert_array_equal(ours, np.transpose(truth))


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_without_delay_it_is_ddim(x64, eta):
    space, times = turning(), grid(6)
    x = jax.random.normal(jax.random.key(0), (2, 5, 3))
    ours, truth = (
        sample(jax.random.key(1), build("solvers", spec, SDE), space.denoiser(SDE), x, times)
        for spec in (f"pyramid(delay=0.0, eta={eta})", f"ddim(eta={eta})")
    )
    np.testing.assert_allclose(ours.x, truth.x, rtol=1e-9, atol=1e-9)
    assert (int(ours.nfe), int(ours.depth)) == (6, 6)


def law_of(solver, denoiser, times, start, given=0):
    """The mean and covariance of what comes out of N(0, 1): the denoiser is affine, so the sampler
    is too, and they follow from its values at 0 and at the unit vectors. No number is random.

    start: the frames that are given, [given, d].
    """
    frames, d = len(start), start.shape[1]
    free = (frames - given) * d
    units = jnp.concatenate([jnp.zeros((1, free)), jnp.eye(free)])
    noise = units.reshape(-1, frames - given, d)
    known = jnp.broadcast_to(start[None, :given], (len(noise), given, d))
    x = jnp.concatenate([known, noise], axis=1)
    out = jax.jit(lambda x: sample(jax.random.key(0), solver, denoiser, x, times).x)(x)
    np.testing.assert_array_equal(out[:, :given], known)
    out = out[:, given:].reshape(-1, free)
    slope = np.asarray(out[1:] - out[:1])
    return np.asarray(out[0]), slope.T @ slope


@pytest.mark.parametrize(
    ("delay", "form"), [(0.0, "pyramid"), (0.3, "pyramid"), (1.0, "pyramid"), (0.5, "trapezoid")]
)
def test_the_law_of_clips_is_that_of_the_state_space(x64, delay, form):
    """Mean and covariance, with an error of the first order in the step: it halves."""
    space = turning(frames=4)
    mean, cov = np.asarray(space.law.means[0]), np.asarray(space.law.covs[0])
    errors = []
    for steps in (400, 800):
        solver = pyramid(SDE, delay, form)
        found = law_of(solver, space.denoiser(SDE), grid(steps), jnp.zeros((4, 3)))
        errors.append([np.abs(found[0] - mean).max(), np.abs(found[1] - cov).max()])
    coarse, fine = np.array(errors)
    assert np.all(fine < 0.03 * np.abs(cov).max())
    ratio = coarse[1] / fine[1]
    assert 1.8 < ratio < 2.2
    assert fine[0] < 0.6 * coarse[0] or fine[0] < 1e-3


@pytest.mark.parametrize("delay", [0.0, 0.5, 1.0])
def test_after_given_frames_it_is_kalmans_forecast(x64, delay):
    """The law of the last frames given the first two, which have the least noise."""
    space, d, k = turning(frames=4), 3, 2
    mean, cov = np.asarray(space.law.means[0]), np.asarray(space.law.covs[0])
    start = jax.random.normal(jax.random.key(0), (4, d))
    a, s = (np.asarray(f(jnp.array(SDE.t_min))) for f in (SDE.alpha, SDE.sigma))
    seen = a**2 * cov[: k * d, : k * d] + s**2 * np.eye(k * d)
    gain = a * cov[k * d :, : k * d] @ np.linalg.inv(seen)
    truth = mean[k * d :] + gain @ (np.asarray(start[:k]).ravel() - a * mean[: k * d])
    rest = cov[k * d :, k * d :] - a * gain @ cov[: k * d, k * d :]
    errors = []
    for steps in (400, 800):
        solver = pyramid(SDE, delay, given=k)
        found = law_of(solver, space.denoiser(SDE), grid(steps), start, k)
        errors.append([np.abs(found[0] - truth).max(), np.abs(found[1] - rest).max()])
    coarse, fine = np.array(errors)
    assert np.all(fine < 0.03 * np.abs(rest).max())
    assert 1.8 < coarse[1] / fine[1] < 2.2
    assert fine[0] < 0.6 * coarse[0] or fine[0] < 1e-3


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="unknown form 'tower': one of pyramid, trapezoid"):
        pyramid(VP(), form="tower")
    with pytest.raises(ValueError, match="given must be at least 0, not -1"):
        pyramid(VP(), given=-1)
    with pytest.raises(ValueError, match="given=5 of 5 frames: none is left to be drawn"):
        pyramid(VP(), given=5).init(jnp.zeros((1, 5, 2)), grid(3))
