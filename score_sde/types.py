"""The vocabulary: the few types that everything else makes, changes or uses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Shaped, UInt32
from jaxtyping import Key as Key_

Key = PRNGKeyArray | UInt32[Array, "2"]
"""A typed key (`jax.random.key`) or an old-style one (`jax.random.PRNGKey`)."""

Keys = Key | Key_[Array, " b"]
"""One key, or a typed one for each example."""

Cond = dict[str, Array]
"""What a conditional network reads besides x and the noise level, by name: any of
`{"label": int [b], "vector": float [b, d], "image": float [b, h, w, c], "context": float [b, m, d],
"context_mask": bool [b, m], "sizes": float [b, n]}`. A `Conditioner` makes it."""

PyTree = Any


class Column(NamedTuple):
    """A column of a table, as its training rows have it.

    categories: their names, in the order of the numbers that stand for them; none where the column
        has real numbers.
    values, scores: some numbers of the column, increasing, and the quantiles of the standard normal
        law at the shares of rows that are below them.
    mean, std: of its real numbers.
    """

    name: str
    categories: tuple[str, ...] = ()
    values: tuple[float, ...] = ()
    scores: tuple[float, ...] = ()
    mean: float = 0.0
    std: float = 1.0


class Feature(NamedTuple):
    """One part of an example, such as its image or its label: the shape, and how many values a
    number of it has, which are 0..values-1; None where it is a real number.

    text: whether it holds strings, such as captions. They stay on the host: a conditioner turns
        them into numbers (`Conditioner.read`).
    names: what each value stands for, if that is known; of the tokens of a text their bytes in
        UTF-8, each as the letter of its number.
    columns: what the numbers of a row of a table are, which has the shape [c].
    """

    shape: tuple[int, ...]
    values: int | None = None
    text: bool = False
    names: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()

    def abstract(self, *batch: int) -> jax.ShapeDtypeStruct:
        """The shape and dtype of an array of them, with the dimensions of a batch in front."""
        dtype = jnp.float32 if self.values is None else jnp.int32
        return jax.ShapeDtypeStruct((*batch, *self.shape), dtype)


class Levels(NamedTuple):
    """The values that numbers of x have before noise: `first + step i`, i from 0 to number - 1.
    Each stands for the cell around it that is `step` wide."""

    first: float
    step: float
    number: int


class Frozen(NamedTuple):
    """A trained network that others read and never change.

    module: of Flax. params: its parameters. digest: the SHA-256 of them. about: what else its
        folder says, by name.
    """

    module: Any
    params: PyTree
    digest: str
    about: dict[str, Any]


class Needs(NamedTuple):
    """A part of a model, such as a codec, that waits for frozen networks.

    folders: where they are: workdirs, or folders of published files. make: `(*Frozen) -> part`.
    """

    folders: tuple[str, ...]
    make: Callable[..., Any]


Grid = Float[Array, " n_plus_1"]
"""Decreasing times of a process, from t_max to t_min."""

Denoiser = Callable[[Array, Array], Array]
"""The central type, `(x_t [b, ...], t [] or [b]) -> E[x_0 | x_t] [b, ...]`, the posterior mean. The
result has the shape of x_t and at least its precision. For tokens x_t [b, l] it is the posterior
mean of one-hot vectors: probabilities [b, l, v]. For video x_t [b, frames, ...] t may be
[b, frames], a time for each frame."""

FlowMap = Callable[..., Array]
"""`(x_t [b, ...], t, s) -> D [b, ...]`, t and s [] or [b], the value for which one step of DDIM
from t to s, `x_s = alpha_s D + sigma_s (x_t - alpha_t D)/sigma_t`, ends on the probability-flow ODE
through x_t (`processes.jump`). D(x_t, t, t) is the denoiser, and `(x_t, t)` means that: a FlowMap
is a Denoiser too."""

Moments = Callable[..., Array]
"""A Denoiser that a network gives which has learnt the variance of a step too: `(x_t, t) -> D`, and
`(x_t, t, s) -> [D | l] [b, ..., 2 c]`, with l the log variance of x_s given x_t, of each number of
x [b, ..., c] (Nichol & Dhariwal 2021, arXiv:2102.09672, sec. 3.1)."""


Ends = Callable[..., Array]
"""A Denoiser between two data sets that knows the other end too: `(x_t, t) -> E[x_0 | x_t]`, and
`(x_t, t, s) -> [E[x_0 | x_t] | E[x_1 | x_t]] [b, ..., 2 c]`."""


class Noise(NamedTuple):
    """The noise of a solver: `noise(t, s, shape) -> z`, standard normal numbers [*shape] for the
    interval from t to s, of the dtype of t.

    Equal intervals get equal numbers, whatever the grid; different intervals get independent ones.
    With a key for each example, the numbers of an example depend on its own key alone. A solver
    that draws a second time for an interval draws from `noise.fold(1)`.
    """

    key: Keys

    def __call__(self, t: Array, s: Array, shape: tuple[int, ...]) -> Array:
        return normal(self.at(t, s).key, shape, t.dtype)

    def levy(self, t: Array, s: Array, shape: tuple[int, ...], power: float) -> tuple[Array, Array]:
        """z of the interval, and the space-time Levy area of its path, as standard normal numbers,
        independent of z: sqrt(12/(u_s - u_t)) H, with H the mean of W(u) - the chord over the clock
        u = SNR^power."""
        return self(t, s, shape), self.fold(1)(t, s, shape)

    def fold(self, number: int | Array) -> Noise:
        """Other noise, independent of this."""
        if not _each(self.key):
            return Noise(jax.random.fold_in(self.key, number))
        return Noise(jax.vmap(jax.random.fold_in, in_axes=(0, None))(self.key, number))

    def at(self, t: Array, s: Array) -> Noise:
        """The noise of one interval, for a solver that needs its key."""
        words = [jax.lax.bitcast_convert_type(a, jnp.uint32).reshape(-1) for a in (t, s)]
        noise = self
        for word in jnp.concatenate(words):
            noise = noise.fold(word)
        return noise

    def along(self, t: Array, s: Array) -> Along:
        """One path over an interval, for a solver that chooses its own steps there."""
        return Along(self.at(t, s).key, t, s)


class Along(NamedTuple):
    """One Brownian path over an interval of `Noise`, from t to s, in time: each example has its
    own, with as much variance as time passes."""

    key: Keys
    t: Array
    s: Array

    def place(self, left: Float[Array, " b"], shape: tuple[int, ...]) -> PyTree:
        """The place on each path where the part `left` of the way is left, arrays [b, ...]."""
        keys = keys_of(self.key, shape[0])
        unit = jax.vmap(lambda key, r: brownian(key, r, shape[1:]))(keys, left)
        return jnp.sqrt(self.t - self.s) * unit

    def change(self, place: PyTree, after: PyTree) -> Float[Array, "b ..."]:
        """That of the paths from one place to a later one."""
        return place - after


def brownian(key: Key, r: Float[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
    """W(r), r in [0, 1], of the one Brownian path of a key.

    A tree of bridges (Li et al. 2020, arXiv:2001.01328, alg. 3), whose leaves have width 2^-24. All
    r in a leaf have one value, so the rounding of r, which a bridge would magnify, rarely has an
    effect. It is the tree of `diffrax.VirtualBrownianTree` without its checks, which call the host.
    """

    def drawn(node):
        return jax.random.normal(jax.random.fold_in(key, node), shape, r.dtype)

    def descend(_, at):
        node, r, std, left, right = at
        middle = (left + right) / 2 + std * drawn(node)
        above = r >= 0.5
        left, right = jnp.where(above, middle, left), jnp.where(above, right, middle)
        r = 2 * r - above.astype(r.dtype)
        return 2 * node + above.astype(node.dtype), r, std * 0.5**0.5, left, right

    root = (jnp.uint32(1), r, jnp.asarray(0.5, r.dtype), jnp.zeros(shape, r.dtype), drawn(0))
    return jax.lax.fori_loop(0, 24, descend, root)[3]


def between(start: Float[Array, ""], end: Float[Array, ""], left: Float[Array, " b"]) -> Array:
    """Where the part `left` of the way is left: exactly `start` for 1 and `end` for 0."""
    return jnp.where(left < 1, end + left * (start - end), start)


def as_noise(key: Any) -> Any:
    """The noise of a key, or of keys; noise stays what it is (`sampling.paths`)."""
    return key if callable(key) else Noise(key)


def keys_of(key: Keys, n: int) -> Array:
    """A key for each of n examples: those given, or n made of one."""
    return key if _each(key) else jax.random.split(key, n)


def each_with(key: Keys, function: Callable[..., Array], *args: Any) -> Array:
    """`function(key, *args)` of one key; of keys for each example [b] its results with the examples
    behind the first axis, so that keys can be split: `first, second = each_with(key, split, 2)`."""
    if not _each(key):
        return function(key, *args)
    return jax.vmap(lambda key: function(key, *args), out_axes=1)(key)


def normal(key: Keys, shape: tuple[int, ...], dtype: Any) -> Array:
    """Standard normal numbers [*shape], with a key for each example [b, ...] or one for all."""
    return _drawn(key, shape, lambda key, shape: jax.random.normal(key, shape, dtype))


def uniform(key: Keys, shape: tuple[int, ...], dtype: Any) -> Array:
    """Numbers [*shape] from 0 to below 1, with a key for each example [b, ...] or one for all."""
    return _drawn(key, shape, lambda key, shape: jax.random.uniform(key, shape, dtype))


def categorical(key: Keys, probs: Float[Array, "b ... v"]) -> Array:
    """A value 0..v-1 of each law, int32 [b, ...], with a key for each example or one for all. The
    laws need not sum to 1.

    Values of small probability come as often as they should: with JAX's plain draws in float32 none
    below 1e-7 is right. Of what is no law, with a number that is negative or not finite, it is -2.
    """

    def draw(key, logits):
        return jax.random.categorical(key, logits, mode="high").astype(jnp.int32)

    logits, law = jnp.log(probs), jnp.all((probs >= 0) & jnp.isfinite(probs), axis=-1)
    drawn = jax.vmap(draw)(key, logits) if _each(key) else draw(key, logits)
    return jnp.where(law, drawn, -2)


def _drawn(key: Keys, shape: tuple[int, ...], draw: Callable[..., Array]) -> Array:
    if not _each(key):
        return draw(key, shape)
    return jax.vmap(lambda key: draw(key, shape[1:]))(key)


def _each(key: Keys) -> bool:
    """Whether there is a key for each example."""
    return bool(jnp.issubdtype(key.dtype, jax.dtypes.prng_key) and key.ndim)


class Solver(NamedTuple):
    """Pure functions that carry x from one time of a grid to the next.

    init: `(x [b, ...], times [n + 1]) -> state`. It sees the whole grid, so that a multistep method
        computes its coefficients once.
    step: `(noise: Noise, denoiser, x, t [], s [], state) -> (x, state)`, from t to the earlier s.
    nfe: `state -> int [] or [b]`, the network evaluations so far, if steps or samples differ in
        their number. None if not: `sample` counts the calls of the denoiser in a step.
    asks: what a step calls: a "denoiser", "moments" (`Moments`), "ends" (`Ends`), a "flow_map"
        (`FlowMap`), a "tilt" (`processes.Tilted`), or "probabilities", a denoiser of
        tokens.
    adaptive: whether the solver chooses its own steps within each interval of the grid. The inner
        times of a grid then say only where a trajectory is recorded.
    particles: how many neighbours in a batch are the particles of one sample. At the end each of
        them is such a sample; they are not independent.
    """

    init: Callable[[Array, Array], PyTree]
    step: Callable[..., tuple[Array, PyTree]]
    nfe: Callable[[PyTree], Array] | None = None
    adaptive: bool = False
    asks: str = "denoiser"
    particles: int = 1


class Factors(NamedTuple):
    """The change of one kernel W [*s, n, m], seen as matrices: `W + scale A B`. With a magnitude,
    each column of that has the magnitude for its norm.

    a: [*s, n, rank]. b: [*s, rank, m]. alpha: the scale times the rank. magnitude: [*s, m] or None.
    """

    a: Array
    b: Array
    alpha: float
    magnitude: Array | None = None


def as_pytree(function: Callable) -> jax.tree_util.Partial:
    """The function as a pytree of the parameters that it holds, if it is a `jax.tree_util.Partial`,
    or of nothing. As an argument of a compiled program it makes them arguments of that. (Partial
    of a Partial would hide them.)"""
    if isinstance(function, jax.tree_util.Partial):
        return function
    return jax.tree_util.Partial(function)


def as_tree(part: Any) -> Any:
    """The part of a model, as a pytree. One whose class JAX does not know has no frozen parameters,
    so it is one without leaves; it must be hashable."""
    if jax.tree_util.all_leaves([part]):
        jax.tree_util.register_static(type(part))
    return part


def counted(denoiser: Denoiser | FlowMap) -> tuple[Callable[..., Array], Callable[[], int]]:
    """The same function, which counts its calls while it is traced, and the count."""
    calls = 0

    def counting(x_t, *times):
        nonlocal calls
        calls += 1
        return denoiser(x_t, *times)

    return counting, lambda: calls


def expand(a: Shaped[Array, "*b"], x: Array) -> Array:
    """Adds axes to a coefficient, [], [b] or [b, frames], so that it multiplies x [b, ...]."""
    return a.reshape(a.shape + (1,) * (x.ndim - a.ndim)) if a.ndim else a


def real_dtype(x: Array) -> Any:
    """The dtype of schedules and states for an x of this dtype: float64 if x is, else float32."""
    return jnp.float64 if x.dtype == jnp.float64 else jnp.float32
