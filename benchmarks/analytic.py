"""Which closed form predicts a trained network: `python benchmarks/analytic.py --workdir DIR`.

The figures and the picture of docs/research/analytic_denoisers.md, for a model of digits, after

    python main.py --mode train --config configs/digits.py --workdir runs/digits
    python benchmarks/analytic.py --workdir runs/digits

1. By noise level, the share of the variance of the network's outputs that analytic denoisers of the
   training images leave unexplained, 1 - r^2, on noisy test images.
2. How many evaluations a start by the flow of the Wiener filter saves.
3. The chance that two samples that go on from one x_t with fresh noise are of one class: of the
   network, counted, and by closed forms.

Writes all results as JSON. Five minutes of processor time (measured).
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import command
import jax
import jax.numpy as jnp
import numpy as np

import score_sde
from score_sde import sampling, solvers
from score_sde.config import build
from score_sde.data import gather
from score_sde.evaluation import plots, solver_error
from score_sde.evaluation.metrics.frechet import frechet_distance
from score_sde.processes import analytic
from score_sde.processes.exact import Labelled, Mixture
from score_sde.sampling import grids

SPECS = (
    *("wiener", "local(patch=3)", "local(patch=5)", "local(patch=7)"),
    *("equivariant_local(patch=3)", "equivariant_local(patch=5)", "equivariant_local(patch=7)"),
    "dataset",
)
JUMPS = (-7.0, -5.0, -4.0, -3.0, -2.0)  # log-SNR, where samplers start
CLASSES = 10
PARTS = ("denoisers", "starts", "classes")
STYLES = {3: ":", 5: "--", 7: "-"}  # of a line, by the side of the patch


@dataclasses.dataclass(frozen=True)
class Digits:
    """The network, and the images as it sees them: x [n, 8, 8, 1] and their labels."""

    model: score_sde.Interactive
    train: tuple[jax.Array, np.ndarray]
    test: tuple[jax.Array, np.ndarray]

    @property
    def std(self) -> float:
        """Of the noise of the codec."""
        return self.model.codec.noise_width / math.sqrt(12)

    @property
    def sde(self):
        """Of the network, to where its samples end."""
        return self.model.process


def digits(workdir: Path) -> Digits:
    """Of a workdir."""
    model = score_sde.load(workdir)
    found = []
    for source in (model.data.train, model.data.test):
        parts = gather(source, np.arange(len(source)))
        found.append((model.codec.middle(parts["image"]), parts["label"]))
    return Digits(model, *found)


def unexplained(
    known: Digits, specs: tuple[str, ...], levels: np.ndarray, number: int
) -> dict[str, list[float]]:
    """1 - r^2 of each analytic denoiser at each log-SNR, and 1 - r^2 of x_0 by the network."""
    sde, net, x_0 = known.sde, jax.jit(known.model.denoiser()), known.test[0][:number]
    laws = {spec: build("processes.analytic", spec, known.train[0], known.std) for spec in specs}
    compiled = {spec: jax.jit(law.denoiser(sde)) for spec, law in laws.items()}
    found: dict[str, list[float]] = {spec: [] for spec in (*specs, "x_0")}
    for i, t in enumerate(sde.t_of_log_snr(jnp.asarray(levels, jnp.float32))):
        x_t = sde.perturb(jax.random.key(i), x_0, t)
        truth = np.asarray(net(x_t, t))
        spread = np.sum((truth - truth.mean(axis=0)) ** 2)
        for spec, denoise in compiled.items():
            found[spec].append(float(np.sum((np.asarray(denoise(x_t, t)) - truth) ** 2) / spread))
        own = np.asarray(x_0 - x_0.mean(axis=0, keepdims=True))
        found["x_0"].append(float(np.sum((np.asarray(x_0) - truth) ** 2) / np.sum(own**2)))
    return found


def starts(known: Digits, evaluations: tuple[int, ...], number: int) -> list[dict]:
    """Errors of the ends of paths, and Frechet distances of samples to training images, from t_max
    (log_snr None) and from where a jump ends."""
    sde, net, (points, _) = known.sde, known.model.denoiser(), known.train
    codec = known.model.codec
    law = analytic.wiener(points, known.std)
    x = sde.prior_sample(jax.random.key(0), (number, *codec.shape), np.float32)
    few = x[:256]
    truth = jax.jit(lambda x: solver_error.reference(sde, net, x, 1e-5).x)(few)
    solver = solvers.dpmpp(sde, order=3)
    run = jax.jit(
        lambda x, times: sampling.sample(jax.random.key(1), solver, net, x, times, denoise=True).x
    )
    rows = []
    for jump in (None, *JUMPS):
        begin, there = sde, x
        if jump is not None:
            s = sde.t_of_log_snr(jnp.asarray(jump, jnp.float32))
            begin = dataclasses.replace(sde, t_max=float(s))
            there = jax.jit(lambda x, s: analytic.jump_start(sde, law, x, s))(x, s)
        for n in evaluations:
            ends = run(there, grids.log_snr(begin, n - 1))
            error = solver_error.rms_error(ends[:256], truth)
            row = {"log_snr": jump, "evaluations": n, "error": error.value}
            rows.append({**row, "frechet": frechet(codec, ends, points)})
    return rows


def frechet(codec, x, points) -> float:
    """Between images as they are shown, scaled to [0, 1]."""
    sets = (np.asarray(codec.show(codec.decode(a))).reshape(len(a), -1) / 255 for a in (x, points))
    return frechet_distance(*(part for a in sets for part in (a.mean(axis=0), np.cov(a.T))))


def saved(rows: list[dict], what: str) -> list[tuple[float, int, float, float]]:
    """`(log-SNR, evaluations, value, evaluations without a jump)` for the same value, by linear
    interpolation of logarithms; infinite where no number of them tried is so good."""
    plain = [(row["evaluations"], row[what]) for row in rows if row["log_snr"] is None]
    numbers, values = np.log(np.asarray(plain, float).T)
    best = np.minimum.accumulate(values)
    found = []
    for row in rows:
        if row["log_snr"] is not None:
            target = math.log(row[what])
            equal = math.inf
            if target >= best[-1]:
                equal = math.exp(np.interp(-target, -best, numbers))
            found.append((row["log_snr"], row["evaluations"], row[what], equal))
    return found


def speciation(known: Digits, levels: np.ndarray, number: int, steps: int) -> dict[str, list]:
    """The chance of one class at each log-SNR: "network", counted in pairs of samples, whose
    class a classifier tells; "dataset" and "gaussians" by Bayes' rule, of the training images and
    of a Gaussian for each class."""
    from sklearn.svm import SVC

    sde, net, (points, labels) = known.sde, known.model.denoiser(), known.train
    shape = (number, *known.model.codec.shape)
    solver = solvers.ancestral(sde)
    run = jax.jit(lambda key, x, times: sampling.sample(key, solver, net, x, times, denoise=True).x)
    classifier = SVC(gamma="scale", C=10.0).fit(np.asarray(points).reshape(len(points), -1), labels)

    def classes(x):
        return classifier.predict(np.asarray(x).reshape(len(x), -1))

    law = analytic.dataset(points, known.std)
    same = jax.jit(analytic.same_class(law, jnp.asarray(labels), CLASSES), static_argnums=0)
    laws = [analytic.wiener(points[labels == k], known.std) for k in range(CLASSES)]
    shares = np.bincount(labels) / len(labels)
    mixture = Mixture(
        jnp.asarray(shares, jnp.float32),
        jnp.concatenate([law.means for law in laws]),
        jnp.concatenate([law.covs for law in laws]),
    )
    gaussians = Labelled(mixture, jnp.arange(CLASSES))

    @jax.jit
    def by_gaussians(x, t):
        log = [
            gaussians.log_class(sde, x, t, {"label": jnp.full(len(x), k)}) for k in range(CLASSES)
        ]
        return jnp.sum(jnp.exp(2 * jnp.stack(log)), axis=0)

    found: dict[str, list] = {"network": [], "dataset": [], "gaussians": []}
    for i, level in enumerate(levels):
        keys = jax.random.split(jax.random.key(10 + i), 5)
        t = sde.t_of_log_snr(jnp.asarray(level, jnp.float32))
        start = sde.prior_sample(keys[0], shape, np.float32)
        to_t = grids.log_snr(dataclasses.replace(sde, t_min=float(t)), steps)
        on = grids.log_snr(dataclasses.replace(sde, t_max=float(t)), steps)
        x_t = jax.jit(lambda key, x, times: sampling.sample(key, solver, net, x, times).x)(
            keys[1], start, to_t
        )
        pair = [classes(run(key, x_t, on)) for key in keys[2:4]]
        found["network"].append(solver_error.mean((pair[0] == pair[1]).astype(float).tolist()))
        own = sde.perturb(keys[4], points[:: max(1, len(points) // number)], t)
        found["dataset"].append(solver_error.mean(same(sde, own, t).tolist()))
        found["gaussians"].append(solver_error.mean(by_gaussians(own, t).tolist()))
    return found


def table(header: list[str], rows: list[list]) -> None:
    """Prints it, numbers with three digits."""
    shown = [
        [f"{cell:.3g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows
    ]
    print("\n" + solver_error.markdown(header, shown), flush=True)


def picture(path: Path, results: dict) -> None:
    """Draws the three."""
    lines = {
        "wiener": ("Wiener", plots.COLOURS[1], "-"),
        "dataset": ("data set", plots.COLOURS[6], "-"),
        **{f"local(patch={n})": (f"local {n}", plots.COLOURS[0], STYLES[n]) for n in STYLES},
        **{
            f"equivariant_local(patch={n})": (f"equivariant {n}", plots.COLOURS[2], STYLES[n])
            for n in STYLES
        },
    }
    with plots.figure(path, 2.9, (1, 3)) as ((left, middle, right),):
        for spec, values in results["unexplained"].items():
            if spec in lines:
                name, colour, style = lines[spec]
                left.plot(results["levels"], values, style, color=colour, label=name)
        left.set(yscale="log", xlabel="log-SNR", title="1 - r² of the network's outputs")
        for i, jump in enumerate((None, *JUMPS)):
            own = [row for row in results["starts"] if row["log_snr"] == jump]
            name = "prior" if jump is None else f"jump to {jump:g}"
            numbers, values = ([row[k] for row in own] for k in ("evaluations", "error"))
            middle.plot(numbers, values, ".-", color=plots.COLOURS[-i - 1], label=name)
        middle.set(xscale="log", yscale="log", xlabel="evaluations", title="error of samples")
        middle.set_xticks([5, 10, 20, 40], ["5", "10", "20", "40"])
        middle.minorticks_off()
        names = {"network": "network", "dataset": "data set", "gaussians": "Gaussians"}
        for (kind, name), marker in zip(names.items(), ("o", "-", "--"), strict=True):
            values = [estimate[0] for estimate in results["speciation"][kind]]
            right.plot(results["forks"], values, marker, label=name)
        right.set(xlabel="log-SNR", ylim=(0, 1.02), title="chance of one class")
        for axes in (left, middle, right):
            axes.legend(fontsize=6)


def main() -> None:
    """Prints the tables, and writes the results."""
    parser = command.parser(__doc__ or "", out="benchmark_analytic.json")
    parser.add_argument("--workdir", type=Path, default=Path("runs/digits"), help="of a model")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="what is measured")
    parser.add_argument("--denoisers", nargs="+", default=SPECS, help="of processes.analytic")
    parser.add_argument("--images", type=int, default=32, help="that denoisers are compared on")
    parser.add_argument("--samples", type=int, default=1500, help="of each start")
    parser.add_argument("--pairs", type=int, default=300, help="of samples, at each noise level")
    parser.add_argument("--steps", type=int, default=40, help="of each half of their paths")
    parser.add_argument("--evaluations", type=int, nargs="+", default=[5, 7, 10, 14, 20, 28, 40])
    parser.add_argument("--picture", type=Path, help="file of the picture, of all parts")
    small = {"workdir": Path("runs/small/classes"), "images": 2, "samples": 256, "pairs": 8}
    few = ["wiener", "local(patch=3)", "equivariant_local(patch=3)"]
    options = command.parse(parser, **small, steps=2, evaluations=[3, 4], denoisers=few)

    known, results = digits(options.workdir), {}
    if "denoisers" in options.parts:
        levels = np.arange(-8.0, 8.1, 4.0 if options.small else 2.0)
        found = unexplained(known, tuple(options.denoisers), levels, options.images)
        results |= {"levels": levels.tolist(), "unexplained": found}
        header = ["1 - r² at log-SNR", *(f"{level:g}" for level in levels)]
        table(header, [[spec, *values] for spec, values in found.items()])
    if "starts" in options.parts:
        results["starts"] = rows = starts(known, tuple(options.evaluations), options.samples)
        header = ["start at log-SNR", "evaluations", "error", "Frechet distance"]
        table(header, [[row["log_snr"] or "prior", *list(row.values())[1:]] for row in rows])
        for what in ("error", "frechet"):
            header = ["start at log-SNR", "evaluations", what, "as many from the prior"]
            table(header, [list(row) for row in saved(rows, what)])
    if "classes" in options.parts:
        forks = np.arange(-8.0, 2.1, 5.0 if options.small else 1.0)
        chances = speciation(known, forks, options.pairs, options.steps)
        results |= {"forks": forks.tolist(), "speciation": chances}
        header = ["chance of one class at", *(f"{level:g}" for level in forks)]
        shown = {k: [f"{a:.2f} ± {b:.2f}" for a, b in v] for k, v in chances.items()}
        table(header, [[kind, *values] for kind, values in shown.items()])
    command.write(options.out, results)
    if options.picture:
        picture(options.picture, results)


if __name__ == "__main__":
    main()
