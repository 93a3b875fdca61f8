"""The coefficients of one step: exact on polynomials, classical where steps are equal."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

from score_sde.processes import EDM, VP
from score_sde.solvers import exponential, multistep
from score_sde.solvers.exponential import Interpolation, Nodes, NoiseLevel, noise_level

SDE = EDM(t_min=1e-4, t_max=1e4)  # s = t
VALUES = {
    "log_rho": lambda lam: lam,
    "rho": lambda lam: np.exp(-lam),
    "t": lambda lam: np.exp(-lam),
}


def at(lam):
    return noise_level(SDE, jnp.exp(-jnp.asarray(lam)))


def coefficients(times, sde, order, *args, **options):
    """The coefficients of a multistep method on a grid."""
    solver = multistep.multistep(sde, order, *args, **options)
    return jax.jit(solver.init)(jnp.zeros((1, 1), times.dtype), times)[0]


@st.composite
def steps(draw):
    """A start, a step and up to three earlier nodes, all in lambda; a tau; the corrector's node."""
    h = draw(st.floats(0.01, 4.0))
    gaps = draw(st.lists(st.floats(0.05, 3.0), max_size=3))
    start = draw(st.floats(-3.0, 3.0))
    tau = draw(st.sampled_from([0.0, 0.5, 1.0]))
    nodes = start - np.cumsum([0.0, *(g * h for g in gaps)])
    if draw(st.booleans()):
        return start, h, np.array([start + h, *nodes]), 1, tau
    return start, h, nodes, 0, tau


@pytest.mark.parametrize("variable", VALUES)
@pytest.mark.parametrize("prediction", ["x0", "eps", "v"])
def test_polynomials_are_integrated_exactly(x64, prediction, variable):
    """sum_j c_j p(node_j) is the integral of p, by scipy's quadrature of the formulas written out,
    for every p of a degree below the number of nodes (degree 0: the partition of unity)."""

    @jax.jit
    def jitted(start, end, nodes, known, base, tau):
        g = None if prediction == "v" else tau**2 * (end - start)
        method = Interpolation(prediction, variable)
        return exponential.step(SDE, method, at(start), at(end), Nodes(nodes, known, base), g)

    @settings(max_examples=30, deadline=None, derandomize=True)
    @given(steps())
    def check(case):
        start, h, nodes, base, tau = case
        if prediction == "v":
            tau = 0.0
        end, kappa = start + h, 1 + tau**2
        size = max(len(nodes), 5)
        padded = np.pad(nodes, (0, size - len(nodes)), mode="edge")
        known = np.arange(size) < len(nodes)
        ours = jitted(start, end, jnp.asarray(padded), known, base, tau)
        weights = np.asarray(ours.weights)[: len(nodes)]
        assert not np.any(np.asarray(ours.weights)[len(nodes) :])
        sigma, value = np.exp(-end), VALUES[variable]

        def rate(lam):  # of x at the end, alpha = 1, by the prediction at lambda
            decay = kappa * np.exp(-(kappa - 1) * (end - lam))
            return {
                "x0": decay * sigma * np.exp(lam),
                "eps": -kappa * np.exp(-lam),
                "v": -np.hypot(1, sigma) * np.exp(-lam) / (1 + np.exp(-2 * lam)),
            }[prediction]

        middle, width = value(start + h / 2), abs(value(nodes[-1]) - value(nodes[0])) + 1e-3
        for degree in range(len(nodes)):

            def p(lam, degree=degree):
                return ((value(lam) - middle) / width) ** degree

            truth = integrate.quad(lambda lam: rate(lam) * p(lam), start, end, epsabs=0)[0]
            got = np.sum(weights * p(nodes))
            assert abs(got - truth) <= 1e-9 * np.sum(np.abs(weights * p(nodes)))

    check()


BASHFORTH = {
    1: [1.0],
    2: [3 / 2, -1 / 2],
    3: [23 / 12, -16 / 12, 5 / 12],
    4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
}
MOULTON = {
    1: [1 / 2, 1 / 2],
    2: [5 / 12, 8 / 12, -1 / 12],
    3: [9 / 24, 19 / 24, -5 / 24, 1 / 24],
    4: [251 / 720, 646 / 720, -264 / 720, 106 / 720, -19 / 720],
}


@pytest.mark.parametrize("variable", ["rho", "index"])
@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_equal_steps_have_the_classical_coefficients(x64, order, variable):
    """Adams and Bashforth (explicit), Adams and Moulton (implicit), dx~ = eps ds with s equal."""
    times = jnp.linspace(10.0, 1.0, 10)
    ours = coefficients(times, SDE, order, "eps", variable, corrector=order)
    np.testing.assert_allclose(ours.predict[5, :order], -np.array(BASHFORTH[order]), rtol=1e-10)
    np.testing.assert_allclose(ours.correct[5, : order + 1], -np.array(MOULTON[order]), rtol=1e-10)
    np.testing.assert_allclose(ours.linear, 1)


def test_orders_at_both_ends(x64):
    """The number of predictions in use: 1, 2, 3, ... at the start, ..., 2, 1 at the end."""
    times = jnp.geomspace(10.0, 0.1, 9)

    def used(**options):
        ours = coefficients(times, SDE, 3, **options)
        return np.sum(np.asarray(ours.predict) != 0, axis=1).tolist()

    assert used() == [1, 2, 3, 3, 3, 3, 3, 3]
    assert used(end_order=1) == [1, 2, 3, 3, 3, 3, 2, 1]
    assert used(end_order=2) == [1, 2, 3, 3, 3, 3, 3, 2]


@functools.partial(jax.jit, static_argnames=("prediction", "slope"))
def one_step(prediction, lam, h, nodes, slope="exact"):
    method = Interpolation(prediction, slope=slope)
    nodes = Nodes(nodes, np.ones(len(nodes), bool), 0)
    return exponential.step(SDE, method, at(lam), at(lam + h), nodes)


def test_phi_functions(x64):
    """DPM-Solver++(3M) on equal steps: what the printed algorithm lacks is the 2 in phi_3."""
    h, lam = 0.7, 0.3
    alpha = 1.0
    nodes = jnp.asarray([lam, lam - h, lam - 2 * h])
    ours = one_step("x0", lam, h, nodes)
    phi1 = -np.expm1(-h)  # int_0^h e^{-(h-u)} du, and with u/h, u^2/h^2:
    phi2 = (np.exp(-h) - 1 + h) / h
    phi3 = 1 - 2 * phi2 / h
    first, second = 3 / 2 * phi2 + phi3 / 2, phi2 / 2 + phi3 / 2
    truth = alpha * np.array([phi1 + first, -2 * phi2 - phi3, second])
    np.testing.assert_allclose(ours.weights, truth, rtol=1e-10)
    np.testing.assert_allclose(ours.linear, np.exp(-h), rtol=1e-12)


def test_slopes_in_print(x64):
    """bh1 and bh2 of UniPC, and the second order of DPM-Solver++ (eq. 17 of its paper)."""
    h, r, lam = 0.7, 0.6, 0.3
    nodes = jnp.asarray([lam, lam - r * h])
    for slope, size in (("bh1", h), ("bh2", -np.expm1(-h))):
        ours = one_step("x0", lam, h, nodes, slope)
        truth = [-np.expm1(-h) + size / (2 * r), -size / (2 * r)]
        np.testing.assert_allclose(ours.weights, truth, rtol=1e-10)
        ours = one_step("eps", lam, h, nodes, slope)
        size = np.exp(-lam - h) * (h if slope == "bh1" else np.expm1(h))
        whole = np.exp(-lam - h) * np.expm1(h)
        np.testing.assert_allclose(
            ours.weights, [-whole - size / (2 * r), size / (2 * r)], rtol=1e-10
        )


def test_a_thousand_small_steps_keep_their_digits_in_float32():
    """Against the same in float64: x_0-weights to 1e-5 of the step's whole weight."""
    for options in ({}, {"corrector": 3}, {"prediction": "eps", "variable": "rho"}):
        both = []
        for dtype in (jnp.float32, jnp.float64):
            with jax.enable_x64(True):
                times = jnp.geomspace(80.0, 0.002, 1001).astype(dtype)
                both.append(coefficients(times, EDM(), 3, **options))
        single, double = both
        assert single.predict.dtype == jnp.float32
        whole = np.abs(np.sum(np.asarray(double.predict), axis=1, keepdims=True))
        for a, b in ((single.predict, double.predict), (single.correct, double.correct)):
            # lambda is up to 6 with 24 bits: 4e-7 in a step of 0.01 is 4e-5 of it, twice
            assert np.max(np.abs(np.asarray(a) - np.asarray(b)) / whole) < 2e-4


def test_differentiable_in_the_times(x64):
    @jax.jit
    def total(times):
        ours = coefficients(times, VP(), 3, corrector=2, noise=exponential.tau(0.5))
        return jnp.sum(jnp.sin(3 * ours.predict)) + jnp.sum(ours.correct**2) + ours.noise[3]

    times = jnp.linspace(0.9, 0.1, 6)
    direction = jnp.asarray([0.0, 0.3, -0.2, 0.5, 0.1, -0.4])
    slope = jax.jvp(total, (times,), (direction,))[1]
    gradient = jax.jit(jax.grad(total))(times) @ direction
    numeric = (total(times + 1e-5 * direction) - total(times - 1e-5 * direction)) / 2e-5
    np.testing.assert_allclose(slope, numeric, rtol=1e-6)
    np.testing.assert_allclose(gradient, slope, rtol=1e-9)


def test_wrong_options_are_named():
    for options, message in (
        ({"order": 5}, r"order is 5: one of 1, 2, 3, 4"),
        ({"prediction": "x"}, r"unknown prediction 'x': one of x0, eps, v"),
        ({"variable": "sigma"}, r"unknown variable 'sigma': one of log_rho, rho, t, index"),
        ({"slope": "bh3"}, r"unknown slope 'bh3': one of exact, bh1, bh2"),
        ({"prediction": "v", "noise": exponential.tau(1.0)}, r"'v' has no stochastic form"),
        ({"start_order": 4}, r"start_order is 4: one of 1, 2, 3"),
    ):
        with pytest.raises(ValueError, match=message):
            multistep.multistep(VP(), **options)


def test_noise_levels_of_infinite_log_snr_are_finite():
    sde = EDM(t_min=0.0)
    clean = noise_level(sde, jnp.zeros(()))
    assert isinstance(clean, NoiseLevel)
    assert np.isfinite(clean.lam)
