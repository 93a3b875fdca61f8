"""Diffusion forcing: the exact denoiser of a state space is its minimum, at times of each frame."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning.nothing import Nothing
from score_sde.config import build
from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.processes import Flow
from score_sde.training import time_law, weighting
from score_sde.types import expand
from tests.processes.test_exact_frames import FRAMES, turning

pytestmark = pytest.mark.usefixtures("x64")

SDE = Flow(t_min=0.01, t_max=0.99)


class Inverse(nn.Module):
    """The network whose model is `scale` times the exact denoiser. It is told t of each frame."""

    scales: object
    scale: float = 1.0

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        c_skip, c_out, c_in = (
            expand(c, x) for c in self.scales(SDE.alpha(noise), SDE.sigma(noise))
        )
        x_t = x / c_in
        return (self.scale * turning().denoiser(SDE)(x_t, noise) - c_skip * x_t) / c_out


def objective(scale=1.0, name="diffusion_forcing", **options):
    predicted = parametrization.v(parametrization.time(1.0))
    model = Model(Inverse(predicted.scales, scale), SDE, predicted)
    spec = {"name": name, "time_law": time_law.uniform(stratified=True)}
    spec |= {"weighting": weighting.v(), **options}
    return model, build("training.objectives", spec, model, Nothing())


def batch(n=4000):
    x = turning().law.sample(jax.random.key(0), n).reshape(n, FRAMES, 3)
    return {"x": x, "cond": {}}


def losses(found, key=1, n=4000):
    return jax.jit(lambda: found.losses({}, jax.random.key(key), batch(n), None))()


def test_a_model_gives_each_frame_the_scales_of_its_time():
    model, _ = objective()
    x_t = jax.random.normal(jax.random.key(0), (2, FRAMES, 3))
    t = jnp.linspace(0.1, 0.9, 2 * FRAMES).reshape(2, FRAMES)
    truth = turning().denoiser(SDE)(x_t, t)
    np.testing.assert_allclose(model.denoiser({})(x_t, t), truth, rtol=1e-10, atol=1e-10)


def test_shared_times_are_denoising_and_the_exact_denoiser_has_the_least_loss():
    """Of 4,000 clips, within five standard errors; and at times of each frame a denoiser that is a
    tenth too small or too large is worse."""
    _, exact = objective(together=1.0)
    _, plain = objective(name="denoising")
    ours, truth = losses(exact), losses(plain)
    spread = np.sqrt((np.var(ours.value) + np.var(truth.value)) / 4000)
    assert abs(np.mean(ours.value) - np.mean(truth.value)) < 5 * spread
    least = np.mean(losses(objective(together=0.0)[1]).value)
    for scale in (0.9, 1.1):
        assert np.mean(losses(objective(scale, together=0.0)[1]).value) > least * 1.02


def test_given_frames_have_no_loss_and_help_the_others():
    """The frames after given ones are known better than without them."""
    _, without = objective(together=1.0)
    _, given = objective(together=1.0, given=1.0)
    few, many = losses(without), losses(given)
    spread = np.sqrt((np.var(few.value) + np.var(many.value)) / 4000)
    assert np.mean(many.value) < np.mean(few.value) - 5 * spread
    assert np.all(np.isfinite(many.value))


@pytest.mark.parametrize("together", [0.0, 1.0])
def test_times_are_of_the_law_and_independent_of_each_other(together):
    """The mean of five independent uniform times has a fifth of the variance of one."""
    t = np.asarray(losses(objective(together=together)[1]).t)
    variance = (SDE.t_max - SDE.t_min) ** 2 / 12 / (1 if together else FRAMES)
    assert abs(np.mean(t) - 0.5) < 5 * np.sqrt(variance / len(t))
    assert abs(np.var(t) / variance - 1) < 5 * np.sqrt(2 / len(t))


def test_laws_that_never_draw_the_least_time_give_finite_gradients():
    """Given frames are there, where the density of logit_normal is 0."""
    options = {"time_law": time_law.logit_normal(), "weighting": weighting.flow(), "given": 1.0}
    sde = Flow()
    predicted = parametrization.v(parametrization.time(1.0))

    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x, noise, cond=None, train=False):
            return x * self.param("w", nn.initializers.ones, ())

    model = Model(Linear(), sde, predicted)
    spec = {"name": "diffusion_forcing", **options}
    found = build("training.objectives", spec, model, Nothing())
    gradient = jax.grad(
        lambda w: jnp.mean(found.losses({"w": w}, jax.random.key(0), batch(50), None).value)
    )(1.0)
    assert np.isfinite(gradient)
    assert gradient != 0


def test_wrong_rates_are_named():
    for name in ("together", "given"):
        with pytest.raises(ValueError, match=rf"{name}=1\.5 is not between 0 and 1"):
            objective(**{name: 1.5})
