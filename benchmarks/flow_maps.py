"""What each objective of flow maps really learns: `python benchmarks/flow_maps.py`.

A perceptron is trained by each objective on a mixture of numbers and on one in the plane, whose
flow maps are known: in one dimension by distribution functions, in the plane by the ODE of the
exact denoiser. Teachers are exact denoisers. A row says, in standard deviations of the data,

- how far the learnt flow map is from the exact one, RMS over examples and over the times that the
  objective trains;
- how far the fixed point of the objective's loss is, where it is known: its own bias;
- how far samples of one evaluation are from the law: Wasserstein-1 by quantiles in one dimension,
  without chance; sliced Wasserstein in the plane, where two samples of the law are as far apart as
  the floor says. The fixed point's samples are beside them.

Half a minute a row at most on two cores; `--objectives mean_flow` makes one objective's rows.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import command
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.scipy.special import ndtri
from jaxtyping import Array, Float
from ml_collections import ConfigDict
from scipy import optimize, stats

from score_sde import solvers
from score_sde.conditioning.labels import Labels
from score_sde.config import build
from score_sde.evaluation.metrics.wasserstein import sliced_wasserstein
from score_sde.evaluation.solver_error import markdown, rms_error
from score_sde.experiment.build import build_objective
from score_sde.models.flow_map import tau
from score_sde.models.model import Model
from score_sde.nets.mlp import MLP
from score_sde.processes import SDE, exact, jump, jump_value
from score_sde.sampling import grids
from score_sde.training.optimizer import at_rates
from score_sde.training.state import create, train_step
from score_sde.training.teacher import Teacher
from score_sde.training.teacher_steps import solve
from score_sde.types import Denoiser, FlowMap, Key, expand

KEY = jax.random.key(0)
SAMPLES = 8192
Pairs = Callable[[Key, SDE, int], tuple[Array, Array]]
"""`(key, sde, n) -> (t [n], s [n])`, the times that an objective trains."""


# The laws


def numbers() -> exact.Mixture:
    """A mixture in one dimension, of mean 0."""
    weights, means, stds = (jnp.array(a) for a in ([0.3, 0.7], [-1.05, 0.45], [0.25, 0.15]))
    return exact.Mixture(weights, means[:, None], (stds**2)[:, None, None])


LAWS: dict[str, Callable[[], exact.Mixture]] = {"1-D": numbers, "2-D": exact.three_gaussians}


def data_std(law: exact.Mixture) -> float:
    """The root of the mean variance of a coordinate."""
    mean = law.weights @ law.means
    square = jnp.trace(law.covs, axis1=1, axis2=2) + jnp.sum((law.means - mean[None]) ** 2, axis=1)
    return float(jnp.sqrt(law.weights @ square / law.means.shape[1]))


def true_flow_map(sde: SDE, law: exact.Mixture) -> FlowMap:
    """In closed form in one dimension, by the ODE in more."""
    one = law.means.shape[1] == 1
    return law.flow_map(sde) if one else by_ode(sde, law.denoiser(sde))


def by_ode(sde: SDE, denoiser: Denoiser, steps: int = 256) -> FlowMap:
    """The flow map of a denoiser, for s not t: Runge-Kutta of order 4 on dy/d ln(rho) = y - D with
    y = x/alpha and rho = sigma/alpha. Each example has its own times."""

    def field(y, log_rho):
        t = sde.t_of_log_snr(-2 * log_rho)
        return y - denoiser(expand(sde.alpha(t), y) * y, t)

    def flow_map(x_t, t, s):
        first, last = (-sde.log_snr(u) / 2 for u in (t, s))
        h = (last - first) / steps
        wide = expand(h, x_t)

        def step(i, y):
            at = first + i * h
            k_1 = field(y, at)
            k_2 = field(y + wide / 2 * k_1, at + h / 2)
            k_3 = field(y + wide / 2 * k_2, at + h / 2)
            k_4 = field(y + wide * k_3, at + h)
            return y + wide / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)

        y = jax.lax.fori_loop(0, steps, step, x_t / expand(sde.alpha(t), x_t))
        return jump_value(sde, x_t, t, s, expand(sde.alpha(s), y) * y)

    return flow_map


# Which times an objective trains, and where its loss has its minimum


def any_times(key: Key, sde: SDE, n: int) -> tuple[Array, Array]:
    """Two uniform numbers as tau: t and the earlier s."""
    ends = jnp.array([sde.t_max, sde.t_min])
    high, low = tau(sde, ends)
    drawn = jnp.sort(jax.random.uniform(key, (n, 2), minval=low, maxval=high), axis=1)
    early, late = (
        jnp.clip(sde.t_of_log_snr(2 * jnp.log(1 / drawn[:, i] - 1)), sde.t_min, sde.t_max)
        for i in range(2)
    )
    return late, early


def to_t_min(key: Key, sde: SDE, n: int) -> tuple[Array, Array]:
    """From uniform tau to t_min: the consistency function."""
    t, _ = any_times(key, sde, n)
    return t, jnp.full_like(t, sde.t_min)


def uniform_times(sde: SDE, u: Array) -> Array:
    """The quantiles of the uniform law of t."""
    return sde.t_min + u * (sde.t_max - sde.t_min)


def on_grid(steps: int) -> Pairs:
    """The steps of a uniform grid of steps, steps/2, ... 1 steps, each grid equally often."""

    def pairs(key, sde, n):
        key_count, key_place = jax.random.split(key)
        halvings = jax.random.randint(key_count, (n,), 0, steps.bit_length())
        count = steps / 2.0**halvings
        place = jnp.floor(jax.random.uniform(key_place, (n,)) * count)
        return uniform_times(sde, (place + 1) / count), uniform_times(sde, place / count)

    return pairs


def in_small_steps(steps: int) -> Callable[[SDE, Denoiser], FlowMap]:
    """The flow map that takes DDIM's steps of the exact denoiser on the uniform grid of so many,
    for t and s on that grid: what distillation in ever longer steps, and Euler's, learn at best."""

    def fixed_point(sde, denoiser):
        def flow_map(x_t, t, s):
            def step(x, place):
                now, then = (
                    uniform_times(sde, (place + 1) / steps),
                    uniform_times(sde, place / steps),
                )
                middle = (now + then) / 2
                moved = jump(sde, x, now, then, denoiser(x, now))
                return jnp.where(expand((s < middle) & (middle < t), x), moved, x), None

            x_s, _ = jax.lax.scan(step, x_t, jnp.arange(steps - 1.0, -1.0, -1.0))
            return jump_value(sde, x_t, t, s, x_s)

        return flow_map

    return fixed_point


def on_levels(n: int) -> Pairs:
    """From a time of the Karras grid of n noise levels to t_min."""

    def pairs(key, sde, size):
        times = grids.karras(sde, n - 1)
        t = times[jax.random.randint(key, (size,), 0, n - 1)]
        return t, jnp.full_like(t, sde.t_min)

    return pairs


def by_heun(n: int) -> Callable[[SDE, Denoiser], FlowMap]:
    """The flow map to t_min by Heun's steps of the exact denoiser on the Karras grid of n noise
    levels, for t on that grid: what consistency distillation learns at best."""

    def fixed_point(sde, denoiser):
        solver, times = solvers.heun(sde), grids.karras(sde, n - 1)

        def flow_map(x_t, t, s):
            def step(x, ends):
                here = jnp.broadcast_to(ends[:, None], (2, len(x)))
                moved = solve(solver, lambda given: denoiser, KEY, x, here, None)
                return jnp.where(expand(t > (ends[0] + ends[1]) / 2, x), moved, x), None

            x_s, _ = jax.lax.scan(step, x_t, jnp.stack([times[:-1], times[1:]], axis=1))
            return jump_value(sde, x_t, t, s, x_s)

        return flow_map

    return fixed_point


def exactly(sde: SDE, denoiser: Denoiser) -> FlowMap:
    """Of a loss without bias. The ODE's own error is some 1e-6."""
    return by_ode(sde, denoiser)


# The objectives


_EDM = {
    "sde": "EDM(t_min=0.002, t_max=80.0)",
    "parametrization": "edm(sigma_data=0.75)",
    "c_noise": "quarter_log_sigma",
    "numbers": (),
}  # of consistency models
_LAW = "log_normal(mean=-0.5, std=2.0)"
_KARRAS = "karras(rho=7.0)"


class Setting(NamedTuple):
    """How an objective is trained here.

    objective: its options, as in a config, without the teacher.
    pairs: the times between which its flow map is compared; None for a generator, which has none.
    fixed_point: `(sde, exact denoiser) -> FlowMap` at the minimum of the loss, for those pairs;
        None where it is not known.
    teacher: whether it learns from one.
    """

    objective: dict[str, Any]
    pairs: Pairs | None = any_times
    fixed_point: Callable[[SDE, Denoiser], FlowMap] | None = None
    teacher: bool = False
    sde: str = "Flow"
    parametrization: str = "flow"
    c_noise: str = "time(scale=2.0)"
    numbers: tuple[str, ...] = ("jump",)
    learning_rate: float = 3e-3


SETTINGS: dict[str, Setting] = {
    "mean_flow": Setting(
        {"time_law": "uniform", "distance": "squared", "equal": 0.5}, fixed_point=exactly
    ),
    "improved_mean_flow": Setting(
        {"time_law": "uniform", "distance": "squared", "equal": 0.5}, fixed_point=exactly
    ),
    "alpha_flow": Setting(
        {
            "time_law": "uniform",
            "distance": "squared",
            "equal": 0.5,
            "start": 0,
            "end": 1200,
        },
        fixed_point=exactly,
    ),
    "terminal_velocity": Setting(
        {"time_law": "uniform", "distance": "squared"}, fixed_point=exactly
    ),
    "shortcut": Setting(
        {"time_law": "uniform", "distance": "squared", "share": 0.5},
        pairs=on_grid(64),
        fixed_point=in_small_steps(128),
    ),
    "ctm": Setting(
        {
            "time_law": "uniform",
            "weighting": "flow",
            "distance": "squared",
            "solver": "heun",
        },
        teacher=True,
    ),
    "scm": Setting(
        {"time_law": _LAW, "sigma_data": 0.75, "warmup": 200},
        pairs=to_t_min,
        fixed_point=exactly,
        teacher=True,
        **_EDM,
    ),
    "consistency_distillation": Setting(
        {
            "time_law": _KARRAS,
            "grid": _KARRAS,
            "curriculum": "fixed(levels=18)",
            "distance": "squared",
            "solver": "heun",
        },
        pairs=on_levels(18),
        fixed_point=by_heun(18),
        teacher=True,
        **_EDM,
    ),
    "consistency_training": Setting(
        {
            "time_law": _LAW,
            "grid": _KARRAS,
            "curriculum": "doubling(length=2000, first=10, last=160)",
            "distance": "squared",
            "gap_power": 1.0,
        },
        pairs=to_t_min,
        **_EDM,
    ),
    "ect": Setting(
        {
            "time_law": _LAW,
            "distance": "squared",
            "gap_power": 1.0,
            "stages": 6,
            "stage_length": 300,
        },
        pairs=to_t_min,
        **_EDM,
    ),
    "dmd2": Setting(
        {"time_law": "uniform", "weighting": "flow"}, pairs=None, teacher=True, numbers=()
    ),
    "sid": Setting(
        {"time_law": "uniform", "weighting": "flow"}, pairs=None, teacher=True, numbers=()
    ),
    "progressive_distillation": Setting(
        {
            "time_law": "uniform",
            "weighting": "truncated_snr",
            "steps": 16,
            "stages": 5,
            "stage_length": 300,
            "keep_stages": True,
        },
        pairs=on_grid(16),
        fixed_point=in_small_steps(32),
        teacher=True,
    ),
}
"""By the name of the objective. A row of a new one is one entry here."""


def model_of(setting: Setting, widths: tuple[int, ...]) -> Model:
    """The perceptron with the setting's process and prediction."""
    c_noise = build("models.parametrization", setting.c_noise)
    return Model(
        MLP(widths, numbers=setting.numbers),
        build("processes", setting.sde),
        build("models.parametrization", setting.parametrization, c_noise=c_noise),
    )


def trained(
    name: str, setting: Setting, law: exact.Mixture, options: Any
) -> tuple[SDE, FlowMap, list[float]]:
    """The process, the learnt flow map, and the losses on the way."""
    model = model_of(setting, options.widths)
    sde, d = model.sde, law.means.shape[1]
    start = model.init(KEY, jax.ShapeDtypeStruct((1, d), jnp.float32), {})
    denoiser, teacher = law.denoiser(sde), None
    if setting.teacher:
        teacher = Teacher(jax.tree_util.Partial(lambda cond: denoiser), start)
    spec = {"name": name, **setting.objective, **({"teacher": "exact"} if teacher else {})}
    objective = build_objective(ConfigDict(spec), model, Labels(0), teacher)

    def loss(params, key, batch, training):
        value = jnp.mean(objective.losses(params, key, batch, training).value)
        return value, {"loss": value}

    def prepare(key, raw):
        return {"x": law.sample(key, options.batch), "cond": {}}

    warmup = min(100, options.steps // 2)
    rate = optax.warmup_cosine_decay_schedule(0.0, setting.learning_rate, warmup, options.steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.99))
    optimizer = at_rates(optimizer, objective.rates)
    gradient = jax.grad(loss, has_aux=True)
    step = train_step(gradient, optimizer, (), prepare, objective.targets)

    @jax.jit
    def run(state):
        return jax.lax.scan(lambda state, _: step(KEY, state, {}), state, length=options.steps)

    if objective.init is not None:
        start = objective.init(KEY, prepare(KEY, {}))
    state, metrics = run(create(start, optimizer, len(objective.targets)))
    result = functools.partial(objective.result, state.params, {})
    return sde, result(), np.asarray(metrics["loss"]).tolist()


# Distances


def error(
    sde: SDE, found: FlowMap, truth: FlowMap, law: exact.Mixture, pairs: Pairs, n: int = SAMPLES
) -> float:
    """RMS over examples and times of the difference of y_s = x_s/(alpha + sigma), which at t_min is
    x itself, in standard deviations of the data."""
    key_times, key_data, key_noise = jax.random.split(jax.random.key(1), 3)

    @jax.jit
    def ends():
        t, s = pairs(key_times, sde, n)
        x_t = sde.perturb(key_noise, law.sample(key_data, n), t)
        size = sde.alpha(s) + sde.sigma(s)
        return [
            jump(sde, x_t, t, s, flow_map(x_t, t, s)) / expand(size, x_t)
            for flow_map in (found, truth)
        ]

    return rms_error(*ends()).value / data_std(law)


def one_step(sde: SDE, flow_map: FlowMap, d: int, n: int = SAMPLES) -> Float[Array, "n d"]:
    """Samples of one evaluation. In one dimension the noise is the quantiles of a normal law."""

    @jax.jit
    def samples():
        z = jax.random.normal(jax.random.key(2), (n, d))
        z = ndtri((jnp.arange(n) + 0.5) / n)[:, None] if d == 1 else z
        t, s = jnp.full(n, sde.t_max), jnp.full(n, sde.t_min)
        x_t = sde.prior_std * z
        return jump(sde, x_t, t, s, flow_map(x_t, t, s))

    return samples()


def distance_of_samples(x: Float[Array, "n d"], law: exact.Mixture) -> float:
    """From the law, in its standard deviations."""
    if x.shape[1] > 1:
        other = law.sample(jax.random.key(3), len(x))
        return float(sliced_wasserstein(jax.random.key(4), x, other)) / data_std(law)
    away = np.sort(np.asarray(x)[:, 0]) - quantiles(law, len(x))
    return float(np.mean(np.abs(away))) / data_std(law)


@functools.cache
def quantiles(law: exact.Mixture, n: int) -> Float[np.ndarray, " n"]:
    """Of a mixture of numbers, at the middles of n equal parts."""
    weights = np.asarray(law.weights, float)
    means, stds = np.asarray(law.means, float)[:, 0], np.sqrt(np.asarray(law.covs, float)[:, 0, 0])
    ends = means.min() - 9 * stds.max(), means.max() + 9 * stds.max()

    def excess(x, p):
        return weights @ stats.norm.cdf((x - means) / stds) - p

    return np.array([optimize.brentq(excess, *ends, args=(p,)) for p in (np.arange(n) + 0.5) / n])


def row(name: str, setting: Setting, law_name: str, options: Any) -> dict[str, Any]:
    """What is said of an objective on a law."""
    law = LAWS[law_name]()
    start = time.perf_counter()
    sde, found, losses = trained(name, setting, law, options)
    d, truth = law.means.shape[1], true_flow_map(sde, law)
    seconds = time.perf_counter() - start
    result = {
        "objective": name,
        "law": law_name,
        "samples": distance_of_samples(one_step(sde, found, d, options.samples), law),
        "exact_samples": distance_of_samples(one_step(sde, truth, d, options.samples), law),
        "seconds": seconds,
        "loss": float(np.mean(losses[-100:])),
    }
    if setting.pairs is None:
        return result
    result["error"] = error(sde, found, truth, law, setting.pairs, options.samples)
    if setting.fixed_point is not None:
        fixed = setting.fixed_point(sde, law.denoiser(sde))
        result["bias"] = error(sde, fixed, truth, law, setting.pairs, options.samples)
        drawn = one_step(sde, fixed, d, options.samples)
        result["samples_of_fixed_point"] = distance_of_samples(drawn, law)
    return result


COLUMNS = {
    "error": "error of the flow map",
    "bias": "own bias",
    "samples": "one-step samples",
    "samples_of_fixed_point": "of the fixed point",
    "exact_samples": "of the exact map",
    "seconds": "seconds",
}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; what is not known is empty."""
    lines = [
        [
            f"`{found['objective']}`",
            found["law"],
            *(f"{found[key]:.4f}" if key in found else "" for key in list(COLUMNS)[:-1]),
            f"{found['seconds']:.0f}",
        ]
        for found in rows
    ]
    return markdown(["objective", "law", *COLUMNS.values()], lines)


def options_of() -> Any:
    """Those of the command line."""
    parser = command.parser(__doc__, out="benchmark_flow_maps.json")
    parser.add_argument("--objectives", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--steps", type=int, default=2000, help="of training")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--widths", type=int, nargs="+", default=(64, 64, 64))
    parser.add_argument("--samples", type=int, default=SAMPLES)
    return command.parse(parser, steps=30, batch=32, widths=(8,), samples=64)


def main() -> None:
    """Prints a Markdown table and writes the JSON file."""
    options = options_of()
    options.widths = tuple(options.widths)
    rows = []
    for name in options.objectives:
        for law in LAWS:
            rows.append(row(name, SETTINGS[name], law, options))
            print(table(rows[-1:]).splitlines()[-1], flush=True)
    print(f"\n{table(rows)}")
    about = {**vars(options), "out": str(options.out), "jax": jax.__version__}
    command.write(options.out, {"about": about, "rows": rows})


if __name__ == "__main__":
    main()
