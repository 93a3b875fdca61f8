"""The exact law of a sampler's output beside draws, and beside a trained network:
`python benchmarks/sampler_law.py`.

The tables of docs/research/sampler_law.md. The first: the standard deviation of samples of
N(0, .25) over the truth, by the exact law and by draws. With --workdir, whether the exact law of a
Gaussian with the spectrum of the data tells which solver suits a network trained on them, after

    python main.py --mode train,compare_solvers,solvers --config configs/digits.py \\
        --workdir runs/digits
    python benchmarks/sampler_law.py --workdir runs/digits --picture FILE

Ten seconds of processor time without the workdir.
"""

import json
from pathlib import Path

import command
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from score_sde import sampling, solvers
from score_sde.evaluation import plots
from score_sde.evaluation.sampler_law import Normal, law_after
from score_sde.processes import EDM
from score_sde.sampling import grids

STEPS = (5, 10, 20, 50)
SOLVERS = ("ancestral", "ddim", "dpmpp_sde", "dpmpp", "heun")


def beside_draws(number: int) -> None:
    """Prints the first table."""
    sde, data = EDM(t_min=0.002, t_max=80.0), Normal(jnp.zeros(1), jnp.array([0.25]))
    denoiser = data.denoiser(sde)
    print(f"| solver | {' | '.join(f'N = {n}' for n in STEPS)} |\n|---|{'---|' * len(STEPS)}")
    for name in SOLVERS:
        solver, cells = getattr(solvers, name)(sde), []
        for n in STEPS:
            times = jnp.asarray(grids.karras(sde, n), float)
            start = Normal(jnp.zeros(1), jnp.full(1, sde.prior_std**2))
            exact = law_after(solver, denoiser, times, start)
            x = sde.prior_sample(jax.random.key(0), (number, 1), float)
            drawn = sampling.sample(jax.random.key(1), solver, denoiser, x, times).x
            found, truth = (jnp.sqrt(v / 0.25) for v in (exact.variance[0], drawn.var()))
            cells.append(f"{found:.3f} ({truth:.3f} ± {truth / np.sqrt(2 * number):.3f})")
        print(f"| `{name}` | {' | '.join(cells)} |")


def beside_network(workdir: Path, picture: Path | None) -> None:
    """Prints how the errors of both modes go together, and draws them."""
    law = json.loads((workdir / "compare_solvers.json").read_text())["rows"]
    (measure,) = json.loads((workdir / "solvers.json").read_text())["measures"].values()
    key = lambda row: (row["solver"], row["grid"], row["budget"])  # noqa: E731
    of_net = {key(row): row["error"] for row in measure["rows"]}
    pairs = [(key(row), row["error"], of_net[key(row)]) for row in law if of_net.get(key(row))]
    budgets = sorted({budget for (_, _, budget), _, _ in pairs})
    print("\n| NFE | best by the spectrum | best for the network | Spearman's correlation |")
    print("|---|---|---|---|")
    for budget in budgets:
        here = [pair for pair in pairs if pair[0][2] == budget]
        by_law, by_net = (min(here, key=lambda pair, i=i: pair[i])[0] for i in (1, 2))
        rank = stats.spearmanr([p[1] for p in here], [p[2] for p in here]).statistic
        print(f"| {budget} | {' on '.join(by_law[:2])} | {' on '.join(by_net[:2])} | {rank:.2f} |")
    if picture:
        with plots.figure(picture, 3.6) as ((axes,),):
            for i, name in enumerate(dict.fromkeys(where[0] for where, _, _ in pairs)):
                points = [(x, y) for where, x, y in pairs if where[0] == name]
                axes.plot(*zip(*points, strict=True), plots.MARKERS[i], label=name)
            axes.set(xscale="log", yscale="log", ylabel="the network's distance from the ODE")
            axes.set(xlabel="Wasserstein-2 distance on the Gaussian of the spectrum")
            axes.legend()


def main() -> None:
    """Prints the tables."""
    parser = command.parser(__doc__)
    parser.add_argument("--draws", type=int, default=200_000)
    parser.add_argument("--workdir", type=Path, help="of a model, after the modes above")
    parser.add_argument("--picture", type=Path, help="PNG of errors beside the network's")
    options = command.parse(parser, draws=1000)
    with jax.enable_x64(True):
        beside_draws(options.draws)
    if options.workdir:
        beside_network(options.workdir, options.picture)


if __name__ == "__main__":
    main()
