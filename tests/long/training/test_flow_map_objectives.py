"""The objectives of flow maps in continuous time have the exact flow map as their optimum."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from score_sde.conditioning.labels import Labels
from score_sde.models import parametrization
from score_sde.models.flow_map import slope, t_of_tau, tau, trig_flow, trig_slope
from score_sde.models.model import Model
from score_sde.nets.mlp import MLP
from score_sde.processes import EDM, VP, Flow, exact, flow
from score_sde.solvers import heun
from score_sde.training import distances, time_law, weighting
from score_sde.training.flow_maps import Draw, Guiding, drawing
from score_sde.training.objective import Training
from score_sde.training.objectives import (
    alpha_flow,
    ctm,
    improved_mean_flow,
    mean_flow,
    scm,
    terminal_velocity,
)
from score_sde.training.teacher import Teacher
from score_sde.training.teacher_steps import solve
from score_sde.types import Solver

pytestmark = pytest.mark.usefixtures("x64")

SDES = {"Flow": Flow(t_min=1e-3), "VP": VP(t_min=1e-3), "EDM": EDM(t_max=10.0)}
SIGMA_DATA = 0.7
N = 64


def gaussian():
    return exact.Gaussian(jnp.asarray([0.5, -1.0]), jnp.asarray([[0.6, 0.2], [0.2, 0.3]]))


def mixture():
    return exact.Mixture(
        jnp.asarray([0.3, 0.7]), jnp.asarray([[-1.0], [0.8]]), jnp.asarray([[[0.1]], [[0.3]]])
    )


NOTHING = {"phi": 0.0, "error": 0.0}


def tell_t(sde, t):
    return t


class Exact(nn.Module):
    """The network whose FlowMap is D + error cos(x_t) + phi bump, D exact. `noise` is t, and
    cond["jump"] is t - s."""

    sde: object
    scales: object
    flow_map: object
    numbers: tuple = ("jump",)

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        t, s = noise, noise - cond["jump"]
        c_skip, c_out, c_in = (
            c[:, None] for c in self.scales(self.sde.alpha(t), self.sde.sigma(t))
        )
        x_t = x / c_in
        phi, error = (self.param(a, nn.initializers.zeros, (), float) for a in ("phi", "error"))
        bump = jnp.sin(x_t + 0.5 * t[:, None]) + jnp.cos(0.7 * s)[:, None]
        value = self.flow_map(x_t, t, s) + error * jnp.cos(x_t) + phi * bump
        return (value - c_skip * x_t) / c_out


def model_of(sde, flow_map, name="edm"):
    make = {
        "edm": functools.partial(parametrization.edm, sigma_data=SIGMA_DATA),
        "flow": parametrization.flow,
    }[name]
    prediction = make(tell_t)
    return Model(Exact(sde, prediction.scales, flow_map), sde, prediction)


def times(sde, n=N, seed=1):
    """Two times of each example, equally spread in log-SNR; the first quarter has s = t."""
    law = time_law.log_snr_uniform()
    u = np.random.default_rng(seed).uniform(0.02, 0.98, (2, n))
    t, s = (law.quantile(sde, jnp.asarray(part)) for part in (u.max(0), u.min(0)))
    return t, jnp.where(jnp.arange(n) < n // 4, t, s)


def posterior_pairs(sde, law, x_t, t, noise):
    """x_0 and z of two examples for each x_t, equally far from their means given x_t: an average
    over both is one over the law given x_t, of all that is affine in them."""
    mean = law.denoiser(sde)(x_t, t)
    x_0 = jnp.concatenate([mean + noise, mean - noise])
    alpha, sigma = (jnp.tile(a, 2)[:, None] for a in (sde.alpha(t), sde.sigma(t)))
    return x_0, (jnp.tile(x_t, (2, 1)) - alpha * x_0) / sigma


def draw_of(sde, law, at_end=False):
    """Pairs of examples, the data and noise those of x_t, or of an x_s."""
    t, s = times(sde)
    key_x, key_noise, key_other = jax.random.split(jax.random.key(0), 3)
    size = law.sample(key_x, 1).shape[1]
    given = s if at_end else t
    x = sde.perturb(key_noise, law.sample(key_x, N), given)
    x_0, z = posterior_pairs(sde, law, x, given, jax.random.normal(key_other, (N, size)))
    x_t = sde.perturb(key_other, law.sample(key_x, N), t) if at_end else x
    t, s, x_t = jnp.tile(t, 2), jnp.tile(s, 2), jnp.tile(x_t, (2, 1))
    return Draw(x_0, z, x_t, t, s)


def of_mean_flow(model, law, params, draw):
    return mean_flow.residual(model, params, draw, draw.v)


def of_improved(model, law, params, draw):
    return improved_mean_flow.implied(model, params, draw) - draw.v


def of_end(model, law, params, draw):
    return terminal_velocity.residuals(model, params, params, draw)[0]


def of_flow_matching(model, law, params, draw):
    return terminal_velocity.residuals(model, params, params, draw)[1]


def of_limit(model, law, params, draw):
    return alpha_flow.residual(model, params, draw, draw.v, jnp.zeros(()))


def of_ctm(model, law, params, draw):
    """The teacher's steps are those of the exact flow."""
    sde, middle = model.sde, (draw.t + draw.s) / 2
    x_u = flow(sde, law.flow_map(sde))(draw.x_t, draw.t, middle)
    return ctm.residual(model, params, params, draw.x_t, draw.t, x_u, middle, draw.s)


def of_scm(model, law, params, draw):
    f, g = scm.tangent(model, params, draw.x_t, draw.t, draw.x_0, draw.z, SIGMA_DATA)
    return f - jax.lax.stop_gradient(f + g)


def of_distillation(model, law, params, draw):
    clean = law.denoiser(model.sde)(draw.x_t, draw.t)
    z = model.sde.eps(draw.x_t, draw.t, clean)
    return of_scm(model, law, params, draw._replace(x_0=clean, z=z))


OBJECTIVES = {
    "mean_flow": of_mean_flow,
    "improved_mean_flow": of_improved,
    "alpha_flow": of_limit,
    "terminal_velocity": of_end,
    "flow matching": of_flow_matching,
    "ctm": of_ctm,
    "scm": of_scm,
    "scm, distilled": of_distillation,
}


def slopes(name, sde, law):
    """The derivative by phi of the mean square, for the exact flow map and for another one."""
    whole = law.flow_map(sde)
    to_end = "scm" in name  # a network of one time: where the flow ends
    flow_map = (lambda x, t, s: whole(x, t, jnp.zeros_like(t))) if to_end else whole
    model, draw = model_of(sde, flow_map), draw_of(sde, law, at_end=name == "flow matching")

    @jax.jit
    def at(error):
        def square(phi):
            residual = OBJECTIVES[name](model, law, {"phi": phi, "error": error}, draw)
            return jnp.sum(residual**2)

        return jax.grad(square)(jnp.zeros(())) / len(draw.t)

    return float(at(0.0)), float(at(0.05))


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_exact_flow_map_is_stationary(name, sde):
    """Of a Gaussian with a full covariance: the derivative of the loss, averaged over the law of
    x_0 given x_t, is 0."""
    exactly, wrongly = slopes(name, sde, gaussian())
    assert abs(exactly) < 1e-8
    assert abs(wrongly) > 1e-4


@pytest.mark.parametrize("name", ["improved_mean_flow", "terminal_velocity", "scm"])
def test_the_exact_flow_map_of_a_mixture_is_stationary(name):
    exactly, wrongly = slopes(name, SDES["Flow"], mixture())
    assert abs(exactly) < 1e-8
    assert abs(wrongly) > 1e-4


def test_mean_flow_is_stationary_over_the_whole_posterior():
    """In one dimension, by Gauss-Hermite quadrature over the law of x_0 given x_t, which is a
    mixture too: no symmetry of pairs is used."""
    sde, law = SDES["Flow"], mixture()
    t, s = times(sde, 8)
    x_t = sde.perturb(jax.random.key(0), law.sample(jax.random.key(1), 8), t)
    nodes, weights = np.polynomial.hermite_e.hermegauss(7)
    alpha, sigma = (np.asarray(a)[:, None] for a in (sde.alpha(t), sde.sigma(t)))
    means, variances = np.asarray(law.means)[:, 0], np.asarray(law.covs)[:, 0, 0]
    of_x = alpha**2 * variances + sigma**2  # [8, 2], the variance of x_t in each component
    away = np.asarray(x_t) - alpha * means
    parts = np.asarray(law.weights) / np.sqrt(of_x) * np.exp(-(away**2) / (2 * of_x))
    parts /= parts.sum(1, keepdims=True)
    mean, std = means + alpha * variances / of_x * away, sigma * np.sqrt(variances / of_x)
    x_0 = mean[..., None] + std[..., None] * nodes  # [8, 2, 7]
    share = parts[..., None] * weights / weights.sum()
    z = (np.asarray(x_t)[..., None] - alpha[..., None] * x_0) / sigma[..., None]

    def all_of(a):
        return jnp.asarray(np.broadcast_to(a, x_0.shape).reshape(-1))

    points = (all_of(a)[:, None] for a in (x_0, z, np.asarray(x_t)[..., None]))
    draw = Draw(*points, *(all_of(np.asarray(a)[:, None, None]) for a in (t, s)))
    model = model_of(sde, law.flow_map(sde))

    @jax.jit
    def at(error):
        def square(phi):
            residual = of_mean_flow(model, law, {"phi": phi, "error": error}, draw)
            return jnp.sum(all_of(share)[:, None] * residual**2)

        return jax.grad(square)(jnp.zeros(()))

    assert abs(at(0.0)) < 1e-8
    assert abs(at(0.05)) > 1e-2


def test_a_step_of_an_alpha_flow_is_one_of_mean_flow_with_a_bias_of_order_one():
    """Its residual over k tends to that of mean flow: the difference falls as k does."""
    sde, law = SDES["VP"], gaussian()
    model, draw = model_of(sde, law.flow_map(sde)), draw_of(sde, law)
    params = {"phi": 0.05, "error": 0.0}
    limit = mean_flow.residual(model, params, draw, draw.v)

    @jax.jit
    def bias(k):
        return jnp.abs(alpha_flow.residual(model, params, draw, draw.v, k) - limit).mean()

    ratio = float(bias(jnp.asarray(2e-4)) / bias(jnp.asarray(1e-4)))
    assert ratio == pytest.approx(2, abs=0.02)
    assert bias(jnp.asarray(0.0)) < 1e-12
    whole = alpha_flow.residual(model, params, draw, draw.v, jnp.ones(()))
    plain = slope(model, params)(draw.x_t, draw.t, draw.s) - draw.v
    np.testing.assert_allclose(whole, plain, rtol=1e-10)  # flow matching


@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_half_a_step_of_an_alpha_flow_goes_along_the_line(sde):
    """At k = 1/2, with data and noise of x_t on one line, the target is half v and half U from the
    middle of the line, the point with the mean tau."""
    law = gaussian()
    model, draw = model_of(sde, law.flow_map(sde)), draw_of(sde, law)
    params = {"phi": 0.05, "error": 0.0}
    middle = t_of_tau(sde, (tau(sde, draw.t) + tau(sde, draw.s)) / 2)
    x_middle = sde.noised(draw.x_0, draw.z, middle)
    mean = slope(model, params)
    target = (draw.v + mean(x_middle, middle, draw.s)) / 2
    truth = (mean(draw.x_t, draw.t, draw.s) - target) * 2
    found = alpha_flow.residual(model, params, draw, draw.v, jnp.asarray(0.5))
    far = np.asarray(draw.t > draw.s)
    np.testing.assert_allclose(found[far], truth[far], rtol=1e-7, atol=1e-7)
    same = mean(draw.x_t, draw.t, draw.s) - draw.v
    np.testing.assert_allclose(found[~far], same[~far], rtol=1e-12)


def network(numbers=("jump",), classes=0):
    """A network with random weights, none of them 0, on the rectified flow."""
    net = MLP(features=(16, 16), embedding_dim=8, numbers=numbers, num_classes=classes)
    model = Model(net, Flow(), parametrization.flow(parametrization.time(scale=1.0)))
    cond = {"label": jnp.zeros(1, int)} if classes else None
    params = model.init(jax.random.key(0), jnp.zeros((1, 2)), cond)
    flat, unravel = ravel_pytree(params)
    random = jax.random.normal(jax.random.key(1), flat.shape, flat.dtype)
    return model, unravel(flat + 0.1 * random)


def drawn(n=12, classes=0, seed=3):
    rng = np.random.default_rng(seed)
    x_0, z = jnp.asarray(rng.normal(size=(2, n, 2)))
    u = rng.uniform(0.05, 0.95, (2, n))
    t, s = jnp.asarray(u.max(0)), jnp.asarray(np.where(np.arange(n) < 3, u.max(0), u.min(0)))
    cond = {"label": jnp.asarray(np.arange(n) % classes)} if classes else None
    lost = jnp.asarray(np.arange(n) % 4 == 0) if classes else None
    if classes:
        cond = {"label": jnp.where(lost, -1, cond["label"])}
    return Draw(x_0, z, Flow().noised(x_0, z, t), t, s, cond, lost)


@pytest.mark.parametrize(("weight", "mix"), [(1.0, 0.0), (3.0, 0.0), (2.0, 0.5)])
def test_mean_flow_is_that_of_the_public_code(weight, mix):
    """Gsunshine/meanflow, meanflow.py: the network reads t and t - r, v_g = omega v + (1 - omega -
    kappa) u_0 + kappa u_c and v where the label was dropped, tangents (v_g, 1, 0), the sum of the
    squares over (itself + eps)^p."""
    (model, params), draw = network(classes=4), drawn(classes=4)
    omega, kappa = weight * (1 - mix), mix

    def u_fn(x, t, r, label):
        cond = {"jump": t - r, "label": label}
        return model.net.apply({"params": params}, x, t, cond, False)

    v, label = draw.z - draw.x_0, draw.cond["label"]
    u_0 = u_fn(draw.x_t, draw.t, draw.t, jnp.full_like(label, -1))
    u_c = u_fn(draw.x_t, draw.t, draw.t, label)
    v_g = omega * v + (1 - omega - kappa) * u_0 + kappa * u_c
    v_g = jnp.where(draw.lost[:, None], v, v_g)
    of_times = functools.partial(u_fn, label=label)
    primals, tangents = (draw.x_t, draw.t, draw.s), (v_g, jnp.ones(12), jnp.zeros(12))
    u, change = jax.jvp(of_times, primals, tangents)
    square = jnp.sum((u - (v_g - (draw.t - draw.s)[:, None] * change)) ** 2, axis=1)
    theirs = square / (square + 0.01) ** 0.75

    guided = Guiding(weight, mix).velocity(model, Labels(4), params, draw)
    difference = mean_flow.residual(model, params, draw, guided)
    ours = distances.adaptive(power=0.75, constant=0.01)(difference)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_improved_mean_flow_is_that_of_the_public_code():
    """Lyy-iiis/imeanflow, imf.py, at a fixed weight w: V = u + (t - r) du/dt along the network's
    own v, against v_g = v + (1 - 1/w)(v_c - v_u). (Their tangent is conditional also where the
    label was dropped; those examples are left out.)"""
    (model, params), draw, weight = network(classes=4), drawn(classes=4), 2.5

    def u_fn(x, t, r, label):
        cond = {"jump": t - r, "label": label}
        return model.net.apply({"params": params}, x, t, cond, False)

    label = draw.cond["label"]
    v_u = u_fn(draw.x_t, draw.t, draw.t, jnp.full_like(label, -1))
    v_c = u_fn(draw.x_t, draw.t, draw.t, label)
    v_g = draw.z - draw.x_0 + (1 - 1 / weight) * (v_c - v_u)
    of_times = functools.partial(u_fn, label=label)
    primals, tangents = (draw.x_t, draw.t, draw.s), (v_c, jnp.ones(12), jnp.zeros(12))
    u, change = jax.jvp(of_times, primals, tangents)
    theirs = u + (draw.t - draw.s)[:, None] * change - v_g

    guided = Guiding(weight, 1 - 1 / weight).velocity(model, Labels(4), params, draw)
    ours = improved_mean_flow.implied(model, params, draw) - guided
    kept = ~np.asarray(draw.lost)
    np.testing.assert_allclose(ours[kept], theirs[kept], rtol=1e-5)


@pytest.mark.parametrize("ramp", [0.3, 1.0])
@pytest.mark.parametrize("sde", SDES.values(), ids=SDES)
def test_the_tangent_of_scm_is_that_of_the_public_code(sde, ramp):
    """NVlabs/FastGen, sCM.py: the network of TrigFlow made of a denoiser by its noise level, F =
    (cos x - D)/(sin sigma_data), and the tangents cos sin (dx/dt, 1)."""
    net = MLP(features=(16,), embedding_dim=8)
    c_noise = parametrization.quarter_log_sigma()
    model = Model(net, sde, parametrization.edm(c_noise, sigma_data=SIGMA_DATA))
    params = model.init(jax.random.key(0), jnp.zeros((1, 2)))
    flat, unravel = ravel_pytree(params)
    params = unravel(flat + 0.1 * jax.random.normal(jax.random.key(1), flat.shape, flat.dtype))
    t, _ = times(sde, 12)
    x_0, z = jax.random.normal(jax.random.key(2), (2, 12, 2))
    angle = jnp.arctan2(sde.sigma(t), sde.alpha(t) * SIGMA_DATA)[:, None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    x, dx = cos * x_0 + sin * SIGMA_DATA * z, cos * SIGMA_DATA * z - sin * x_0

    def trig(x, angle):
        t = sde.t_of_log_snr(-2 * jnp.log(jnp.tan(angle[:, 0]) * SIGMA_DATA))
        size = jnp.sqrt(sde.alpha(t) ** 2 + (sde.sigma(t) / SIGMA_DATA) ** 2)[:, None]
        value = model.denoiser(params)(x * size, t)
        return (jnp.cos(angle) * x - value) / (jnp.sin(angle) * SIGMA_DATA)

    f, change = jax.jvp(trig, (x, angle), (cos * sin * dx, cos * sin))
    theirs = -(cos**2) * (SIGMA_DATA * f - dx) - ramp * (cos * sin * x + SIGMA_DATA * change)

    x_t = sde.noised(x_0, z, t)
    ours = scm.tangent(model, params, x_t, t, x_0, z, SIGMA_DATA, ramp=ramp)
    np.testing.assert_allclose(ours[0], f, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours[1], theirs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours[0], -model.network(params, x_t, t), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["x0", "eps", "flow", "v"])
def test_trig_slope_is_that_of_the_flow_map(name):
    """F of a network is (cos x - D)/(sin sigma_data), whatever the network predicts."""
    sde, law = SDES["VP"], gaussian()
    prediction = getattr(parametrization, name)(tell_t)
    model = Model(Exact(sde, prediction.scales, law.flow_map(sde)), sde, prediction)
    t, s = times(sde)
    x_t = sde.perturb(jax.random.key(0), law.sample(jax.random.key(1), N), t)
    params = {"phi": 0.1, "error": 0.1}
    truth = trig_flow(sde, model.flow_map(params), SIGMA_DATA)(x_t, t, s)
    found = trig_slope(model, params, SIGMA_DATA)(x_t, t, s)
    np.testing.assert_allclose(found, truth, rtol=1e-7, atol=1e-9)


def test_the_bias_of_ctm_is_that_of_its_solver():
    """With Heun's steps of an exact teacher the exact flow map is off by their error: order 2."""
    sde, law = SDES["VP"], gaussian()
    whole = law.flow_map(sde)
    teacher, t, u, s = law.denoiser(sde), 0.6, 0.3, 0.1
    t, u, s = (jnp.full(16, a) for a in (t, u, s))
    x_t = sde.perturb(jax.random.key(0), law.sample(jax.random.key(1), 16), t)
    model, params = model_of(sde, whole), NOTHING

    def bias(steps):
        grid = t[None] + (u - t)[None] * jnp.linspace(0, 1, steps + 1)[:, None]
        x_u = solve(heun(sde), lambda cond: teacher, jax.random.key(2), x_t, grid, {})
        difference = ctm.residual(model, params, params, x_t, t, x_u, u, s)
        return float(jnp.abs(difference).mean())

    assert bias(8) / bias(16) == pytest.approx(4, rel=0.15)


def test_a_step_of_the_teacher_of_ctm_is_a_small_part_of_all_times():
    """Heun's method is wrong by as much as the data vary from sigma = 80 to 0.1 in one step. With
    18 levels its error is small, and falls with more."""
    sde, law = SDES["EDM"], gaussian()
    teacher = Teacher(jax.tree_util.Partial(lambda cond: law.denoiser(sde)), {})
    model = model_of(sde, law.flow_map(sde))
    batch = {"x": law.sample(jax.random.key(3), 2048), "cond": {}}
    parts = {"weighting": weighting.simple(), "distance": distances.squared(), "solver": heun(sde)}
    options = {"time_law": time_law.log_snr_uniform(), "teacher": teacher, "denoising_weight": 0.0}

    def error(levels):
        objective = ctm.ctm(model, Labels(1), levels=levels, **options, **parts)
        losses = jax.jit(functools.partial(objective.losses, training=None))
        return float(jnp.sqrt(jnp.mean(losses(NOTHING, jax.random.key(4), batch).value)))

    found = {levels: error(levels) for levels in (1, 18, 72)}
    size = math.sqrt(0.45)  # the root of the mean variance
    assert found[1] > 0.8 * size
    assert found[18] < 0.01 * size
    assert found[18] / found[72] > 16  # at least order 2, with steps a quarter as long


def test_a_step_of_no_length_leaves_x_where_it_is():
    """Two draws of t may round to one number. The other example takes its step as ever."""
    sde, law = SDES["EDM"], gaussian()
    denoiser = law.denoiser(sde)
    x_t = law.sample(jax.random.key(1), 2)
    grid = jnp.array([[1.0, 1.0], [1.0, 0.5]])
    found = solve(heun(sde), lambda cond: denoiser, jax.random.key(2), x_t, grid, {})
    alone = solve(heun(sde), lambda cond: denoiser, jax.random.key(2), x_t[1:], grid[:, 1:], {})
    assert jnp.array_equal(found[0], x_t[0])
    assert jnp.allclose(found[1], alone[0], rtol=1e-6)
    assert not jnp.allclose(found[1], x_t[1], atol=1e-3)


def test_solving_on_a_grid_of_each_example():
    """A solver that makes the exact steps leads where the flow leads, whatever the grids."""
    sde, law = SDES["EDM"], gaussian()
    exactly = flow(sde, law.flow_map(sde))
    solver = Solver(lambda x, times: (), lambda noise, d, x, t, s, state: (exactly(x, t, s), state))
    t, s = times(sde, 8)
    x_t = sde.perturb(jax.random.key(0), law.sample(jax.random.key(1), 8), t)
    grid = jnp.stack([t, (t + s) / 2, s])
    found = solve(solver, lambda cond: None, jax.random.key(2), x_t, grid, {})
    np.testing.assert_allclose(found, exactly(x_t, t, s), rtol=1e-12)


@pytest.mark.parametrize("training", [None, Training(20_000, (NOTHING,))], ids=["eval", "train"])
def test_distillation_from_an_exact_teacher_costs_nothing(training):
    """The losses themselves, with what they draw: 0 for the exact flow map, and not for another."""
    sde, law = SDES["VP"], gaussian()
    whole = law.flow_map(sde)
    exactly = flow(sde, whole)
    solver = Solver(lambda x, times: (), lambda noise, d, x, t, s, state: (exactly(x, t, s), state))
    teacher = Teacher(jax.tree_util.Partial(lambda cond: law.denoiser(sde)), {})
    end = model_of(sde, lambda x, t, s: whole(x, t, jnp.zeros_like(t)))
    options = {"time_law": time_law.log_snr_uniform(), "teacher": teacher}
    more = {"weighting": weighting.simple(), "distance": distances.squared(), "solver": solver}
    batch = {"x": law.sample(jax.random.key(3), 16), "cond": {}}
    for objective in (
        scm.scm(end, Labels(1), sigma_data=SIGMA_DATA, **options),
        ctm.ctm(model_of(sde, whole), Labels(1), denoising_weight=0.0, steps=2, **options, **more),
    ):
        losses = jax.jit(functools.partial(objective.losses, training=training))
        assert losses(NOTHING, jax.random.key(4), batch).value.max() < 1e-16
        wrong = {"phi": 0.0, "error": 0.1}
        assert losses(wrong, jax.random.key(4), batch).value.min() > 1e-12


def test_adaptive_weights_move_the_fixed_point():
    """Of errors 0 or 1, with the mean .2, in each of d dimensions. The power 1 settles where the
    binomial sum of its gradient is 0: .0025 in one dimension, .003 in two, .136 in sixteen. The
    square settles at the mean."""
    for d, place in ((1, 0.00248), (2, 0.00279), (16, 0.13617)):
        count = np.arange(d + 1)
        share = np.array([math.comb(d, k) * 0.2**k * 0.8 ** (d - k) for k in count])
        values = jnp.asarray(count[:, None] > np.arange(d), float)

        def gradient(distance, at, share=share, values=values):
            return jax.grad(lambda m: jnp.sum(share * distance(m - values)))(at)

        weighed = distances.adaptive(power=1.0, constant=0.01)
        assert gradient(weighed, place * 0.99) < 0 < gradient(weighed, place * 1.01)
        assert abs(gradient(distances.squared(), 0.2)) < 1e-12


def test_lost_conditions_and_equal_times_are_independent():
    """Each by its probability, and both by the product, within four errors."""
    model, _ = network(classes=4)
    n, equal, lose = 20_000, 0.3, 0.2
    law = time_law.logit_normal()
    draw = drawing(model, Labels(4), law, equal=equal, drop_cond=lose)
    batch = {"x": jnp.zeros((n, 2)), "cond": {"label": jnp.arange(n, dtype=jnp.int32) % 4}}
    found = draw(jax.random.key(0), batch, Training())
    lost, same = np.asarray(found.lost), np.asarray(found.t == found.s)
    for rate, share in ((lose, lost), (equal, same), (lose * equal, lost & same)):
        assert abs(share.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / n)
    np.testing.assert_array_equal(lost, np.asarray(found.cond["label"]) == -1)
    assert np.all(np.asarray(found.t >= found.s))
    evaluated = draw(jax.random.key(0), batch, None)
    assert evaluated.lost is None
    np.testing.assert_array_equal(evaluated.cond["label"], batch["cond"]["label"])


@pytest.mark.parametrize("mix", [0.0, 0.6])
def test_the_guided_velocity_has_the_guided_fixed_point(mix):
    """Where U_c = w v + (1 - w) U_0, v_g is U_c: here v is chosen so. Outside of the guided times,
    and without the condition, v_g is v."""
    (model, params), draw, w = network(classes=4), drawn(classes=4), 3.0
    velocity = slope(model, params, draw.cond)(draw.x_t, draw.t)
    other = slope(model, params, {"label": jnp.full(12, -1)})(draw.x_t, draw.t)
    v = (velocity - (1 - w) * other) / w
    draw = draw._replace(z=draw.x_0 + v)
    found = Guiding(w, mix, (0.2, 0.8)).velocity(model, Labels(4), params, draw)
    guided = np.asarray(~draw.lost & (draw.t > 0.2) & (draw.t < 0.8))
    assert 0 < guided.sum() < np.asarray(~draw.lost).sum()
    np.testing.assert_allclose(found[guided], velocity[guided], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[~guided], draw.v[~guided])


def test_k_of_an_alpha_flow_falls_from_one_to_zero():
    """1/(1 + e^(25 p)), p from -1/2 to 1/2; 0 and 1 within .005 and outside."""
    k = functools.partial(alpha_flow.share, start=100, end=200, sharpness=25.0, least=0.005)
    steps = jnp.asarray([0, 99, 100, 145, 150, 160, 172, 199, 500])
    between = [1 / (1 + math.exp(25 * p)) for p in (-0.05, 0.0, 0.1)]
    np.testing.assert_allclose(k(steps), [1, 1, 1, *between, 0, 0, 0], rtol=1e-5)


def test_the_warm_up_and_the_norm_of_scm():
    """The loss is the mean square of g/(|g| + c), with r = step/warmup; in evaluation r is 1."""
    net = MLP(features=(8,), embedding_dim=8)
    c_noise = parametrization.quarter_log_sigma()
    model = Model(net, EDM(t_max=10.0), parametrization.edm(c_noise, sigma_data=0.5))
    params = model.init(jax.random.key(0), jnp.zeros((1, 2)))
    options = {"time_law": time_law.log_normal(-1.0, 1.4), "warmup": 10, "constant": 0.3}
    objective = scm.scm(model, Labels(1), **options)
    batch = {"x": jax.random.normal(jax.random.key(1), (6, 2)), "cond": {}}

    losses = jax.jit(objective.losses, static_argnums=3)

    @jax.jit
    def truth(key, ramp):
        key_time, key_noise = jax.random.split(key)
        t = options["time_law"].sample(key_time, model.sde, 6, float)
        z = jax.random.normal(key_noise, (6, 2))
        x_t = model.sde.noised(batch["x"], z, t)
        _, g = scm.tangent(model, params, x_t, t, batch["x"], z, 0.5, ramp=ramp)
        norm = jnp.linalg.norm(g, axis=1)
        return (norm / (norm + 0.3)) ** 2 / 2

    key = jax.random.key(2)
    of_training = jax.random.split(key)[0]
    for given, training, ramp in (
        (key, None, 1.0),
        (of_training, Training(4), 0.4),
        (of_training, Training(70), 1.0),
    ):
        found = losses(params, key, batch, training).value
        np.testing.assert_allclose(found, truth(given, ramp), rtol=1e-6)


def test_mistakes():
    model, _ = network()
    one_time, _ = network(numbers=())
    options = {"time_law": time_law.uniform(), "distance": distances.squared()}
    with pytest.raises(ValueError, match=r"net.numbers=\(\"jump\",\)"):
        mean_flow.mean_flow(one_time, Labels(1), **options)
    with pytest.raises(ValueError, match="equal=2"):
        mean_flow.mean_flow(model, Labels(1), equal=2.0, **options)
    with pytest.raises(ValueError, match="drop_cond"):
        mean_flow.mean_flow(model, Labels(1), guidance=2.0, **options)
    with pytest.raises(ValueError, match="mix=1"):
        mean_flow.mean_flow(model, Labels(1), drop_cond=0.1, mix=1.0, **options)
    with pytest.raises(ValueError, match="below 1"):
        improved_mean_flow.improved_mean_flow(model, Labels(1), guidance=0.5, **options)
    with pytest.raises(ValueError, match="before end=5"):
        alpha_flow.alpha_flow(model, Labels(1), start=5, end=5, **options)
    with pytest.raises(ValueError, match="target_rate=1"):
        terminal_velocity.terminal_velocity(model, Labels(1), target_rate=1.0, **options)
    with pytest.raises(ValueError, match="warmup"):
        scm.scm(model, Labels(1), time_law=time_law.uniform(), warmup=0)
    with pytest.raises(ValueError, match="does not estimate its error"):
        scm.scm(model, Labels(1), time_law=time_law.uniform(), uncertain=True)
