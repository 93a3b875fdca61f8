"""Parallel-in-time sampling against the sequential sampler, and its counts against closed forms."""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from score_sde import sampling, solvers
from score_sde.processes import EDM, VP
from score_sde.sampling import grids, parallel
from score_sde.types import Solver, expand

SDE = VP(t_min=1e-3)
POINTS = 37  # a number that stands for the data's points wherever it is seen
BATCH = 4
SOLVERS = {  # name: (constructor, steps, evaluations a step)
    "ddim": (solvers.ddim, 30, 1),
    "dpmpp": (functools.partial(solvers.dpmpp, order=2), 30, 1),
    "heun": (solvers.heun, 15, 2),
    "ancestral": (solvers.ancestral, 30, 1),
    "predictor_corrector": (
        functools.partial(
            solvers.predictor_corrector, predictor="ancestral", corrector="annealed_langevin"
        ),
        15,
        2,
    ),
}


def denoise(x_t, t):
    """E[x_0 | x_t] for points on a spiral, each blurred by N(0, 0.2^2)."""
    radius = jnp.linspace(0.5, 1.5, POINTS, dtype=x_t.dtype)
    points = jnp.stack([radius * jnp.cos(6 * radius), radius * jnp.sin(6 * radius)], axis=1)
    alpha = SDE.alpha(jnp.broadcast_to(t, x_t.shape[:1]))[:, None, None]
    sigma = SDE.sigma(jnp.broadcast_to(t, x_t.shape[:1]))[:, None, None]
    difference = x_t[:, None] - alpha * points[None]  # [b, points, 2]
    variance = (0.2 * alpha) ** 2 + sigma**2
    posterior = points[None] + alpha * 0.2**2 / variance * difference
    share = jax.nn.softmax(-jnp.sum(difference**2, axis=2) / (2 * variance[:, :, 0]), axis=1)
    return jnp.sum(share[:, :, None] * posterior, axis=1)


def start(shape=(BATCH, 2)):
    return SDE.prior_sample(jax.random.key(0), shape)


def sequential(solver, steps, denoiser=denoise, x=None, **options):
    times = grids.log_snr(SDE, steps)
    return jax.jit(
        lambda x: sampling.sample(jax.random.key(1), solver, denoiser, x, times, **options)
    )(start() if x is None else x)


def in_parallel(solver, steps, denoiser=denoise, **options):
    """The compiled sampler, `(x, tolerance) -> Sample`."""
    times = grids.log_snr(SDE, steps)
    return jax.jit(
        lambda x, tolerance: parallel.sample(
            jax.random.key(1), solver, denoiser, x, times, tolerance=tolerance, **options
        )
    )


def error(a, b):
    """The largest RMS difference of a sample, relative to its RMS."""
    a, b = np.asarray(a), np.asarray(b)
    return np.sqrt(np.max(np.mean((a - b) ** 2, axis=1) / np.mean(b**2, axis=1)))


@pytest.mark.parametrize("name", SOLVERS)
def test_equals_the_sequential_sampler(x64, name):
    constructor, steps, calls = SOLVERS[name]
    truth = sequential(constructor(SDE), steps)
    assert truth.nfe == calls * steps
    run = in_parallel(constructor(SDE), steps, window=12)

    exact = run(start(), 0.0)
    assert error(exact.x, truth.x) < 1e-12
    assert exact.depth <= truth.nfe

    # An input that is off by the tolerance is not all: it changes the inputs after it, so the
    # sample may be off by some tolerances, but by no number that grows when they shrink.
    depths = []
    for tolerance in (1e-3, 1e-5):
        near = run(start(), tolerance)
        assert 0 < error(near.x, truth.x) < 10 * tolerance
        depths.append(int(near.depth))
    assert depths[0] < depths[1] < exact.depth
    assert depths[0] <= 0.7 * int(truth.nfe)


def test_speed_up(x64):
    truth = sequential(solvers.ddim(SDE), 100)
    run = in_parallel(solvers.ddim(SDE), 100, window=32)
    result = run(start(), 1e-3)
    assert result.depth <= 25
    assert result.nfe == 32 * result.depth
    assert error(result.x, truth.x) < 1e-2


def test_window_of_one_is_the_sequential_sampler(x64):
    truth = sequential(solvers.heun(SDE), 15)
    result = in_parallel(solvers.heun(SDE), 15, window=1)(start(), 0.0)
    assert error(result.x, truth.x) < 1e-12
    assert result.depth == truth.nfe
    assert result.nfe == 2 * result.depth  # both stages with every call, one of them final


def test_window_longer_than_the_grid_and_low_precision():
    """bfloat16 is carried in float32, as in the sequential sampler."""
    x = start().astype(jnp.bfloat16)
    truth = sequential(solvers.ddim(SDE), 5, x=x)
    result = in_parallel(solvers.ddim(SDE), 5, window=8)(x, 0.0)
    assert result.x.dtype == jnp.float32
    assert error(result.x, truth.x) < 1e-5
    assert result.depth <= 5


@pytest.mark.parametrize("name", ["ddim", "heun"])
def test_depth_where_it_is_known(x64, name):
    """A denoiser of zero is what the iteration starts from: a whole window is accepted with every
    call. Any other constant is known to the whole window, and to all that enters it, after the
    first call; that call is good for the first step if it is the only one of it."""
    constructor, steps, calls = SOLVERS[name]
    window = 4

    @jax.jit
    def constant(value):
        def denoiser(x_t, t):
            return jnp.full_like(x_t, value)

        return in_parallel(constructor(SDE), steps, denoiser, window=window)(start(), 1e-9)

    assert constant(0.0).depth == math.ceil(steps / window)
    assert constant(0.5).depth == 1 + math.ceil((steps - (calls == 1)) / window)
    # Nothing is ever close to NaN; the guarantee alone moves the window, and it ends.
    broken = constant(jnp.nan)
    assert broken.depth == calls * steps
    assert np.isnan(broken.x).all()


def test_no_step_is_accepted_unevaluated(x64):
    """Whatever the tolerance: steps so small that their inputs are alike are evaluated each."""
    run = in_parallel(solvers.ddim(SDE), 50, window=4)
    for tolerance in (0.3, 10.0):
        assert run(start(), tolerance).depth >= math.ceil(50 / 4)


def test_the_tolerance_is_relative(x64):
    """In other units of x the iteration is the same: to the last digit with a power of two."""

    def run(unit):
        sde = EDM(t_min=0.02 * unit, t_max=8.0 * unit)

        def denoiser(x_t, t):
            return unit * jnp.tanh(x_t / unit) * expand(1 / (1 + t / unit), x_t)

        x = sde.t_max * jax.random.normal(jax.random.key(0), (BATCH, 2))
        times, solver = grids.log_snr(sde, 30), solvers.ddim(sde)
        out = parallel.sample(
            jax.random.key(1), solver, denoiser, x, times, window=8, tolerance=1e-3
        )
        return out.x / unit, out.depth

    (small, few), (large, many) = jax.jit(lambda: [run(unit) for unit in (1.0, 64.0)])()
    assert few == many
    np.testing.assert_allclose(large, small, rtol=1e-9)


def test_every_sample_is_within_the_tolerance(x64):
    """One that moves among many that do not: as many calls as of that one alone."""
    n, solver = 64, solvers.ddim(SDE)

    def one_moves(x_t, t):
        return jnp.where(jnp.arange(len(x_t))[:, None] == 0, denoise(x_t, t), 0.5)

    x = start((n, 2))
    together = in_parallel(solver, 30, one_moves, window=8)(x, 1e-3)
    alone = in_parallel(solver, 30, one_moves, window=8)(x[:1], 1e-3)
    assert together.depth == alone.depth
    truth = sequential(solver, 30, one_moves, x)
    assert error(together.x, truth.x) < 1e-2


def bounded(solver):
    """The solver, which past the end of its grid gives NaN."""

    def init(x, times):
        return len(times) - 1 - jnp.zeros((), jnp.int32), solver.init(x, times)

    def step(noise, denoiser, x, t, s, state):
        left, state = state
        x, state = solver.step(noise, denoiser, x, t, s, state)
        return jnp.where(left > 0, x, jnp.nan), (left - 1, state)

    return Solver(init, step)


def test_counts_are_what_the_denoiser_saw():
    """And it is never shown what is not finite, as this solver's x is past the end of the grid."""
    seen = []

    def spy(x_t, t):
        def look(x_t, t):
            seen.append((x_t.shape, t.shape, bool(np.isfinite(x_t).all())))
            return np.asarray(x_t)

        same = jax.ShapeDtypeStruct(x_t.shape, x_t.dtype)
        return denoise(jax.pure_callback(look, same, x_t, t, vmap_method="broadcast_all"), t)

    window, steps, calls = 6, 10, 2
    solver = bounded(solvers.heun(SDE))
    result = in_parallel(solver, steps, spy, window=window, denoise=True)(start(), 1e-3)
    jax.block_until_ready(result)
    size = window * calls
    one_call = ((size, BATCH, 2), (size, BATCH), True)
    assert seen[:-1] == [one_call] * (int(result.depth) - 1)
    assert seen[-1] == ((BATCH, 2), (), True)
    assert result.nfe == size * (result.depth - 1) + 1
    truth = sequential(solvers.heun(SDE), steps, denoise=True)
    assert error(result.x, truth.x) < 1e-2


def test_evaluations_are_split_over_devices(x64):
    """Also of a denoiser that has closed over something of each sample."""
    shift = jnp.arange(BATCH, dtype=jnp.float64)[:, None]
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("steps", "samples"))

    def conditional(x_t, t):
        return denoise(x_t, t) + shift

    def run(**options):
        """The sample, and the evaluations in a device's largest array of probabilities."""
        program = in_parallel(solvers.ddim(SDE), 20, conditional, window=8, **options)
        compiled = program.lower(start(), 1e-6).compile()
        found = re.findall(rf"f64\[(\d+),(\d+),{POINTS}\]", compiled.as_text())
        return compiled(start(), jnp.asarray(1e-6)), max(int(a) * int(b) for a, b in found)

    truth = sequential(solvers.ddim(SDE), 20, conditional)
    whole, most = run()
    assert error(whole.x, truth.x) < 1e-5
    assert most == 8 * BATCH
    for layout in (P(("steps", "samples")), P("steps", "samples")):
        split, most = run(sharding=NamedSharding(mesh, layout))
        assert most == 8 * BATCH // 8
        assert error(split.x, whole.x) < 1e-12
        assert split.depth == whole.depth


def test_refusals():
    with pytest.raises(ValueError, match="fixed number of evaluations a step"):
        in_parallel(solvers.probability_flow(SDE), 2, window=2)(start(), 0.0)
    with pytest.raises(ValueError, match="window must be 1 or more, not 0"):
        in_parallel(solvers.ddim(SDE), 2, window=0)(start(), 0.0)
    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), P("data"))
    with pytest.raises(ValueError, match="12 evaluations of 4 samples do not divide"):
        in_parallel(solvers.ddim(SDE), 20, window=12, sharding=sharding)(start(), 0.0)
