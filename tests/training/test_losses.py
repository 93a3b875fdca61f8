"""The loss is the same number however it is parametrized, and has the right minimum."""

import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning.labels import Labels
from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.processes import DDPM, EDM, SMLD, VE, VP, Cosine, Flow, SubVP, derivative
from score_sde.training import time_law, weighting
from score_sde.training.objective import Loss, Training, mean, noise_levels
from score_sde.training.objectives.denoising import denoising

pytestmark = pytest.mark.usefixtures("x64")

PARAMETRIZATIONS = {
    "eps": parametrization.eps,
    "x0": parametrization.x0,
    "v": parametrization.v,
    "score": parametrization.score,
    "scaled score": lambda c: parametrization.score(c, scaled=True),
    "flow": parametrization.flow,
    "flow_to_data": parametrization.flow_to_data,
    "edm": parametrization.edm,
}
LAWS = {
    "uniform": time_law.uniform(stratified=True),
    "log_snr_uniform": time_law.log_snr_uniform(stratified=True),
    "log_normal": time_law.log_normal(-0.8, 1.6, stratified=True),
}
WEIGHTINGS = {
    "simple": weighting.simple(),
    "likelihood": weighting.likelihood(),
    "min_snr": weighting.min_snr(),
    "p2": weighting.p2(),
    "sigmoid": weighting.sigmoid(),
    "edm": weighting.edm(),
    "flow": weighting.flow(),
    "flow_to_data": weighting.flow(),
    "sd3": weighting.sd3(),
}
MEAN, VARIANCE = np.array([0.5, -1.0]), np.array([0.6, 0.1])


def data(key, n):
    return MEAN[None] + np.sqrt(VARIANCE)[None] * jax.random.normal(key, (n, 2))


def exact(sde):
    """The denoiser of N(MEAN, diag VARIANCE)."""

    def denoise(x, t):
        alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
        gain = alpha * VARIANCE[None] / (alpha**2 * VARIANCE[None] + sigma**2)
        return MEAN[None] + gain * (x - alpha * MEAN[None])

    return denoise


class Inverse(nn.Module):
    """The network whose model is the exact denoiser: F = (D - c_skip x) / c_out. It is told t."""

    sde: object
    scales: object
    scale: float = 1.0  # of the denoiser, so that the loss is not at its minimum

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        t = noise
        c_skip, c_out, c_in = (
            c[:, None] for c in self.scales(self.sde.alpha(t), self.sde.sigma(t))
        )
        x_t = x / c_in
        denoised = self.scale * exact(self.sde)(x_t, t)
        return (denoised - c_skip * x_t) / c_out


def tell_t(sde, t):
    return t


def make(sde, name, scale=1.0):
    prediction = PARAMETRIZATIONS[name](tell_t)
    return Model(Inverse(sde, prediction.scales, scale), sde, prediction)


def losses(cases, n, seeds, **options):
    """The losses [cases, seeds] of n examples, all on the same draws and in one program.

    A case is (model, law, weighting)."""
    loss_of = [
        mean(
            denoising(model, Labels(1), time_law=law, weighting=weight, **options).losses,
            noise_levels(law, model.sde, 1),
        )
        for model, law, weight in cases
    ]

    def one(seed):
        key_data, key_loss = jax.random.split(jax.random.key(seed))
        batch = {"x": data(key_data, n)}
        return jnp.stack([loss({}, key_loss, batch, Training())[0] for loss in loss_of])

    return np.asarray(jax.jit(lambda seeds: jax.lax.map(one, seeds))(jnp.arange(seeds))).T


def loss(model, law, weight, n=4096, **options):
    return float(losses([(model, law, weight)], n, 1, **options)[0, 0])


SDES = [VP(), SubVP(), VE(), Cosine(), EDM(), Flow(), DDPM(t_min=1e-3), SMLD()]


@pytest.mark.parametrize("sde", SDES, ids=lambda s: type(s).__name__)
def test_every_parametrization_gives_the_same_loss(sde):
    law, weight = LAWS["uniform"], WEIGHTINGS["likelihood"]
    cases = [(make(sde, name, scale=0.9), law, weight) for name in PARAMETRIZATIONS]
    values = losses(cases, n=256, seeds=1)[:, 0]
    np.testing.assert_allclose(values, values[0], rtol=1e-7)


def test_a_law_changes_the_variance_not_the_value():
    """Three laws estimate one integral of every weighting, within four and a half of their standard
    errors together."""
    model = make(VP(t_min=1e-2), "eps", scale=0.8)
    draws = [
        losses([(model, law, weight) for weight in WEIGHTINGS.values()], n=4096, seeds=24)
        for law in LAWS.values()
    ]
    estimates = np.mean(draws, axis=2)  # [law, weighting]
    errors = np.std(draws, axis=2, ddof=1) / np.sqrt(24)
    for i, j in itertools.combinations(range(len(LAWS)), 2):
        near = np.abs(estimates[i] - estimates[j]) < 4.5 * np.hypot(errors[i], errors[j]) + 1e-12
        assert all(near), dict(zip(WEIGHTINGS, near, strict=True))


def test_likelihood_weighting_is_an_entropy_identity():
    """For N(m, C) and its exact denoiser, 1/2 int -Lambda' E|z - z^|^2 dt (the I-MMSE integral)
    has a closed integrand."""
    sde = VP(t_min=1e-3)
    value = loss(
        make(sde, "eps"),
        LAWS["log_snr_uniform"],
        WEIGHTINGS["likelihood"],
        n=200_000,
        reduction="sum",
    )
    t = jnp.asarray(np.linspace(sde.t_min, sde.t_max, 200_001))
    snr = np.exp(np.asarray(sde.log_snr(t)))
    rate = -np.asarray(derivative(sde.log_snr, t))
    # E|z - z^|^2 = SNR E|x_0 - D|^2 = sum_i SNR c_i / (1 + SNR c_i)
    error = sum(snr * c / (1 + snr * c) for c in VARIANCE)
    truth = np.trapezoid(rate * error / 2, np.asarray(t))
    np.testing.assert_allclose(value, truth, rtol=4 * np.sqrt(2 / 200_000))


def draws(sde, law, n=512):
    """What `loss` draws, by the objective's own keys: data [n, 2], times [n, 1], noise [n, 2]."""

    @jax.jit
    def run(key):
        key_data, key_loss = jax.random.split(key)
        key_time, key_noise, _ = jax.random.split(key_loss, 3)
        t = law.sample(key_time, sde, n, float)[:, None]
        return data(key_data, n), t, jax.random.normal(key_noise, (n, 2))

    return jax.device_get(run(jax.random.key(0)))


def denoised(model, x, t):
    """[n, 2], of the model."""
    return np.asarray(jax.jit(model.denoiser({}))(jnp.asarray(x), jnp.asarray(t[:, 0])))


def test_edm_loss_is_karras_equation_8():
    """E [ lambda(sigma) |D - x_0|^2 ], lambda = (sigma^2 + sd^2) / (sigma sd)^2, in one batch."""
    sde = EDM(t_min=1e-6, t_max=1e6)
    model = make(sde, "edm", scale=0.7)
    law = time_law.log_normal()
    ours = loss(model, law, weighting.edm(), n=512)
    x, sigma, z = draws(sde, law)
    noisy = x + sigma * z
    error = (denoised(model, noisy, sigma) - x) ** 2
    weight = (sigma**2 + 0.25) / (0.5 * sigma) ** 2
    np.testing.assert_allclose(ours, np.mean(weight * error), rtol=1e-5)


def test_flow_matching_is_the_velocity_error():
    sde, law = Flow(t_min=1e-3), time_law.uniform()
    model = make(sde, "flow", scale=0.7)
    ours = loss(model, law, weighting.flow(), n=512)
    x, t, z = draws(sde, law)
    x_t = (1 - t) * x + t * z
    velocity = (x_t - denoised(model, x_t, t)) / t
    np.testing.assert_allclose(ours, np.mean((velocity - (z - x)) ** 2), rtol=1e-9)


def test_ddpm_loss_is_l_simple():
    """Equation 14 of Ho et al. 2020, on the chain's own table."""
    sde = DDPM(num_steps=20, beta_max=10.0)
    law = time_law.grid_points(20)
    model = make(sde, "eps", scale=0.7)
    ours = loss(model, law, weighting.simple(), n=512)
    x, t, z = draws(sde, law)
    bar = np.cumprod(1 - sde.betas)[np.round(t * 19).astype(int)]
    x_t = np.sqrt(bar) * x + np.sqrt(1 - bar) * z
    eps = (x_t - np.sqrt(bar) * denoised(model, x_t, t)) / np.sqrt(1 - bar)
    np.testing.assert_allclose(ours, np.mean((z - eps) ** 2), rtol=1e-9)


def test_the_exact_denoiser_is_the_minimum():
    law, weight = LAWS["uniform"], WEIGHTINGS["p2"]
    cases = [
        (make(VP(t_min=1e-2), name, scale), law, weight)
        for name in ("eps", "edm")
        for scale in (0.95, 1.0, 1.05)
    ]
    for less, right, more in losses(cases, n=20_000, seeds=1).reshape(2, 3):
        assert right < min(less, more)


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
@pytest.mark.parametrize("sde", [VP(), EDM(), Flow(), SubVP()], ids=lambda s: type(s).__name__)
def test_target_is_what_the_scales_say(name, sde):
    """(1 - c_skip alpha)/c_out and -c_skip sigma/c_out; and in float32 it keeps its digits where
    those differences would cancel."""
    prediction = PARAMETRIZATIONS[name](tell_t)
    t = jnp.asarray(np.geomspace(max(sde.t_min, 1e-5), sde.t_max, 50).astype(np.float32), float)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    c_skip, c_out, _ = prediction.scales(alpha, sigma)
    truth = np.array([(1 - c_skip * alpha) / c_out, -c_skip * sigma / c_out])
    target = np.array(prediction.target(alpha, sigma))
    cancelled = 4 * np.finfo(float).eps / np.abs(np.asarray(c_out))  # what the differences lose
    assert np.all(np.abs(target - truth) <= 1e-9 * np.abs(truth) + cancelled)
    single = prediction.target(alpha.astype(jnp.float32), sigma.astype(jnp.float32))
    np.testing.assert_allclose(single, target, rtol=1e-6)


def test_wrong_reduction():
    with pytest.raises(ValueError, match="one of mean, sum"):
        denoising(
            make(VP(), "eps"),
            Labels(1),
            time_law=LAWS["uniform"],
            weighting=WEIGHTINGS["simple"],
            reduction="max",
        )


class Dropping(nn.Module):
    """Its input, of which half of the numbers are 0 where there is dropout."""

    rate: float = 0.5

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        return nn.Dropout(self.rate, deterministic=not train)(x)


def test_dropout_is_on_in_training_alone():
    batch = {"x": data(jax.random.key(0), 50), "cond": {}}
    options = {"time_law": LAWS["uniform"], "weighting": weighting.simple()}

    def losses(rate, training):
        model = Model(Dropping(rate), VP(), parametrization.eps(parametrization.time()))
        objective = denoising(model, Labels(1), **options)
        return np.asarray(objective.losses({}, jax.random.key(1), batch, training).value)

    without = losses(0.0, Training())
    np.testing.assert_array_equal(losses(0.5, None), without)
    assert np.mean(losses(0.5, Training()) != without) > 0.5


class Zero(nn.Module):
    """A network that predicts no noise."""

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        return 0 * x


@pytest.mark.parametrize("name", ["simple", "likelihood", "flow"])
def test_the_error_of_a_network_that_knows_nothing_is_one(name):
    """Whatever the weighting: |z - 0|^2 is one, here within five errors."""
    n = 20_000
    model = Model(Zero(), VP(), parametrization.eps(parametrization.time()))
    options = {"time_law": LAWS["uniform"], "weighting": WEIGHTINGS[name]}
    objective = denoising(model, Labels(1), **options)
    batch = {"x": data(jax.random.key(0), n), "cond": {}}
    for t in (0.05, 0.8):
        error = objective.error_at({}, jax.random.key(1), batch, jnp.asarray(t))
        assert abs(float(jnp.mean(error)) - 1) < 5 / np.sqrt(n)  # z^2 / 2 + z'^2 / 2 has variance 1


def test_the_parts_of_a_loss_by_noise_level():
    """Five ranges that uniform times fall into equally often; the parts sum to the mean."""
    sde = VP(t_min=1e-3)
    levels = noise_levels(time_law.uniform(), sde)
    edges = sde.t_min + np.linspace(0, 1, 6) * (1 - sde.t_min)
    np.testing.assert_allclose(levels.times, edges[1:-1], rtol=1e-6)
    t = jnp.asarray([0.05, 0.1, 0.5, 0.95])
    parts = levels.split(Loss(jnp.asarray([1.0, 2.0, 4.0, 8.0]), t))
    log_snr = np.asarray(sde.log_snr(jnp.asarray(edges)))
    for i, (name, part) in enumerate(parts.items()):
        assert name == f"{i}_log_snr_{log_snr[i + 1]:.1f}_to_{log_snr[i]:.1f}"
        truth = {0: [3 / 4, 2 / 4], 2: [4 / 4, 1 / 4], 4: [8 / 4, 1 / 4]}.get(i, [0, 0])
        np.testing.assert_allclose(part, truth, rtol=1e-6)


def test_the_mean_is_that_of_losses_in_training():
    def losses(params, key, batch, training):
        return Loss(
            jnp.asarray([1.0, 3.0]) * (1 if training is None else 2), jnp.asarray([0.2, 0.7])
        )

    levels = noise_levels(time_law.uniform(), VP(), 1)
    loss, metrics = mean(losses, levels)({}, jax.random.key(0), {}, Training())
    assert loss == metrics["loss"] == 4
