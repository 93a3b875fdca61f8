"""Mode solvers: error of solvers and grids against their network evaluations."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from score_sde.config import build
from score_sde.data import gather
from score_sde.evaluation import figures, solver_comparison, solver_report
from score_sde.evaluation.solver_comparison import Problem, Run
from score_sde.evaluation.solver_error import Row, steps_within
from score_sde.evaluation.solver_report import ADAPTIVE
from score_sde.experiment import requests, samplers, workdirs
from score_sde.experiment.build import key_for
from score_sde.experiment.numbers import check_numbers
from score_sde.experiment.workdirs import restore
from score_sde.runtime.atomic import write_text
from score_sde.runtime.mesh import round_to_devices
from score_sde.runtime.progress import progress
from score_sde.sampling import grids

ONE_PROCESS = True

ENDPOINT = "RMS error of the endpoint"
DISTANCE = "sliced Wasserstein distance"
ANALYTIC = "analytic."


def solvers(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Compares `solvers.solvers` on `solvers.grids` within budgets of `solvers.nfe` evaluations:
    DIR/solvers.json (all numbers), DIR/solvers.md (tables), DIR/solvers.png (a figure).

    A deterministic solver is measured by its distance from the probability-flow ODE, which is
    solved to `solvers.reference_tolerance` from the same starts. A solver that is stochastic at any
    point of its sweep is measured by the sliced Wasserstein distance of its samples from data of
    the exact problem, or from ends of the ODE for a trained model or an analytic denoiser. The
    standard errors are over samples for the first measure and over batches for the second.

    An exact problem is computed in float64 and needs no checkpoint. "analytic.NAME" is an analytic
    denoiser of the training examples (`processes.analytic`).

    Raises:
      ConfigError: a wrong name or value. DataError: the training examples are not there.
      ConvergenceError: the ODE did not converge.
    """
    if config.solvers.problem is None:
        return _compare(config, _trained(config, workdir), workdir)
    of_examples = config.solvers.problem.startswith(ANALYTIC)
    with jax.enable_x64(True):
        problem = _analytic(config) if of_examples else _exact(config)
        return _compare(config, problem, workdir)


def _exact(config: ConfigDict) -> Problem:
    check_numbers(config)
    options, sde = config.solvers, requests.sampling_sde(config)
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


def _analytic(config: ConfigDict) -> Problem:
    """The denoiser has no law whose samples were known, so the truth is the ODE."""
    check_numbers(config)
    options, sde = config.solvers, requests.sampling_sde(config)
    experiment = workdirs.load(config)
    experiment.check_reals()
    codec, train = experiment.codec, experiment.data.train
    raw = gather(train, np.arange(len(train)))[codec.part]
    points = jnp.asarray(codec.middle(raw), float)
    std = codec.noise_width / math.sqrt(12)
    shape = options.num_samples, *points.shape[1:]

    def law(points):
        return build("processes.analytic", options.problem.removeprefix(ANALYTIC), points, std)

    law(points)  # a wrong name fails now
    return Problem(
        name=f"{options.problem} of {experiment.data.name}",
        sde=sde,
        params=points,
        start=lambda key: sde.prior_sample(key, shape),
        denoiser=lambda points, key: law(points).denoiser(sde),
        data=None,
    )


def _trained(config: ConfigDict, workdir: Path) -> Problem:
    experiment, params, step = restore(config, workdir)
    experiment.check_reals()
    sde, denoiser_of = requests.sampling_sde(config), samplers.build_denoiser(config, experiment)
    wanted = requests.build_request(config, experiment)
    n = round_to_devices(config.solvers.num_samples, config.solvers.num_samples)

    def start(key):
        x = sde.prior_sample(key, (n, *experiment.codec.shape), np.float32)
        return jax.lax.with_sharding_constraint(x, experiment.sharded())

    def denoiser(params, key):
        of_params, conditioner, params = params
        raw = wanted(jax.random.split(key, n), jnp.arange(n))
        return of_params(params, conditioner.encode(raw))

    name = f"{workdir}, step {step}"
    parameters = (denoiser_of, experiment.conditioner, params)
    return Problem(name, sde, parameters, start, denoiser, None)


def _compare(config: ConfigDict, problem: Problem, workdir: Path) -> dict[str, Any]:
    begin = time.perf_counter()
    options, sde = config.solvers, problem.sde
    solvers = requests.build_solvers(config, sde)
    workdir.mkdir(parents=True, exist_ok=True)  # a folder that cannot be written fails now
    longest = [build("sampling.grids", grid, sde, max(options.nfe) - 1) for grid in options.grids]
    names = []
    for solver in solvers:
        tried = [grids.uniform(sde, 1)] if solver.is_adaptive(sde) else longest
        names.append(DISTANCE if solver.is_stochastic(sde, tried) else ENDPOINT)
    key_batches, key_truth = jax.random.split(key_for(config, "solvers"))
    keys = jax.random.split(key_batches, options.batches)
    batch = jax.eval_shape(problem.start, key_batches)
    about = {
        "problem": problem.name,
        "process": str(sde),
        "dtype": str(batch.dtype),
        "num_samples": len(batch),
        "batches": len(keys),
        "reference_tolerance": options.reference_tolerance,
    }
    tolerance, measures = options.reference_tolerance, {}
    if ENDPOINT in names:
        measures[ENDPOINT] = solver_comparison.endpoint_error(problem, keys, tolerance)
    if DISTANCE in names:
        measures[DISTANCE] = solver_comparison.distance(problem, key_truth, len(keys), tolerance)
    rows: dict[str, list[Row]] = {name: [] for name in measures}

    pairs = sum(1 if solver.is_adaptive(sde) else len(options.grids) for solver in solvers)
    with progress(pairs, "pair", "solvers") as bar:
        for solver, name in zip(solvers, names, strict=True):
            runs = _adaptive if solver.is_adaptive(sde) else _budgeted
            for where, run in runs(problem, solver, keys, options, bar):
                values: Any = (*where, run.nfe, *measures[name].of(run.x))
                rows[name].append(Row(*values, seconds=run.seconds))

    seconds = {"seconds": time.perf_counter() - begin}
    numbers = {
        name: {"floor": measures[name].floor, "rows": [solver_report.as_json(row) for row in found]}
        for name, found in rows.items()
    }
    workdirs.store(workdir / "solvers.json", about | seconds | {"measures": numbers})
    page = solver_report.page(about, measures, rows)
    write_text(workdir / "solvers.md", page)
    figures.error_curves(
        workdir / "solvers.png",
        [solver_report.panel(name, measures[name], rows[name]) for name in rows],
    )
    print("\n" + page, end="")
    return about | seconds


def _budgeted(problem, variants, keys, options, bar) -> Iterator[tuple[Any, Run]]:
    """`((solver, grid, budget, steps), run)` for each point, grid and budget."""
    run = solver_comparison.program(problem, variants, keys)
    solver = variants.first(problem.sde)
    for text in options.grids:
        bar.set_postfix_str(f"{variants.name} {text}", refresh=False)
        grid = functools.partial(build, "sampling.grids", text, problem.sde)
        for budget in options.nfe:
            if steps := steps_within(solver, grid, budget):
                for point, found in zip(variants.points(), run(grid(steps)), strict=True):
                    yield (variants.label(point), text, budget, steps), found
        bar.update()


def _adaptive(problem, variants, keys, options, bar) -> Iterator[tuple[Any, Run]]:
    """The same of a solver that chooses its own steps, for each tolerance."""
    bar.set_postfix_str(variants.name, refresh=False)
    for one in variants.at_tolerances(options.tolerances):
        runs = solver_comparison.program(problem, one, keys)(grids.uniform(problem.sde, 1))
        for point, found in zip(variants.points(), runs, strict=True):
            yield (variants.label(point), ADAPTIVE, None, None), found
    bar.update()
