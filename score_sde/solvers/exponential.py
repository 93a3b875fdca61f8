r"""One step of nearly every solver: exact in its linear part, a prediction interpolated.

With rho = sigma/alpha and lambda = -ln rho, the probability-flow ODE from time t to s is the
integral of a *prediction* y over a clock m; nothing else is in it:

    x_s / scale_s = x_t / scale_t + \int y dm

    prediction   scale                  clock m               y = E[. | x]
    x0           sigma                  1/rho                 x_0
    eps          alpha                  rho                   z
    v            sqrt(alpha^2+sigma^2)  phi = arctan rho      cos(phi) z - sin(phi) x_0

A polynomial in a *variable* of choice goes through the values of y that are known, and is
integrated. Adams' methods, exponential integrators, and their Runge-Kutta and stochastic forms
differ in the prediction, the variable and the nodes alone (Lu et al. 2022, arXiv:2211.01095; Zhang
& Chen 2023, arXiv:2204.13902; Zhao et al. 2023, arXiv:2302.04867).

The reverse SDE of stochasticity tau, `dx = ode - tau^2 (g^2/2) score dt + tau g dw`, multiplies dm
by kappa = 1 + tau^2, and adds noise (Xue et al. 2023, arXiv:2309.05019, eq. 6 and prop. 4.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from score_sde.processes import SDE, finite_log_snr

# The coefficients are integrals of polynomials times exponentials over one step, by Gauss-Legendre
# quadrature. All terms have one sign, so no digits are lost however small the step. The quadrature
# is exact to float64's rounding up to (1 + tau^2) h = 22, more than any process here in one step.
_POINTS, _WEIGHTS = (a / 2 for a in np.polynomial.legendre.leggauss(24))
_POINTS = _POINTS + 0.5

# Beyond this lambda the denoiser is the mean of the data, or x itself, to float64's rounding. So
# an end of a process where alpha or sigma is 0 needs no exception.
_INFINITE = 40.0


class NoiseLevel(NamedTuple):
    """A time with its alpha, sigma and lambda = ln(alpha/sigma), all of one shape."""

    t: Array
    alpha: Array
    sigma: Array
    lam: Array


def noise_level(sde: SDE, t: Array) -> NoiseLevel:
    """The noise level at times t of any shape."""
    lam = jnp.clip(sde.log_snr(t) / 2, -_INFINITE, _INFINITE)
    return NoiseLevel(t, sde.alpha(t), sde.sigma(t), lam)


def noise_level_at(sde: SDE, lam: Array) -> NoiseLevel:
    """The noise level of a lambda of any shape."""
    t = sde.t_of_log_snr(2 * lam)
    return NoiseLevel(t, sde.alpha(t), sde.sigma(t), lam)


class Prediction(NamedTuple):
    """A row of the table above.

    y: `(x, x_0, alpha, sigma) -> y`, alpha and sigma broadcastable against x.
    scale, clock: functions of (alpha, sigma).
    rate: dm/dlambda as a function of lambda.
    log_gain: G = ln(alpha/scale) as a function of lambda. From lambda to lambda' the stochastic
        decay is e^{-(kappa - 1)(G' - G)}.
    """

    y: Callable[[Array, Array, Array, Array], Array]
    scale: Callable[[Array, Array], Array]
    clock: Callable[[Array, Array], Array]
    rate: Callable[[Array], Array]
    log_gain: Callable[[Array], Array]


def _v(x, x_0, alpha, sigma):
    norm2 = alpha**2 + sigma**2
    return (alpha * x - norm2 * x_0) / (sigma * jnp.sqrt(norm2))


PREDICTIONS = {
    "x0": Prediction(
        y=lambda x, x_0, alpha, sigma: x_0,
        scale=lambda alpha, sigma: sigma,
        clock=lambda alpha, sigma: alpha / sigma,
        rate=jnp.exp,
        log_gain=lambda lam: lam,
    ),
    "eps": Prediction(
        y=lambda x, x_0, alpha, sigma: (x - alpha * x_0) / sigma,
        scale=lambda alpha, sigma: alpha,
        clock=lambda alpha, sigma: sigma / alpha,
        rate=lambda lam: -jnp.exp(-lam),
        log_gain=jnp.zeros_like,
    ),
    "v": Prediction(
        y=_v,
        scale=jnp.hypot,
        clock=lambda alpha, sigma: jnp.arctan2(sigma, alpha),
        rate=lambda lam: -1 / (2 * jnp.cosh(lam)),
        log_gain=lambda lam: -jnp.log1p(jnp.exp(-2 * lam)) / 2,
    ),
}

VARIABLES = {  # (sde, lambda) -> the variable of the polynomials
    "log_rho": lambda sde, lam: lam,
    "rho": lambda sde, lam: jnp.exp(-lam),
    "t": lambda sde, lam: sde.t_of_log_snr(2 * lam),
    "index": None,  # nodes taken as equally spaced, as the published iPNDM and PNDM do
}

SLOPES = ("exact", "bh1", "bh2")

IN_X0 = (
    "take a solver in x_0, such as ddim, ancestral, dpmpp, unipc or sa_solver, or move that end of "
    "the process a little inwards"
)
"""The advice to a user whose solver cannot start where alpha is 0."""


class Interpolation(NamedTuple):
    """What a method interpolates, and how.

    prediction, variable: names in `PREDICTIONS` and `VARIABLES`.
    slope: the weight of a slope between two nodes: "exact", the integral; else h/2 times the B(h)
        of Zhao et al. 2023: "bh1", B = h dm/dlambda at the end; "bh2", B = the whole weight of the
        step, as printed for the second order of DPM-Solver++.
    """

    prediction: str = "x0"
    variable: str = "log_rho"
    slope: str = "exact"


class Nodes(NamedTuple):
    """Where y is known.

    lam: lambda of each node. known: False gives a node the weight 0. base: the node at the start
    of the step. It gets the rest of the whole weight, which has a closed form, so the weights of
    any order add up to it to rounding.
    """

    lam: Float[Array, " k"]
    known: Bool[Array, " k"] | Bool[np.ndarray, " k"]
    base: int | Int[Array, ""]


def at_start(start: NoiseLevel) -> Nodes:
    """The one node of a step of order 1."""
    return Nodes(start.lam[None], np.array([True]), 0)


Stochasticity = Callable[[Array, Array], Array]
"""`(lambda, lambda') -> g >= 0`: a step keeps e^-g times the noise that the ODE would leave at its
end, and draws the rest afresh. For constant tau, g = tau^2 (lambda' - lambda)."""


def tau(value: Array | float, s_min: float = 0.0, s_max: float = np.inf) -> Stochasticity | None:
    """The reverse SDE of constant tau where sigma/alpha is in [s_min, s_max], the ODE elsewhere."""
    check_range("tau", value)
    if _is_zero(value):
        return None

    def g(lam, lam_end):
        s = jnp.exp(-lam)
        return jnp.where((s_min <= s) & (s <= s_max), value**2 * (lam_end - lam), 0.0)

    return g


def eta(value: Array | float) -> Stochasticity | None:
    """That of DDIM: the part eta^2 (1 - e^{-2h}) of the variance is drawn afresh; 1 is tau = 1."""
    check_range("eta", value)
    if _is_zero(value):
        return None
    return lambda lam, lam_end: -jnp.log1p(value**2 * jnp.expm1(-2 * (lam_end - lam))) / 2


def fresh(gamma: Array | float) -> Stochasticity | None:
    """The part gamma^2 of the variance is drawn afresh, whatever the step; 1 is tau = infinity."""
    check_range("gamma", gamma, 1.0)
    if _is_zero(gamma):
        return None
    return lambda lam, lam_end: -jnp.log1p(-(gamma**2) * jnp.ones_like(lam)) / 2


def check_range(name: str, value: Array | float, most: float = np.inf) -> None:
    """Raises a ValueError if a Python number is negative or above `most`; leaves arrays alone."""
    if isinstance(value, int | float) and not 0 <= value <= most:
        wanted = "at least 0" if most == np.inf else f"from 0 to {most}"
        raise ValueError(f"{name} must be {wanted}, not {value}")


def _is_zero(value) -> bool:
    """Whether a Python number is 0. The stochastic form serves an array, which may be 0 as well."""
    return isinstance(value, int | float) and value == 0


def check(sde: SDE, method: Interpolation, noise: Stochasticity | None) -> None:
    """Tells mistakes when a solver is made, not when it first runs.

    Raises:
      ValueError: an unknown prediction, variable or slope, a stochastic v, or a solver in the noise
        for a process with alpha = 0 at t_max, where x_0 does not follow from the noise.
    """
    for name, known in (
        ("prediction", PREDICTIONS),
        ("variable", VARIABLES),
        ("slope", SLOPES),
    ):
        value = getattr(method, name)
        if value not in known:
            raise ValueError(f"unknown {name} {value!r}: one of {', '.join(known)}")
    if method.prediction == "eps":
        finite_log_snr(sde, sde.t_max, "a solver in the noise", IN_X0)
    if noise is not None and method.prediction == "v":
        raise ValueError("prediction 'v' has no stochastic form here: take 'x0' or 'eps'")


def check_ends(sde: SDE, user: str, instead: str = IN_X0) -> None:
    """Raises the ValueError of `finite_log_snr` where the log-SNR is infinite at either end."""
    for t in sde.t_max, sde.t_min:
        finite_log_snr(sde, t, user, instead)


class Step(NamedTuple):
    """The coefficients of `x_end = linear x_start + sum_j weights[j] y_j + noise z`."""

    linear: Float[Array, ""]
    weights: Float[Array, " k"]
    noise: Float[Array, ""]


def step(
    sde: SDE,
    method: Interpolation,
    start: NoiseLevel,
    end: NoiseLevel,
    nodes: Nodes,
    g: Float[Array, ""] | None = None,
) -> Step:
    """The coefficients of one step between two noise levels [], with stochasticity g, or None for
    the ODE."""
    prediction, variable = PREDICTIONS[method.prediction], VARIABLES[method.variable]
    h = end.lam - start.lam
    kappa = 1.0 if g is None else 1 + g / h
    linear, whole, noise = _first_order(method.prediction, start, end, kappa, g)
    scale = prediction.scale(end.alpha, end.sigma)

    points, weights = (jnp.asarray(a, h.dtype) for a in (_POINTS, _WEIGHTS))
    if variable is None:
        at, node_at = points, nodes.base - jnp.arange(len(nodes.lam), dtype=h.dtype)
        measure = whole * weights
    else:
        lam = start.lam + points * h
        at, node_at = variable(sde, lam), variable(sde, nodes.lam)
        measure = h * weights * kappa * scale * prediction.rate(lam)
        if g is not None:
            gain = prediction.log_gain(end.lam) - prediction.log_gain(lam)
            measure *= jnp.exp((1 - kappa) * gain)

    known = jnp.asarray(nodes.known)
    coefficients = _lagrange(at, node_at, known) @ measure
    if method.slope != "exact":
        bh2 = method.slope == "bh2"
        size = whole if bh2 else kappa * scale * h * prediction.rate(end.lam)
        from_base = nodes.lam - nodes.lam[nodes.base]
        distance = jnp.where(from_base == 0, 1.0, from_base)
        coefficients = jnp.where(jnp.sum(known) == 2, size * h / distance / 2, coefficients)
    others = jnp.where(known, coefficients, 0.0).at[nodes.base].set(0.0)
    return Step(linear, others.at[nodes.base].set(whole - jnp.sum(others)), noise)


def _first_order(prediction, start, end, kappa, g) -> tuple[Array, Array, Array]:
    """The factors of x, y and z for a y that is constant over the step.

    They hold at both ends of a process too, where alpha or sigma may be 0.
    """
    _, scale, clock, _, _ = PREDICTIONS[prediction]
    linear = scale(end.alpha, end.sigma) / scale(start.alpha, start.sigma)
    h = end.lam - start.lam
    if prediction == "x0":
        linear = linear if g is None else linear * jnp.exp(-g)
        noise = 0 * h if g is None else end.sigma * jnp.sqrt(-jnp.expm1(-2 * g))
        return linear, end.alpha - linear * start.alpha, noise
    time = clock(end.alpha, end.sigma) - clock(start.alpha, start.sigma)
    noise = 0 * h if g is None else end.sigma * jnp.sqrt(g / h * jnp.expm1(2 * h))
    return linear, kappa * scale(end.alpha, end.sigma) * time, noise


def _lagrange(at: Float[Array, " q"], nodes: Float[Array, " k"], known) -> Float[Array, "k q"]:
    """The Lagrange polynomials of the known nodes, at the points `at`; 0 for the other nodes."""
    k = len(nodes)
    pairs = known[:, None] & known[None, :] & ~np.eye(k, dtype=bool)
    distance = jnp.where(pairs, nodes[:, None] - nodes[None, :], 1.0)
    factors = (at[None, None, :] - nodes[None, :, None]) / distance[:, :, None]
    product = jnp.prod(jnp.where(pairs[:, :, None], factors, 1.0), axis=1)
    return jnp.where(known[:, None], product, 0.0)
