"""Learned samplers against the flow, brute force and the methods that they start from."""

import itertools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling, solvers
from score_sde.config import build
from score_sde.errors import ConfigError
from score_sde.processes import EDM, VP, exact
from score_sde.sampling import dynamic_programming, grids, learn_solver
from score_sde.solvers import learned_coefficients
from score_sde.solvers.learned_coefficients import LearnedCoefficients
from score_sde.solvers.multistep import multistep
from score_sde.types import expand

POINTS, STD = np.array([-1.0, 0.5, 1.0]), 0.2


def mixture():
    """Three equal Gaussians on the line, in the precision of now."""
    return exact.Dataset(jnp.asarray(POINTS[:, None], float), STD)


def draw(sde, solver, denoiser, x, times):
    @jax.jit
    def run(x, times):
        return sampling.sample(jax.random.key(0), solver, denoiser, x, times)

    return run(x, times)


def rms(x, truth):
    return float(jnp.sqrt(jnp.mean((x - truth) ** 2)))


def some_numbers(sde, n=3, seed=0, first=True):
    """Numbers without meaning, for the range of a process."""
    rng = np.random.default_rng(seed)
    ends = np.asarray(sde.log_snr(jnp.asarray([sde.t_max, sde.t_min], float)), float)
    inside = ends[0] + np.ptp(ends) * np.sort(rng.uniform(size=n))
    inside[0] = inside[0] if first else ends[0]
    numbers = rng.normal(size=(n + 1, n))
    arrays = ends[0], np.append(inside, ends[1]), rng.normal(), numbers[0], np.tril(numbers[1:])
    return LearnedCoefficients(*(jnp.asarray(a, float) for a in arrays))


@pytest.fixture(scope="module")
def line():
    """A mixture on the line, and three sets of pairs for it, in float64."""
    with jax.enable_x64(True):
        sde = EDM(t_min=0.01, t_max=20.0)
        denoiser = mixture().denoiser(sde)
        pairs = learn_solver.pairs(jax.random.key(0), sde, denoiser, (1,), 3072, steps=96)
        sets = [jax.tree.map(lambda a, i=i: a[i::3], pairs) for i in range(3)]
        return sde, denoiser, *sets


# Learning


def test_pairs_end_where_the_flow_of_a_mixture_ends(x64, line):
    """In one dimension the flow keeps quantiles: F_T(x_T) = F_0(x_0)."""
    sde, denoiser, pairs, *_ = line

    def quantile(x, level):
        spread = np.sqrt(STD**2 + level**2)
        return np.mean(jax.scipy.stats.norm.cdf((np.asarray(x) - POINTS) / spread), axis=1)

    # Undo the last evaluation: x at t_min from E[x_0 | x], whose slope there is almost 1.
    @jax.jit
    def undone(end):
        def again(_, x):
            return x + end - denoiser(x, jnp.asarray(sde.t_min))

        return jax.lax.fori_loop(0, 20, again, end)

    x = undone(pairs.end)
    # The prior is N(0, t_max^2), the flow's law at t_max is wider: equal quantiles all the same.
    np.testing.assert_allclose(
        quantile(x, sde.t_min), quantile(pairs.start, sde.t_max), rtol=0, atol=1e-5
    )


def test_a_learned_sampler_halves_the_error_on_starts_it_never_saw(x64, line):
    sde, denoiser, train, held_out, test = line
    n = 3
    fitted = learn_solver.fit(
        jax.random.key(2), sde, denoiser, train, held_out, n, steps=150, polish=50, batch_size=64
    )
    solver = learned_coefficients.solver(sde, fitted.coefficients)
    out = draw(
        sde, solver, denoiser, test.start, learned_coefficients.times(sde, fitted.coefficients)
    )
    assert int(out.nfe) == n
    # The usual solvers on the usual grids and that of dynamic programming. They may end with
    # E[x_0 | x] for one evaluation more.
    found = learn_solver.dynamic_programming(sde, denoiser, train.start[:64], n)
    usual = jnp.stack([grids.log_snr(sde, n), grids.karras(sde, n), found])
    for order in (1, 2):
        ends = sampling.sweep(
            lambda times, order=order: draw(
                sde, multistep(sde, order), denoiser, test.start, times
            ),
            times=usual,
        ).x
        for end in ends:
            assert rms(out.x, test.end) < rms(end, test.end) / 2
            assert rms(out.x, test.end) < rms(denoiser(end, jnp.asarray(sde.t_min)), test.end) / 2
    # What is reported is what is measured.
    for pairs, error in ((train, fitted.train_error), (held_out, fitted.held_out_error)):
        end = draw(
            sde, solver, denoiser, pairs.start, learned_coefficients.times(sde, fitted.coefficients)
        ).x
        assert rms(end, pairs.end) == pytest.approx(error, rel=1e-9)


def test_times_learned_alone_are_a_grid_for_the_multistep_method(x64, line):
    sde, denoiser, train, held_out, _ = line
    start = grids.log_snr(sde, 4)
    fitted = learn_solver.fit(
        jax.random.key(2),
        sde,
        denoiser,
        train,
        held_out,
        4,
        start=start,
        order=2,
        coefficients=False,
        steps=100,
        batch_size=64,
        learning_rate=0.03,
    )
    times = learned_coefficients.times(sde, fitted.coefficients)
    assert times[0] == sde.t_max
    assert times[-1] == sde.t_min
    x = held_out.start
    alone = draw(sde, multistep(sde, 2), denoiser, x, times).x
    whole = draw(sde, learned_coefficients.solver(sde, fitted.coefficients), denoiser, x, times).x
    np.testing.assert_allclose(whole, alone, rtol=0, atol=1e-12)
    before = draw(sde, multistep(sde, 2), denoiser, x, start).x
    assert rms(alone, held_out.end) < 0.75 * rms(before, held_out.end)


def test_without_steps_the_sampler_is_the_multistep_method(x64, line):
    sde, denoiser, train, held_out, _ = line
    held_out = jax.tree.map(lambda a: a[:700], held_out)  # no multiple of what is taken at once
    times = grids.karras(sde, 4)
    later = times.at[0].set(10.0)

    def fit(train, start, **options):
        key = jax.random.key(0)
        return learn_solver.fit(
            key, sde, denoiser, train, held_out, 4, start=start, order=3, **options
        )

    fitted = fit(train, later, steps=0)
    np.testing.assert_allclose(
        learned_coefficients.times(sde, fitted.coefficients), later, rtol=1e-12
    )
    x = held_out.start
    usual = draw(sde, multistep(sde, 3), denoiser, x / 2, later).x
    whole = draw(sde, learned_coefficients.solver(sde, fitted.coefficients), denoiser, x, times).x
    np.testing.assert_allclose(whole, usual, rtol=0, atol=1e-12)
    assert rms(whole, held_out.end) == pytest.approx(fitted.held_out_error, rel=1e-9)
    # Batches are of all pairs, so of NaNs too where there are some behind the first 64; and what
    # comes back is the best of all that was measured, here the start.
    spoilt = train._replace(end=train.end.at[64:].set(jnp.nan))
    kept = fit(spoilt, later, steps=20, check_every=10, batch_size=64)
    chex.assert_trees_all_close(kept.coefficients, fitted.coefficients, rtol=1e-12)
    assert kept.held_out_error == pytest.approx(fitted.held_out_error, rel=1e-12)
    # L-BFGS alone comes nearer; and a first time at t_max is not stuck there.
    polished = fit(train, times, steps=0, polish=10)
    assert polished.held_out_error < 0.8 * fitted.held_out_error
    assert learned_coefficients.times(sde, polished.coefficients)[0] < sde.t_max


@pytest.mark.parametrize("free_start", [False, True])
def test_dynamic_programming_is_brute_force(free_start):
    rng = np.random.default_rng(0)
    m, n = 8, 4
    cost = np.where(np.triu(np.ones((m, m)), 1) > 0, rng.exponential(size=(m, m)), np.inf)
    start = rng.exponential(size=m) if free_start else np.r_[0.0, np.full(m - 1, np.inf)]
    paths = [(*rest, m - 1) for rest in itertools.combinations(range(m - 1), n)]

    def total(path):
        return start[path[0]] + sum(cost[i, j] for i, j in itertools.pairwise(path))

    assert tuple(dynamic_programming._shortest_path(cost, n, start)) == min(paths, key=total)


@pytest.mark.parametrize("sde", [EDM(t_min=0.01, t_max=20.0), VP(t_min=1e-3)])
def test_dynamic_programming_has_the_least_sum_of_local_errors(x64, sde):
    """The errors by DDIM itself, one step at a time from the flow, over all grids of 5 steps; and
    of 2, which may start later, at the cost of x_T scaled down to there."""
    # not centred, or x_T scaled down would be as good as a step of DDIM
    denoiser = exact.Dataset(jnp.asarray(POINTS[:, None] + 0.3, float), STD).denoiser(sde)
    x = sde.prior_sample(jax.random.key(0), (32, 1))
    times = grids.log_snr(sde, 8)
    path = sampling.sample(
        jax.random.key(0),
        solvers.dpmpp_singlestep(sde, order=3),
        denoiser,
        x,
        times,
        trajectory=True,
    ).trajectory

    @jax.jit
    def local(x, times):
        return sampling.sample(jax.random.key(0), solvers.ddim(sde), denoiser, x, times).x

    def error(i, j):
        end = local(path[i], times[jnp.array([i, j])])
        return rms(end / sde.alpha(times[j]), path[j] / sde.alpha(times[j]))

    def scaled_down(j):
        return rms(
            path[0] / sde.alpha(times[0]) * noise[j] / noise[0], path[j] / sde.alpha(times[j])
        )

    noise = np.exp(-np.asarray(sde.log_snr(times)) / 2)
    errors = {(i, j): error(i, j) for i, j in itertools.combinations(range(9), 2)}
    for n, free_start in ((5, False), (2, True)):
        found = learn_solver.dynamic_programming(
            sde, denoiser, x, n, candidates=8, free_start=free_start
        )
        paths = [(*nodes, 8) for nodes in itertools.combinations(range(8), n)]
        best = min(
            (nodes for nodes in paths if free_start or nodes[0] == 0),
            key=lambda nodes: (
                scaled_down(nodes[0]) + sum(errors[pair] for pair in itertools.pairwise(nodes))
            ),
        )
        np.testing.assert_allclose(found, times[jnp.array(best)], rtol=1e-12)


# The numbers as a solver


def test_a_solver_is_its_formula_for_every_process(x64):
    """And in x/alpha the same for processes between the same log-SNRs."""
    vp = VP(t_min=1e-3)
    ratio = [float(jnp.exp(-vp.log_snr(jnp.asarray(t)) / 2)) for t in (vp.t_min, vp.t_max)]
    edm = EDM(t_min=ratio[0], t_max=ratio[1])
    numbers = some_numbers(vp)
    x = jax.random.normal(jax.random.key(0), (5, 2))

    def denoiser(sde):  # not of any data: a function of x/alpha and the log-SNR
        def denoise(x, t):
            return jnp.tanh(x / expand(sde.alpha(t), x)) + sde.log_snr(t)

        return denoise

    y = numbers.start * x
    data = []
    for i in range(3):
        data.insert(0, np.tanh(y) + numbers.log_snr[i])
        y = numbers.linear[i] * y + sum(numbers.weights[i, j] * data[j] for j in range(i + 1))
    for sde in (vp, edm):
        alpha = sde.alpha(jnp.asarray([sde.t_max, sde.t_min]))
        solver = learned_coefficients.solver(sde, numbers)
        # Any grid of 3 steps will do: the solver has times of its own.
        out = jax.jit(
            lambda x, sde=sde, solver=solver: draw(
                sde, solver, denoiser(sde), x, grids.log_snr(sde, 3)
            )
        )(alpha[0] * x)
        np.testing.assert_allclose(out.x / alpha[1], y, rtol=1e-9)
        assert int(out.nfe) == 3


def test_a_float32_sample_stays_float32():
    sde = EDM()
    x = sde.prior_sample(jax.random.key(0), (2, 1))
    out = draw(
        sde,
        learned_coefficients.solver(sde, some_numbers(sde)),
        mixture().denoiser(sde),
        x,
        grids.karras(sde, 3),
    )
    assert out.x.dtype == jnp.float32


# Files


def test_a_file_keeps_every_bit_and_a_config_can_name_it(x64, tmp_path):
    sde, path = EDM(), tmp_path / "sampler.json"
    numbers = some_numbers(sde)
    learn_solver.save(path, numbers, held_out_error=0.25)
    for field, value, kept in zip(
        LearnedCoefficients._fields, numbers, learn_solver.load(path, sde), strict=True
    ):
        np.testing.assert_array_equal(kept, value, err_msg=field)
    assert json.loads(path.read_text())["about"] == {"held_out_error": 0.25}
    spec = f"learned(path={str(path)!r})"
    times, solver = build("sampling.grids", spec, sde, 3), build("solvers", spec, sde)
    np.testing.assert_array_equal(times, learned_coefficients.times(sde, numbers))
    x = sde.prior_sample(jax.random.key(0), (2, 1))
    ends = [
        draw(sde, s, mixture().denoiser(sde), x, times).x
        for s in (solver, learned_coefficients.solver(sde, numbers))
    ]
    np.testing.assert_array_equal(*ends)


def test_wrong_files_are_refused_in_one_line(tmp_path):
    sde, path = EDM(), tmp_path / "sampler.json"
    learn_solver.save(path, some_numbers(sde))
    content = json.loads(path.read_text())
    with pytest.raises(ConfigError, match=r"sampler.json holds a sampler of 3 steps, not of 5$"):
        build("sampling.grids", f"learned(path={str(path)!r})", sde, 5)
    with pytest.raises(
        ConfigError,
        match=r"learned between the log-SNRs -8\.7641 and 12\.4292, and VP.* runs from -10\.0",
    ):
        build("solvers", f"learned(path={str(path)!r})", VP())
    solver, x = solvers.learned(sde, str(path)), jnp.zeros((1, 1))
    with pytest.raises(ValueError, match="the learned sampler has 3 steps, and the grid 4"):
        draw(sde, solver, mixture().denoiser(sde), x, grids.karras(sde, 4))
    with pytest.raises(ValueError, match=r"absent\.json: no such file"):
        learn_solver.load(tmp_path / "absent.json", sde)
    other = content["log_snr"]
    for wrong in (
        "not JSON",
        "[]",
        "{}",
        json.dumps(content | {"format": "another"}),
        json.dumps(content | {"weights": content["weights"][:2]}),
        json.dumps(content | {"weights": [[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]]}),
        json.dumps(content | {"linear": content["linear"][:2]}),
        json.dumps(content | {"linear": ["a", "b", "c"]}),
        json.dumps(content | {"start": float("nan")}),
        json.dumps(content | {"log_snr": [other[1], other[0], *other[2:]]}),
        json.dumps(content | {"log_snr": [other[0], other[0], *other[2:]]}),
        json.dumps(content | {"log_snr": [content["prior"] - 1, *other[1:]]}),
    ):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=r"sampler.json is not a file of a learned sampler$"):
            learn_solver.load(path, sde)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not a file of a learned sampler"):
        learn_solver.load(path, sde)


def test_mistakes_of_a_fit_are_named(line):
    sde, denoiser, train, held_out, _ = line
    key = jax.random.key(0)
    one = jax.tree.map(lambda a, b: jnp.concatenate([a, b[:1]]), held_out, train)
    for held in (train, one):
        with pytest.raises(ValueError, match="share starts: draw them with two keys"):
            learn_solver.fit(key, sde, denoiser, train, held, 3)
    with pytest.raises(ValueError, match=r"start has 3 times, not n \+ 1 = 4"):
        learn_solver.fit(key, sde, denoiser, train, held_out, 3, start=jnp.array([20.0, 1.0, 0.01]))
    with pytest.raises(ValueError, match="n must be from 1 to candidates=64, not 65"):
        learn_solver.dynamic_programming(sde, denoiser, train.start, 65)
