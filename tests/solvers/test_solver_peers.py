"""The same numbers as other libraries, step by step, in float64, where their methods are right.

The records are made by `tests/golden/make_peers.py`; what they hold is written there.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import solvers
from score_sde.processes import DDPM, EDM
from score_sde.processes.exact import Mixture
from score_sde.solvers import exponential
from score_sde.solvers.multistep import multistep
from tests.given_noise import Given
from tests.stored import arrays

RECORDS = arrays(Path(__file__).parent.parent / "golden" / "solvers_peers.npz")
partial = functools.partial
unipc = partial(solvers.unipc, end_order=None)
EXACT = {  # record: our name for it
    "vp_ddim": solvers.ddim,
    "vp_ddim_eta": partial(solvers.ddim, eta=0.7),
    "vp_dpmpp_2m": solvers.dpmpp,
    "vp_dpmpp_2m_heun": partial(solvers.dpmpp, slope="exact"),
    "vp_dpmpp_2m_sde": solvers.dpmpp_sde,
    "vp_dpmpp_2m_sde_heun": partial(solvers.dpmpp_sde, slope="exact"),
    "vp_unipc_2_bh2": unipc,
    "vp_unipc_3_bh1": partial(unipc, order=3, variant="bh1"),
    "vp_unipc_3_bh2": partial(unipc, order=3),
    "vp_deis_2": partial(solvers.deis, order=2, variable="log_rho"),
    "vp_deis_3": partial(solvers.deis, order=3, variable="log_rho"),
    "ve_heun": solvers.heun,
    "ve_dpm_2": solvers.dpm2,
    "ve_lms_4": solvers.lms,
    "ve_dpmpp_2m": solvers.dpmpp,
    "ve_dpmpp_2s": solvers.dpmpp_singlestep,
    "ve_dpm_solver_3": solvers.dpm_solver,
    "ve_euler_ancestral": solvers.euler_ancestral,
    "ve_dpmpp_2m_sde": solvers.dpmpp_sde,
    "ve_dpmpp_2m_sde_heun": partial(solvers.dpmpp_sde, slope="exact"),
}


def record(name, part):
    return jnp.asarray(RECORDS[f"{name}_{part}"])


def replay(solver, denoiser, name):
    """Our states on the record's grid, with its start and noise, and E[x_0 | x] at the end."""
    times, start = record(name, "times"), record(name, "states")[0]
    noise = RECORDS.get(f"{name}_noise", np.zeros((len(times) - 1, *start.shape)))

    def body(carry, inputs):
        t, s, z = inputs
        carry = solver.step(Given([z]), denoiser, carry[0], t, s, carry[1])
        return carry, carry[0]

    @jax.jit
    def run(x, noise):
        carry = (x, solver.init(x, times))
        (x, _), states = jax.lax.scan(body, carry, (times[:-1], times[1:], noise))
        return states, denoiser(x, times[-1])

    return run(start, jnp.asarray(noise))


def problem(name):
    sde = DDPM(t_min=0.0) if name.startswith("vp") else EDM(t_min=0.02, t_max=20.0)
    return sde, Mixture(*(jnp.asarray(RECORDS[k]) for k in ("weights", "means", "covs"))).denoiser(
        sde
    )


def assert_equal(ours, theirs):
    scale = np.abs(theirs).max(axis=tuple(range(1, theirs.ndim)), keepdims=True)
    np.testing.assert_array_less(np.abs(np.asarray(ours) - np.asarray(theirs)) / scale, 1e-10)


@pytest.mark.parametrize("name", EXACT)
def test_same_numbers(x64, name):
    sde, denoiser = problem(name)
    states, end = replay(EXACT[name](sde), denoiser, name)
    assert_equal(states, record(name, "states")[1:])
    assert_equal(end, record(name, "end"))


def test_edm_with_churn(x64):
    sde, denoiser = problem("ve_edm")
    s_churn, s_min, s_max, s_noise = RECORDS["ve_edm_churn"].tolist()
    # the record's list of noise levels lacks the 0 that `edm` counts as the end of a step
    n = len(record("ve_edm", "times"))
    s_churn *= n / (n - 1)
    solver = solvers.edm(sde, s_churn, s_min, s_max, s_noise)
    states, end = replay(solver, denoiser, "ve_edm")
    assert_equal(states, record("ve_edm", "states")[1:])
    assert_equal(end, record("ve_edm", "end"))


def test_sa_solver(x64):
    """diffusers', whose first steps take h^2/2 for the integral of a slope: ours from the third.

    A multistep method forgets its start only through its state, so the comparison is of what one
    step makes of the record's own history.
    """
    name = "vp_sa_3"
    sde, denoiser = problem(name)
    times, states, corrected = (record(name, k) for k in ("times", "states", "corrected"))
    noise = record(name, "noise")
    solver = multistep(sde, 3, corrector=2, noise=exponential.tau(0.5))
    table, state = jax.jit(solver.init)(states[0], times)
    data = jax.jit(jax.vmap(denoiser))(states, times)

    @jax.jit
    def advance(x, t, s, carry, z):
        return solver.step(Given([z]), denoiser, x, t, s, carry)

    for i in range(3, len(times) - 1):
        history = jnp.stack([data[i - 1], data[i - 2], data[i - 3]])
        row = jax.tree.map(lambda a, i=i: a[i - 1], table)
        predicted = jnp.sum(row.predict[:, None, None] * history, axis=0)
        carry = table, state._replace(index=jnp.asarray(i), history=history, predicted=predicted)
        x, (_, after) = advance(states[i], times[i], times[i + 1], carry, noise[i])
        assert_equal(x, states[i + 1])
        row = jax.tree.map(lambda a, i=i: a[i], table)
        ours = (x - after.predicted - row.noise * noise[i]) / row.linear
        assert_equal(ours, corrected[i])
