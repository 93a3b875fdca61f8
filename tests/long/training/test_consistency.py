"""Consistency models: their losses against exact laws and published formulas."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from score_sde.conditioning.labels import Labels
from score_sde.models import parametrization
from score_sde.models.flow_map import consistency
from score_sde.models.model import Model
from score_sde.processes import EDM, VP, Flow, exact, flow, jump
from score_sde.sampling import grids, sample
from score_sde.solvers import ddim, dpmpp, flow_map, heun, probability_flow
from score_sde.training import curricula, distances, time_law
from score_sde.training.consistency import Point, consistency_loss, neighbours
from score_sde.training.objective import Training
from score_sde.training.objectives.consistency_distillation import consistency_distillation
from score_sde.training.objectives.consistency_training import consistency_training
from score_sde.training.objectives.ect import earlier_time, ect
from score_sde.training.objectives.lcm import lcm
from score_sde.training.teacher import Teacher
from score_sde.training.teacher_steps import solve
from score_sde.types import Solver

pytestmark = pytest.mark.usefixtures("x64")

LABELS = Labels(3)
SQUARED = distances.squared()
VARIANCE = 0.25


class Net:
    """A function of `(params, x, noise, cond, rngs)` in the place of a network."""

    def __init__(self, function, numbers=()):
        self.function, self.numbers = function, numbers

    def apply(self, variables, x, noise, cond, train, rngs=None):
        return self.function(variables["params"], x, noise, cond, rngs)


def as_model(function, sde, numbers=()):
    """The model whose D is this function of `(params, x, t, cond, rngs)`."""
    return Model(Net(function, numbers), sde, parametrization.x0(lambda sde, t: t))


def teacher_of(denoiser):
    return Teacher(jax.tree_util.Partial(lambda cond: denoiser), {})


def karras(sde):
    return lambda n: grids.karras(sde, n)


def four_points():
    """x_0 and z [4, 1] with the exact second moments of N(0, 1/4) and N(0, 1), uncorrelated."""
    signs = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1.0]])
    return jnp.asarray(signs[:, :1] * math.sqrt(VARIANCE)), jnp.asarray(signs[:, 1:])


def gaussian_denoiser(x, t):
    return VARIANCE / (VARIANCE + t**2).reshape(-1, *[1] * (x.ndim - 1)) * x


# --- the fixed points -----------------------------------------------------------------------


def one_step_std(levels, point_before):
    """The standard deviation of one-step samples over the right one, of N(0, 1/4) on EDM's times,
    if the network is linear in x with a free gain at each time of the grid: the exact minimum of
    our loss at each time, given that of the time before."""
    sde = EDM()
    model = as_model(lambda gain, x, *_: gain * x, sde)
    times = grids.karras(sde, levels - 1)[::-1]
    x_0, z = four_points()

    def fit(before, ends):
        s, t = (jnp.full(4, end) for end in ends)
        x_t = sde.noised(x_0, z, t)
        points = Point(x_t, t), Point(point_before(sde, x_0, z, x_t, t, s), s)

        def loss(gain):
            found = consistency_loss(model, SQUARED, 0.0, gain, before, None, None, *points)
            return jnp.mean(found.value)

        zero = jnp.zeros(())
        return -jax.grad(loss)(zero) / jax.grad(jax.grad(loss))(zero), None

    gain, _ = jax.lax.scan(fit, jnp.zeros(()), (times[:-1], times[1:]))
    slope = float(jump(sde, jnp.ones((1, 1)), times[-1], times[0], gain * jnp.ones((1, 1)))[0, 0])
    return slope * math.sqrt((VARIANCE + 80.0**2) / (VARIANCE + 0.002**2))


def same_noise(sde, x_0, z, x_t, t, s):
    return sde.noised(x_0, z, s)


def by_heun(sde, x_0, z, x_t, t, s):
    key = jax.random.key(0)
    return solve(heun(sde), lambda given: gaussian_denoiser, key, x_t, jnp.stack([t, s]), None)


@pytest.mark.parametrize(("levels", "std"), [(11, 0.753), (18, 0.846), (151, 0.981), (1281, 0.998)])
def test_the_bias_of_consistency_training(levels, std):
    """The optimum is the slope prod (l + t s)/(l + t^2), which is that of distillation by Euler."""
    found = one_step_std(levels, same_noise)
    times = np.asarray(grids.karras(EDM(), levels - 1))
    t, s = times[:-1], times[1:]
    slope = np.prod((VARIANCE + t * s) / (VARIANCE + t**2))
    truth = slope * math.sqrt((VARIANCE + 80.0**2) / (VARIANCE + 0.002**2))
    assert found == pytest.approx(truth, rel=1e-9)
    assert found == pytest.approx(std, abs=5.1e-4)


@pytest.mark.parametrize(("levels", "std"), [(11, 1.175), (18, 1.055), (151, 1.0006)])
def test_the_bias_of_distillation_by_heun(levels, std):
    assert one_step_std(levels, by_heun) == pytest.approx(std, abs=10 ** -(len(str(std)) - 2) / 1.9)


def mixture():
    return exact.Mixture(
        jnp.array([0.3, 0.7]), jnp.array([[-1.0], [0.5]]), jnp.array([[[0.04]], [[0.1]]])
    )


def perturbed(law, sde):
    """The exact consistency model of a law, and two directions away from it."""
    end = law.flow_map(sde)

    def value(params, x, t, cond, rngs):
        away = (
            params[0] * jnp.sin(3 * x) + params[1] * jnp.exp(-((x - 0.5) ** 2)) / (1 + t)[:, None]
        )
        return end(x, t, jnp.full_like(t, sde.t_min)) + away

    return as_model(value, sde)


def exactly(law, sde):
    """A solver whose step is the flow of the law."""
    along = flow(sde, law.flow_map(sde))
    return Solver(lambda x, times: (), lambda noise, _, x, t, s, state: (along(x, t, s), state))


def by_diffrax(law, sde):
    return probability_flow(sde, rtol=1e-11, atol=1e-11, method="Dopri8")


def gaussian():
    return exact.Gaussian(jnp.array([0.2, -0.1]), jnp.array([[0.3, 0.1], [0.1, 0.2]]))


@pytest.mark.parametrize(
    ("law", "sde", "accurate"),
    [
        (mixture, VP(t_min=1e-3), exactly),
        (gaussian, Flow(t_min=1e-3), exactly),
        (gaussian, EDM(), by_diffrax),
    ],
)
def test_distillation_by_an_exact_step_has_no_gradient_at_the_exact_flow_map(law, sde, accurate):
    law = law()
    model = perturbed(law, sde)
    batch = {"x": law.sample(jax.random.key(0), 12), "cond": {}}

    def gradient(solver):
        objective = consistency_distillation(
            model,
            LABELS,
            time_law=time_law.log_snr_uniform(stratified=True),
            distance=SQUARED,
            solver=solver,
            grid=lambda n: grids.log_snr(sde, n),
            curriculum=curricula.fixed(12),
            teacher=teacher_of(law.denoiser(sde)),
        )

        def loss(params):
            return jnp.mean(objective.losses(params, jax.random.key(1), batch, Training()).value)

        return np.abs(jax.jit(jax.grad(loss))(jnp.zeros(2))).max()

    assert gradient(accurate(law, sde)) < 1e-8
    if accurate is by_diffrax:
        assert gradient(ddim(sde)) > 1e-4


@pytest.mark.parametrize("sde", [EDM(), Flow()], ids=repr)
def test_the_gradient_of_ect_vanishes_as_the_times_draw_together(sde):
    """At the exact flow map it is proportional to t - s, by quadrature over x_0 and z."""
    law = exact.Gaussian(jnp.zeros(1), VARIANCE * jnp.eye(1))
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    x_0, z = (a.reshape(-1, 1) for a in np.meshgrid(nodes * math.sqrt(VARIANCE), nodes))
    share = np.outer(weights, weights).ravel() / np.sum(weights) ** 2
    model = perturbed(law, sde)

    def gradient(stage, level):
        t = sde.t_of_log_snr(jnp.full(len(x_0), -2 * math.log(level)))
        s = earlier_time(sde, t, jnp.asarray(2.0 ** -(stage + 1)), 8.0, 1.0)
        points = [Point(sde.noised(*map(jnp.asarray, (x_0, z)), time), time) for time in (t, s)]

        def loss(params):
            found = consistency_loss(model, SQUARED, 1.0, params, params, None, None, *points)
            return jnp.sum(share * found.value)

        return jax.grad(loss)(jnp.zeros(2))

    for level in (0.2, 1.0):
        coarse, fine, finest = (np.asarray(gradient(stage, level)) for stage in (9, 10, 11))
        assert np.all(np.abs(coarse) > 1e-7)
        np.testing.assert_allclose(coarse / fine, 2, rtol=0.02)
        np.testing.assert_allclose(fine / finest, 2, rtol=0.01)


# --- public code ------------------------------------------------------------------------------


class Recording:
    """A network of fixed weights that keeps what it was called with, outside of compiled code."""

    def __init__(self):
        self.calls = []

    def __call__(self, params, x, noise, cond, rngs):
        self.calls.append((np.asarray(x), np.asarray(noise), cond, rngs))
        return self.of(np.asarray(params), np.asarray(x), np.asarray(noise), cond) + 0 * x

    @staticmethod
    def of(params, x, noise, cond):
        shift = 0.0 if not cond or "guidance" not in cond else 0.1 * np.asarray(cond["guidance"])
        angle = params * x + 0.3 * (noise + shift)[:, None]
        return np.sin(angle) + 0.2 * x[:, ::-1]


def numpy_end(params, x, t, cond=None):
    """f of Song et al. 2023 with their coefficients, s_d = .5 and e = .002."""
    c_skip, c_out = 0.25 / ((t - 0.002) ** 2 + 0.25), 0.5 * (t - 0.002) / np.sqrt(t**2 + 0.25)
    c_in = 1 / np.sqrt(t**2 + 0.25)
    output = Recording.of(params, c_in[:, None] * x, 1000 * 0.25 * np.log(t), cond)
    return c_skip[:, None] * x + c_out[:, None] * output


def openai_model(recording, numbers=()):
    c_noise = parametrization.quarter_log_sigma(scale=1000.0)
    return Model(Net(recording, numbers), EDM(), parametrization.consistency(c_noise))


def data(n=6, d=3):
    return jax.random.normal(jax.random.key(5), (n, d)) * 0.5


def recorded(objective, recording, params, training):
    """The losses, and (x_t, t), (x_s, s) as the network saw them: c_in x and 250 ln t undone."""
    batch = {"x": data(), "cond": {"label": jnp.array([0, 1, 2, 0, 1, 2], jnp.int32)}}
    loss = objective.losses(params, jax.random.key(2), batch, training)
    points = []
    for x, noise, *_ in recording.calls[-2:]:
        t = np.exp(noise / 250)
        points.append((x * np.sqrt(t**2 + 0.25)[:, None], t))
    return np.asarray(batch["x"]), np.asarray(loss.value), points


def neighbour(t, levels):
    """The time below t on the Karras grid of so many points, by the formula with rho 7."""
    ends = 80.0 ** (1 / 7), 0.002 ** (1 / 7)
    index = (t ** (1 / 7) - ends[0]) / (ends[1] - ends[0]) * (levels - 1)
    np.testing.assert_allclose(index, np.round(index), atol=1e-6)
    assert np.all((index > -1e-6) & (index < levels - 1 - 0.5))
    return (ends[0] + (np.round(index) + 1) / (levels - 1) * (ends[1] - ends[0])) ** 7


def numpy_heun(x, t, s):
    d = (x - gaussian_denoiser(x, t)) / t[:, None]
    there = x + d * (s - t)[:, None]
    end = (there - gaussian_denoiser(there, s)) / s[:, None]
    return x + (d + end) / 2 * (s - t)[:, None]


def test_training_is_that_of_openai():
    """jcm/losses.py and cm/karras_diffusion.py with the uniform weight and the square, and the
    improved loss of arXiv:2310.14189, eq. 5 and 6; at a target that is an average."""
    params, target = jnp.asarray(0.7), jnp.asarray(0.9)
    for improved in (False, True):
        recording = Recording()
        objective = consistency_training(
            openai_model(recording),
            LABELS,
            time_law=time_law.karras(),
            distance=distances.huber(0.03) if improved else SQUARED,
            curriculum=curricula.fixed(18, rate=0.9),
            grid=karras(EDM()),
            gap_power=float(improved),
        )
        x_0, loss, ((x_t, t), (x_s, s)) = recorded(
            objective, recording, params, Training(3, (target,))
        )
        z = (x_t - x_0) / t[:, None]
        np.testing.assert_allclose(s, neighbour(t, 18), rtol=1e-9)
        below = x_0 + z * s[:, None]
        np.testing.assert_allclose(x_s, below, rtol=1e-9)
        gap = numpy_end(0.7, x_t, t) - numpy_end(0.9, below, s)
        wanted = np.mean(gap**2, axis=1)
        if improved:
            c = 0.03 * math.sqrt(3)
            wanted = (np.sqrt(np.sum(gap**2, axis=1) + c**2) - c) / (t - s)
        np.testing.assert_allclose(loss, wanted, rtol=1e-7, atol=1e-12)
        # outside of training the target is the network itself
        x_0, loss, ((x_t, t), (x_s, s)) = recorded(objective, recording, params, None)
        same = np.mean((numpy_end(0.7, x_t, t) - numpy_end(0.7, x_s, s)) ** 2, axis=1)
        assert improved or np.allclose(loss, same, rtol=1e-7)


def test_distillation_is_that_of_openai():
    recording = Recording()
    objective = consistency_distillation(
        openai_model(recording),
        LABELS,
        time_law=time_law.karras(),
        distance=SQUARED,
        solver=heun(EDM()),
        curriculum=curricula.fixed(18),
        grid=karras(EDM()),
        teacher=teacher_of(gaussian_denoiser),
    )
    _, loss, ((x_t, t), (x_s, s)) = recorded(objective, recording, jnp.asarray(0.7), Training())
    np.testing.assert_allclose(s, neighbour(t, 18), rtol=1e-9)
    below = numpy_heun(x_t, t, s)
    np.testing.assert_allclose(x_s, below, rtol=1e-8)
    wanted = np.mean((numpy_end(0.7, x_t, t) - numpy_end(0.7, below, s)) ** 2, axis=1)
    np.testing.assert_allclose(loss, wanted, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("stage", [0, 2, 5])
def test_ect_is_that_of_its_authors(stage):
    """locuslab/ect, training/loss.py, whose network is EDM's D and whose flow ends at time 0."""
    recording, least = Recording(), 1e-9
    model = Model(
        Net(recording),
        EDM(t_min=least),
        parametrization.edm(parametrization.quarter_log_sigma(scale=1000.0)),
    )
    objective = ect(
        model,
        LABELS,
        time_law=time_law.log_normal(-1.1, 2.0),
        distance=distances.norm(),
        stage_length=10,
    )
    x_0, loss, ((x_t, t), (_, s)) = recorded(
        objective, recording, jnp.asarray(0.7), Training(10 * stage + 9)
    )
    r = np.maximum(t * (1 - (1 + 8 / (1 + np.exp(t))) / 2 ** (stage + 1)), 0)
    np.testing.assert_allclose(s, r, rtol=1e-7, atol=2 * least)
    z = (x_t - x_0) / t[:, None]
    assert {0: np.sum(r == 0) >= 3, 5: np.all(r > 0)}.get(stage, True)

    def denoised(x, t):
        output = Recording.of(0.7, x / np.sqrt(t**2 + 0.25)[:, None], 250 * np.log(t), None)
        c_skip, c_out = 0.25 / (t**2 + 0.25), 0.5 * t / np.sqrt(t**2 + 0.25)
        return c_skip[:, None] * x + c_out[:, None] * output

    x_r = x_0 + r[:, None] * z
    at_r = np.where(r[:, None] > 0, denoised(x_r, np.maximum(r, least)), x_0)
    wanted = np.sqrt(np.sum((denoised(x_t, t) - at_r) ** 2, axis=1)) / (t - r)
    np.testing.assert_allclose(loss, wanted, rtol=1e-5)
    last = objective.losses(jnp.asarray(0.7), jax.random.key(2), {"x": data(), "cond": {}}, None)
    assert np.all(np.isfinite(last.value))


def test_lcm_steps_far_along_the_guided_teacher():
    """The step of DDIM with c + (w - 1)(c - u), w as drawn, over three times of the grid."""
    recording = Recording()

    def of_cond(cond):  # a denoiser for each label, and another without one
        gain = (0.5 + 0.1 * cond["label"].astype(float))[:, None]
        return lambda x, t: gain * gaussian_denoiser(x, t)

    objective = lcm(
        openai_model(recording, ("guidance",)),
        LABELS,
        time_law=time_law.karras(),
        distance=distances.elementwise_huber(0.01),
        solver=ddim(EDM()),
        curriculum=curricula.fixed(30),
        grid=karras(EDM()),
        skip=3,
        weights=(2.0, 9.0),
        teacher=Teacher(jax.tree_util.Partial(of_cond), {}),
    )
    _, loss, ((x_t, t), (x_s, s)) = recorded(objective, recording, jnp.asarray(0.7), Training())
    conds = [call[2] for call in recording.calls[-2:]]
    w, label = np.asarray(conds[0]["guidance"]), np.array([0, 1, 2, 0, 1, 2])
    assert np.all((w >= 2) & (w < 9))
    assert len(set(w)) == 6
    np.testing.assert_array_equal(conds[1]["guidance"], w)
    grid = np.asarray(grids.karras(EDM(), 29))
    above = np.argmin(np.abs(grid[None] - t[:, None]), axis=1)
    np.testing.assert_allclose(s, grid[np.minimum(above + 3, 29)], rtol=1e-9)
    with_label, without = 0.5 + 0.1 * label, 0.4  # the label -1
    gain = without + w * (with_label - without)
    denoised = gain[:, None] * gaussian_denoiser(x_t, t)
    below = denoised + (s / t)[:, None] * (x_t - denoised)
    np.testing.assert_allclose(x_s, below, rtol=1e-8)
    gap = numpy_end(0.7, x_t, t, conds[0]) - numpy_end(0.7, below, s, conds[0])
    wanted = np.mean(np.sqrt(gap**2 + 0.01**2) - 0.01, axis=1)
    np.testing.assert_allclose(loss, wanted, rtol=1e-7, atol=1e-12)
    batch = {"x": data(), "cond": {"label": jnp.asarray(label, jnp.int32)}}
    objective.error_at(jnp.asarray(0.7), jax.random.key(0), batch, jnp.asarray(1.0))
    np.testing.assert_array_equal(recording.calls[-1][2]["guidance"], 2.0)


# --- curricula, times, steps, dropout ---------------------------------------------------------


def levels_at(curriculum, k):
    return curriculum.levels[int(curriculum.stage(jnp.asarray(k)))]


def test_the_progressive_curriculum():
    """Song et al. 2023: CIFAR-10's numbers by hand, and each step of a short one by the formula."""
    curriculum = curricula.progressive(800_000, 2, 150, 0.9)
    hand = {0: 2, 1: 3, 400_000: 107, 799_999: 151, 800_000: 151, 900_000: 151}
    assert {k: levels_at(curriculum, k) for k in hand} == hand
    assert curriculum.rates[0] == pytest.approx(0.9)
    assert curriculum.rates[-1] == pytest.approx(0.9 ** (2 / 151))
    (share,) = curriculum.targets
    assert float(share(jnp.asarray(0))) == pytest.approx(0.1)
    assert float(share(jnp.asarray(400_000))) == pytest.approx(1 - 0.9 ** (2 / 107), rel=1e-4)
    short = curricula.progressive(300, 3, 20, 0.9)
    for k in range(301):
        root = math.sqrt(k / 300 * (21**2 - 9) + 9)
        if abs(root - round(root)) > 1e-9:
            assert levels_at(short, k) == math.ceil(root - 1) + 1, k
    assert levels_at(short, 300) == 21


def test_the_doubling_curriculum():
    """Song & Dhariwal 2023: N doubles every 50,000 of CIFAR-10's 400,000 steps."""
    curriculum = curricula.doubling(400_000, 10, 1280)
    hand = {0: 11, 49_999: 11, 50_000: 21, 100_000: 41, 349_999: 641, 350_000: 1281, 500_000: 1281}
    assert {k: levels_at(curriculum, k) for k in hand} == hand
    assert curriculum.targets == ()
    odd = curricula.doubling(90, 10, 50)  # K' = floor(90 / (log2 5 + 1)) = 27
    assert [levels_at(odd, k) for k in (0, 26, 27, 54, 81, 90)] == [11, 11, 21, 41, 51, 51]


def test_steps_of_the_grid_are_drawn_as_published():
    """Equally often, or with the differences of erf of Song & Dhariwal 2023, eq. 10; and those of
    the stage of the present step."""
    sde, n = EDM(), 20_000
    curriculum = curricula.doubling(100, 5, 40)

    def shares(law, training, levels):
        draw = neighbours(curriculum, karras(sde), law, sde)
        t, s = draw(jax.random.key(0), n, jnp.float64, training)
        grid = np.asarray(grids.karras(sde, levels - 1))[::-1]
        index = np.searchsorted(grid, np.asarray(t) * (1 - 1e-12))
        np.testing.assert_array_equal(np.asarray(t), grid[index])
        np.testing.assert_array_equal(np.asarray(s), grid[index - 1])
        return grid, np.bincount(index, minlength=levels)[1:] / n

    equal = time_law.karras(stratified=True)
    for training, levels in ((Training(0), 6), (Training(30), 11), (None, 41)):
        _, found = shares(equal, training, levels)
        np.testing.assert_allclose(found, 1 / (levels - 1), atol=2 / n)
    grid, found = shares(time_law.log_normal(-1.1, 2.0, stratified=True), None, 41)
    part = np.diff(erf((np.log(grid) + 1.1) / (math.sqrt(2) * 2)))
    np.testing.assert_allclose(found, part / part.sum(), atol=2 / n)


def test_the_law_on_the_karras_grid():
    """Its quantiles are the grid, and its density is their slope."""
    sde, law = VP(t_min=1e-3), time_law.karras(rho=5.0)
    u = jnp.linspace(0, 1, 9)
    times = law.quantile(sde, u)
    np.testing.assert_allclose(times, grids.karras(sde, 8, rho=5.0)[::-1], rtol=1e-9)
    slope = jax.vmap(jax.grad(lambda u: law.quantile(sde, u)))(u)
    wanted = (sde.t_max - sde.t_min) / slope
    np.testing.assert_allclose(law.density(sde, times), wanted, rtol=1e-9)


@pytest.mark.parametrize("make", [heun, ddim, dpmpp])
def test_a_step_is_that_of_the_loop_for_each_example(make):
    sde = VP()
    x, gain = jax.random.normal(jax.random.key(0), (3, 2)), jnp.array([0.2, 0.5, 0.9])
    t, s = jnp.array([0.9, 0.5, 0.2]), jnp.array([0.6, 0.1, 0.19])

    def denoiser_of(gain):
        return lambda x, t: gain[:, None] * jnp.tanh(x) / (1 + t)

    found = solve(make(sde), denoiser_of, jax.random.key(1), x, jnp.stack([t, s]), gain)
    for i in range(3):
        one = slice(i, i + 1)
        times, denoiser = jnp.stack([t[i], s[i]]), denoiser_of(gain[one])
        alone = sample(jax.random.key(2), make(sde), denoiser, x[one], times).x
        np.testing.assert_allclose(found[one], alone, rtol=1e-12)


def every_objective(model):
    """One of each kind, of a model that reads the weight."""
    shared = {
        "time_law": time_law.karras(),
        "distance": SQUARED,
        "grid": karras(model.sde),
        "curriculum": curricula.fixed(8, 0.9),
    }
    guided = {"solver": ddim(model.sde), "teacher": teacher_of(gaussian_denoiser)}
    few = {name: shared[name] for name in ("time_law", "distance")}
    return {
        "training": consistency_training(model, LABELS, **shared),
        "distillation": consistency_distillation(model, LABELS, **shared, **guided),
        "ect": ect(model, LABELS, **few),
        "lcm": lcm(model, LABELS, **shared, **guided, skip=2),
    }


@pytest.mark.parametrize("name", ["training", "distillation", "ect", "lcm"])
def test_both_evaluations_have_one_dropout_mask(name):
    masks = []

    def masked(params, x, noise, cond, rngs):
        if rngs is not None:
            masks.append(np.asarray(jax.random.bernoulli(rngs["dropout"], 0.5, x.shape)))
        return x

    objective = every_objective(as_model(masked, EDM(), ("guidance",)))[name]
    batch = {"x": data(), "cond": {"label": jnp.zeros(6, jnp.int32)}}
    averages = () if name == "ect" else ({},)
    for seed in (0, 1):
        objective.losses({}, jax.random.key(seed), batch, Training(0, averages))
    np.testing.assert_array_equal(masks[0], masks[1])
    np.testing.assert_array_equal(masks[2], masks[3])
    assert np.any(masks[0] != masks[2])
    assert 0 < masks[0].mean() < 1
    objective.losses({}, jax.random.key(0), batch, None)
    assert len(masks) == 4  # two calls of each, and outside of training there is none


def test_no_gradient_goes_through_the_target():
    """The gradient at equal parameters is that of the later point alone."""
    model = as_model(lambda p, x, t, *_: jnp.sin(p * x + t[:, None]), EDM())
    x_0, z = four_points()
    points = [Point(x_0 + level * z, jnp.full(4, level)) for level in (1.0, 0.5)]

    def loss(params, target):
        found = consistency_loss(model, SQUARED, 1.0, params, target, None, None, *points)
        return jnp.mean(found.value)

    p = jnp.asarray(0.7)
    both = jax.grad(lambda p: loss(p, p))(p)
    size = 1e-5
    later = (loss(p + size, p) - loss(p - size, p)) / (2 * size)
    assert float(both) == pytest.approx(float(later), rel=1e-7)


# --- parametrization, samples -----------------------------------------------------------------


@pytest.mark.parametrize("sde", [EDM(), VP(t_min=1e-3)], ids=repr)
def test_the_parametrization_is_the_published_consistency_function(sde):
    """The jump to t_min has the coefficients of Song et al. 2023 in x/alpha, and is x there."""
    start = jnp.asarray(sde.t_min)
    e = float(sde.sigma(start) / sde.alpha(start))
    of = parametrization.consistency(lambda sde, t: t, sigma_data=0.4, t_min=e)
    model = Model(Net(lambda params, x, noise, *_: jnp.cos(x) + noise[:, None]), sde, of)
    t = jnp.linspace(sde.t_min, sde.t_max, 5)
    x = jax.random.normal(jax.random.key(0), (5, 2))
    found = consistency(sde, model.flow_map({}))(x, t)
    rho = (sde.sigma(t) / sde.alpha(t))[:, None]
    scaled = x / sde.alpha(t)[:, None]
    output = jnp.cos(scaled / jnp.sqrt(rho**2 + 0.16)) + t[:, None]
    wanted = 0.16 / ((rho - e) ** 2 + 0.16) * scaled
    wanted += 0.4 * (rho - e) / jnp.sqrt(rho**2 + 0.16) * output
    np.testing.assert_allclose(found / sde.alpha(start), wanted, rtol=1e-9)
    np.testing.assert_array_equal(found[0], x[0])
    # what F should be, in closed form, follows from the scales
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    c_skip, c_out, _ = of.scales(alpha, sigma)
    a, b = of.target(alpha, sigma)
    np.testing.assert_allclose(a * c_out, 1 - c_skip * alpha, rtol=1e-7, atol=1e-12)
    np.testing.assert_allclose(b * c_out, -c_skip * sigma, rtol=1e-9, atol=1e-12)


def test_samples_of_an_exact_consistency_model_have_the_law():
    """In one and in three steps with noise between, of a model that ignores where it is to go."""
    sde, law = EDM(), exact.Gaussian(jnp.zeros(1), VARIANCE * jnp.eye(1))
    end = law.flow_map(sde)
    model = as_model(lambda _, x, t, *__: end(x, t, jnp.full_like(t, sde.t_min)), sde)
    x = sde.prior_sample(jax.random.key(0), (40_000, 1), jnp.float64)
    for n in (1, 3):
        out = sample(
            jax.random.key(1), flow_map(sde, 1.0), model.flow_map({}), x, grids.karras(sde, n)
        )
        assert float(jnp.std(out.x)) == pytest.approx(0.5, rel=4 / math.sqrt(2 * 40_000))


# --- errors ---------------------------------------------------------------------------------


def test_mistakes_end_in_one_line():
    model = as_model(lambda _, x, *__: x, EDM())
    shared = {
        "time_law": time_law.karras(),
        "distance": SQUARED,
        "grid": karras(EDM()),
        "curriculum": curricula.fixed(8),
        "solver": heun(EDM()),
    }
    with pytest.raises(ValueError, match=r"solver asks for flow_map.*heun or ddim"):
        consistency_distillation(model, LABELS, **shared | {"solver": flow_map(EDM())})
    batch = {"x": data(), "cond": {"label": jnp.zeros(6, jnp.int32)}}
    without = consistency_distillation(model, LABELS, **shared)
    with pytest.raises(ValueError, match=r"set objective\.teacher"):
        without.losses({}, jax.random.key(0), batch, None)
    with pytest.raises(ValueError, match=r'net.numbers=\("guidance",\), or one weight'):
        lcm(model, LABELS, **shared)
    lcm(model, LABELS, **shared, weights=(3.0, 3.0))
    for wrong, message in (({"skip": 0}, "skip"), ({"weights": (3.0, 1.0)}, "weights")):
        with pytest.raises(ValueError, match=message):
            lcm(model, LABELS, **shared, **wrong)
    few = {name: shared[name] for name in ("time_law", "distance")}
    for wrong in ({"q": 1.0}, {"k": -1.0}, {"stages": 0}, {"stage_length": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            ect(model, LABELS, **few, **wrong)
    for make, wrong in (
        (curricula.fixed, {"levels": 1}),
        (curricula.fixed, {"rate": 1.0}),
        (curricula.progressive, {"length": 0}),
        (curricula.progressive, {"first": 5, "last": 4}),
        (curricula.doubling, {"first": 0}),
        (curricula.doubling, {"length": 3}),
        (time_law.karras, {"rho": 0.0}),
    ):
        with pytest.raises(ValueError, match=r"levels|rate|length|first|rho"):
            make(**wrong)
