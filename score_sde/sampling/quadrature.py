"""Expectations over noise and integrals over the log-SNR without chance, for x of one or two
dimensions: what estimates are held against."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.processes import SDE


class Rule(NamedTuple):
    """How finely.

    panels: of the log-SNR, equal parts with 10 Gauss-Legendre nodes each.
    points, width: of the trapezoid rule of each number of the noise, from -width to width. The
        integrand is smooth and vanishes at the ends, so the error falls exponentially with points.
    """

    panels: int = 40
    points: int = 160
    width: float = 9.0


FINE = Rule()


def over_noise(
    function: Callable[[Array, Array], Array], x: Float[Array, "b d"], rule: Rule
) -> Float[Array, " b"]:
    """E f(x, nu) over standard normal nu, with `f(x [n, d], nu [n, d]) -> [n]`.

    Raises:
      ValueError: x has more than two dimensions.
    """
    if x.ndim != 2 or x.shape[1] > 2:
        raise ValueError(f"quadrature is for x [b, 1] or [b, 2], not {x.shape}")
    line = np.linspace(-rule.width, rule.width, rule.points)
    nu = jnp.asarray([*itertools.product(line, repeat=x.shape[1])], x.dtype)
    share = jax.nn.softmax(-jnp.sum(nu**2, axis=1) / 2)

    def one(x):
        return jnp.sum(share * function(jnp.broadcast_to(x[None], nu.shape), nu))

    return jax.lax.map(one, x)


def over_log_snr(
    process: SDE, function: Callable[..., Array], x: Float[Array, "b d"], rule: Rule
) -> Float[Array, " b"]:
    """The integral of `E f(x, log_snr, nu)` over all log-SNRs of the process, with
    `f(x [n, d], log_snr [n], nu [n, d]) -> [n]`."""
    low, high = (process.log_snr(jnp.asarray(t, x.dtype)) for t in (process.t_max, process.t_min))
    nodes, weights = (a / 2 for a in np.polynomial.legendre.leggauss(10))
    places = (np.arange(rule.panels)[:, None] + nodes[None] + 0.5).ravel() / rule.panels
    shares = jnp.asarray(np.tile(weights, rule.panels) / rule.panels, x.dtype)

    def at(log_snr):
        def f(x, nu):
            return function(x, jnp.full(len(x), log_snr), nu)

        return over_noise(f, x, rule)

    found = jax.lax.map(at, low + (high - low) * jnp.asarray(places, x.dtype))
    return (high - low) * shares @ found
