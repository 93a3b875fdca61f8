"""Comparisons of solvers against closed forms, and the mode that tabulates and plots them."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from score_sde import sampling, solvers
from score_sde.config import build
from score_sde.errors import ConfigError, ConvergenceError
from score_sde.evaluation import solver_error
from score_sde.evaluation.metrics.wasserstein import sliced_wasserstein
from score_sde.evaluation.solver_error import Row
from score_sde.modes import solvers as solvers_mode
from score_sde.processes import EDM, VP, exact
from score_sde.sampling import grids


def gaussian_errors(sde, mean, variance, times):
    """`(a, b)` of `D(ddim's end) - D(the ODE's end) = a x + b` on N(mean, variance), by coordinate.

    DDIM is affine in x on a Gaussian, and the ODE keeps the standardised x.
    """
    times = np.asarray(times)
    alpha, sigma = (np.asarray(f(jnp.asarray(times))) for f in (sde.alpha, sde.sigma))
    total = alpha**2 * np.expand_dims(variance, -1) + sigma**2
    gain = alpha * np.expand_dims(variance, -1) / total

    def denoise(i, a, b):
        return gain[..., i] * a, mean + gain[..., i] * (b - alpha[i] * mean)

    a, b = np.ones_like(mean), np.zeros_like(mean)
    for i in range(len(times) - 1):
        ratio = sigma[i + 1] / sigma[i]
        da, db = denoise(i, a, b)
        change = alpha[i + 1] - alpha[i] * ratio
        a, b = ratio * a + change * da, ratio * b + change * db
    std = np.sqrt(total[..., -1] / total[..., 0])
    ours, truth = denoise(-1, a, b), denoise(-1, std, (alpha[-1] - std * alpha[0]) * mean)
    return ours[0] - truth[0], ours[1] - truth[1]


MEAN, VARIANCE = np.array([1.0, -0.5]), np.array([0.8, 0.05])


@pytest.fixture(scope="module")
def gaussian():
    """A process, the denoiser of N(MEAN, VARIANCE), starts and the ends of the ODE, in float64."""
    with jax.enable_x64(True):
        sde = VP(t_min=1e-3)
        denoiser = exact.Gaussian(jnp.asarray(MEAN), jnp.diag(jnp.asarray(VARIANCE))).denoiser(sde)
        x = sde.prior_sample(jax.random.key(0), (50, 2))
        return sde, denoiser, x, jax.jit(lambda x: solver_error.reference(sde, denoiser, x).x)(x)


def error(gaussian, constructor, times):
    sde, denoiser, x, truth = gaussian

    @jax.jit
    def end(times):
        key = jax.random.key(1)
        return sampling.sample(key, constructor(sde), denoiser, x, times, denoise=True).x

    return solver_error.rms_error(end(times), truth).value


def test_error_of_ddim_on_a_gaussian(x64, gaussian):
    sde, _, x, _ = gaussian
    for grid in (grids.log_snr, grids.uniform):
        times = grid(sde, 10)
        a, b = gaussian_errors(sde, MEAN, VARIANCE, times)
        closed = np.sqrt(np.mean((a * np.asarray(x) + b) ** 2))
        assert error(gaussian, solvers.ddim, times) == pytest.approx(closed, rel=1e-6)


def test_order_of_dpmpp(x64, gaussian):
    steps = (100, 200)
    errors = [error(gaussian, solvers.dpmpp, grids.log_snr(gaussian[0], n)) for n in steps]
    assert abs(solver_error.order(steps, errors) - 2) < 0.15
    assert solver_error.order((10, 20, 40), (8.0, 1.0, 0.125)) == pytest.approx(3)


def test_standard_error_of_a_root_mean_square():
    """Of n normal errors of deviation s it is s / sqrt(2 n), known to about 1/sqrt(n) of it."""
    error = np.random.default_rng(0).normal(size=(4000, 1)) * 0.3
    estimate = solver_error.rms_error(1 + error, np.ones_like(error))
    assert estimate.value == pytest.approx(np.sqrt(np.mean(error**2)))
    assert estimate.standard_error == pytest.approx(0.3 / math.sqrt(2 * 4000), rel=0.1)


@pytest.mark.parametrize(
    ("spec", "budget", "steps"),
    [
        ("ddim", 10, 9),  # n + 1
        ("unipc", 10, 9),
        ("unipc", 2, 1),
        ("unipc", 1, None),
        ("heun", 10, 4),  # 2 n + 1
        ("heun", 9, 4),
        ("heun", 2, None),
        ("dpm_solver(order=3)", 10, 3),  # 3 n + 1
        ("predictor_corrector(corrector_steps=2)", 10, 3),
        ("dpmpp(start_order=2)", 10, 8),  # one step of two evaluations
        ("dpmpp(order=3, start_order=3)", 10, 5),  # two steps of three
        ("dpmpp(order=3, start_order=3)", 3, None),
    ],
)
def test_steps_within_a_budget(spec, budget, steps):
    sde = VP(t_min=1e-3)
    solver = build("solvers", spec, sde)
    assert solver_error.steps_within(solver, lambda n: grids.uniform(sde, n), budget) == steps


def test_stochastic_solvers_are_known_by_what_they_do():
    sde = EDM()
    times = grids.log_snr(sde, 16)
    for spec in ("ddim(eta=0.1)", "edm", "predictor_corrector"):
        assert solver_error.is_stochastic(build("solvers", spec, sde), times), spec
    for spec in ("ddim(eta=0.0)", "edm(s_churn=0.0)"):
        assert not solver_error.is_stochastic(build("solvers", spec, sde), times), spec


def test_a_sweep_is_the_runs_one_by_one(x64):
    sde, calls = VP(t_min=1e-3), []

    def denoiser(x, t):  # of no distribution
        calls.append(1)
        return jnp.tanh(x + t)

    def draw(key, eta):
        key_start, key_solver = jax.random.split(key)
        x = sde.prior_sample(key_start, (4, 2))
        solver = solvers.ddim(sde, eta=eta)
        return sampling.sample(key_solver, solver, denoiser, x, grids.uniform(sde, 6)).x

    keys, etas = jax.random.split(jax.random.key(0), 2), jnp.array([0.0, 0.5, 1.0])
    one = jax.jit(draw)
    separate = np.array([[one(key, eta) for eta in etas] for key in keys])
    once, calls[:] = len(calls), []
    swept = sampling.sweep(draw, key=keys, eta=etas)
    assert len(calls) == once
    assert swept.shape == (2, 3, 4, 2)
    np.testing.assert_allclose(swept, separate, rtol=1e-12, atol=1e-12)
    without_noise = jax.jit(lambda key: draw(key, 0.0))(keys[1])  # by construction
    np.testing.assert_allclose(swept[1, 0], without_noise, rtol=1e-10)


def test_sliced_wasserstein(x64):
    """A shift moves every projection by its part of it; in one dimension there is one direction."""
    key, a = jax.random.key(0), jax.random.normal(jax.random.key(1), (1000, 1))
    shuffled = jax.random.permutation(jax.random.key(2), a)
    assert float(sliced_wasserstein(key, a, shuffled)) == 0
    assert float(sliced_wasserstein(key, a, shuffled + 0.3)) == pytest.approx(0.3)
    assert float(sliced_wasserstein(key, 3 * a, a)) == pytest.approx(
        2 * float(jnp.std(a)), rel=0.01
    )
    plane = jax.random.normal(jax.random.key(1), (50, 2, 1))
    shift = jnp.array([[[3.0], [4.0]]])
    # the mean of cos^2 over 4,000 directions is 1/2 to 1/sqrt(8 * 4000)
    far = float(sliced_wasserstein(key, plane, plane + shift, projections=4000))
    assert far == pytest.approx(5 / math.sqrt(2), rel=4 / 2 * math.sqrt(2) / math.sqrt(8000))


def row(solver, grid, budget, error):
    return Row(solver, grid, budget, 1, float(budget), error, 0.0, 0.0)


def test_tables():
    rows = [
        row("ddim", "karras", 5, 0.2),
        row("ddim", "karras", 10, 0.01),
        row("ddim", "uniform", 5, 0.1),
        row("ddim", "uniform", 10, 0.05),
        row("heun", "karras", 10, 0.02),
        row("heun", "uniform", 10, math.nan),
    ]
    assert solver_error.table(rows).splitlines() == [
        "| solver | grid      | NFE 5      | NFE 10     |",
        "| ------ | --------- | ---------- | ---------- |",
        "| `ddim` | `karras`  | 2.0e-1     | **1.0e-2** |",
        "| `ddim` | `uniform` | **1.0e-1** | 5.0e-2     |",
        "| `heun` | `karras`  |            | 2.0e-2     |",
        "| `heun` | `uniform` |            | nan        |",
    ]
    # 0.2 * 0.01 < 0.1 * 0.05
    assert list(solver_error.at_best_grid(rows)) == [("ddim", "karras"), ("heun", "karras")]


def tiny(**options):
    """DDIM, stochastic and adaptive solvers on one Gaussian around (1, 0)."""
    config = base.get_config()
    config.sde = "VP(t_min=1e-3)"
    config.solvers.problem = "ring(components=1, std=0.5)"
    config.solvers.solvers = ("ddim", "heun", "ddim(eta=(0.0, 1.0))", "probability_flow(rtol=1e-3)")
    config.solvers.grids = ("uniform",)
    config.solvers.nfe = (2, 11)
    config.solvers.num_samples, config.solvers.batches = 16, 2
    config.solvers.reference_tolerance = 1e-8
    config.solvers.update(options)
    return config


def test_mode_solvers(tmp_path, capsys):
    solvers_mode.solvers(tiny(), tmp_path / "new")
    result = json.loads((tmp_path / "new" / "solvers.json").read_text())
    endpoint, distance = (
        result["measures"][name] for name in (solvers_mode.ENDPOINT, solvers_mode.DISTANCE)
    )
    found = {(r["solver"], r["budget"]): r for r in endpoint["rows"]}
    assert [*found] == [
        ("ddim", 2),
        ("ddim", 11),
        ("heun", 11),  # two evaluations are too few for a step and the last denoising
        ("probability_flow(rtol=0.001)", None),
    ]
    assert found["heun", 11]["nfe"] == 11
    assert found["probability_flow(rtol=0.001)", None]["nfe"] > 11
    assert found["probability_flow(rtol=0.001)", None]["error"] < found["heun", 11]["error"]
    assert 0 < endpoint["floor"] < 1e-6
    # two sets of 16 samples of deviation 1/2 are about 1/2 / sqrt(16) apart
    assert 1 / 32 < distance["floor"] < 1 / 2

    sde, mean = VP(t_min=1e-3), np.array([1.0, 0.0])
    with jax.enable_x64(True):
        for budget in (2, 11):
            times = grids.uniform(sde, budget - 1)
            a, b = gaussian_errors(sde, mean, np.full(2, 0.25), times)
            closed = np.sqrt(np.mean(a**2 + b**2))  # over standard normal starts
            row = found["ddim", budget]
            assert abs(row["error"] - closed) < 4 * row["standard_error"]

    swept = {(r["solver"], r["budget"]): r["error"] for r in distance["rows"]}
    assert [*swept] == [(f"ddim(eta={eta})", n) for n in (2, 11) for eta in (0.0, 1.0)]
    assert swept["ddim(eta=0.0)", 2] > swept["ddim(eta=0.0)", 11]
    report = (tmp_path / "new" / "solvers.md").read_text()
    assert report in capsys.readouterr().out
    assert (tmp_path / "new" / "solvers.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"problem": "rings"}, "exact: unknown name 'rings'; did you mean 'ring'"),
        ({"problem": "ring(components=0)"}, "ring: a ring needs at least 1 component"),
        ({"solvers": ("ddim", "dimm")}, "solvers: unknown name 'dimm'; did you mean 'ddim'"),
        ({"solvers": ("dpmpp(order=7)",)}, "dpmpp: order is 7: one of 1, 2, 3, 4"),
        ({"solvers": ("dpmpp(order=(2, 3))",)}, "dpmpp: order cannot be swept"),
        ({"solvers": ("ddim(eta=())",)}, r"ddim: eta=\(\) is not a sweep of numbers"),
        ({"grids": ("uniform", "karass")}, "grids: unknown name 'karass'; did you mean 'karras'"),
        ({"nfe": (1, 10)}, "solvers.nfe must be at least 2, not"),
        ({"solvers": ("heun",), "nfe": (2,)}, r"solvers.nfe=\(2,\) is too little for all"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        solvers_mode.solvers(tiny(**options), tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_a_truth_that_does_not_converge_is_told(tmp_path):
    with pytest.raises(ConvergenceError, match=r"raise solvers\.reference_tolerance"):
        solvers_mode.solvers(tiny(reference_tolerance=1e-20, solvers=("ddim",)), tmp_path)


def test_mode_solvers_takes_an_analytic_denoiser_of_the_training_examples(tmp_path):
    """As the network sees them, with the variance of dequantisation, 4/(12 n^2) for n values."""
    image = np.random.default_rng(0).integers(0, 17, (10, 3, 2)).astype(np.uint8)
    np.savez(tmp_path / "few.npz", image=image)
    config = tiny(problem="analytic.wiener")
    config.data = {"name": "npz", "path": str(tmp_path / "few.npz"), "num_values": 17}
    config.codec.dequantize = True
    train = np.arange(10) % 10 > 0
    points = (2 * (image[train] + 0.5) / 17 - 1).reshape(9, 6)
    cov = np.cov(points.T, bias=True) + 4 / 12 / 17**2 * np.eye(6)
    truth = exact.Gaussian(jnp.asarray(points.mean(axis=0)), jnp.asarray(cov))
    problem, t = solvers_mode._analytic(config), jnp.asarray(0.4)
    denoiser, x, _ = problem.batch(problem.params, jax.random.key(0))
    assert x.shape == (16, 3, 2, 1)
    # pixels are scaled in float32
    np.testing.assert_allclose(
        denoiser(x, t), truth.denoiser(problem.sde)(x, t), rtol=1e-5, atol=1e-6
    )
    config.solvers.problem = "analytic.weiner"
    with pytest.raises(ConfigError, match="wiener"):
        solvers_mode.solvers(config, tmp_path)
