"""The denoiser of a state space against the smoother of Kalman, Rauch, Tung and Striebel."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.processes import VP, Flow
from score_sde.processes.exact_frames import StateSpace

FRAMES = 5


def turning(frames=FRAMES, error=0.1):
    """A state of two numbers that turns and shrinks, seen through three."""
    return StateSpace(
        mean=jnp.array([1.0, -0.5]),
        cov=jnp.array([[0.6, 0.2], [0.2, 0.9]]),
        transition=0.9 * jnp.array([[0.8, -0.6], [0.6, 0.8]]),
        drive=jnp.array([[0.2, 0.05], [0.05, 0.1]]),
        readout=jnp.array([[1.0, 0.0], [0.5, 1.0], [0.0, -2.0]]),
        error=error * jnp.eye(3),
        frames=frames,
    )


def smoothed(space, readouts, errors, seen):
    """E[state_f | all seen] by the recursions forwards and backwards (Rauch et al. 1965), NumPy."""
    t, drive = np.asarray(space.transition), np.asarray(space.drive)
    mean, cov, kept = np.asarray(space.mean), np.asarray(space.cov), []
    for readout, error, y in zip(readouts, errors, seen, strict=True):
        gain = cov @ readout.T @ np.linalg.inv(readout @ cov @ readout.T + error)
        updated = mean + gain @ (y - readout @ mean), cov - gain @ readout @ cov
        kept.append((mean, cov, *updated))
        mean, cov = t @ updated[0], t @ updated[1] @ t.T + drive
    found = [kept[-1][2]]
    for (_, _, now, cov_now), (ahead, cov_ahead, *_) in zip(kept[-2::-1], kept[:0:-1], strict=True):
        back = cov_now @ t.T @ np.linalg.inv(cov_ahead)
        found.append(now + back @ (found[-1] - ahead))
    return np.stack(found[::-1])


@pytest.mark.parametrize("sde", [Flow(), VP()], ids=["flow", "vp"])
def test_any_noise_of_each_frame_is_kalmans_smoother(x64, sde):
    """x_t is a readout of the state too: y_f = alpha_f readout state_f with error of covariance
    alpha_f^2 error + sigma_f^2. Without error in x_0, its mean is readout E[state | y]."""
    space = turning(error=0.0)
    x_t = jax.random.normal(jax.random.key(0), (4, FRAMES, 3))
    # all together; in a pyramid; known at first; in no order
    t = jnp.array([[0.5] * 5, [0.1, 0.3, 0.5, 0.7, 0.9], [0.01, 0.01, 0.99, 0.99, 0.99]])
    t = jnp.concatenate([t, jnp.array([[0.6, 0.05, 0.98, 0.3, 0.7]])])
    ours = space.denoiser(sde)(x_t, t)
    for b in range(4):
        alpha, sigma = (np.asarray(f(t[b])) for f in (sde.alpha, sde.sigma))
        readouts = [a * np.asarray(space.readout) for a in alpha]
        state = smoothed(space, readouts, [s**2 * np.eye(3) for s in sigma], np.asarray(x_t[b]))
        # condition numbers up to 1e4 times eps, with room
        truth = state @ np.asarray(space.readout).T
        np.testing.assert_allclose(ours[b], truth, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(ours[0], space.denoiser(sde)(x_t, jnp.array(0.5))[0])
    one_each = space.denoiser(sde)(x_t, t[:, 0])
    np.testing.assert_array_equal(one_each[0], ours[0])


def test_with_errors_its_law_is_that_of_simulated_clips(x64):
    """The mean and covariance of 40,000 clips, within five standard errors."""
    space, n, rng = turning(error=0.3), 40_000, np.random.default_rng(0)
    state = rng.multivariate_normal(space.mean, space.cov, n)
    clips = []
    for _ in range(FRAMES):
        seen = rng.multivariate_normal(np.zeros(3), space.error, n)
        clips.append(state @ np.asarray(space.readout).T + seen)
        driven = rng.multivariate_normal(np.zeros(2), space.drive, n)
        state = state @ np.asarray(space.transition).T + driven
    flat = np.concatenate(clips, axis=1)
    mean, cov = np.asarray(space.law.means[0]), np.asarray(space.law.covs[0])
    variance = np.diag(cov)
    assert np.all(np.abs(flat.mean(0) - mean) < 5 * np.sqrt(variance / n))
    error = np.sqrt((variance[:, None] * variance + cov**2) / n)
    assert np.all(np.abs(np.cov(flat.T) - cov) < 5 * error)
    truth = space.law.denoiser(Flow())(jnp.asarray(flat[:2]), jnp.array(0.4))
    ours = space.denoiser(Flow())(jnp.asarray(flat[:2]).reshape(2, FRAMES, 3), jnp.array(0.4))
    np.testing.assert_allclose(ours.reshape(2, -1), truth, rtol=0, atol=1e-10)
