"""Mode solvers: error of solvers and grids against their network evaluations."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from ml_collections import ConfigDict

from score_sde import sampling
from score_sde import solvers as solvers_
from score_sde.config import at, build, parse
from score_sde.errors import ConfigError, ConvergenceError
from score_sde.evaluation import figures, solver_error
from score_sde.evaluation.metrics.wasserstein import sliced_wasserstein
from score_sde.evaluation.solver_error import Estimate, Row
from score_sde.experiment import build as door
from score_sde.experiment import samplers, workdirs
from score_sde.experiment.workdirs import restore
from score_sde.processes import SDE
from score_sde.runtime.atomic import write_text
from score_sde.runtime.progress import progress
from score_sde.sampling import grids
from score_sde.types import Denoiser, Grid, Key, PyTree, Solver

ONE_PROCESS = True

ENDPOINT = "RMS error of the endpoint"
DISTANCE = "sliced Wasserstein distance"
ADAPTIVE = "(adaptive)"  # in the place of a grid


def solvers(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Compares `solvers.solvers` on `solvers.grids` within budgets of `solvers.nfe` evaluations:
    DIR/solvers.json (all numbers), DIR/solvers.md (tables), DIR/solvers.png (a figure).

    Deterministic solvers are measured by how far they end from the probability-flow ODE, which is
    solved to `solvers.reference_tolerance` from the same starts; stochastic ones, and all points of
    a sweep that has one, by the sliced Wasserstein distance of their samples from data of the exact
    problem, or from ends of the ODE if the problem is a trained model. Standard errors are over
    samples for the first and over batches for the second.

    An exact problem is computed in float64 and needs no checkpoint.

    Raises:
      ConfigError: a wrong name or value. ConvergenceError: the ODE did not converge.
    """
    if config.solvers.problem is None:
        return _compare(config, _trained(config, workdir), workdir)
    with jax.enable_x64(True):
        return _compare(config, _exact(config), workdir)


class Problem(NamedTuple):
    """What is sampled: batches [n, ...], each made from a key.

    start: x at t_max. denoiser: that of the batch. data: samples of the true distribution, or None
    where nobody has them. compiler: options of XLA.
    """

    name: str
    sde: SDE
    params: PyTree
    start: Callable[[Key], Array]
    denoiser: Callable[[PyTree, Key], Denoiser]
    data: Callable[[Key], Array] | None
    compiler: dict[str, Any] | None = None


def _exact(config: ConfigDict) -> Problem:
    door.check_numbers(config)
    options, sde = config.solvers, samplers.sampling_sde(config)
    distribution = build("processes.exact", options.problem)

    def data(key):
        return distribution.sample(key, options.num_samples)

    shape = jax.eval_shape(data, jax.random.key(0)).shape
    return Problem(
        name=options.problem,
        sde=sde,
        params=(),
        start=lambda key: sde.prior_sample(key, shape),
        denoiser=lambda params, key: distribution.denoiser(sde),
        data=data,
        compiler={"xla_backend_optimization_level": 0},  # compiles much and computes little
    )


def _trained(config: ConfigDict, workdir: Path) -> Problem:
    experiment, params, step = restore(config, workdir)
    sde, classes = samplers.sampling_sde(config), experiment.data.num_classes
    n = door.round_to_devices(config.solvers.num_samples, config.solvers.num_samples)

    def start(key):
        x = sde.prior_sample(key, (n, *experiment.codec.shape), np.float32)
        return jax.lax.with_sharding_constraint(x, experiment.sharded())

    def denoiser(params, key):
        return experiment.model.denoiser(params, {"label": jax.random.randint(key, n, 0, classes)})

    return Problem(f"{workdir}, step {step}", sde, params, start, denoiser, None)


class _Spec(NamedTuple):
    """A solver of the list; options that are tuples of numbers are swept in one program."""

    name: str
    options: dict[str, Any]
    swept: dict[str, Sequence[float]]

    @classmethod
    def read(cls, text: str) -> _Spec:
        name, options = parse(text)
        swept = {key: value for key, value in options.items() if isinstance(value, tuple | list)}
        return cls(name, {k: v for k, v in options.items() if k not in swept}, swept)

    def points(self) -> list[dict[str, Any]]:
        """Every combination of the swept values, those of the last option fastest."""
        combinations = itertools.product(*self.swept.values())
        return [dict(zip(self.swept, values, strict=True)) for values in combinations]

    def label(self, point: dict[str, Any]) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in (self.options | point).items())
        return f"{self.name}({options})" if options else self.name

    def build(self, sde: SDE, point: dict[str, Any]) -> Solver:
        return build("solvers", {"name": self.name} | self.options | point, sde)

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """What the constructor takes."""
        return inspect.signature(getattr(solvers_, self.name.rpartition(".")[2])).parameters

    def is_adaptive(self, sde: SDE) -> bool:
        """Whether the solver chooses its own steps."""
        return self.build(sde, self.points()[0]).adaptive

    def at(self, tolerances: Sequence[float]) -> list[_Spec]:
        """An adaptive solver at each tolerance, unless it has one of its own."""
        if {"rtol", "atol"} & self.options.keys():
            return [self]
        return [self._replace(options=self.options | {"rtol": x, "atol": x}) for x in tolerances]


class _Run(NamedTuple):
    """What a program gave at one point of its sweep: x [batches, n, ...], evaluations a sample,
    and seconds a batch."""

    x: np.ndarray
    nfe: float
    seconds: float


def _program(problem: Problem, spec: _Spec, keys: Array) -> Callable[[Grid], list[_Run]]:
    """All batches and all points of a sweep in one call; compiled once for each length of grid."""
    points = spec.points()
    swept = {key: jnp.asarray(values, float) for key, values in spec.swept.items()}
    programs = {}

    @jax.jit
    def every(params, times, keys, swept):
        def one(key, **point):
            solver = spec.build(problem.sde, point)
            denoiser, x, key_solver = _batch(problem, params, key)
            return sampling.sample(key_solver, solver, denoiser, x, times, denoise=True)

        return sampling.sweep(one, key=keys, **swept)

    def run(times):
        arguments = problem.params, times, keys, swept
        if len(times) not in programs:
            programs[len(times)] = every.lower(*arguments).compile(problem.compiler)
        begin = time.perf_counter()
        out = jax.block_until_ready(programs[len(times)](*arguments))
        seconds = (time.perf_counter() - begin) / (len(keys) * len(points))
        x = np.asarray(out.x).reshape(len(keys), len(points), *out.x.shape[1 + len(swept) :])
        nfe = np.asarray(out.nfe).reshape(len(keys), len(points), -1).mean(axis=(0, 2))
        return [_Run(x[:, i], float(nfe[i]), seconds) for i in range(len(points))]

    return run


def _batch(problem: Problem, params: PyTree, key: Key) -> tuple[Denoiser, Array, Key]:
    """The denoiser and the start of a batch, and the key of its solver."""
    key_start, key_denoiser, key_solver = jax.random.split(key, 3)
    return problem.denoiser(params, key_denoiser), problem.start(key_start), key_solver


def _ode(problem: Problem) -> Callable[[Array, float], np.ndarray]:
    """The ends of the ODE, [batches, n, ...], from the starts of the keys, to a tolerance."""

    @jax.jit
    def ends(params, keys, tolerance):
        def one(key):
            denoiser, x, _ = _batch(problem, params, key)
            return solver_error.reference(problem.sde, denoiser, x, tolerance).x

        return sampling.sweep(one, key=keys)

    def checked(keys, tolerance):
        with at("solvers"):  # the ODE needs a finite log-SNR
            x = np.asarray(ends(problem.params, keys, jnp.asarray(tolerance, float)))
        if not np.all(np.isfinite(x)):
            raise ConvergenceError(
                f"the ODE that is the truth did not converge to {tolerance}: raise "
                "solvers.reference_tolerance (float32 reaches about 1e-5)"
            )
        return x

    return checked


class _Measure(NamedTuple):
    """The error of samples [batches, n, ...], and the least that it can tell."""

    of: Callable[[np.ndarray], Estimate]
    floor: float


def _endpoint(problem: Problem, keys: Array, tolerance: float) -> _Measure:
    """Floor: the error of the ODE itself at ten times the tolerance."""
    ode = _ode(problem)
    truth, rough = ode(keys, tolerance), ode(keys, 10 * tolerance)

    def of(x):
        return solver_error.rms_error(np.concatenate(x), np.concatenate(truth))

    return _Measure(of, of(rough).value)


def _distance(problem: Problem, key: Key, batches: int, tolerance: float) -> _Measure:
    """Floor: the distance between two sets of true samples."""
    if problem.data:
        data = jax.jit(jax.vmap(problem.data))
    else:
        data = functools.partial(_ode(problem), tolerance=tolerance)
    keys = jax.random.split(key, (3, batches))
    truth, again = data(keys[0]), data(keys[1])
    sliced = jax.jit(jax.vmap(sliced_wasserstein))

    def of(x):
        return solver_error.mean(sliced(keys[2], x, truth).tolist())

    return _Measure(of, of(again).value)


def _compare(config: ConfigDict, problem: Problem, workdir: Path) -> dict[str, Any]:
    begin = time.perf_counter()
    options, sde = config.solvers, problem.sde
    specs = _specs(options, sde)
    workdir.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written fails now
    names = [DISTANCE if _is_stochastic(spec, sde, options) else ENDPOINT for spec in specs]
    key_batches, key_truth = jax.random.split(door.key_for(config, "solvers"))
    keys = jax.random.split(key_batches, options.batches)
    measures = {}
    if ENDPOINT in names:
        measures[ENDPOINT] = _endpoint(problem, keys, options.reference_tolerance)
    if DISTANCE in names:
        measures[DISTANCE] = _distance(problem, key_truth, len(keys), options.reference_tolerance)

    rows: dict[str, list[Row]] = {name: [] for name in measures}
    pairs = sum(1 if spec.is_adaptive(sde) else len(options.grids) for spec in specs)
    with progress(pairs, "pair", "solvers") as bar:
        for spec, name in zip(specs, names, strict=True):
            runs = _adaptive if spec.is_adaptive(sde) else _budgeted
            for where, run in runs(problem, spec, keys, options, bar):
                rows[name].append(
                    Row(*where, run.nfe, *measures[name].of(run.x), seconds=run.seconds)
                )

    batch = jax.eval_shape(problem.start, key_batches)
    about = {
        "problem": problem.name,
        "process": str(sde),
        "dtype": str(batch.dtype),
        "num_samples": len(batch),
        "batches": len(keys),
        "reference_tolerance": options.reference_tolerance,
    }
    results = {
        name: {"floor": measures[name].floor, "rows": [_as_json(row) for row in found]}
        for name, found in rows.items()
    }
    seconds = {"seconds": time.perf_counter() - begin}
    workdirs.store(workdir / "solvers.json", about | seconds | {"measures": results})
    report = _report(about, measures, rows)
    write_text(workdir / "solvers.md", report)
    figures.error_curves(
        workdir / "solvers.png", [_panel(name, measures[name], rows[name]) for name in rows]
    )
    print("\n" + report, end="")
    return about | seconds


def _specs(options: ConfigDict, sde: SDE) -> list[_Spec]:
    """The solvers of the list, after a look at every name and value of the section."""
    for name, least in (("nfe", 2), ("tolerances", 0), ("batches", 1), ("num_samples", 2)):
        value = options[name]
        if np.size(value) == 0 or np.min(value) < least:
            raise ConfigError(f"solvers.{name} must be at least {least}, not {value}")
    specs = [_Spec.read(text) for text in options.solvers]
    for spec in specs:
        first = {key: values[0] for key, values in spec.swept.items() if values}
        spec.build(sde, first)
        for key, values in spec.swept.items():
            if "Array" not in str(spec.parameters[key].annotation):
                raise ConfigError(
                    f"{spec.name}: {key} cannot be swept: list a solver for each value"
                )
            if not values or not all(isinstance(value, int | float) for value in values):
                raise ConfigError(f"{spec.name}: {key}={values!r} is not a sweep of numbers")
    for grid in options.grids:
        build("sampling.grids", grid, sde, max(options.nfe) - 1)
    if not (specs and options.grids):
        raise ConfigError("solvers.solvers and solvers.grids must not be empty")
    grid = functools.partial(build, "sampling.grids", options.grids[0], sde)
    if not any(
        spec.is_adaptive(sde)
        or solver_error.steps_within(spec.build(sde, spec.points()[0]), grid, max(options.nfe))
        for spec in specs
    ):
        raise ConfigError(f"solvers.nfe={options.nfe} is too little for all of solvers.solvers")
    return specs


def _is_stochastic(spec: _Spec, sde: SDE, options: ConfigDict) -> bool:
    """Whether it draws noise at any point of its sweep, on the longest grids that are asked for."""
    times = [grids.uniform(sde, 1)]
    if not spec.is_adaptive(sde):
        times = [build("sampling.grids", grid, sde, max(options.nfe) - 1) for grid in options.grids]
    solvers = [spec.build(sde, point) for point in spec.points()]
    return any(solver_error.is_stochastic(solver, one) for solver in solvers for one in times)


def _budgeted(problem, spec, keys, options, bar) -> Iterator[tuple[tuple, _Run]]:
    """`((solver, grid, budget, steps), run)` for each point, grid and budget."""
    run, solver = _program(problem, spec, keys), spec.build(problem.sde, spec.points()[0])
    for text in options.grids:
        bar.set_postfix_str(f"{spec.name} {text}", refresh=False)
        for budget in options.nfe:
            grid = functools.partial(build, "sampling.grids", text, problem.sde)
            if steps := solver_error.steps_within(solver, grid, budget):
                for point, found in zip(spec.points(), run(grid(steps)), strict=True):
                    yield (spec.label(point), text, budget, steps), found
        bar.update()


def _adaptive(problem, spec, keys, options, bar) -> Iterator[tuple[tuple, _Run]]:
    """The same of a solver that chooses its own steps, for each tolerance."""
    bar.set_postfix_str(spec.name, refresh=False)
    for one in spec.at(options.tolerances):
        runs = _program(problem, one, keys)(grids.uniform(problem.sde, 1))
        for point, found in zip(spec.points(), runs, strict=True):
            yield (spec.label(point), ADAPTIVE, None, None), found
    bar.update()


def _as_json(row: Row) -> dict[str, Any]:
    """A row without NaN, which JSON does not have."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in dataclasses.asdict(row).items()
    }


def _report(about: dict, measures: dict[str, _Measure], rows: dict[str, list[Row]]) -> str:
    """The tables, and what they are of, in Markdown."""
    n = about["num_samples"] * about["batches"]
    lines = [f"# Solvers: {about['problem']}", "", f"`{about['process']}`, {about['dtype']}."]
    lines += ["NFE counts the evaluation that ends a sample, E[x_0 | x] at t_min."]
    explained = {
        ENDPOINT: (
            f"Distance from the probability-flow ODE at tolerance {about['reference_tolerance']}, "
            f"over {n} starts; that of the ODE itself is below"
        ),
        DISTANCE: (
            f"Mean over {about['batches']} batches of {about['num_samples']} samples; that of two "
            "sets of true samples is"
        ),
    }
    for name, found in rows.items():
        lines += [
            "",
            f"## {name}",
            "",
            f"{explained[name]} {solver_error.short(measures[name].floor)}.",
            "",
        ]
        fixed = [row for row in found if row.budget is not None]
        own = [row for row in found if row.budget is None]
        if fixed:
            lines += [solver_error.table(fixed)]
        if own:
            cells = [[f"`{r.solver}`", f"{r.nfe:.0f}", solver_error.short(r.error)] for r in own]
            lines += ["", solver_error.markdown(["adaptive solver", "mean NFE", "error"], cells)]
    return "\n".join(lines) + "\n"


def _panel(name: str, measure: _Measure, rows: list[Row]) -> figures.Panel:
    """Each solver at the grid that suits it best."""
    curves = [
        figures.Curve(
            solver if grid == ADAPTIVE else f"{solver}, {grid}",
            [row.nfe for row in found],
            [row.error for row in found],
            [row.standard_error for row in found],
        )
        for (solver, grid), found in solver_error.at_best_grid(rows).items()
    ]
    slopes = (1, 2, 3) if name == ENDPOINT else ()
    return figures.Panel(f"{name} (units of the data)", curves, measure.floor, slopes)
