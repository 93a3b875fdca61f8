"""Solvers against an exact score: orders of convergence, moments, and equality with formulas."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling, solvers
from score_sde.processes import DDPM, EDM, SMLD, VE, VP, Cosine, Flow, SubVP
from score_sde.processes.exact import Gaussian, Mixture
from score_sde.sampling import grids
from score_sde.solvers import tokens, weighted
from score_sde.solvers.multistep import multistep
from score_sde.types import Noise, expand
from tests.given_noise import Given

MIXTURE = (  # three components in two dimensions
    np.array([0.5, 0.3, 0.2]),
    np.array([[1.5, 0.0], [-1.0, 1.0], [0.0, -1.5]]),
    np.array([[[0.3, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.4]], [[0.2, -0.1], [-0.1, 0.2]]]),
)
ADAPTIVE = {"probability_flow", "dpm_adaptive", "gotta_go_fast"}  # on no fixed grid
STOCHASTIC = {
    "ancestral": solvers.ancestral,
    "ddim eta 0.5": functools.partial(solvers.ddim, eta=0.5),
    "dpmpp sde": solvers.dpmpp_sde,
    "euler_maruyama": solvers.euler_maruyama,
    "reverse_diffusion": solvers.reverse_diffusion,
    "edm": functools.partial(solvers.edm, s_noise=1.0),
    "dpmpp_singlestep sde": functools.partial(solvers.dpmpp_singlestep, tau=1.0),
    "sa_solver": functools.partial(solvers.sa_solver, s_max=10.0),
    "predictor_corrector": functools.partial(solvers.predictor_corrector, snr=0.05),
    "annealed": functools.partial(
        solvers.predictor_corrector, corrector="annealed_langevin", predictor="ddim", snr=0.1
    ),
}


def run(solver, sde, denoiser, x, times, seed=0, **options):
    return jax.jit(
        lambda x: sampling.sample(jax.random.key(seed), solver, denoiser, x, times, **options)
    )(x)


def one_step(solver, z, x, x_0, t, s):
    """From t to s with the noise z, the network's answer being x_0."""

    @jax.jit
    def step(x, x_0, t, s):
        state = solver.init(x, jnp.stack([t, s]))
        return solver.step(Given([z]), lambda x, t: x_0, x, t, s, state)[0]

    return step(x, x_0, jnp.asarray(t), jnp.asarray(s))


def gaussian_denoiser(sde, mean, cov):
    """Of N(mean, cov), in an eigenbasis found beforehand: elementwise, so quick to compile."""
    values, basis = (jnp.asarray(a) for a in np.linalg.eigh(np.asarray(cov)))

    def denoiser(x, t):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        gain = alpha * values / (alpha**2 * values + sigma**2)
        return mean + basis @ (gain * (basis.T @ (x - alpha * mean)))

    return lambda x, t: jax.vmap(denoiser)(x, jnp.broadcast_to(t, x.shape[:1]))


@pytest.mark.parametrize(
    ("sde", "names"),
    # on EDM the moments of the others are known without chance, by test_orders.py::test_weak
    [(VP(t_min=1e-3), tuple(STOCHASTIC)), (EDM(), ("predictor_corrector", "annealed"))],
    ids=["VP", "EDM"],
)
def test_moments_of_a_gaussian(sde, names):
    """A Gaussian's samples have its mean and covariance, within four standard errors plus the
    1 % that 300 steps leave to a method of weak order 1 (corrector: 3 %, its step is finite)."""
    mean, cov = jnp.array([1.0, -0.5]), jnp.array([[0.8, 0.3], [0.3, 0.4]])
    n = 5_000
    x = sde.prior_sample(jax.random.key(1), (n, 2))
    denoiser = gaussian_denoiser(sde, mean, cov)
    even = grids.log_snr(sde, 300)  # for those that are not exact in the linear part
    grid = even if isinstance(sde, EDM) else grids.uniform(sde, 300)

    @jax.jit
    def every(x):
        return {
            name: sampling.sample(
                jax.random.key(0, impl="unsafe_rbg"),  # half of the time are random numbers
                STOCHASTIC[name](sde),
                denoiser,
                x,
                even if name == "euler_maruyama" else grid,
            ).x
            for name in names
        }

    truth = np.asarray(cov) + float(sde.sigma(jnp.asarray(sde.t_min))) ** 2 * np.eye(2)
    for name, samples in every(x).items():
        bias = {"predictor_corrector": 0.03, "annealed": 0.03, "euler_maruyama": 0.05}.get(
            name, 0.01
        )
        samples = np.asarray(samples)
        np.testing.assert_allclose(samples.mean(0), mean, atol=4 / np.sqrt(n) + bias, err_msg=name)
        np.testing.assert_allclose(
            np.cov(samples.T), truth, atol=4 * np.sqrt(2 / n) * 0.8 + bias, err_msg=name
        )


def test_ancestral_is_the_posterior_of_ddpm(x64):
    """Equation 7 of Ho et al. 2020, step by step on the chain."""
    sde = DDPM(num_steps=20, beta_max=10.0)
    bar = np.cumprod(1 - sde.betas)
    i = 12
    times = np.arange(20) / 19
    x = jax.random.normal(jax.random.key(0), (4, 3))
    x_0 = jax.random.normal(jax.random.key(1), (4, 3))
    z = jax.random.normal(jax.random.key(2), x.shape)
    solver = solvers.ancestral(sde)
    pair = times[i], times[i - 1]
    step = one_step(solver, z, x, x_0, *pair)
    beta = sde.betas[i]
    mean = (
        np.sqrt(bar[i - 1]) * beta / (1 - bar[i]) * x_0
        + np.sqrt(1 - beta) * (1 - bar[i - 1]) / (1 - bar[i]) * x
    )
    variance = (1 - bar[i - 1]) / (1 - bar[i]) * beta
    np.testing.assert_allclose(step, mean + np.sqrt(variance) * z, rtol=1e-9)
    large = one_step(solvers.ancestral(sde, variance="large"), z, x, x_0, *pair)
    np.testing.assert_allclose(large, mean + np.sqrt(beta) * z, rtol=1e-9)


def test_the_two_variances_of_ddpm(x64):
    """The final variance of the chain of Ho et al. 2020 for data of N(0, 0.01) and its exact
    denoiser, a recursion in numbers: 7 % too little with the small variance, 2 % too much with the
    large one. Each sampler makes its own."""
    sde, data, n = DDPM(), 0.01, 2000
    beta, bar = sde.betas, np.cumprod(1 - sde.betas)
    before = np.append(1.0, bar[:-1])
    gain = np.sqrt(bar) * data / (bar * data + 1 - bar)
    scale = np.sqrt(before) * beta / (1 - bar) * gain + np.sqrt(1 - beta) * (1 - before) / (1 - bar)
    x = sde.prior_sample(jax.random.key(0), (n, 1))
    denoiser = gaussian_denoiser(sde, jnp.zeros(1), np.full((1, 1), data))
    times = grids.uniform(sde, 999)
    for name, noise, ratio in (
        ("small", (1 - before) / (1 - bar) * beta, 0.93),
        ("large", beta, 1.02),
    ):
        variance = 1.0
        for i in range(999, 0, -1):
            variance = scale[i] ** 2 * variance + noise[i]
        variance *= gain[0] ** 2  # E[x_0 | x]
        assert variance / data == pytest.approx(ratio, abs=0.005)
        solver = solvers.ancestral(sde, variance=name)
        ours = run(solver, sde, denoiser, x, times, denoise=True).x
        assert np.mean(ours**2) / variance == pytest.approx(1, abs=4 * np.sqrt(2 / n))
    with pytest.raises(ValueError, match="unknown variance 'beta': one of small, large"):
        solvers.ancestral(sde, variance="beta")


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_ddim_is_the_published_formula(x64, eta):
    """Equation 12 of Song, Meng & Ermon 2021."""
    sde = VP()
    t, s = jnp.asarray(0.6), jnp.asarray(0.4)
    bar_t, bar_s = float(sde.alpha(t)) ** 2, float(sde.alpha(s)) ** 2
    x, x_0 = (jax.random.normal(jax.random.key(i), (4, 3)) for i in range(2))
    z = jax.random.normal(jax.random.key(2), x.shape)
    solver = solvers.ddim(sde, eta=eta)
    ours = one_step(solver, z, x, x_0, t, s)
    eps = (x - np.sqrt(bar_t) * x_0) / np.sqrt(1 - bar_t)
    std = eta * np.sqrt((1 - bar_s) / (1 - bar_t) * (1 - bar_t / bar_s))
    truth = np.sqrt(bar_s) * x_0 + np.sqrt(1 - bar_s - std**2) * eps
    truth = truth + std * z
    np.testing.assert_allclose(ours, truth, rtol=1e-10)


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("sde", [VP(), EDM(), SubVP()], ids=lambda s: type(s).__name__)
def test_jumps_along_an_exact_flow_map_keep_the_law(x64, sde, gamma):
    """x_t of N(m, v) becomes x_s of N(m, v) for every gamma, which may be an array. The variance of
    the drawn noise is gamma^2 sigma_s^2 (Kim et al. 2024, alg. 2). At gamma 1 it is that of the
    noise above t_min (Song et al. 2023, alg. 1)."""
    m, v = 0.7, 0.3
    law = Gaussian(jnp.array([m]), jnp.array([[v]]))
    t, s = (sde.t_of_log_snr(jnp.asarray(value)) for value in (-2.0, 1.0))
    a_t, a_s, a_e = (float(sde.alpha(u)) for u in (t, s, jnp.asarray(sde.t_min)))
    b_t, b_s, b_e = (float(sde.sigma(u)) for u in (t, s, jnp.asarray(sde.t_min)))

    def end(x, z, gamma):
        solver = solvers.flow_map(sde, gamma)
        state = solver.init(x, jnp.stack([t, s]))
        return solver.step(lambda *_: z, law.flow_map(sde), x, t, s, state)[0]

    x, zero = jnp.linspace(-2, 2, 5)[:, None], jnp.zeros((5, 1))
    for given in (gamma, jnp.asarray(gamma)):
        mean = end(jnp.full((5, 1), a_t * m), zero, given)
        np.testing.assert_allclose(mean, a_s * m, rtol=1e-11)
        slope = (end(x, zero, given) - mean) / (x - a_t * m)
        drawn = end(x, zero + 1, given) - end(x, zero, given)
        variance = slope**2 * (a_t**2 * v + b_t**2) + drawn**2
        np.testing.assert_allclose(variance, a_s**2 * v + b_s**2, rtol=1e-9)
        wanted = gamma * b_s if gamma < 1 else np.sqrt(b_s**2 - (a_s / a_e * b_e) ** 2)
        np.testing.assert_allclose(drawn, wanted, rtol=1e-9, atol=1e-9)


def test_euler_maruyama_and_reverse_diffusion_are_the_papers(x64):
    """On SMLD and DDPM: x + (f - ...) as tabulated in Song et al. 2021, app. E and G."""
    x, x_0 = (jax.random.normal(jax.random.key(i), (4, 3)) for i in range(2))
    z = jax.random.normal(jax.random.key(2), x.shape)

    smld = SMLD(num_steps=10)
    t, s = 5 / 9, 4 / 9
    sigma = np.geomspace(0.01, 50, 10)
    score = -(x - x_0) / sigma[5] ** 2
    g2 = sigma[5] ** 2 - sigma[4] ** 2
    ours = one_step(solvers.reverse_diffusion(smld), z, x, x_0, t, s)
    np.testing.assert_allclose(ours, x + g2 * score + np.sqrt(g2) * z, rtol=1e-9)

    ddpm = DDPM(num_steps=10, beta_max=5.0)
    beta, bar = ddpm.betas[5], np.cumprod(1 - ddpm.betas)[5]
    score = -(x - np.sqrt(bar) * x_0) / (1 - bar)
    ours = one_step(solvers.reverse_diffusion(ddpm), z, x, x_0, t, s)
    truth = 2 * x - np.sqrt(1 - beta) * x + beta * score + np.sqrt(beta) * z
    np.testing.assert_allclose(ours, truth, rtol=1e-9)

    ve, t, s = VE(), 0.5, 0.499
    sigma = 0.01 * 5000**0.5
    g = sigma * np.sqrt(2 * np.log(5000))
    score = -(x - x_0) / sigma**2
    ours = one_step(solvers.euler_maruyama(ve), z, x, x_0, t, s)
    np.testing.assert_allclose(ours, x + g**2 * score * 0.001 + g * np.sqrt(0.001) * z, rtol=1e-9)


def test_langevin_steps_are_the_papers(x64):
    """Algorithms 4 and 5 of Song et al. 2021 (VE, VP) and the annealed step."""
    x, x_0 = (jax.random.normal(jax.random.key(i), (4, 3)) for i in range(2))
    z = jax.random.normal(jax.random.key(2), x.shape)

    def norm(a):
        return np.mean(np.sqrt(np.sum(np.asarray(a) ** 2, axis=1)))

    for sde, a in ((SMLD(num_steps=10), 1.0), (DDPM(num_steps=10, beta_max=5.0), None)):
        t, s = jnp.asarray(5 / 9), jnp.asarray(4 / 9)
        a = a or 1 - sde.betas[5]
        score = sde.score(x, t, x_0)
        for solver, size in (
            (solvers.langevin(sde, snr=0.2), 2 * a * (0.2 * norm(z) / norm(score)) ** 2),
            (
                solvers.annealed_langevin(sde, snr=0.2),
                2 * a * (0.2 * float(sde.sigma(t))) ** 2,
            ),
        ):
            ours = one_step(solver, z, x, x_0, t, s)
            np.testing.assert_allclose(ours, x + size * score + np.sqrt(2 * size) * z, rtol=1e-9)


def test_heun_and_churn_are_edms(x64):
    """Algorithm 2 of Karras et al. 2022, written out, with the same noise: N = 3 steps, the last of
    which, to sigma = 0, is that of `denoise`."""
    sde = EDM()
    denoiser = jax.jit(Mixture(*map(jnp.asarray, MIXTURE)).denoiser(sde))
    times = jnp.array([80.0, 10.0, 1.0])
    x = sde.prior_sample(jax.random.key(0), (8, 2))
    noise = Noise(jax.random.key(3))
    options = {"s_churn": 0.7, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.01}
    ours = run(solvers.edm(sde, **options), sde, denoiser, x, times, seed=3, trajectory=True)
    for i in range(2):
        t, t_next = float(times[i]), float(times[i + 1])
        gamma = min(0.7 / 3, np.sqrt(2) - 1) if 0.05 <= t <= 50 else 0.0
        t_hat = t + gamma * t
        z = noise.fold(1)(times[i], times[i + 1], x.shape)
        x_hat = x + np.sqrt(t_hat**2 - t**2) * 1.01 * z
        d = (x_hat - denoiser(x_hat, jnp.asarray(t_hat))) / t_hat
        x_next = x_hat + (t_next - t_hat) * d
        d_next = (x_next - denoiser(x_next, times[i + 1])) / t_next
        x = x_hat + (t_next - t_hat) * (d + d_next) / 2
    np.testing.assert_allclose(ours.trajectory[-1], x, rtol=1e-10)


@pytest.mark.parametrize(
    "sde", [VP(), SubVP(), VE(), EDM(), Cosine(), Flow()], ids=lambda s: type(s).__name__
)
def test_adaptive_flow_of_a_gaussian_is_linear(x64, sde):
    """The flow of N(m, C) maps each principal axis by the ratio of standard deviations."""
    mean, cov = jnp.array([1.0, -0.5]), jnp.array([[0.8, 0.3], [0.3, 0.4]])
    x = sde.prior_sample(jax.random.key(1), (16, 2))
    solver = solvers.probability_flow(sde, rtol=1e-9, atol=1e-9)
    out = run(solver, sde, gaussian_denoiser(sde, mean, cov), x, grids.uniform(sde, 1))
    values, basis = np.linalg.eigh(np.asarray(cov))

    def moments(t):
        alpha, sigma = (np.asarray(f(jnp.asarray(t))) for f in (sde.alpha, sde.sigma))
        return alpha * np.asarray(mean), np.sqrt(alpha**2 * values + sigma**2)

    (m0, std0), (m1, std1) = moments(sde.t_max), moments(sde.t_min)
    truth = m1 + ((np.asarray(x) - m0) @ basis * std1 / std0) @ basis.T
    np.testing.assert_allclose(out.x, truth, atol=1e-6)
    assert out.nfe.shape == (16,)


def test_nfe_is_what_the_denoiser_saw(x64):
    """The reported number of evaluations is counted, on the host, by the denoiser itself."""
    sde = VP(t_min=1e-3)
    exact = gaussian_denoiser(sde, jnp.zeros(2), np.eye(2) / 4)
    calls = []

    def spying(x, t):
        # vmap must not merge the calls: one sample at a time
        jax.debug.callback(lambda: calls.append(1))
        return exact(x, t)

    x = sde.prior_sample(jax.random.key(0), (1, 2))
    for solver, steps in (
        (solvers.ddim(sde), 7),
        (solvers.heun(sde), 7),
        (solvers.predictor_corrector(sde, corrector_steps=2), 7),
        (solvers.probability_flow(sde), 1),
        (solvers.probability_flow(sde, method="Tsit5"), 1),
        (solvers.probability_flow(sde, method="Bosh3", rtol=1e-3, atol=1e-3), 2),
        (solvers.probability_flow(sde, method="Heun", rtol=1e-3, atol=1e-3), 1),
    ):
        calls.clear()
        out = run(solver, sde, spying, x, grids.uniform(sde, steps), denoise=True)
        jax.effects_barrier()
        assert int(jnp.sum(out.nfe)) == len(calls)


def test_every_sample_has_its_own_steps(x64):
    """Per-sample step control: a sample's result does not depend on its companions."""
    sde = VP(t_min=1e-3)
    denoiser = Mixture(*map(jnp.asarray, MIXTURE)).denoiser(sde)
    x = sde.prior_sample(jax.random.key(0), (6, 2)).at[0].multiply(10)
    solver = solvers.probability_flow(sde, rtol=1e-4, atol=1e-4)
    together = run(solver, sde, denoiser, x, grids.uniform(sde, 1))
    alone = run(solver, sde, denoiser, x[:1], grids.uniform(sde, 1))
    assert len(set(np.asarray(together.nfe).tolist())) > 1
    assert int(together.nfe[0]) == int(alone.nfe[0])
    np.testing.assert_allclose(together.x[:1], alone.x, rtol=1e-10)


def test_the_loop_is_the_steps_one_by_one(x64):
    sde = VP(t_min=1e-3)
    denoiser = gaussian_denoiser(sde, jnp.ones(2), np.eye(2) / 4)
    x = sde.prior_sample(jax.random.key(0), (4, 2))
    times, noise = grids.uniform(sde, 5), Noise(jax.random.key(7))
    solver = solvers.dpmpp_sde(sde)
    out = run(solver, sde, denoiser, x, times, seed=7, trajectory=True, denoise=True)
    state, path = jax.jit(solver.init)(x, times), [x]
    step = jax.jit(lambda x, t, s, state: solver.step(noise, denoiser, x, t, s, state))
    for i in range(5):
        x, state = step(x, times[i], times[i + 1], state)
        path.append(x)
    np.testing.assert_allclose(out.trajectory, np.stack(path), rtol=1e-10)
    np.testing.assert_allclose(out.x, jax.jit(denoiser)(x, times[-1]), rtol=1e-10)
    assert int(out.nfe) == 6


FIXED = {  # every name that a fixed grid drives, with few options each
    **{
        name: getattr(solvers, name)
        for name in solvers.__all__
        if name not in {*ADAPTIVE, "learned", *tokens.__all__, *weighted.__all__}
    },
    "dpmpp 3": functools.partial(solvers.dpmpp, order=3),
    "dpmpp_singlestep 3": functools.partial(solvers.dpmpp_singlestep, order=3, tau=1.0),
    "unipc 3": functools.partial(solvers.unipc, order=3, variant="bh1"),
    "deis log_rho": functools.partial(solvers.deis, variable="log_rho"),
    "v 3": functools.partial(multistep, order=3, prediction="v"),
}
GRIDS = {
    "uniform": grids.uniform,
    "log_snr": grids.log_snr,
    "karras": grids.karras,
    "polyexponential": functools.partial(grids.polyexponential, rho=2.0),
    "beta": grids.beta,
    "flow_shift": grids.flow_shift,
    "searched": grids.searched,
}


VARIED = (  # of each kind of step one
    "ddim",
    "deis",
    "sa_solver",
    "unipc 3",
    "v 3",
    "dpm_solver",
    "edm",
    "predictor_corrector",
)


@pytest.mark.parametrize(
    ("sde", "names"),
    [(VP(), FIXED)]
    + [(sde, VARIED) for sde in (EDM(), SubVP(), VE(), Cosine(), Flow(), DDPM(), SMLD())],
    ids=lambda value: type(value).__name__,
)
def test_no_nan_on_any_grid_with_a_bfloat16_network(sde, names):
    """From t_max to t_min in ten steps, the states in float32."""

    def network(x, t, *s):  # of N(0, I/4), as a network in bfloat16 would compute it
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        gain = alpha / 4 / (alpha**2 / 4 + sigma**2)
        return expand(gain, x).astype(jnp.bfloat16) * x.astype(jnp.bfloat16)

    times = jnp.stack([grid(sde, 10) for grid in GRIDS.values()])
    x = sde.prior_sample(jax.random.key(0), (4, 2))

    @jax.jit
    def every(times):
        return {
            name: jax.vmap(
                lambda times, constructor=constructor: (
                    sampling.sample(jax.random.key(0), constructor(sde), network, x, times).x
                )
            )(times)
            for name, constructor in FIXED.items()
            if name in names
        }

    for name, out in every(times).items():
        assert out.dtype == jnp.float32
        finite = dict(zip(GRIDS, np.isfinite(out).all(axis=(1, 2)), strict=True))
        assert all(finite.values()), (name, finite)


def test_float32_is_within_ten_roundings_of_float64():
    """The floor of every method: the RMS difference to float64 with the same 64 steps (and noise),
    relative to the data, on a process where rounding of x_T is not amplified by the flow."""
    sde = VP(t_min=1e-3)

    def denoiser(x, t, *s):  # of N(0, I)
        return sde.alpha(t) * x / (sde.alpha(t) ** 2 + sde.sigma(t) ** 2)

    rng = np.random.default_rng(0)
    start = rng.normal(size=(256, 2)).astype(np.float32)
    noise = rng.normal(size=(256, 2)).astype(np.float32)
    outs = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "normal", lambda key, shape, dtype: jnp.asarray(noise, dtype))
        for dtype in (np.float32, np.float64):
            with jax.enable_x64(True):
                # the same times to the last bit: rounding of the grid is not that of the method
                times = jnp.asarray(np.asarray(grids.log_snr(sde, 64), np.float32), dtype)
                outs.append(
                    jax.jit(
                        lambda x, times: {
                            name: sampling.sample(
                                jax.random.key(0), constructor(sde), denoiser, x, times
                            ).x
                            for name, constructor in FIXED.items()
                        }
                    )(jnp.asarray(start, dtype), times)
                )
    single, double = outs
    floors = {
        name: float(
            np.sqrt(np.mean((np.float64(single[name]) - np.asarray(double[name])) ** 2))
            / np.sqrt(np.mean(np.asarray(double[name]) ** 2))
            / np.finfo(np.float32).eps
        )
        for name in FIXED
    }
    # A Langevin step moves by the score, which has x - alpha D to rounding, divided by sigma^2.
    score = 2 * 0.16**2 / float(sde.sigma(jnp.float32(sde.t_min))) ** 2
    limits = {name: score if name == "predictor_corrector" else 10 for name in FIXED}
    assert all(floors[name] < limits[name] for name in FIXED), floors


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match="'euler' is not one of reverse_diffusion"):
        solvers.predictor_corrector(VP(), predictor="euler")
    with pytest.raises(ValueError, match="order is 5: one of 1, 2, 3, 4"):
        solvers.dpmpp(VP(), order=5)
    with pytest.raises(ValueError, match=r"unknown ODE method 'RK45': one of .*Dopri5"):
        solvers.probability_flow(VP(), method="RK45")


@pytest.mark.parametrize("name", ["ddim", "ancestral", "dpmpp"])
def test_flow_from_pure_noise(x64, name):
    """At t = 1 the log-SNR is -infinite; N(m, s^2) is reached all the same."""
    sde, mean, variance = Flow(t_max=1.0), 1.5, 0.25

    def denoiser(x, t):
        alpha, sigma = sde.alpha(t), sde.sigma(t)
        return mean + alpha * variance / (alpha**2 * variance + sigma**2) * (x - alpha * mean)

    x = sde.prior_sample(jax.random.key(0), (20_000, 1))
    solver = getattr(solvers, name)(sde)
    out = np.asarray(run(solver, sde, denoiser, x, grids.uniform(sde, 300)).x)
    # four standard errors and the 1 % that 300 steps leave
    assert abs(out.mean() - mean) < 4 * 0.5 / np.sqrt(20_000) + 0.01
    assert abs(out.var() / variance - 1) < 4 * np.sqrt(2 / 20_000) + 0.02
