"""Solvers along one Brownian path, `sampling.paths`: strong orders, and methods written by hand."""

import functools

import diffrax
import jax
import jax.numpy as jnp
import lineax
import numpy as np
import pytest

from score_sde import sampling, solvers
from score_sde.processes import EDM, VP, Flow
from score_sde.sampling import grids
from score_sde.sampling.paths import path
from score_sde.types import expand
from tests.given_noise import Given

PATHS = 256
SDE = EDM(t_min=0.2, t_max=2.0)


def two_points(x, t):
    """E[x_0 | x_t] of +-1, each with probability 1/2."""
    return jnp.tanh(x / expand(t, x) ** 2)


def start():
    keys = jax.random.split(jax.random.key(0), PATHS)
    return path(SDE)(keys), 2 * jax.random.normal(jax.random.key(1), (PATHS, 1))


def end(solver, n):
    noise, x = start()
    times = grids.log_snr(SDE, n)
    return np.asarray(jax.jit(lambda x: sampling.sample(noise, solver, two_points, x, times).x)(x))


@functools.cache
def truth():
    return end(solvers.sra1(SDE), 2048)


ORDERS = {  # name: (constructor, strong order)
    "sra1": (solvers.sra1, 1.5),
    "shark": (solvers.shark, 1.5),
    "ancestral": (solvers.ancestral, 1.0),
    "euler_maruyama": (solvers.euler_maruyama, 1.0),
}


@pytest.mark.parametrize("name", ORDERS)
def test_strong_order(x64, name):
    """The slope of the median error between 32 and 256 steps, against `sra1` of 2048: all converge
    to the same samples. The median, since few paths go to the other point by a small error, and
    then by all of its distance."""
    constructor, order = ORDERS[name]
    errors = [np.median(np.abs(end(constructor(SDE), n) - truth())) for n in (32, 256)]
    slope = np.log2(errors[0] / errors[1]) / 3
    assert abs(slope - order) < 0.15, (slope, errors)


def test_the_adaptive_solver_takes_the_same_path(x64):
    """`gotta_go_fast`, whose steps are of each sample, ends where the others do."""
    noise, x = start()
    times = grids.log_snr(SDE, 1)

    @jax.jit
    def ends(rtol):
        solver = solvers.gotta_go_fast(SDE, rtol, 0.15 * rtol)
        out = sampling.sample(noise, solver, two_points, x, times)
        return out.x, out.nfe

    errors = []
    for rtol in (0.04, 0.005):
        x_end, nfe = ends(jnp.asarray(rtol))
        assert len(set(np.asarray(nfe).tolist())) > 10
        errors.append(np.median(np.abs(np.asarray(x_end) - truth())))
    # h goes at least as tol^(2/3) (test_adaptive.py), and the error with it
    assert errors[0] / errors[1] > 3, errors
    assert errors[1] < 2e-3, errors  # the ends of other paths are 1 apart


class _Given(diffrax.AbstractBrownianPath):
    """One interval of which the change and the area are known."""

    w: jax.Array
    h: jax.Array
    levy_area: type = diffrax.SpaceTimeLevyArea
    t0: float = 0.0
    t1: float = np.inf

    def evaluate(self, t0, t1=None, left=True, use_levy=False):
        assert t1 is not None
        return diffrax.SpaceTimeLevyArea(dt=t1 - t0, W=self.w, H=self.h)


@pytest.mark.parametrize("sde", [EDM(), VP(), Flow()], ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("name", ["SRA1", "ShARK"])
def test_a_step_is_diffraxs(x64, sde, name):
    """On dY = D du + dW(u), with Y = alpha x/sigma^2 and u = SNR, to rounding."""
    solver = getattr(solvers, name.lower())(sde)
    t, s = (sde.t_of_log_snr(jnp.asarray(log_snr)) for log_snr in (-1.0, 0.2))
    x, z, eta = np.random.default_rng(0).normal(size=(3, 4, 2))
    ours, _ = solver.step(Given([z, eta]), lambda x, t: jnp.sin(x) / (1 + t), x, t, s, ())
    start, end = (float(jnp.exp(sde.log_snr(a))) for a in (t, s))

    def scale(u):
        """x/Y, and t."""
        t = sde.t_of_log_snr(jnp.log(jnp.asarray(u)))
        return sde.sigma(t) ** 2 / sde.alpha(t), t

    def drift(u, y, args):
        size, t = scale(u)
        return jnp.sin(size * y) / (1 + t)

    size, unit = np.sqrt(end - start), lineax.DiagonalLinearOperator(jnp.ones(x.shape))
    path = _Given(w=jnp.asarray(size * z), h=jnp.asarray(size / np.sqrt(12) * eta))
    terms = diffrax.MultiTerm(
        diffrax.ODETerm(drift), diffrax.ControlTerm(lambda u, y, args: unit, path)
    )
    theirs = getattr(diffrax, name)()
    y = x / scale(start)[0]
    state = theirs.init(terms, start, end, y, None)
    y = theirs.step(terms, start, end, y, None, state, made_jump=False)[0]
    np.testing.assert_allclose(ours, y * scale(end)[0], rtol=1e-12)


@pytest.mark.parametrize("tau", [0.0, -1.0, np.inf])
def test_tau_is_above_0(tau):
    with pytest.raises(ValueError, match="tau must be a number above 0"):
        solvers.sra1(SDE, tau=tau)
