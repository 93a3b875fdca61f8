"""The learned variance: the bound's terms are those of OpenAI's code and of closed forms."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from score_sde import sampling, solvers
from score_sde.conditioning.labels import Labels
from score_sde.evaluation.sampler_law import Normal, law_after
from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.processes import DDPM, VP, posterior
from score_sde.processes.exact import Mixture
from score_sde.sampling import grids
from score_sde.training import time_law, weighting
from score_sde.training.objective import Training
from score_sde.training.objectives.hybrid import bound_terms, decoder, gaussian_kl, hybrid
from tests.golden.make_adm import HERE

pytestmark = pytest.mark.usefixtures("x64")

LABEL = parametrization.time(999.0)
CHAINS = {"linear": DDPM(), "cosine": DDPM(schedule="cosine")}
LAW = time_law.grid_points(1000)


class Fixed(nn.Module):
    """A network whose output is given."""

    output: object

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        return jnp.asarray(self.output)


@pytest.fixture(scope="module")
def terms():
    return dict(np.load(HERE / "terms.npz"))


@pytest.mark.parametrize("schedule", CHAINS)
def test_a_step_is_that_of_the_public_code(schedule, terms):
    """Mean, log variance and E[x_0 | x_t] of steps of the chain, from one output of 2 c channels.
    (They take the variance of step 0 by a rule of their own, and its mean is D.)"""
    sde, steps = CHAINS[schedule], terms["steps"]
    model = Model(Fixed(terms["output"]), sde, parametrization.eps(LABEL))
    t, s = jnp.asarray(steps / 999), jnp.asarray((steps - 1) / 999)
    x_t = sde.noised(jnp.asarray(terms["x_0"]), jnp.asarray(terms["z"]), t)
    moments = model.moments({})
    truth = {key: terms[f"{schedule}_{key}"] for key in ("pred_xstart", "mean", "log_variance")}
    # alpha is 1/160 at the last linear step, and 5e-5 at the last cosine one
    np.testing.assert_allclose(moments(x_t, t), truth["pred_xstart"], rtol=1e-9)
    x_0, log_variance = jnp.split(moments(x_t, t, s), 2, axis=-1)
    np.testing.assert_array_equal(x_0, moments(x_t, t))
    np.testing.assert_allclose(log_variance[1:], truth["log_variance"][1:], rtol=1e-10)
    mean = posterior(sde, t, s).mean(x_t, x_0)
    np.testing.assert_allclose(mean[1:], truth["mean"][1:], rtol=1e-8)


@pytest.mark.parametrize("schedule", CHAINS)
def test_the_bound_is_that_of_the_public_code(schedule, terms):
    """Bits a dimension. At step 0 theirs has tanh in the place of the normal distribution function,
    which is right to 1e-3."""
    sde, steps = CHAINS[schedule], terms["steps"]
    model = Model(Fixed(terms["output"]), sde, parametrization.eps(LABEL))
    x_0, t = jnp.asarray(terms["x_0"]), jnp.asarray(steps / 999)
    denoised = jnp.asarray(terms[f"{schedule}_pred_xstart"])
    nats = bound_terms(model, 1000, 256, x_0, t, denoised, jnp.asarray(terms["output"])[..., 2:])
    bits = np.mean(nats, axis=(1, 2, 3)) / np.log(2)
    np.testing.assert_allclose(bits[1:], terms[f"{schedule}_bits"][1:], rtol=1e-8)
    np.testing.assert_allclose(bits[0], terms[f"{schedule}_bits"][0], rtol=0.03)


def test_the_term_of_a_step_is_the_divergence_of_two_gaussians():
    """KL(q(x_s | x_t, x_0) || p), nats, by its closed form from textbooks, with q from Bayes' rule:
    the product of N(x_s; alpha_s x_0, sigma_s^2) and N(x_t; a x_s, beta) as a function of x_s."""
    sde, step = DDPM(num_steps=50, beta_max=8.0), np.array([1, 7, 49])
    bar = np.cumprod(1 - sde.betas)
    rng = np.random.default_rng(0)
    x_0, x_t, denoised, v = rng.normal(size=(4, 3, 5))
    beta, before = (a[:, None] for a in (sde.betas[step], bar[step - 1]))
    a = np.sqrt(1 - beta)
    precision = 1 / (1 - before) + a**2 / beta

    def mean(x_0):
        return (np.sqrt(before) * x_0 / (1 - before) + a * x_t / beta) / precision

    f = (v + 1) / 2
    variance = beta**f * (1 / precision) ** (1 - f)
    truth = (
        np.log(np.sqrt(variance * precision))
        + (1 / precision + (mean(x_0) - mean(denoised)) ** 2) / (2 * variance)
        - 1 / 2
    )
    model = Model(Fixed(None), sde, parametrization.eps(LABEL))
    arrays = (jnp.asarray(array) for array in (x_0, step / 49, denoised, v))
    ours = bound_terms(model, 50, 256, *arrays)
    np.testing.assert_allclose(ours, truth, rtol=1e-10)


def test_the_bound_is_least_at_the_true_variance():
    """For data of N(m, c) and the exact D, x_s given x_t is Gaussian; the expected term is least
    where exp(log variance) is its variance, whose v is between -1 and 1."""
    sde, step = DDPM(num_steps=50, beta_max=8.0), np.array([1, 7, 30, 49])
    bar, c, m = np.cumprod(1 - sde.betas), 0.3, 0.7
    now, before, beta = bar[step], bar[step - 1], sde.betas[step]
    a = np.sqrt(1 - beta)
    # variances of x_s, and of x_s given x_t, by the rule for two joint Gaussians
    of_s = before * c + 1 - before
    true = of_s - (a * of_s) ** 2 / (a**2 * of_s + beta)
    low = beta * (1 - before) / (1 - now)
    best = 2 * (np.log(true) - np.log(low)) / (np.log(beta) - np.log(low)) - 1
    assert (np.abs(best) < 1).all()

    x_t = np.random.default_rng(0).normal(size=4)
    gain = np.sqrt(now) * c / (now * c + 1 - now)
    denoised = m + gain * (x_t - np.sqrt(now) * m)
    spread = np.sqrt(c - gain * np.sqrt(now) * c)  # of x_0 given x_t
    model = Model(Fixed(None), sde, parametrization.eps(LABEL))
    t = jnp.asarray(step / 49)

    def expected(v):  # the term is quadratic in x_0, so two points have its expectation
        one = [
            bound_terms(model, 50, 256, jnp.asarray(denoised + x)[:, None], t, denoised[:, None], v)
            for x in (spread, -spread)
        ]
        return jnp.sum(sum(one)) / 2

    denoised = jnp.asarray(denoised)
    at_best = jnp.asarray(best)[:, None]
    np.testing.assert_allclose(jax.grad(expected)(at_best), 0, atol=1e-10)
    for off in (-0.1, 0.1):
        assert expected(at_best + off) > expected(at_best)


def test_the_decoder_is_a_distribution_over_the_values():
    """Its probabilities of the 256 values sum to 1, and one of them is by SciPy."""
    values = np.round((np.arange(256) / 127.5 - 1), 15)
    for mean, std in ((0.3, 0.02), (-1.1, 0.5), (0.99, 0.001)):
        full = np.full(256, mean), np.full(256, 2 * np.log(std))
        nats = decoder(*(jnp.asarray(a) for a in (values, *full)), 256)
        assert np.exp(-np.asarray(nats)).sum() == pytest.approx(1, abs=1e-12)
    law = scipy.stats.norm(0.3, 0.02)
    values = np.array([-0.9, 44 / 127.5 - 1 + 0.9])  # far out, and within
    low, high = values - 1 / 255, values + 1 / 255
    truth = law.logcdf(high) + np.log1p(-np.exp(law.logcdf(low) - law.logcdf(high)))
    nats = decoder(*(jnp.asarray(a) for a in (values, [0.3] * 2, [2 * np.log(0.02)] * 2)), 256)
    np.testing.assert_allclose(-np.asarray(nats), truth, rtol=1e-8)


def test_a_gaussian_has_no_distance_from_itself():
    log_variance = jnp.array([-3.0, 0.0, 2.0])
    np.testing.assert_array_equal(gaussian_kl(jnp.zeros(3), log_variance, log_variance), 0)


class Linear(nn.Module):
    """Twice the channels of x, from a vector each."""

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        mean = self.param("mean", nn.initializers.normal(), (x.shape[-1],), float)
        v = self.param("v", nn.initializers.normal(), (x.shape[-1],), float)
        return jnp.concatenate([mean[None] * x, jnp.broadcast_to(v[None], x.shape)], axis=-1)


def of(network, sde=None, law=LAW, **options):
    model = Model(network, sde or DDPM(), parametrization.eps(LABEL))
    made = hybrid(model, Labels(1), time_law=law, weighting=weighting.simple(), **options)
    return model, made


def test_the_two_parts_train_two_halves():
    """L_simple moves the mean alone and is what `denoising` minimises; the bound moves v alone."""
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, size=(64, 3)))
    batch = {"x": x, "cond": Labels(1).encode({"label": np.zeros(64, np.int32)})}
    model, alone = of(Linear(), bound_weight=0.0)
    params = model.init(jax.random.key(0), x)

    def gradient(objective):
        def loss(params):
            return objective.losses(params, jax.random.key(1), batch, Training()).value.mean()

        return jax.jit(jax.grad(loss))(params)

    simple, both = gradient(alone), gradient(of(Linear())[1])
    assert np.abs(simple["mean"]).min() > 0
    np.testing.assert_array_equal(simple["v"], 0)
    np.testing.assert_allclose(both["mean"], simple["mean"], rtol=1e-12)
    assert np.abs(both["v"]).min() > 0


def test_the_weight_of_the_bound_is_that_of_all_its_terms():
    """lambda times 1,000 steps times bits a dimension; lambda 1/1000 adds one term, as the public
    code does."""
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, size=(8, 3)))
    batch = {"x": x, "cond": Labels(1).encode({"label": np.zeros(8, np.int32)})}
    model, _ = of(Linear())
    params = model.init(jax.random.key(0), x)
    key = jax.random.key(2)
    with_, without = (
        of(Linear(), bound_weight=weight)[1].losses(params, key, batch, None)
        for weight in (1e-3, 0.0)
    )
    t = without.t
    z = jax.random.normal(jax.random.split(key, 3)[1], x.shape, x.dtype)
    x_t = model.sde.noised(x, z, t)
    v = jnp.broadcast_to(params["v"][None], x.shape)
    nats = bound_terms(model, 1000, 256, x, t, model.denoiser(params)(x_t, t), v)
    np.testing.assert_allclose(
        with_.value - without.value, np.mean(nats, axis=1) / np.log(2), rtol=1e-9
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sde": VP()}, "has no num_steps; a variance is learnt on a chain"),
        ({"law": time_law.uniform()}, r"time_law must draw steps of the chain: grid_points"),
        ({"law": time_law.grid_points(500)}, r"time_law must draw steps of the chain"),
        ({"bound_weight": -1.0}, "bound_weight must be at least 0, not -1.0"),
        ({"drop_cond": 2.0}, "drop_cond=2.0 is not between 0 and 1"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        of(Linear(), **options)


def test_a_network_without_a_variance_is_refused():
    x = jnp.zeros((2, 3))
    objective = of(Fixed(np.zeros((2, 3))))[1]
    batch = {"x": x, "cond": Labels(1).encode({"label": np.zeros(2, np.int32)})}
    with pytest.raises(ValueError, match=r"3 channels for the 3 of the data, .*learn_variance"):
        objective.losses({}, jax.random.key(0), batch, Training())


class OfMixture(nn.Module):
    """eps of the exact D of a mixture, and the v that states the true variance of x_s given x_t, in
    one dimension; to v two parameters add a line in x from step 1 on."""

    sde: DDPM
    law: Mixture

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        line = self.param("line", nn.initializers.zeros, (2,), float)
        sde, count = self.sde, self.sde.num_steps
        t = noise / 999  # LABEL
        s = jnp.maximum(t - 1 / (count - 1), 0)
        a, b = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
        w, m, c = self.law.weights[None], self.law.means.T, self.law.covs[:, 0].T  # [1, k]
        whole = a**2 * c + b**2
        share = jax.nn.softmax(jnp.log(w) - (x - a * m) ** 2 / whole / 2 - jnp.log(whole) / 2)
        means, variances = m + a * c / whole * (x - a * m), c * b**2 / whole
        mean = jnp.sum(share * means, axis=1, keepdims=True)
        known = jnp.sum(share * (variances + means**2), axis=1, keepdims=True) - mean**2
        # Var(x_s | x_t) by Bayes' rule: x_s given x_t and x_0, and what is not known of x_0
        ratio, b_s = a / sde.alpha(s)[:, None], sde.sigma(s)[:, None]
        beta = b**2 - ratio**2 * b_s**2
        low, gain = beta * b_s**2 / b**2, sde.alpha(s)[:, None] * beta / b**2
        v = 2 * jnp.log((low + gain**2 * known) / low) / jnp.log(beta / low) - 1
        late = (t > 0)[:, None]
        v = jnp.where(late, v + line[0] + line[1] * x, 0)
        return jnp.concatenate([(x - a * mean) / b, v], axis=-1)


def test_the_objective_is_least_at_the_variance_of_a_mixture():
    """The slope of the whole loss in v is 0 where v is that of the posterior variance at each x_t;
    4 standard errors of 100,000 examples. It is far from 0 at another v."""
    law = Mixture(jnp.array([0.3, 0.7]), jnp.array([[-0.6], [0.4]]), jnp.array([[[0.02]], [[0.1]]]))
    sde, n = DDPM(num_steps=20, beta_max=10.0), 100_000
    _, made = of(OfMixture(sde, law), sde, time_law.grid_points(20), bound_weight=1.0)
    x = law.sample(jax.random.key(3), n)
    batch = {"x": x, "cond": Labels(1).encode({"label": np.zeros(n, np.int32)})}

    @jax.jit
    def slopes(line):
        def loss(line):
            return made.losses({"line": line}, jax.random.key(4), batch, None).value

        return jax.jacfwd(loss)(line)

    found, spread = slopes(jnp.zeros(2)), slopes(jnp.zeros(2)).std(axis=0) / np.sqrt(n)
    assert np.all(np.abs(found.mean(axis=0)) < 4 * spread)
    for line in ([0.2, 0.0], [-0.2, 0.0], [0.0, 0.3]):
        away = np.asarray(slopes(jnp.array(line)).mean(axis=0))
        assert away @ line > 5 * spread.max() * np.linalg.norm(line)


# Sampling with it


class OfNormal(nn.Module):
    """eps and v of N(0, variances) on a chain, whose E[x_0 | x_t] and Var(x_s | x_t) are those of
    joint Gaussians. Its noise condition is the step."""

    sde: DDPM
    variances: tuple[float, ...]

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        sde, last = self.sde, self.sde.num_steps - 1
        c, t, s = jnp.asarray(self.variances)[None], noise / last, (noise - 1) / last
        a, b, a_s, b_s = (f(u)[:, None] for u in (t, s) for f in (sde.alpha, sde.sigma))
        beta = b**2 - (a / a_s * b_s) ** 2
        of_t, of_s = a**2 * c + b**2, a_s**2 * c + b_s**2
        true = of_s - (a / a_s * of_s) ** 2 / of_t
        low = beta * b_s**2 / b**2
        v = 2 * jnp.log(true / low) / jnp.log(beta / low) - 1
        eps = b * x / of_t
        return jnp.concatenate([eps, jnp.broadcast_to(v, x.shape)], axis=-1)


@pytest.mark.parametrize("count", [3, 6, 21])
def test_sampling_with_the_best_v_is_exact_on_a_gaussian(count):
    """At any number of steps the law of samples is that of the data at the last time: nothing but
    rounding is off. With "small" and "large" the variances are wrong."""
    sde, variances = DDPM(num_steps=count, beta_max=2.5), (0.25, 0.9, 1e-3)
    data = Normal(jnp.zeros(3), jnp.asarray(variances))
    times = grids.uniform(sde, count - 1).astype(float)
    label = parametrization.time(count - 1.0)
    moments = Model(OfNormal(sde, variances), sde, parametrization.eps(label)).moments({})
    truth = np.asarray(data.noised(sde, times[-1]).variance)
    found = {}
    for variance in ("learned", "small", "large"):
        solver = solvers.ancestral(sde, variance=variance)
        law = law_after(solver, moments, times, data.noised(sde, times[0]))
        found[variance] = np.asarray(law.variance) / truth
    np.testing.assert_allclose(found["learned"], 1, rtol=0, atol=1e-12)
    assert found["small"][0] < 0.9
    assert found["large"][2] > 2


def test_a_respaced_path_is_that_of_the_public_code(terms):
    """Ten of 1,000 steps, without the noise, and the labels that the network was given."""
    sde = DDPM()
    times = grids.respaced(sde, 9, name="10")
    np.testing.assert_allclose(LABEL(sde, times), terms["labels"], rtol=1e-12)

    class Known(nn.Module):
        @nn.compact
        def __call__(self, x, noise, cond=None, train=False):
            return jnp.concatenate([jnp.tanh(x), jnp.sin(3 * x)], axis=-1)

    model = Model(Known(), sde, parametrization.eps(LABEL))

    def clipped(x_t, t, *s):
        found = model.moments({})(x_t, t, *s)
        return jnp.concatenate([jnp.clip(found[..., :2], -1, 1), found[..., 2:]], axis=-1)

    def quiet(t, s, shape):
        return jnp.zeros(shape)

    solver = solvers.ancestral(sde, variance="learned")
    step = jax.jit(lambda x, t, s: solver.step(quiet, clipped, x, t, s, ())[0])
    x = jnp.asarray(terms["path"][0])
    for i in range(9):
        x = step(x, times[i], times[i + 1])
        np.testing.assert_allclose(x, terms["path"][i + 1], rtol=1e-9)
    np.testing.assert_allclose(clipped(x, times[-1]), terms["path"][-1], rtol=1e-9)


def test_the_learned_variance_is_between_the_two(x64):
    """A network whose v is -1 samples as "small", and one whose v is 1 as "large"."""
    sde = DDPM(num_steps=20, beta_max=10.0)
    x = jax.random.normal(jax.random.key(0), (4, 3))
    times = grids.uniform(sde, 19)
    for v, name in ((-1.0, "small"), (1.0, "large")):
        output = np.concatenate([np.full((4, 3), 0.1), np.full((4, 3), v)], axis=-1)
        moments = Model(Fixed(output), sde, parametrization.x0(LABEL)).moments({})
        ours, truth = (
            sampling.sample(
                jax.random.key(1), solvers.ancestral(sde, variance=which), moments, x, times
            )
            for which in ("learned", name)
        )
        np.testing.assert_allclose(ours.x, truth.x, rtol=1e-9)
        assert (int(ours.nfe), int(truth.nfe)) == (19, 19)


class Wide(nn.Module):
    """Most of a program's work."""

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        return nn.Dense(2 * x.shape[-1], param_dtype=float)(nn.Dense(500, param_dtype=float)(x))


def test_the_variance_costs_no_second_evaluation():
    """The compiler makes one call of the network of the two that ask the same: the operations of a
    step are those of one."""
    sde = DDPM()
    x, times = jnp.ones((8, 100)), grids.uniform(sde, 3)
    model = Model(Wide(), sde, parametrization.eps(LABEL))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), x))

    def operations(variance):
        def draw(params, x):
            solver = solvers.ancestral(sde, variance=variance)
            return sampling.sample(jax.random.key(1), solver, model.moments(params), x, times).x

        return jax.jit(draw).lower(params, x).compile().cost_analysis()["flops"]

    assert operations("learned") < 1.3 * operations("small")
