"""Iterative Markovian fitting by networks: `python benchmarks/markovian_fitting.py`.

The table of docs/research/two_ends.md. In each round a new network learns the bridges of pairs by
`bridge_matching`, and `ancestral` draws the next pairs with it, from the same x_1 (Shi et al. 2023,
arXiv:2303.16852). The ends are N(0, 1) and N(0, 4), so `exact_bridge` knows the covariance of the
pairs after each round, and that of the Schroedinger bridge, to which they go.

`--from-both-ends` begins every other round at x_0 and not at x_1, as the paper does.

Two minutes of processor time.
"""

import functools

import command
import jax
import jax.numpy as jnp
import numpy as np
import optax

from score_sde import sampling, solvers
from score_sde.conditioning.nothing import Nothing
from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.nets.mlp import MLP
from score_sde.processes.exact_bridge import gaussian, markovian, schroedinger
from score_sde.processes.two_ends import Brownian
from score_sde.sampling import grids
from score_sde.training import time_law, weighting
from score_sde.training.objective import Training
from score_sde.training.objectives.bridge_matching import bridge_matching

SDE = Brownian(variance=1.0, t_min=1e-3)
MODEL = Model(
    MLP(features=(64, 64, 64), embedding_dim=16),
    SDE,
    parametrization.eps(parametrization.log_snr(0.25)),
)
OBJECTIVE = bridge_matching(
    MODEL, Nothing(), time_law=time_law.uniform(stratified=True), weighting=weighting.simple()
)
ZERO, ENDS = jnp.zeros(1), (jnp.eye(1), 4 * jnp.eye(1))
BATCH = 512


@functools.partial(jax.jit, static_argnums=3)
def learnt(key, x_0, x_1, steps):
    """The parameters of a network that has learnt the bridges between these pairs, [n, 1] each."""
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, steps))
    params = MODEL.init(key, x_0)

    def step(carry, i):
        params, state = carry
        key_step, key_choice = jax.random.split(jax.random.fold_in(key, i))
        chosen = jax.random.choice(key_choice, len(x_0), (BATCH,))
        batch = {"x": x_0[chosen], "cond": {"start": x_1[chosen]}}

        def loss(params):
            return jnp.mean(OBJECTIVE.losses(params, key_step, batch, Training()).value)

        update, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, update), state), None

    start = params, optimizer.init(params)
    return jax.lax.scan(step, start, jnp.arange(steps, dtype=jnp.int32))[0][0]


@jax.jit
def drawn(key, params, start):
    """The x_0 that the reverse SDE draws from each start."""
    times, solver = grids.uniform(SDE, 500), solvers.ancestral(SDE)
    return sampling.sample(key, solver, MODEL.denoiser(params), start, times, denoise=True).x


def rounds(count: int, n: int, steps: int, from_both_ends: bool) -> list[np.ndarray]:
    """The covariances of the pairs, [2, 2], independent at first."""
    key, key_0, key_1 = jax.random.split(jax.random.key(0), 3)
    x_0, x_1 = jax.random.normal(key_0, (n, 1)), 2 * jax.random.normal(key_1, (n, 1))
    found = [(x_0, x_1)]
    for i in range(count):
        key, key_train, key_draw = jax.random.split(key, 3)
        if from_both_ends and i % 2:  # a Brownian bridge is the same in both directions
            x_1 = drawn(key_draw, learnt(key_train, x_1, x_0, steps), x_0)
        else:
            x_0 = drawn(key_draw, learnt(key_train, x_0, x_1, steps), x_1)
        found.append((x_0, x_1))
    return [np.cov(np.asarray(jnp.concatenate(pair, axis=1)).T) for pair in found]


def exact(count: int) -> list[float]:
    """The covariances of x_0 and x_1 in closed form, and last that of the Schroedinger bridge."""
    pairs = gaussian((ZERO, ZERO), ENDS, jnp.zeros((1, 1)))
    crosses = [0.0]
    for _ in range(count):
        pairs = markovian(SDE, pairs)
        crosses.append(float(pairs.covs[0][0, 1]))
    return [*crosses, float(schroedinger(SDE, (ZERO, ZERO), ENDS).covs[0][0, 1])]


def main() -> None:
    """Prints a Markdown table."""
    parser = command.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--pairs", type=int, default=50_000)
    parser.add_argument("--steps", type=int, default=4000, help="of training, a round")
    parser.add_argument("--from-both-ends", action="store_true")
    options = command.parse(parser, rounds=1, pairs=1000, steps=10)
    found = rounds(options.rounds, options.pairs, options.steps, options.from_both_ends)
    *wanted, end = exact(options.rounds)
    print("| round | Cov(x_0, x_1) | closed form | Var x_0, 1 | Var x_1, 4 |\n" + "|---" * 5 + "|")
    for i, (cov, cross) in enumerate(zip(found, wanted, strict=True)):
        print(f"| {i} | {cov[0, 1]:.3f} | {cross:.3f} | {cov[0, 0]:.3f} | {cov[1, 1]:.3f} |")
    print(f"| Schroedinger bridge | | {end:.3f} | | |")


if __name__ == "__main__":
    main()
