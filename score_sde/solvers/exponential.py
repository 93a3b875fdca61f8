r"""One step of every solver here: the linear part exactly, a prediction by interpolation.

With s = sigma/alpha and lambda = -ln s, each *prediction* y is the velocity of a rescaled state in
a clock of its own, so that the probability-flow ODE is an integral with nothing else in it:

    x_s / scale_s = x_t / scale_t + \int y dm

    prediction   scale                  clock m              y = E[. | x]
    x0           sigma                  1/s                  x_0
    eps          alpha                  s                    z
    v            sqrt(alpha^2+sigma^2)  phi = arctan s       cos(phi) z - sin(phi) x_0

y is interpolated by Lagrange's polynomials through nodes where it is known, in a *variable* of
choice, and integrated. Adams' methods, exponential integrators and their Runge-Kutta and
stochastic forms differ in nothing else (Lu et al. 2022, arXiv:2211.01095; Zhang & Chen 2023,
arXiv:2204.13902; Zhao et al. 2023, arXiv:2302.04867).

The reverse SDE of stochasticity tau, `dx = ode - tau^2 (g^2/2) score dt + tau g dw`, multiplies the
rate by kappa = 1 + tau^2 (Xue et al. 2023, arXiv:2309.05019, eq. 6 and prop. 4.2).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from score_sde.processes import SDE, finite_log_snr

# The coefficients are integrals of polynomials times exponentials over one step, by Gauss and
# Legendre: all terms have one sign, so no digits are lost however small the step, and to float64's
# rounding up to (1 + tau^2) h of 22, more than the whole of any process here in one step.
_POINTS, _WEIGHTS = (a / 2 for a in np.polynomial.legendre.leggauss(24))
_POINTS = _POINTS + 0.5

# Beyond this lambda the denoiser is the mean of the data or x itself to float64's rounding; so the
# ends of a process where alpha or sigma is 0 are no exception.
_INFINITE = 40.0


class Level(NamedTuple):
    """A noise level: its time, alpha, sigma and lambda = ln(alpha/sigma), all of one shape."""

    t: Array
    alpha: Array
    sigma: Array
    lam: Array


def level(sde: SDE, t: Array) -> Level:
    """The level of times of any shape."""
    lam = jnp.clip(sde.log_snr(t) / 2, -_INFINITE, _INFINITE)
    return Level(t, sde.alpha(t), sde.sigma(t), lam)


def level_at(sde: SDE, lam: Array) -> Level:
    """The level of values of lambda of any shape."""
    t = sde.t_of_log_snr(2 * lam)
    return Level(t, sde.alpha(t), sde.sigma(t), lam)


class Prediction(NamedTuple):
    """What is interpolated (see above).

    y: `(x, x_0, alpha, sigma) -> y`, alpha and sigma broadcastable against x.
    scale, clock: functions of (alpha, sigma).
    rate: dm/dlambda as a function of lambda.
    log_gain: G = ln(alpha/scale) as a function of lambda, in which the stochastic decay is
        e^{-(kappa - 1)(G' - G)}.
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
"""What to do about a solver that cannot start where alpha is 0."""


Stochasticity = Callable[[Array, Array], Array]
"""`(lambda, lambda') -> g >= 0`: of the noise that the ODE would leave at the end of a step, the
part e^-g stays, and the rest is drawn afresh. For constant tau, g = tau^2 (lambda' - lambda)."""


def tau(value: Array | float, s_min: float = 0.0, s_max: float = np.inf) -> Stochasticity | None:
    """The reverse SDE of constant tau where sigma/alpha is in [s_min, s_max], the ODE elsewhere."""
    _check_range("tau", value)
    if _is_zero(value):
        return None

    def g(lam, lam_end):
        s = jnp.exp(-lam)
        return jnp.where((s_min <= s) & (s <= s_max), value**2 * (lam_end - lam), 0.0)

    return g


def eta(value: Array | float) -> Stochasticity | None:
    """DDIM's: the part eta^2 (1 - e^{-2h}) of the variance is drawn afresh; 1 is tau = 1."""
    _check_range("eta", value)
    if _is_zero(value):
        return None
    return lambda lam, lam_end: -jnp.log1p(value**2 * jnp.expm1(-2 * (lam_end - lam))) / 2


def fresh(gamma: Array | float) -> Stochasticity | None:
    """The part gamma^2 of the variance is drawn afresh, whatever the step; 1 is tau = infinity."""
    _check_range("gamma", gamma, 1.0)
    if _is_zero(gamma):
        return None
    return lambda lam, lam_end: -jnp.log1p(-(gamma**2) * jnp.ones_like(lam)) / 2


def _check_range(name: str, value: Array | float, most: float = np.inf) -> None:
    """Of a number that is known now. Raises ValueError if it is negative or above `most`."""
    if isinstance(value, int | float) and not 0 <= value <= most:
        wanted = "at least 0" if most == np.inf else f"from 0 to {most}"
        raise ValueError(f"{name} must be {wanted}, not {value}")


def _is_zero(value) -> bool:
    """Whether a number known now is 0; under `vmap` and `jit` the stochastic form serves 0 too."""
    return isinstance(value, int | float) and value == 0


def check(
    sde: SDE, prediction: str, variable: str, slope: str, noise: Stochasticity | None
) -> None:
    """Tells mistakes now, not when the solver first runs.

    Raises:
      ValueError: an unknown prediction, variable or slope, a stochastic v, or a solver in the noise
        for a process with alpha = 0 at t_max, where x_0 does not follow from the noise.
    """
    for what, name, known in (
        ("prediction", prediction, PREDICTIONS),
        ("variable", variable, VARIABLES),
        ("slope", slope, SLOPES),
    ):
        if name not in known:
            raise ValueError(f"unknown {what} {name!r}: one of {', '.join(known)}")
    if prediction == "eps":
        finite_log_snr(sde, sde.t_max, "a solver in the noise", IN_X0)
    if noise is not None and prediction == "v":
        raise ValueError("prediction 'v' has no stochastic form here: take 'x0' or 'eps'")


def check_ends(sde: SDE, user: str, instead: str = IN_X0) -> None:
    """Raises a ValueError where the log-SNR is infinite at an end of the process; as
    `finite_log_snr`."""
    for t in sde.t_max, sde.t_min:
        finite_log_snr(sde, t, user, instead)


class Step(NamedTuple):
    """`x_end = linear x_start + sum_j weights[j] y_j + noise z`."""

    linear: Float[Array, ""]
    weights: Float[Array, " k"]
    noise: Float[Array, ""]


def step(
    sde: SDE,
    prediction: str,
    variable: str,
    start: Level,
    end: Level,
    nodes: Float[Array, " k"],
    known: Bool[Array, " k"] | Bool[np.ndarray, " k"],
    base: int | Int[Array, ""],
    g: Float[Array, ""] | None = None,
    slope: str = "exact",
) -> Step:
    """The coefficients of one step.

    Args:
      start, end: the noise levels [].
      nodes: lambda where y is known; those of which `known` is False get the weight 0.
      base: the node that stands at the start (it has the rest of the whole weight, which is in
        closed form: the weights of any order add up to it to rounding).
      g: the step's stochasticity, or None for the ODE.
      slope: the weight of a slope between two nodes: "exact", or h/2 times the B(h) of Zhao et al.
        2023: "bh1", B = h dm/dlambda at the end; "bh2", B the whole weight, which the second order
        of DPM-Solver++ has in print.
    """
    space = PREDICTIONS[prediction]
    h = end.lam - start.lam
    scale = space.scale(end.alpha, end.sigma)
    # Written for both ends of a process, where alpha or sigma may be 0.
    linear = scale / space.scale(start.alpha, start.sigma)
    if prediction == "x0":
        keep = linear if g is None else linear * jnp.exp(-g)
        linear, whole = keep, end.alpha - keep * start.alpha
        noise = 0 * h if g is None else end.sigma * jnp.sqrt(-jnp.expm1(-2 * g))
        kappa = 1.0 if g is None else 1 + g / h
    else:
        kappa = 1.0 if g is None else 1 + g / h
        clock = space.clock(end.alpha, end.sigma) - space.clock(start.alpha, start.sigma)
        whole = kappa * scale * clock
        noise = 0 * h if g is None else end.sigma * jnp.sqrt(g / h * jnp.expm1(2 * h))

    points, weights = (jnp.asarray(a, h.dtype) for a in (_POINTS, _WEIGHTS))
    if VARIABLES[variable] is None:
        at, node_at = points, base - jnp.arange(len(nodes), dtype=h.dtype)
        measure = whole * weights
    else:
        lam = start.lam + points * h
        at, node_at = VARIABLES[variable](sde, lam), VARIABLES[variable](sde, nodes)
        measure = h * weights * kappa * scale * space.rate(lam)
        if g is not None:
            measure *= jnp.exp((1 - kappa) * (space.log_gain(end.lam) - space.log_gain(lam)))
    known = jnp.asarray(known)
    coefficients = _lagrange(at, node_at, known) @ measure
    if slope != "exact":
        size = whole if slope == "bh2" else kappa * scale * h * space.rate(end.lam)
        distance = jnp.where(nodes == nodes[base], 1.0, nodes - nodes[base])
        coefficients = jnp.where(jnp.sum(known) == 2, size * h / distance / 2, coefficients)
    others = jnp.where(known, coefficients, 0.0).at[base].set(0.0)
    return Step(linear, others.at[base].set(whole - jnp.sum(others)), noise)


def _lagrange(at: Float[Array, " q"], nodes: Float[Array, " k"], known) -> Float[Array, "k q"]:
    """Lagrange's polynomials of the known nodes at the points; 0 for nodes that are not known."""
    k = len(nodes)
    pairs = known[:, None] & known[None, :] & ~np.eye(k, dtype=bool)
    distance = jnp.where(pairs, nodes[:, None] - nodes[None, :], 1.0)
    factors = (at[None, None, :] - nodes[None, :, None]) / distance[:, :, None]
    product = jnp.prod(jnp.where(pairs[:, :, None], factors, 1.0), axis=1)
    return jnp.where(known[:, None], product, 0.0)
