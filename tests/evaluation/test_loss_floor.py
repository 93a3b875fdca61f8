"""The floor of the loss: closed forms of a Gaussian, and the identity of Pythagoras."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning.labels import Labels
from score_sde.config import build
from score_sde.evaluation.loss_floor import loss_floor, whole_floor
from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.processes import EDM, VP, Flow
from score_sde.processes.exact import Dataset, Gaussian, three_gaussians
from score_sde.training.objectives.denoising import denoising
from score_sde.training.objectives.reflow import reflow

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)
VARIANCE = np.array([2.0, 0.5, 0.03])
LOG_SNR = np.array([-3.0, 0.0, 4.0])


@pytest.mark.parametrize("sde", [VP(), EDM(), Flow()])
def test_of_a_gaussian(sde):
    """The floor is the mean of SNR l/(SNR l + 1). That of c D* has SNR (1 - c)^2 E|D*|^2 more,
    with E|D*|^2 = sum of SNR l^2/(SNR l + 1)."""
    law, n = Gaussian(jnp.zeros(3), jnp.diag(jnp.asarray(VARIANCE))), 20_000
    x, exact = law.sample(jax.random.key(1), n), law.denoiser(sde)
    times = sde.t_of_log_snr(jnp.asarray(LOG_SNR))
    run = jax.jit(lambda c: loss_floor(KEY, sde, lambda x, t: c * exact(x, t), exact, x, times))
    snr = np.exp(LOG_SNR)[:, None]
    floor = (snr * VARIANCE / (snr * VARIANCE + 1)).mean(axis=1)
    size = (snr * VARIANCE**2 / (snr * VARIANCE + 1)).mean(axis=1) * snr[:, 0]
    found, ideal = run(0.7), run(1.0)
    np.testing.assert_array_equal(ideal.above, 0)
    np.testing.assert_allclose(found.log_snr, LOG_SNR, atol=1e-9)
    for value, error, truth in (
        (found.floor, found.floor_error, floor),
        (found.above, found.above_error, 0.09 * size),
    ):
        assert np.all(np.abs(value - truth) < 4 * error)
        assert np.all(error < 0.05 * truth)


def test_of_a_data_set():
    """E|x_0 - D|^2 is the floor and what is above it, and the floor E|x_0|^2 - E|D*|^2."""
    sde, points = VP(), jax.random.normal(jax.random.key(2), (5, 2))
    exact, n = Dataset(points).denoiser(sde), 40_000
    x = jnp.tile(points, (n // 5, 1))
    times = sde.t_of_log_snr(jnp.asarray(LOG_SNR))

    def wrong(x, t):
        return 0.5 * exact(x, t) + 0.1

    found = jax.jit(lambda: loss_floor(KEY, sde, wrong, exact, x, times))()
    for i, t in enumerate(times):
        x_t = sde.perturb(jax.random.key(3 + i), x, t)
        snr = np.exp(LOG_SNR[i])
        best = np.sum(np.asarray(exact(x_t, t)) ** 2, axis=1)
        floor = snr * (np.sum(np.asarray(x) ** 2, axis=1) - best) / 2
        loss = snr * np.sum(np.asarray(x - wrong(x_t, t)) ** 2, axis=1) / 2
        spread = floor.std() / np.sqrt(n) + float(found.floor_error[i])
        assert abs(floor.mean() - float(found.floor[i])) < 4 * spread
        spread = loss.std() / np.sqrt(n) + float(found.floor_error[i] + found.above_error[i])
        assert abs(loss.mean() - float(found.floor[i] + found.above[i])) < 4 * spread
    # half of them do not count, and then their values do not matter
    mask = jnp.arange(n) < n // 2
    other = jnp.where(mask[:, None], x, 7.0)
    halves = [loss_floor(KEY, sde, wrong, exact, a, times[:1], mask=mask) for a in (x, other)]
    np.testing.assert_array_equal(halves[0].floor, halves[1].floor)


# The whole loss


class Known(nn.Module):
    """The network that makes the model this denoiser. Its noise condition is t."""

    denoiser: Any

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        return self.denoiser(x, noise)


def objective_of(denoiser, sde, law, weight, reduction="mean"):
    model = Model(Known(denoiser), sde, parametrization.x0(lambda sde, t: t))
    made = build("training.time_law", law), build("training.weighting", weight)
    return denoising(model, Labels(1), time_law=made[0], weighting=made[1], reduction=reduction)


CASES = [  # a process, a law of t, a weighting and what it is of the noise error at log-SNR
    (VP(t_min=1e-3), "uniform(stratified=True)", "simple", "mean", lambda level: 1.0),
    (VP(t_min=1e-3), "log_snr_uniform(stratified=True)", "likelihood", "sum", None),
    (EDM(), "measured(base='log_snr_uniform(stratified=True)')", "likelihood", "sum", None),
    (Flow(t_min=1e-3), "uniform", "flow", "mean", lambda level: (1 + np.exp(-level / 2)) ** 2),
]


@pytest.mark.parametrize(("sde", "law", "weight", "reduction", "of_noise"), CASES)
def test_the_whole_floor_of_a_gaussian(sde, law, weight, reduction, of_noise):
    """The noise error of D* is the mean of v = SNR l/(SNR l + 1), and D* + c s/(1 + s), s = sigma/
    alpha, has c^2/(1 + s)^2 more. The likelihood loss is half the integral over the log-SNR: sum of
    ln(1 + SNR l)/2, nats, between the ends, and above it d c^2 (ln(s/(1 + s)) + 1/(1 + s)). Others
    are means over uniform t. The exact denoiser is 0 above the floor, without any error."""
    data, n, off = Gaussian(jnp.zeros(3), jnp.diag(jnp.asarray(VARIANCE))), 2000, 0.1
    x, exact = data.sample(jax.random.key(1), n), data.denoiser(sde)
    loss = objective_of(exact, sde, law, weight, reduction).weighted

    @jax.jit
    def run(c):
        def wrong(x, t):
            return exact(x, t) + c * (sde.sigma(t) / (sde.alpha(t) + sde.sigma(t)))[:, None]

        return whole_floor(KEY, sde, wrong, exact, x, loss, draws=8)

    if of_noise is None:
        ends = np.exp(sde.log_snr(jnp.array([sde.t_max, sde.t_min], float)))
        floor = np.diff(np.log1p(ends[:, None] * VARIANCE).sum(axis=1))[0] / 2
        s = ends**-0.5
        above = -3 * off**2 * np.diff(np.log(s / (1 + s)) + 1 / (1 + s))[0]
    else:
        u = (np.arange(40_000) + 0.5) / 40_000  # its square: finer near t_min
        level = np.asarray(sde.log_snr(jnp.asarray(sde.t_min + u**2 * (sde.t_max - sde.t_min))))
        snr, weights = np.exp(level), of_noise(level) * 2 * u / len(u)
        v = snr[:, None] * VARIANCE / (snr[:, None] * VARIANCE + 1)
        floor, above = weights @ v.mean(axis=1), weights @ (1 + snr**-0.5) ** -2 * off**2
    found, ideal = run(off), run(0.0)
    assert (float(ideal.above), float(ideal.above_error)) == (0.0, 0.0)
    for value, error, truth in (
        (found.floor, found.floor_error, floor),
        (found.above, found.above_error, above),
    ):
        assert abs(float(value) - truth) < 4 * float(error) + 1e-6 * truth
        assert float(error) < 0.05 * truth


@pytest.mark.parametrize(("sde", "law", "weight", "reduction", "of_noise"), CASES)
def test_a_loss_is_the_error_that_it_says(sde, law, weight, reduction, of_noise):
    """Each example's loss is `weight` times its |x_0 - D|^2, to rounding, at the t that was drawn
    for it."""

    def wrong(x, t):
        return 0.5 * x + jnp.broadcast_to(t, len(x))[:, None]

    objective = objective_of(wrong, sde, law, weight, reduction)
    x, noise = jax.random.normal(jax.random.key(2), (2, 50, 3))
    cond = Labels(1).encode({"label": np.zeros(50, np.int32)})
    found = objective.losses({}, KEY, {"x": x, "cond": cond, "noise": noise}, None)
    error = jnp.mean((x - wrong(sde.noised(x, noise, found.t), found.t)) ** 2, axis=1)
    np.testing.assert_allclose(
        found.value, objective.weighted.weight(x, found.t) * error, rtol=1e-9
    )


def test_a_loss_less_its_floor_is_zero_on_a_mixture():
    """The loss of `denoising` itself, of the exact denoiser, on examples that nobody trained on:
    the floor is within its error. Of 0.8 D* it is above by what `whole_floor` says."""
    sde, data, n = VP(t_min=1e-3), three_gaussians(), 20_000
    x, exact = data.sample(jax.random.key(4), n), data.denoiser(sde)
    cond = Labels(1).encode({"label": np.zeros(n, np.int32)})

    def compare(c):
        def denoiser(x, t):
            return c * exact(x, t)

        objective = objective_of(denoiser, sde, "uniform(stratified=True)", "min_snr")
        loss = objective.losses({}, jax.random.key(5), {"x": x, "cond": cond}, None).value
        return loss, whole_floor(KEY, sde, denoiser, exact, x, objective.weighted)

    compiled = jax.jit(compare)
    for c in (1.0, 0.8):
        loss, found = compiled(c)
        error = np.sqrt(np.var(loss) / n + found.floor_error**2 + found.above_error**2)
        assert abs(float(loss.mean() - found.floor - found.above)) < 4 * error
        assert error < 0.03 * float(found.floor)
        assert (float(found.above) > 10 * error) == (c != 1)


def test_losses_that_are_not_such_an_error_say_so():
    sde = Flow()
    options = {
        name: build(f"training.{name}", spec)
        for name, spec in (("time_law", "uniform"), ("weighting", "flow"))
    }
    model = Model(Known(None), sde, parametrization.x0(lambda sde, t: t))
    assert reflow(model, Labels(1), **options, teacher=None).weighted is None
    assert build("training.objectives", "interpolant", model, Labels(1), **options).weighted is None
