"""Orders of convergence: deterministic, weak and strong, each against the truth in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling, solvers
from score_sde.processes import EDM, VP
from score_sde.processes.exact import Mixture
from score_sde.sampling import grids
from score_sde.solvers.multistep import multistep
from tests.given_noise import Given

# Three components in two dimensions with diagonal covariances: elementwise, so quick to compile.
WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[1.5, 0.0], [-1.0, 1.0], [0.0, -1.5]])
VARIANCES = np.array([[0.3, 0.2], [0.1, 0.4], [0.2, 0.2]])


def mixture_denoiser(sde, spread=1.0):
    weights, means, variances = map(jnp.asarray, (WEIGHTS, spread * MEANS, VARIANCES))

    def one(x, t):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        total = alpha**2 * variances + sigma**2
        away = x[None] - alpha * means
        log_joint = -jnp.sum(away**2 / total + jnp.log(total), axis=1) / 2
        responsibility = jax.nn.softmax(log_joint + jnp.log(weights))
        return responsibility @ (means + alpha * variances / total * away)

    return lambda x, t: jax.vmap(one)(x, jnp.broadcast_to(t, x.shape[:1]))


def test_the_denoiser_used_here_is_the_exact_one(x64):
    sde, t = VP(), jnp.asarray(0.3)
    covs = jnp.asarray(np.stack([np.diag(v) for v in VARIANCES]))
    exact = Mixture(jnp.asarray(WEIGHTS), jnp.asarray(MEANS), covs).denoiser(sde)
    x = jax.random.normal(jax.random.key(0), (8, 2))
    np.testing.assert_allclose(mixture_denoiser(sde)(x, t), exact(x, t), rtol=1e-10)


def partial(constructor, **options):
    return functools.partial(constructor, **options)


DETERMINISTIC = {  # name: (constructor, order)
    "ddim": (solvers.ddim, 1),
    "dpmpp 2": (solvers.dpmpp, 2),
    "dpmpp 2 exact": (partial(solvers.dpmpp, slope="exact"), 2),
    "dpmpp 3": (partial(solvers.dpmpp, order=3), 3),
    "dpmpp 4": (partial(solvers.dpmpp, order=4), 4),
    "deis t 1": (partial(solvers.deis, order=1), 1),
    "deis t 2": (partial(solvers.deis, order=2), 2),
    "deis t 3": (partial(solvers.deis, order=3), 3),
    "deis t 4": (partial(solvers.deis, order=4), 4),
    "deis rho 3": (partial(solvers.deis, order=3, variable="rho"), 3),
    "deis log_rho 2": (partial(solvers.deis, order=2, variable="log_rho"), 2),
    "deis log_rho 3": (partial(solvers.deis, order=3, variable="log_rho"), 3),
    "deis log_rho 4": (partial(solvers.deis, order=4, variable="log_rho"), 4),
    "lms 4": (solvers.lms, 4),
    "ipndm 3": (partial(solvers.ipndm, order=3), 3),
    "ipndm, equal steps": (partial(solvers.ipndm, variable_step=False), 2),
    "v 3": (partial(multistep, order=3, prediction="v", variable="log_rho"), 3),
    "unipc 1 bh1": (partial(solvers.unipc, order=1, variant="bh1", end_order=None), 2),
    "unipc 2 bh2": (partial(solvers.unipc, order=2, end_order=None), 3),
    "unipc 3": (partial(solvers.unipc, order=3, end_order=None), 4),
    "unipc 3 eps": (partial(solvers.unipc, order=3, prediction="eps", end_order=None), 4),
    "sa_solver": (partial(solvers.sa_solver, tau=0.0), 4),
    "sa_solver 2 1": (
        partial(solvers.sa_solver, predictor_order=2, corrector_order=1, tau=0.0),
        2,
    ),
    "heun": (solvers.heun, 2),
    "dpm2": (solvers.dpm2, 2),
    "dpm_solver 1": (partial(solvers.dpm_solver, order=1), 1),
    "dpm_solver 3": (solvers.dpm_solver, 3),
    "dpmpp_singlestep 2": (solvers.dpmpp_singlestep, 2),
    "dpmpp_singlestep 3": (partial(solvers.dpmpp_singlestep, order=3), 3),
}
COLD = {  # from their own start-up steps, without a history
    "pndm": (solvers.pndm, 2),
    "pndm, PLMS": (partial(solvers.pndm, skip_prk=True), 2),
    "dpmpp 3 from 3": (partial(solvers.dpmpp, order=3, start_order=3), 3),
    "deis 3 from 2": (partial(solvers.deis, order=3, variable="log_rho", start_order=2), 3),
    "unipc 2, published": (solvers.unipc, 2),
}
# What the first steps leave of the order, on a process that starts among the components: at much
# noise the denoiser hardly changes, and errors of the start cannot be seen.
STARTS = {
    "dpmpp 3": (partial(solvers.dpmpp, order=3), 2),
    "dpmpp 3, start_order 3": (partial(solvers.dpmpp, order=3, start_order=3), 3),
    "lms": (solvers.lms, 2),
    "lms, start_order 3": (partial(solvers.lms, start_order=3), 4),
    "unipc 3": (partial(solvers.unipc, order=3), 2),
    "unipc 3, to the end": (partial(solvers.unipc, order=3, end_order=None), 3),
    "unipc 3, start_order 3": (partial(solvers.unipc, order=3, start_order=3, end_order=None), 4),
    "sa_solver": (partial(solvers.sa_solver, tau=0.0), 3),
    "sa_solver, start_order 3": (partial(solvers.sa_solver, tau=0.0, start_order=3), 4),
}


def tight(sde, denoiser, x, times):
    solver = solvers.probability_flow(sde, rtol=1e-12, atol=1e-12, method="Dopri8")
    return jax.jit(
        lambda x, times: (
            sampling.sample(
                jax.random.key(0), solver, denoiser, x, times, trajectory=True
            ).trajectory
        )
    )(x, times)


# Order 5 shows itself later, where the rounding of the others would already show.
FIFTH = {"unipc 4": (partial(solvers.unipc, order=4, end_order=None), 5)}
ON_VP = ("deis t 3", "v 3", "unipc 3", "lms 4", "dpm_solver 3")


@pytest.mark.parametrize(
    ("sde", "methods", "steps"),
    [
        (EDM(t_min=0.1, t_max=10.0), {**DETERMINISTIC, **COLD}, (160, 320)),
        (EDM(t_min=0.1, t_max=10.0), FIFTH, (480, 640)),
        (VP(t_min=0.01), {name: DETERMINISTIC[name] for name in ON_VP}, (160, 320)),
        (EDM(t_min=0.1, t_max=1.0), STARTS, (160, 320)),
    ],
    ids=["EDM", "order 5", "VP", "starts"],
)
def test_deterministic(x64, sde, methods, steps):
    """The slope of the endpoint's error against the step; the history at the start is exact, but
    for COLD and STARTS."""
    denoiser = mixture_denoiser(sde)
    x = sde.prior_sample(jax.random.key(0), (32, 2))
    start, errors = 9, []
    for n in steps:
        times = grids.log_snr(sde, n)
        path = tight(sde, denoiser, x, jnp.concatenate([times[:start], times[-1:]]))

        @jax.jit
        def run(x, times=times, path=path):
            return {
                name: sampling.sample(
                    jax.random.key(0),
                    constructor(sde)
                    if name in COLD or methods is STARTS
                    else solvers.exact_start(constructor(sde), path[:-1]),
                    denoiser,
                    x,
                    times,
                ).x
                for name, (constructor, _) in methods.items()
            }

        errors.append(
            {k: float(jnp.sqrt(jnp.mean((out - path[-1]) ** 2))) for k, out in run(x).items()}
        )
    refined = np.log(steps[1] / steps[0])
    slopes = {k: np.log(errors[0][k] / errors[1][k]) / refined for k in methods}
    wrong = {k: (s, methods[k][1]) for k, s in slopes.items() if abs(s - methods[k][1]) > 0.15}
    assert not wrong, wrong


# Stochastic solvers: on a Gaussian N(1, 1/4) every step is affine in x and the noise, so that a
# batch of unit vectors of noise gives the distribution of the endpoint without any sampling.
MEAN, VARIANCE = 1.0, 0.25


def gaussian_denoiser(sde):
    def denoiser(x, t):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
        return MEAN + gain * (x - alpha * MEAN)

    return denoiser


def run_with_noise(solver, denoiser, x, times, noise):
    """The endpoint when the draws of step i are noise[i] [draws, b, d], in the order of drawing."""

    def body(carry, inputs):
        x, state = carry
        t, s, z = inputs
        return solver.step(Given(z), denoiser, x, t, s, state), None

    @jax.jit
    def run(x, times, noise):
        start = (x, solver.init(x, times))
        return jax.lax.scan(body, start, (times[:-1], times[1:], noise))[0][0]

    return run(x, times, noise)


def moments(solver, sde, times, draws):
    """Mean and variance of the endpoint, the start being the exact N(alpha m, ...) at times[0]."""
    n = len(times) - 1
    units = np.zeros((n, draws, n * draws + 2, 1))
    for i in range(n):
        for j in range(draws):
            units[i, j, 2 + i * draws + j] = 1.0
    x = jnp.zeros((n * draws + 2, 1)).at[1].set(1.0)
    out = run_with_noise(solver, gaussian_denoiser(sde), x, times, jnp.asarray(units))
    offset, linear = out[0, 0], out[1:, 0] - out[0, 0]
    alpha, sigma = sde.alpha(times[0]), sde.sigma(times[0])
    start = alpha**2 * VARIANCE + sigma**2
    return offset + linear[0] * alpha * MEAN, linear[0] ** 2 * start + jnp.sum(linear[1:] ** 2)


WEAK = {  # name: (constructor, weak order, draws a step)
    "ancestral": (solvers.ancestral, 1, 1),
    "ddim eta 0.5": (partial(solvers.ddim, eta=0.5), 1, 1),
    "dpmpp_sde 2": (solvers.dpmpp_sde, 2, 1),
    "dpmpp_sde 3": (partial(solvers.dpmpp_sde, order=3), 2, 1),
    "sa_solver": (partial(solvers.sa_solver, s_min=0.0, s_max=100.0), 2, 1),
    "sa_solver tau 0.5": (partial(solvers.sa_solver, tau=0.5, s_min=0.0, s_max=100.0), 2, 1),
    "dpm_solver 1": (partial(solvers.dpm_solver, order=1, tau=1.0), 1, 1),
    "dpm_solver 2": (partial(solvers.dpm_solver, order=2, tau=1.0), 2, 2),
    "dpmpp_singlestep 2": (partial(solvers.dpmpp_singlestep, tau=1.0), 2, 2),
    "dpmpp_singlestep 3": (partial(solvers.dpmpp_singlestep, order=3, tau=1.0), 2, 3),
    "euler_maruyama": (solvers.euler_maruyama, 1, 1),
    "reverse_diffusion": (solvers.reverse_diffusion, 1, 1),
    "sra1": (solvers.sra1, 2, 2),
    "sra1 tau 0.5": (partial(solvers.sra1, tau=0.5), 2, 2),
    "shark": (solvers.shark, 2, 2),
    "edm": (partial(solvers.edm, s_churn=2.0, s_min=0.0, s_max=100.0, s_noise=1.0), 2, 1),
}


@pytest.mark.parametrize("name", WEAK)
def test_weak(x64, name):
    """Of the variance; the mean of a Gaussian is exact for all of those written in x_0."""
    constructor, order, draws = WEAK[name]
    sde = EDM(t_min=0.1, t_max=5.0)
    errors = []
    steps = (400, 800) if name.startswith("dpm_solver") else (100, 200)  # where it changes sign
    for n in steps:
        times = grids.log_snr(sde, n)
        mean, variance = moments(constructor(sde), sde, times, draws)
        assert abs(float(mean) - MEAN) < 10 / n**order
        errors.append(float(variance) / (VARIANCE + sde.t_min**2) - 1)
    slope = np.log2(errors[0] / errors[1])
    assert abs(slope - order) < 0.15, (slope, errors)


def inverse_square(sde, t):
    return jnp.exp(sde.log_snr(t))


def square(sde, t):
    return -jnp.exp(-sde.log_snr(t))


STRONG = {  # name: (constructor, draws a step, the clock of the Brownian motion in its noise)
    "ancestral": (solvers.ancestral, 1, inverse_square),
    "dpmpp_sde 2": (solvers.dpmpp_sde, 1, inverse_square),
    "sa_solver": (partial(solvers.sa_solver, s_min=0.0, s_max=100.0), 1, inverse_square),
    "dpmpp_singlestep 2": (partial(solvers.dpmpp_singlestep, tau=1.0), 2, inverse_square),
    "dpm_solver 2": (partial(solvers.dpm_solver, order=2, tau=1.0), 2, square),
    "euler_maruyama": (solvers.euler_maruyama, 1, lambda sde, t: -t),
    "reverse_diffusion": (solvers.reverse_diffusion, 1, square),
}


@pytest.mark.parametrize("name", STRONG)
def test_strong(x64, name):
    """Order 1 along shared Brownian paths: the RMS difference to far finer steps.

    The components are brought together: where they are apart, the few paths that a small error
    sends to another component are most of the RMS, and it has no slope to speak of.
    """
    constructor, draws, clock = STRONG[name]
    sde = EDM(t_min=0.1, t_max=5.0)
    finest, paths = 8192, 128
    ticks = clock(sde, grids.log_snr(sde, finest * draws))
    rng = np.random.default_rng(0)
    parts = np.sqrt(np.diff(ticks))[:, None, None] * rng.normal(size=(len(ticks) - 1, paths, 2))
    brownian = np.concatenate([np.zeros((1, paths, 2)), np.cumsum(parts, axis=0)])
    x = jnp.asarray(5.0 * rng.normal(size=(paths, 2)))

    def end(n):
        at = np.arange(n * draws + 1) * (finest // n)
        z = np.diff(brownian[at], axis=0) / np.sqrt(np.diff(ticks[at]))[:, None, None]
        noise = jnp.asarray(z.reshape(n, draws, paths, 2))
        times = grids.log_snr(sde, n)
        denoiser = mixture_denoiser(sde, spread=0.4)
        return run_with_noise(constructor(sde), denoiser, x, times, noise)

    truth = end(finest)
    errors = [float(jnp.sqrt(jnp.mean((end(n) - truth) ** 2))) for n in (64, 512)]
    slope = np.log2(errors[0] / errors[1]) / 3
    assert abs(slope - 1) < 0.15, (slope, errors)


def test_without_noise_the_stochastic_forms_are_the_odes(x64):
    """tau, eta and gamma of 0 that are only known at run time, against the deterministic names."""
    sde = EDM(t_min=0.1, t_max=5.0)
    x = sde.prior_sample(jax.random.key(0), (8, 2))
    times, denoiser = grids.karras(sde, 10), mixture_denoiser(sde)

    def end(solver):
        return sampling.sample(jax.random.key(0), solver, denoiser, x, times).x

    @jax.jit
    def pairs(zero):
        churned = solvers.edm(sde, s_min=2.0, s_max=1.0)  # a window that nothing is in
        return {
            "ddim": (end(solvers.ddim(sde, eta=zero)), end(solvers.ddim(sde))),
            "dpmpp": (end(solvers.dpmpp_sde(sde, 3, tau=zero)), end(solvers.dpmpp(sde, 3))),
            "sa": (end(solvers.sa_solver(sde, tau=zero)), end(solvers.sa_solver(sde, tau=0.0))),
            "3s": (
                end(solvers.dpmpp_singlestep(sde, 3, tau=zero)),
                end(solvers.dpmpp_singlestep(sde, 3)),
            ),
            "dpm": (end(solvers.dpm_solver(sde, 3, tau=zero)), end(solvers.dpm_solver(sde, 3))),
            "edm": (end(churned), end(solvers.heun(sde))),
        }

    for name, (stochastic, deterministic) in pairs(jnp.asarray(0.0)).items():
        np.testing.assert_allclose(stochastic, deterministic, rtol=1e-10, err_msg=name)


def test_restart_has_the_variance_of_the_data_whatever_the_noise(x64):
    """Its error in the variance is Heun's, of order 2 in both step sizes."""
    sde = EDM(t_min=0.1, t_max=5.0)
    errors = []
    for n in (32, 64):
        solver = solvers.restart(sde, s_min=0.2, s_max=2.0, repeats=1, steps=n)
        times = grids.log_snr(sde, n)
        x = jnp.array([[0.0], [1.0], [0.0]])  # offset, start, the noise of the restart
        noise = jnp.zeros((n, 1, 3, 1)).at[:, :, 2].set(1.0)
        out = run_with_noise(solver, gaussian_denoiser(sde), x, times, noise)[:, 0]
        start = VARIANCE + sde.t_max**2
        variance = (out[1] - out[0]) ** 2 * start + (out[2] - out[0]) ** 2
        errors.append(float(variance) / (VARIANCE + sde.t_min**2) - 1)
    assert abs(np.log2(errors[0] / errors[1]) - 2) < 0.15, errors
