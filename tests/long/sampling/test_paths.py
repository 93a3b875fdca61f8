"""Noise that is read off one Brownian path: its law, and what solvers make of it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling, solvers
from score_sde.config import build
from score_sde.errors import ConfigError
from score_sde.processes import EDM, VP, Flow, Masking
from score_sde.sampling import grids, parallel
from score_sde.sampling.paths import path
from score_sde.types import Noise, expand

partial = functools.partial
TIMES = (80.0, 60.0, 59.9, 10.0, 3.0, 0.5, 0.4999, 0.1, 0.002)  # 9 decades of the clock


def keys(seed, n):
    return jax.random.split(jax.random.key(seed), n)


def intervals(noise, times, n, power):
    """z and eta of each interval of a grid, [steps, 2, n]."""

    @jax.jit
    def drawn(times):
        return jax.lax.map(
            lambda ends: jnp.stack(noise.levy(*ends, (n,), power)),
            jnp.stack([times[:-1], times[1:]], axis=1),
        )

    return np.asarray(drawn(times))


@pytest.mark.parametrize("power", [1.0, -1.0, 0.36])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_changes_and_areas_are_independent_standard_normal_numbers(x64, power, dtype):
    """On a grid whose log-SNR has steps from 4e-4 to 8, within five standard errors."""
    n = 4096
    drawn = intervals(path(EDM(), power)(keys(0, n)), jnp.asarray(TIMES, dtype), n, power)
    assert drawn.dtype == dtype
    z = drawn.reshape(-1, n).astype(float)
    assert np.abs(z.mean(1)).max() < 5 / np.sqrt(n)
    error = (z @ z.T / n - np.eye(len(z))) * np.sqrt(n)
    assert np.abs(np.diag(error)).max() < 5 * np.sqrt(2)
    assert np.abs(error - np.diag(np.diag(error))).max() < 5
    kurtosis = (z**4).mean() - 3  # of 16 n normal numbers
    assert abs(kurtosis) < 5 * np.sqrt(96 / z.size)


@pytest.mark.parametrize("power", [1.0, -1.0, 0.36])
def test_two_intervals_make_their_union(x64, power):
    """Changes add up, and areas by Chen's relation, to rounding: with Y = int W du over an interval
    from where W is 0, Y_ac = Y_ab + W_ab (c - b) + Y_bc."""
    n, sde = 8, EDM()
    a, b, c = (jnp.asarray(t) for t in (10.0, 4.0, 0.3))
    noise = path(sde, power)(keys(1, n))
    u_a, u_b, u_c = (float(t) ** (-2 * power) for t in (a, b, c))

    def both(t, s, length):
        z, eta = (np.asarray(a) for a in noise.levy(t, s, (n,), power))
        w = np.sqrt(length) * z
        return w, length * (w / 2 + np.sqrt(length / 12) * eta)

    ab, bc, ac = abs(u_b - u_a), abs(u_c - u_b), abs(u_c - u_a)
    (w_1, y_1), (w_2, y_2), (w, y) = both(a, b, ab), both(b, c, bc), both(a, c, ac)
    np.testing.assert_allclose(w, w_1 + w_2, rtol=1e-10)
    np.testing.assert_allclose(y, y_1 + w_1 * bc + y_2, rtol=1e-10)


def test_a_path_belongs_to_its_key(x64):
    """Whatever the batch and the process, bit for bit; another key, or a fold, has another one."""
    t, s = jnp.asarray(10.0), jnp.asarray(4.0)
    many = keys(2, 6)
    noise = path(EDM())(many)
    together = np.asarray(noise(t, s, (6, 3)))
    for i in range(6):
        alone = path(EDM())(many[i : i + 1])(t, s, (1, 3))
        np.testing.assert_array_equal(together[i], alone[0])
    np.testing.assert_array_equal(
        together, noise(jnp.full(6, 10.0), jnp.full(6, 4.0), (6, 3))
    )  # times of each example
    flow = Flow()
    t, s = (flow.t_of_log_snr(-2 * jnp.log(time)) for time in (t, s))
    np.testing.assert_allclose(path(flow)(many)(t, s, (6, 3)), together, rtol=1e-6)

    n = 4096
    noise, t, s = path(EDM())(keys(2, n)), jnp.asarray(10.0), jnp.asarray(4.0)
    first = noise(t, s, (n,))
    for other in (noise.fold(0), noise.fold(1), path(EDM())(keys(3, n))):
        assert abs(np.mean(np.asarray(first * other(t, s, (n,))))) < 5 / np.sqrt(n)
    of_one = path(EDM())(jax.random.key(4))(t, s, (n,))  # one key: each example has its own path
    assert abs(np.std(of_one) - 1) < 5 / np.sqrt(2 * n)


def test_an_interval_of_no_length_has_no_noise():
    t = jnp.asarray(1.0)
    for power in (1.0, -1.0):
        assert np.all(np.asarray(path(EDM(), power)(keys(0, 4))(t, t, (4, 2))) == 0)


HELD = {  # name: (solver, the power of its clock, what is held)
    "ancestral": (solvers.ancestral, 1.0, "x0"),
    "dpmpp_sde 1": (partial(solvers.dpmpp_sde, order=1, tau=0.6), 0.36, "x0"),
    "sa_solver": (partial(solvers.sa_solver, s_min=0.0, s_max=1e4), 1.0, "x0"),
    "dpmpp_singlestep": (partial(solvers.dpmpp_singlestep, tau=1.5), 2.25, "x0"),
    "sra1": (partial(solvers.sra1, tau=0.6), 0.36, "x0"),
    "shark": (solvers.shark, 1.0, "x0"),
    "dpm_solver 1": (partial(solvers.dpm_solver, order=1, tau=0.7), -1.0, "eps"),
    "dpm_solver 3": (partial(solvers.dpm_solver, order=3, tau=1.0), -1.0, "eps"),
}


@pytest.mark.parametrize("name", HELD)
def test_with_the_prediction_held_steps_are_one_step(x64, name):
    """To rounding along a path of the solver's clock, and not along another one."""
    constructor, power, held = HELD[name]
    sde, value = VP(t_min=1e-3), jnp.asarray([0.3, -1.2])
    few, many = (jnp.asarray(t) for t in ((1.0, 1e-3), (1.0, 0.8, 0.5, 0.49, 0.1, 0.02, 1e-3)))

    def denoiser(x, t):
        if held == "x0":
            return jnp.broadcast_to(value[None], x.shape)
        return (x - sde.sigma(t) * value[None]) / sde.alpha(t)

    @jax.jit
    def ends(x):
        def end(times, power):
            noise = path(sde, power)(keys(0, 8))
            return sampling.sample(noise, constructor(sde), denoiser, x, times).x

        wrong = None if name in ("sra1", "shark") else end(many, 0.5 * power)
        return end(few, power), end(many, power), wrong

    one, steps, wrong = ends(sde.prior_sample(jax.random.key(1), (8, 2)))
    scale = float(jnp.abs(one).max())  # eps divides by alpha, 7e-3 at the start
    np.testing.assert_allclose(steps, one, rtol=0, atol=1e-11 * scale)
    if wrong is not None:
        assert np.abs(wrong - steps).max() > 1e-3 * scale


def two_points(x, t):
    """E[x_0 | x_t] of +-1, each number by itself."""
    return jnp.tanh(x / expand(t, x) ** 2)


def end_of(solver, noise, x, n=8, sample=sampling.sample):
    times = grids.log_snr(EDM(t_min=0.1, t_max=5.0), n)
    return np.asarray(jax.jit(lambda x: sample(noise, solver, two_points, x, times).x)(x))


def test_a_sample_does_not_depend_on_its_batch(x64):
    """Each is what it is alone, to the rounding of programs of two shapes."""
    sde, many = EDM(t_min=0.1, t_max=5.0), keys(0, 6)
    x = 5 * jax.random.normal(jax.random.key(1), (6, 2))
    solver = solvers.dpmpp_sde(sde)
    together = end_of(solver, path(sde)(many), x)
    for rows in (slice(0, 1), slice(2, 5)):
        alone = end_of(solver, path(sde)(many[rows]), x[rows])
        np.testing.assert_allclose(alone, together[rows], rtol=1e-12)


def test_a_finer_grid_refines_the_sample_of_a_path_alone(x64):
    sde = EDM(t_min=0.1, t_max=5.0)
    x = 5 * jax.random.normal(jax.random.key(1), (64, 2))
    solver = solvers.ancestral(sde)

    def apart(noise):
        ends = [end_of(solver, noise, x, n) for n in (32, 64)]
        return np.sqrt(np.mean((ends[0] - ends[1]) ** 2))

    assert apart(path(sde)(keys(0, 64))) < 0.3 * apart(Noise(keys(0, 64)))


def test_parallel_sampling_has_the_same_path(x64):
    sde = EDM(t_min=0.1, t_max=5.0)
    x = 5 * jax.random.normal(jax.random.key(1), (4, 2))
    noise, solver = path(sde)(keys(0, 4)), solvers.dpmpp_sde(sde)
    found = end_of(solver, noise, x, sample=partial(parallel.sample, window=4, tolerance=0.0))
    np.testing.assert_allclose(found, end_of(solver, noise, x), rtol=1e-9)


def test_noise_of_keys_is_what_the_keys_are():
    """Bit for bit, of one program."""
    sde, x = EDM(t_min=0.1, t_max=5.0), jnp.ones((4, 2))
    for key in (jax.random.key(0), keys(0, 4)):
        for solver in (solvers.dpmpp_sde(sde), solvers.gotta_go_fast(sde)):
            np.testing.assert_array_equal(
                end_of(solver, key, x, 2), end_of(solver, Noise(key), x, 2)
            )


def test_what_has_no_path_is_refused():
    for spec, message in (
        ("path(power=0.0)", "power must be a finite number other than 0, not 0.0"),
        ("paht", "did you mean 'path'"),
    ):
        with pytest.raises(ConfigError, match=message):
            build("sampling.paths", spec, EDM())
    with pytest.raises(ConfigError, match="is of tokens, whose draws are no Brownian path"):
        build("sampling.paths", "path", Masking())
    assert build("sampling.paths", "independent", Masking())(jax.random.key(0)).key is not None
    sde = EDM()
    with pytest.raises(ValueError, match=r"has power=1: take path\(power=0.25\)"):
        end_of(solvers.sra1(sde, tau=0.5), path(sde)(keys(0, 2)), jnp.ones((2, 1)))
