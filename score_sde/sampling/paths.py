r"""Noise of a solver that is read off one Brownian path: a finer grid refines the same sample.

With SNR = (alpha/sigma)^2, a path is W(u) of the clock u = SNR^power, and the noise of a step is

    z = (W(u_s) - W(u_t)) / sqrt(|u_s - u_t|)

The reverse SDE of stochasticity tau is driven by such a path, with weights of one clock:

    x_0    d(x e^{tau^2 lambda}/sigma) = D d(e^{(1 + tau^2) lambda}) + dW(u),  u = SNR^(tau^2)
    eps    d(x/alpha) = (1 + tau^2) eps d(rho) + tau dW(u),                   u = rho^2 = 1/SNR

So with the clock of a solver, and D (or eps) held, two of its steps are one step. For tau = 1 the
first line is stochastic localisation, `dY = D du + dW(u)` of Y = alpha x/sigma^2 and u = SNR (El
Alaoui & Montanari 2022, arXiv:2109.11925).

The values come from a tree of bridges over log u, whose nodes know the space-time Levy area of
their interval too: H = 1/(u_s - u_t) int (W(u) - the chord) du (Foster, Lyons & Oberhauser 2020,
arXiv:1905.04005; Jelincic et al. 2024, arXiv:2405.06464). In log u a node of width w parts its
clock in the ratio 1 : e^{w/2} wherever it lies, so all its coefficients depend on its level alone,
and no digits are lost over any number of decades.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.processes import SDE
from score_sde.types import Key, Keys, Noise, between, expand, keys_of

__all__ = ["independent", "path"]  # what a config can name

# The tree is over log-SNR from -128 to 128; its leaves have width 2^-13.
_LEVELS = 21
_LEAVES = 2.0**13
_INFINITE = 80.0  # twice that of solvers/exponential.py: beyond, nothing depends on the log-SNR


def independent(sde: SDE) -> Callable[[Keys], Noise]:
    """Independent noise for each interval of a grid, the default. Another grid has other noise."""
    return Noise


def path(sde: SDE, power: float = 1.0) -> Callable[[Keys], BrownianPath]:
    """One Brownian path for each sample, by its own key: the same on any grid and in any batch.

    power: of the clock SNR^power. Every stochastic solver converges along every clock, with strong
        order 1, and solvers of one tau converge to the same sample. Two steps with D held are one
        by the solver's own clock: tau^2 for a solver in x_0 (`ancestral`, `dpmpp_sde`,
        `sa_solver`, `dpmpp_singlestep`: 1 by default), -1 for one in eps (`dpm_solver`). `sra1`
        and `shark` need theirs.

    Raises:
      ValueError: power is 0 or not finite, or the process is of tokens, whose draws are no path.
    """
    if not (math.isfinite(power) and power):
        raise ValueError(f"path: power must be a finite number other than 0, not {power}")
    if not hasattr(sde, "sigma"):
        raise ValueError(f"path: {sde} is of tokens, whose draws are no Brownian path")
    return lambda key: BrownianPath(key, sde, power)


class Mark(NamedTuple):
    """A place on a path. m: the log-SNR, with the sign of the power. w: W/sqrt(u). area: the
    integral of W up to u, over u^(3/2)."""

    m: Float[Array, "*b"]
    w: Float[Array, "b ..."]
    area: Float[Array, "b ..."]


class BrownianPath(NamedTuple):
    """`Noise` whose numbers come from one Brownian path W(u), u = SNR^power, for each example.

    key: for each example one, or one from which each gets its own. power: see `path`.

    Steps of less than 1e-4 in log-SNR see a path that is too smooth.
    """

    key: Keys
    sde: SDE
    power: float = 1.0

    def __call__(self, t: Array, s: Array, shape: tuple[int, ...]) -> Array:
        """z of the interval from t to s, times [] or [b]."""
        return self._over(t, s, shape)[0]

    def levy(self, t: Array, s: Array, shape: tuple[int, ...], power: float) -> tuple[Array, Array]:
        """As `Noise.levy`.

        Raises:
          ValueError: the path has another clock than the solver needs.
        """
        if not math.isclose(power, self.power):
            raise ValueError(
                f"the solver needs the Levy area of a path with power={power:g}, and this one has "
                f"power={self.power:g}: take path(power={power:g})"
            )
        return self._over(t, s, shape)

    def fold(self, number: int | Array) -> BrownianPath:
        """Another path, independent of this."""
        return self._replace(key=Noise(self.key).fold(number).key)

    def at(self, t: Array, s: Array) -> Noise:
        """Independent noise of one interval, for a solver that needs a key."""
        return Noise(self.key).at(t, s)

    def along(self, t: Array, s: Array) -> _Along:
        """As `Noise.along`: this path, whatever the interval."""
        return _Along(self, t, s)

    def _over(self, t: Array, s: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
        """z and the normalised area of an interval."""
        marks = self.marks(jnp.stack([t, s]), shape)
        return self.interval(*(jax.tree.map(operator.itemgetter(i), marks) for i in (0, 1)))

    def marks(self, times: Array, shape: tuple[int, ...]) -> Mark:
        """The places of times [k] or [k, b] on the paths of `shape`, k of them."""
        log_snr = jnp.clip(self.sde.log_snr(times), -_INFINITE, _INFINITE)
        m = log_snr if self.power > 0 else -log_snr
        keys, tables = keys_of(self.key, shape[0]), _tables(abs(self.power), m.dtype)

        def one(key, m):
            return jax.vmap(lambda m: _place(key, m, shape[1:], tables))(m)

        axis = 1 if m.ndim > 1 else None
        w, area = jax.vmap(one, in_axes=(0, axis), out_axes=1)(keys, m)
        return Mark(m, w, area)

    def interval(self, start: Mark, end: Mark) -> tuple[Array, Array]:
        """z and the normalised area of the interval between two places."""
        first, last = (start, end) if self.power > 0 else (end, start)
        span = abs(self.power) * (last.m - first.m)
        keep, rest = (expand(a, last.w) for a in (jnp.exp(-span), -jnp.expm1(-span)))
        rest = jnp.where(rest > 0, rest, 1.0)  # of an empty interval 0, and not NaN
        before = jnp.sqrt(keep) * first.w
        z = (last.w - before) / jnp.sqrt(rest)
        area = (last.area - keep**1.5 * first.area - rest * before) / rest**1.5
        # backwards in the clock W changes by -W, and the area against the chord is the same
        return math.copysign(1.0, self.power) * z, math.sqrt(12) * (area - z / 2)


class _Along(NamedTuple):
    """The path over an interval: as `types.Along`, with the weights of its own clock."""

    path: BrownianPath
    t: Array
    s: Array

    def place(self, left: Float[Array, " b"], shape: tuple[int, ...]) -> tuple[Array, Mark]:
        times = between(self.t, self.s, left)
        return times, jax.tree.map(operator.itemgetter(0), self.path.marks(times[None], shape))

    def change(self, place: tuple[Array, Mark], after: tuple[Array, Mark]) -> Array:
        (time, start), (until, end) = place, after
        return expand(jnp.sqrt(time - until), start.w) * self.path.interval(start, end)[0]


class _Tables(NamedTuple):
    """For each level what its nodes part: f, the share of the first half in the clock; keep,
    u_left/u_middle; rest = 1 - keep. width: of a leaf in log u."""

    f: Float[Array, " levels"]
    keep: Float[Array, " levels"]
    rest: Float[Array, " levels"]
    width: float


def _tables(power: float, dtype) -> _Tables:
    half = power * 128 / 2.0 ** np.arange(_LEVELS)
    keep = np.exp(-half)
    f, keep, rest = (jnp.asarray(a, dtype) for a in (keep / (1 + keep), keep, -np.expm1(-half)))
    return _Tables(f, keep, rest, power / _LEAVES)


def _place(
    key: Key, m: Float[Array, ""], shape: tuple[int, ...], tables: _Tables
) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """w and area of a `Mark`, of one path.

    It goes down the tree with z and the normalised area eta of the node's interval, both standard
    normal, and w and area at its left end.
    """
    scaled = m * _LEAVES  # exact, as is what follows: a power of 2
    number = jnp.floor(scaled)
    leaf = number.astype(jnp.int32) + 2 ** (_LEVELS - 1)
    # The last level parts the leaf at m, and goes right. Within a leaf the law of every place is
    # exact, but all its places have the same two draws.
    turns, span = 2 * leaf + 1, (scaled - number) * tables.width
    f = jnp.append(tables.f, jnp.expm1(span) / math.expm1(tables.width))
    keep, rest = jnp.append(tables.keep, jnp.exp(-span)), jnp.append(tables.rest, -jnp.expm1(-span))

    def drawn(node):
        pair = jax.random.normal(jax.random.fold_in(key, node), (2, *shape), m.dtype)
        return pair[0], pair[1]

    def descend(level, at):
        inner, left = at
        turn = turns >> (_LEVELS - level)
        first, second = _parted(inner, drawn((turn >> 1) + (1 << level)), f[level])
        middle = _onward(left, first, keep[level], rest[level])
        goes_right = functools.partial(jnp.where, turn % 2 == 1)
        return jax.tree.map(goes_right, (second, middle), (first, left))

    zero = jnp.zeros(shape, m.dtype)
    return jax.lax.fori_loop(0, _LEVELS + 1, descend, (drawn(0), (zero, zero)))[1]


def _parted(whole, draws, f):
    """z and eta of both parts of an interval, of shares f and g = 1 - f, given those of the whole
    and two standard normal numbers (Foster 2020, thm. 6.1.4, normalised: an orthogonal matrix)."""
    (z, eta), (x_1, x_2), g = whole, draws, 1 - f
    d, f_2, g_2 = jnp.sqrt(f**3 + g**3), jnp.sqrt(f), jnp.sqrt(g)
    three = math.sqrt(3)
    first = (
        f_2 * (z + three * g * eta) + g_2 * d * x_1,
        f * f_2 * eta + (g * g_2 * x_2 - three * f**2 * g_2 * x_1) / d,
    )
    second = (
        g_2 * (z - three * f * eta) - f_2 * d * x_1,
        g * g_2 * eta - (f * f_2 * x_2 + three * g**2 * f_2 * x_1) / d,
    )
    return first, second


def _onward(left, change, keep, rest):
    """w and area at the end of an interval, given those at its start, u_start/u_end = keep."""
    (w, area), (z, eta) = left, change
    before, size = jnp.sqrt(keep) * w, jnp.sqrt(rest)
    gained = rest * (before + size * (z / 2 + eta / math.sqrt(12)))
    return before + size * z, keep**1.5 * area + gained
