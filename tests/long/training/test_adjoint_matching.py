"""Adjoint matching: its optimum against closed forms of tilted Gaussians and mixtures."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning.labels import Labels
from score_sde.config import build
from score_sde.errors import ConfigError
from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.processes import VE, VP, exact
from score_sde.solvers.kernels import kernels
from score_sde.training import time_law, weighting
from score_sde.training.objective import Training
from score_sde.training.teacher import Teacher
from score_sde.types import expand

pytestmark = pytest.mark.usefixtures("x64")


class Changed(nn.Module):
    """The network of a denoiser, with an affine change of each of so many times: D + offset +
    matrix x. It predicts x_0, and `noise` is t."""

    value: Callable
    times: tuple[float, ...] = (0.0,)
    num_classes: Any = 0

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        n, d = len(self.times), x.shape[1]
        offset = self.param("offset", nn.initializers.zeros, (n, d), x.dtype)
        matrix = self.param("matrix", nn.initializers.zeros, (n, d, d), x.dtype)
        away = jnp.abs(noise[:, None] - jnp.asarray(self.times)[None])
        index = jnp.argmin(away, axis=1)
        return self.value(x, noise) + offset[index] + jnp.einsum("bij,bj->bi", matrix[index], x)


def model_of(sde, value, times=(0.0,)):
    return Model(Changed(value, times), sde, parametrization.x0(lambda sde, t: t))


def make(model, base, reward, **options):
    spec = {"name": "adjoint_matching", "reward": build("models.rewards", reward), **options}
    teacher = None if base is None else Teacher(jax.tree_util.Partial(lambda cond: base), None)
    parts = {
        "time_law": time_law.uniform(),
        "weighting": weighting.min_snr(gamma=1.0),
        "teacher": teacher,
    }
    return build("training.objectives", {**spec, **parts}, model, Labels(1))


def batch(n, d):
    return {"x": jnp.zeros((n, d)), "cond": {"label": jnp.zeros(n, int)}}


def share(sde, tau, n, mean=0.5, variance=1.0, c=2.0):
    """The share of the shift of the mean by e^(c x) that the best offsets at n times reach, with
    the sampler that they are made for. The loss is quadratic in them, and the targets are the same
    on all paths, so that two gradients tell the optimum."""
    base = exact.Gaussian(jnp.array([mean]), jnp.array([[variance]])).denoiser(sde)
    times = np.linspace(sde.t_max, sde.t_min, n + 1)
    model = model_of(sde, base, tuple(times[:-1].tolist()))
    objective = make(model, base, f"linear(direction=({c},))", steps=n, tau=tau, times_per_path=n)

    @jax.jit
    def gradient(offset):
        params = {"offset": offset, "matrix": jnp.zeros((n, 1, 1))}
        key, training = jax.random.key(0), Training()
        value = jax.grad(
            lambda p: jnp.sum(objective.losses(p, key, batch(2 * n, 1), training).value)
        )
        return value(params)["offset"]

    at_0, at_1 = gradient(jnp.zeros((n, 1))), gradient(jnp.ones((n, 1)))
    best = at_0 / (at_0 - at_1)
    assert float(jnp.max(jnp.abs(gradient(best)))) < 1e-9 * float(jnp.max(jnp.abs(at_0)))

    def one(x, inputs):
        step, offset = inputs
        value = base(x, step.start) + jnp.stack([offset, jnp.zeros(1)])
        return step.linear * x + step.weight * value, None

    steps = kernels(sde, jnp.asarray(times), tau)
    (tilted, plain), _ = jax.lax.scan(one, jnp.zeros((2, 1)), (steps, best))
    return float(tilted[0] - plain[0]) / (c * variance)


def attained(sde, tau, variance=1.0):
    alpha2, sigma2 = (float(f(jnp.asarray(sde.t_max))) ** 2 for f in (sde.alpha, sde.sigma))
    return 1 - (alpha2 * variance / (alpha2 * variance + sigma2)) ** (tau**2)


SHORT = VP(beta_max=10.62)  # ends at the alpha of the schedule of Stable Diffusion


@pytest.mark.parametrize(
    ("sde", "variance"), [(VP(), 1.0), (SHORT, 1.0), (SHORT, 0.25)], ids=["VP", "short", "narrow"]
)
def test_with_stochasticity_1_few_steps_reach_the_whole_tilt(sde, variance):
    """1 - alpha_T^2 l/m_T of the shift, on any grid: a step's mean is exact, and so is the
    adjoint. What t_min > 0 leaves is smaller."""
    found = share(sde, 1.0, 6, variance=variance)
    np.testing.assert_allclose(found, attained(sde, 1.0, variance), rtol=1e-5)


def test_the_share_of_the_tilt_by_stochasticity():
    """The figures of the two schedules, and that the objective comes to them as steps shrink: its
    error is halved with them."""
    for sde, shares in ((SHORT, (0.285, 0.738, 0.928, 0.995)), (VP(), (0.466, 0.919, 0.993, 1))):
        formula = [attained(sde, tau) for tau in (0.25, 0.5, 0.7, 1.0)]
        np.testing.assert_allclose(formula, shares, atol=5e-4)
    for tau in (0.5, 0.7):
        truth = attained(SHORT, tau)
        coarse, fine = (share(SHORT, tau, n) - truth for n in (32, 64))
        assert 0.45 < fine / coarse < 0.62
        assert abs(2 * fine - coarse) < 2e-3


CENTRE, STD = (0.8, -0.4), 0.6


def mixture():
    """Two components that overlap: between far ones the lean adjoint has heavy tails, whose mean no
    test could afford."""
    means = jnp.array([[0.6, 0.0], [-0.5, 0.4]])
    covs = jnp.array([[[0.4, 0.1], [0.1, 0.3]], [[0.3, 0.0], [0.0, 0.5]]])
    return exact.Mixture(jnp.array([0.6, 0.4]), means, covs)


def slopes(value, draws):
    """Gradients by an affine change of D, in units of their standard errors, extrapolated from two
    numbers of steps to short ones."""
    sde = VP(t_min=1e-3)
    law = mixture()
    truth = law.posterior(jnp.eye(2), jnp.asarray(CENTRE), STD)  # p e^r, a mixture again
    denoisers = {"base": law.denoiser(sde), "tilted": truth.denoiser(sde)}
    model = model_of(sde, denoisers[value])
    reward = f"quadratic(centre={CENTRE}, std={STD})"
    params = {"offset": jnp.zeros((1, 2)), "matrix": jnp.zeros((1, 2, 2))}

    def gradients(steps, seed):
        objective = make(model, denoisers["base"], reward, steps=steps, times_per_path=16)

        def one(key):
            def value(p):
                return jnp.mean(objective.losses(p, key, batch(2048, 2), Training()).value)

            found = jax.grad(value)(params)
            return jnp.concatenate([a.ravel() for a in jax.tree.leaves(found)])

        return jax.jit(lambda keys: jax.lax.map(one, keys))(
            jax.random.split(jax.random.key(seed), draws)
        )

    coarse, fine = gradients(32, 1), gradients(64, 2)
    found = np.asarray(2 * fine - coarse)
    return found.mean(axis=0) / (found.std(axis=0, ddof=1) / np.sqrt(draws))


def test_the_gradient_vanishes_at_the_tilted_mixture():
    """With the exact D of p e^r/Z the gradient is noise, and with that of p it is not."""
    assert np.all(np.abs(slopes("tilted", 32)) < 4)
    assert np.max(np.abs(slopes("base", 8))) > 10


def test_an_energy_is_the_reward_of_a_known_base():
    """Of a Gaussian energy N(m, s) with the base N(0, std^2): from the truth the gradient is
    noise, and the base's D is that of the process with a network that gives 0."""
    sde = VE(sigma_max=20.0)
    law = exact.Gaussian(jnp.array([0.7, 0.2]), 0.3 * jnp.eye(2))
    options = {
        "name": "adjoint_sampling",
        "log_density": lambda x: law.log_density(x) + 3.0,
        "std": 1.5,
        "time_law": time_law.log_snr_uniform(),
        "weighting": weighting.min_snr(gamma=1.0),
        "times_per_path": 8,
    }
    draws = 16

    def gradients(value, steps):
        model = model_of(sde, value)
        objective = build("training.objectives", {**options, "steps": steps}, model, Labels(1))
        params = {"offset": jnp.zeros((1, 2)), "matrix": jnp.zeros((1, 2, 2))}

        def one(key):
            def value(p):
                return jnp.mean(objective.losses(p, key, batch(1024, 2), Training()).value)

            found = jax.grad(value)(params)
            return jnp.concatenate([a.ravel() for a in jax.tree.leaves(found)])

        return jax.jit(lambda keys: jax.lax.map(one, keys))(
            jax.random.split(jax.random.key(steps), draws)
        )

    for value, low, high in (
        (law.denoiser(sde), 0, 4),
        (lambda x, t: expand(2.25 / (2.25 + sde.sigma(t) ** 2), x) * x, 10, np.inf),
    ):
        found = np.asarray(2 * gradients(value, 64) - gradients(value, 32))
        worst = np.max(np.abs(found.mean(0) / (found.std(0, ddof=1) / np.sqrt(draws))))
        assert low <= worst < high


def test_the_reward_grows():
    """Half way through `anneal` the target is that of half the reward; at its end, and outside of
    training, that of the whole."""
    base = mixture().denoiser(VP())
    model = model_of(VP(), base)
    params = {"offset": jnp.zeros((1, 2)), "matrix": jnp.zeros((1, 2, 2))}

    def value(reward, training, anneal=10):
        objective = make(model, base, f"linear(direction=({reward},))", anneal=anneal)
        return objective.losses(params, jax.random.key(0), batch(8, 2), training).value

    half = value(1.0, Training(jnp.asarray(4)))  # the fifth step
    np.testing.assert_allclose(half, value(0.5, Training(), 0), rtol=1e-12)
    for training in (Training(jnp.asarray(9)), Training(jnp.asarray(30)), None):
        np.testing.assert_allclose(value(1.0, training), value(1.0, None, 0), rtol=1e-12)


def test_mistakes_are_told():
    base = mixture().denoiser(VP())
    model = model_of(VP(), base)
    objective = make(model, None, "linear(direction=(1.0,))")
    with pytest.raises(ConfigError, match=r"set objective\.teacher"):
        objective.losses(None, jax.random.key(0), batch(8, 2), None)
    for options, message in (
        ({"times_per_path": 21}, "must be from 1 to the number of steps, 20"),
        ({"tau": 0.0}, "tau must be above 0"),
        ({"anneal": -1}, "anneal=-1 is no number of steps"),
    ):
        with pytest.raises(ConfigError, match=message):
            make(model, base, "linear(direction=(1.0,))", **options)
