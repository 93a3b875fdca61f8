"""Options at the ends of their ranges, and the constants of the papers."""

import inspect
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import solvers
from score_sde.processes import EDM, VP, Flow, Masking
from score_sde.processes.two_ends import Brownian, between
from score_sde.solvers import exponential, ode
from score_sde.solvers.bridge import bridge
from score_sde.solvers.correctors import annealed_langevin, langevin
from score_sde.solvers.kernels import kernels
from score_sde.solvers.pyramid import frame_times, pyramid

LEAST = 1e-6
GRID = jnp.array([1.0, 0.5])

TAKEN = [
    lambda: solvers.feynman_kac(VP(), particles=1),
    lambda: solvers.feynman_kac(VP(), threshold=0.0),
    lambda: solvers.feynman_kac(VP(), threshold=1.0),
    lambda: solvers.restart(VP(), s_min=LEAST, s_max=2 * LEAST, repeats=1, steps=1),
    lambda: solvers.remask(Masking(), eta=0.0),
    lambda: solvers.remask(Masking(), eta=1.0),
    lambda: pyramid(VP(), delay=0.0, given=0, eta=0.0),
    lambda: pyramid(VP(), given=4).init(jnp.zeros((1, 5)), GRID),
    lambda: solvers.sra1(VP(), tau=LEAST),
    lambda: kernels(VP(), GRID, tau=LEAST),
]


@pytest.mark.parametrize("make", TAKEN)
def test_the_ends_of_a_range_are_in_it(make):
    make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: solvers.feynman_kac(VP(), threshold=-LEAST), "from 0 to 1"),
        (lambda: solvers.feynman_kac(VP(), threshold=1 + LEAST), "from 0 to 1"),
        (lambda: solvers.restart(VP(), s_min=0.0, s_max=1.0), "0 < s_min < s_max"),
        (lambda: solvers.restart(VP(), s_min=1.0, s_max=1.0), "0 < s_min < s_max"),
        (lambda: solvers.restart(VP(), repeats=0), "at least 1, not 0, 3"),
        (lambda: solvers.restart(VP(), steps=0), "at least 1, not 2, 0"),
        (lambda: solvers.remask(Masking(), eta=-LEAST), "eta must be in"),
        (lambda: solvers.remask(Masking(), eta=1 + LEAST), "eta must be in"),
        (lambda: pyramid(VP(), delay=-LEAST), "delay must be at least 0"),
        (lambda: pyramid(VP(), eta=-LEAST), "eta must be at least 0"),
        (lambda: solvers.sra1(VP(), tau=0.0), "a number above 0"),
        (lambda: solvers.sra1(VP(), tau=math.inf), "a number above 0"),
        (lambda: kernels(VP(), GRID, tau=0.0), "tau must be above 0"),
        (lambda: exponential.fresh(1 + LEAST), r"gamma must be from 0 to 1\.0"),
        (lambda: exponential.fresh(-LEAST), r"gamma must be from 0 to 1\.0"),
        (lambda: exponential.tau(-LEAST), "tau must be at least 0"),
        (lambda: exponential.eta(-LEAST), "eta must be at least 0"),
    ],
)
def test_beyond_a_range_is_one_line(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_no_noise_is_the_ode(x64):
    for make in (exponential.tau, exponential.eta, exponential.fresh):
        assert make(0) is None
        assert make(0.0) is None
    # all of the variance is drawn afresh: nothing of e^-g is kept
    everything = exponential.fresh(1.0)
    assert everything is not None
    assert everything(jnp.zeros(()), jnp.ones(())) == np.inf


def test_the_noise_of_a_window_is_that_of_both_of_its_ends(x64):
    """g = tau^2 h where s_min <= sigma/alpha <= s_max, else 0; e^-0 is 1 exactly."""
    one, many = jnp.zeros(()), jnp.array([-0.1, 0.0, 0.1])
    window = exponential.tau(2.0, s_min=1.0, s_max=1.0)
    everywhere = exponential.tau(2.0)
    assert window is not None
    assert everywhere is not None
    np.testing.assert_array_equal(window(many, many + 0.5), [0, 2, 0])
    np.testing.assert_allclose(everywhere(many, many + 0.5), [2, 2, 2], rtol=1e-15)
    # the default window has no lower end: sigma/alpha = e^-100 is in it
    assert everywhere(one + 100, one + 101) == 4
    # sigma/alpha = e^-lambda, which is 7.4, 1, 0.14 and 0.02
    low = exponential.tau(1.0, s_min=0.05, s_max=1.0)
    assert low is not None
    levels = jnp.array([-2.0, 0.0, 2.0, 4.0])
    np.testing.assert_array_equal(low(levels, levels + 1), [0, 1, 1, 0])


@pytest.mark.parametrize(
    "make", [lambda sde: solvers.dpm_adaptive(sde, prediction="x0"), solvers.gotta_go_fast]
)
def test_solvers_in_the_log_snr_refuse_one_that_is_infinite(make):
    """Whatever the solver predicts, since its steps are in it."""
    with pytest.raises(ValueError, match="needs a finite log-SNR"):
        make(Flow(t_max=1.0))


def test_frames_wait_for_others(x64):
    """On an even grid of 6 steps with delays of 0 and 1/2, each frame goes through the grid in 4
    steps, the second two steps later: the time falls by 1/4 in each."""
    found = frame_times(jnp.linspace(1, 0, 7), np.array([0.0, 0.5]))
    first = [1, 0.75, 0.5, 0.25, 0, 0, 0]
    np.testing.assert_allclose(found.T, [first, [1, 1, *first[:5]]], atol=1e-12)


def test_a_bridge_draws_the_part_eta_of_the_noise(x64):
    """std = eta sqrt(c_s^2 - c_t^2 b_s^2/b_t^2) of `bridge`; with E_0 = E_1 = 0 and x = 0 the noise
    alone is left. On the Brownian bridge a + b = 1 and c^2 = v a b."""
    zero = jnp.zeros((1, 1))
    t, s = jnp.array(0.6), jnp.array(0.4)
    step = bridge(Brownian(variance=2.0), eta=0.5).step
    ones, ends = (lambda t, s, shape: jnp.ones(shape)), (lambda x, t, s: jnp.zeros((1, 2)))
    found, _ = step(ones, ends, zero, t, s, ())
    now, then = between(Brownian(variance=2.0), t), between(Brownian(variance=2.0), s)
    whole = then.c**2 - (now.c * then.b / now.b) ** 2
    np.testing.assert_allclose(found[0], 0.5 * jnp.sqrt(whole), rtol=1e-12)


@pytest.mark.parametrize("method", ["Heun", "Bosh3", "Dopri5"])
def test_evaluations_of_an_ode_are_those_that_were_made(method, x64):
    """Counted by the field itself. Bosh3 and Dopri5 take the last stage of a step as the first of
    the next; a step that is refused costs as much as another."""
    calls = []

    def field(t, x):
        jax.debug.callback(lambda: calls.append(1))
        return -3 * x

    _, nfe = ode.integrate(VP(), field, jnp.ones(2), jnp.array(0.9), jnp.array(0.1), method=method)
    jax.effects_barrier()
    assert int(nfe) == len(calls)


PUBLISHED = {
    # Karras et al. 2022, tab. 5, ImageNet-64
    solvers.edm: {"s_churn": 40.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.003},
    # Song et al. 2021, app. G: the signal-to-noise ratio of the PC sampler
    solvers.predictor_corrector: {"snr": 0.16, "corrector_steps": 1},
    langevin: {"snr": 0.16},
    annealed_langevin: {"snr": 0.16},
    # Lu et al. 2022, app. C.4; the absolute tolerance is 2/256, rounded
    solvers.dpm_adaptive: {"order": 3, "rtol": 0.05, "atol": 0.0078, "h_init": 0.05},
    # Jolicoeur-Martineau et al. 2021, sec. 3
    solvers.gotta_go_fast: {"atol": 0.0078, "h_init": 0.01},
    # Song et al. 2021, app. D.4
    solvers.probability_flow: {"rtol": 1e-5, "atol": 1e-5},
    # Xue et al. 2023, sec. 6: tau 1 where sigma is in [0.05, 1], predictor and corrector of 3 steps
    solvers.sa_solver: {"predictor_order": 3, "corrector_order": 3, "tau": 1.0}
    | {"s_min": 0.05, "s_max": 1.0},
    # Zhao et al. 2023, alg. 5 to 8: the first step and the last are of order 1
    solvers.unipc: {"start_order": 1, "end_order": 1},
    # Liu et al. 2022: four values of the noise
    solvers.ipndm: {"order": 4},
}


@pytest.mark.parametrize("make", PUBLISHED, ids=lambda make: make.__name__)
def test_constants_are_as_published(make):
    fields = inspect.signature(make).parameters
    assert {name: fields[name].default for name in PUBLISHED[make]} == PUBLISHED[make]


def test_defaults_that_leave_a_method_as_its_name_says():
    """DDIM is the ODE, ancestral sampling draws all of the noise, DPM-Solver has none."""
    for make, name, value in (
        (solvers.ddim, "eta", 0.0),
        (solvers.euler_ancestral, "eta", 1.0),
        (solvers.dpm_solver, "tau", 0.0),
        (solvers.dpmpp_singlestep, "tau", 0.0),
        (solvers.dpmpp_sde, "tau", 1.0),
        (solvers.sra1, "tau", 1.0),
        (solvers.shark, "tau", 1.0),
        (kernels, "tau", 1.0),
        (pyramid, "eta", 0.0),
        (pyramid, "delay", 1.0),  # one frame after another
    ):
        assert inspect.signature(make).parameters[name].default == value, make.__name__


def test_edm_without_churn_is_heun():
    assert solvers.edm(EDM(), s_churn=0.0).nfe is solvers.heun(EDM()).nfe
