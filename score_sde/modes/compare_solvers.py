"""Mode compare_solvers: which solver suits the spectrum of the data, exactly; needs no model."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from score_sde.config import build
from score_sde.errors import ConfigError
from score_sde.evaluation import law_comparison, solver_report, spectrum
from score_sde.evaluation.law_comparison import Compared, LawRow
from score_sde.evaluation.solver_error import evaluations, steps_within
from score_sde.evaluation.solver_variants import Variants
from score_sde.experiment import requests, workdirs
from score_sde.experiment.build import Experiment
from score_sde.experiment.numbers import check_numbers
from score_sde.runtime.atomic import write_text
from score_sde.runtime.mesh import round_to_devices
from score_sde.runtime.progress import progress

ONE_PROCESS = True


def compare_solvers(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Compares `solvers.solvers` on `solvers.grids` within budgets of `solvers.nfe` evaluations on
    Gaussian data with the spectrum of the training examples, at most `evaluate.num_samples` of
    them: DIR/compare_solvers.json, DIR/compare_solvers.md and DIR/compare_solvers.png. No model is
    needed and nothing is drawn (`evaluation.sampler_law`); `sampling.t_min` and `sampling.denoise`
    count as in mode sample.

    Raises:
      ConfigError: a wrong name or value, tokens, or a solver without a law in closed form.
      DataError.
    """
    begin = time.perf_counter()
    check_numbers(config)
    workdir.mkdir(parents=True, exist_ok=True)
    experiment = workdirs.load(config)
    experiment.check_reals()
    sde = requests.sampling_sde(config)
    solvers = requests.build_solvers(config, sde)
    if adaptive := [solver.name for solver in solvers if solver.is_adaptive(sde)]:
        raise ConfigError(
            f"solvers.solvers: {adaptive[0]} chooses its own steps, so its law has no closed form: "
            "leave it out, or take --mode solvers"
        )
    batches = [np.asarray(x) for x in _examples(config, experiment)]
    with jax.enable_x64(True):
        found = spectrum.measured(batches, experiment.codec.noise_width)
        compared = Compared(sde, found, config.sampling.denoise)
        rows = list(_rows(config.solvers, compared, solvers))
    about = {
        "data": experiment.data.name,
        "process": str(sde),
        "examples": sum(map(len, batches)),
        "dims": batches[0][0].size,
        "denoise": config.sampling.denoise,
        "spectrum": {"frequency": compared.frequencies(), "std": compared.stds()},
        "seconds": time.perf_counter() - begin,
    }
    numbers = about | {"rows": [solver_report.as_json(row) for row in rows]}
    workdirs.store(workdir / "compare_solvers.json", numbers)
    page = law_comparison.page(about, rows)
    write_text(workdir / "compare_solvers.md", page)
    law_comparison.figure(workdir / "compare_solvers.png", compared, rows)
    print("\n" + page, end="")
    return {"best": {str(r.budget): f"{r.solver} on {r.grid}" for r in law_comparison.best(rows)}}


def _examples(config: ConfigDict, experiment: Experiment) -> Iterator[np.ndarray]:
    """Training examples in the network's space, in batches."""
    source, codec = experiment.data.train, experiment.codec
    number = min(len(source), config.evaluate.num_samples)
    size = round_to_devices(config.likelihood.batch_size, number)
    middle = jax.jit(lambda codec, raw: codec.middle(raw))
    with progress(number, "example", "spectrum") as bar:
        for numbers, mask, batch in experiment.batches(source, size):
            x = batch["x"] if "x" in batch else middle(codec, batch[codec.part])
            kept = np.asarray(x)[mask & (numbers < number)]
            if not len(kept):
                return
            bar.update(len(kept))
            yield kept


def _rows(options: ConfigDict, compared: Compared, solvers: list[Variants]) -> Iterator[LawRow]:
    """A row for each solver, point of its sweep, grid and budget.

    Raises:
      ConfigError: the output of a solver is not affine in its start and its noise.
    """
    sde, data = compared.sde, compared.spectrum.law
    laws = [compared.program(variants) for variants in solvers]
    pairs = list(itertools.product(zip(solvers, laws, strict=True), options.grids))
    with progress(len(pairs), "pair", "laws") as bar:
        for (variants, law), text in pairs:
            grid = functools.partial(build, "sampling.grids", str(text), sde)
            solver = variants.first(sde)
            for budget, point in itertools.product(options.nfe, variants.points()):
                steps = steps_within(solver, grid, budget)
                if not steps:
                    continue
                times = jnp.asarray(grid(steps), jnp.float64)
                found = law(times, point, data)
                if bool(jnp.all(jnp.isnan(found[1].variance))):
                    raise ConfigError(
                        f"solvers.solvers: the output of {variants.label(point)} is not affine in "
                        "its noise, so its law has no closed form: leave it out, or take --mode "
                        "solvers"
                    )
                where = variants.label(point), str(text), int(budget), steps
                nfe = evaluations(solver, times) - (not compared.denoise)
                yield compared.row(where, nfe, found)
            bar.update()
