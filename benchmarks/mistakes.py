"""The classic mistakes, with what each looks like: `python benchmarks/mistakes.py`.

The tables and the pictures of docs/guides/mistakes.md. Denoisers are exact, so that nothing but the
mistake is in a figure. The law of most parts is that of 500 training digits, each blurred by
N(0, 0.05^2); of `guidance` a Gaussian for each class, as in benchmarks/saturation.py; of `fid` one
Gaussian with the covariance of the digits. The parts `averages` and `law_and_grid` train a
perceptron on eight Gaussians on a ring, whose denoiser is known.

The Frechet distance is of x in [-1, 1] to the mean and the covariance of the law; "outside" is the
share of numbers that are not in [-1.25, 1.25].

    python benchmarks/mistakes.py --picture docs/images

writes the pictures `mistake_PART.png`. Float32; three minutes of processor time.
"""

import warnings
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import command
import jax
import jax.numpy as jnp
import numpy as np
import optax
from saturation import digits as classes
from saturation import drawn as guided

from score_sde import sampling, solvers
from score_sde.conditioning.labels import labels
from score_sde.config import build
from score_sde.data import gather
from score_sde.evaluation import plots
from score_sde.evaluation.metrics.frechet import frechet_distance
from score_sde.evaluation.metrics.wasserstein import sliced_wasserstein
from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.nets.mlp import MLP
from score_sde.processes import EDM, VP, exact
from score_sde.sampling import grids
from score_sde.training import time_law, weighting
from score_sde.training.objective import Training
from score_sde.training.objectives.denoising import denoising

SDE, STD, SHOWN = VP(t_min=1e-3), 0.05, 14
Rows = dict[str, np.ndarray]  # what was done: samples [n, 64]


class Sizes(NamedTuple):
    """How much of everything."""

    samples: int
    points: int
    steps: int  # where many are right
    train: int


def images(sizes: Sizes) -> np.ndarray:
    """Training digits [n, 64] in [-1, 1]."""
    data = build("data", "sklearn_digits.digits").train
    return gather(data, np.arange(sizes.points))["image"].reshape(-1, 64) / 8.0 - 1


def law_of(sizes: Sizes) -> exact.Dataset:
    """That of the digits."""
    return exact.Dataset(jnp.asarray(images(sizes), jnp.float32), STD)


def moments(law: exact.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a law."""
    points = np.asarray(law.points, np.float64)
    return points.mean(axis=0), np.cov(points.T, bias=True) + law.std**2 * np.eye(points.shape[1])


def draw(sizes: Sizes, denoiser: Any, solver: str, grid: str, sde: Any = SDE, **options: Any):
    """Samples of a denoiser `(points, x_t, t) -> x_0`, whose points are no constants of the
    program. steps: of the grid. The noise is the same in all rows of a table."""
    steps = options.pop("steps", sizes.steps)
    times = build("sampling.grids", grid, sde, steps).astype(jnp.float32)
    made = build("solvers", solver, sde)

    @jax.jit
    def run(points):
        x = sde.prior_sample(jax.random.key(0), (sizes.samples, 64), jnp.float32)
        at = jax.random.key(1), made, partial(denoiser, points), x, times
        return sampling.sample(*at, **{"denoise": True, **options}).x

    return np.asarray(run(law_of(sizes).points))


def exactly(points: Any, x: Any, t: Any, sde: Any = SDE):
    """The exact denoiser of the digits."""
    return exact.Dataset(points, STD).denoiser(sde)(x, t)


def few_steps(sizes: Sizes) -> Rows:
    """The same denoiser by two solvers."""
    steps = (5, 10, 20, sizes.steps)
    rows = {f"`ancestral`, {n} steps": ("ancestral", n) for n in steps}
    rows |= {f"`dpmpp`, {n} steps": ("dpmpp", n) for n in (10, 20)}
    return {k: draw(sizes, exactly, s, "log_snr", steps=n) for k, (s, n) in rows.items()}


def grid(sizes: Sizes) -> Rows:
    """EDM, whose t is sigma, on grids of 20 steps."""
    sde = EDM()
    denoiser = partial(exactly, sde=sde)
    names = ("uniform", "log_snr", "karras")
    return {f"`{name}`": draw(sizes, denoiser, "dpmpp", name, sde, steps=20) for name in names}


def guidance(sizes: Sizes) -> Rows:
    """Classes of digits, by weight."""
    count, law = max(sizes.samples // 10, 2), classes()
    specs = ("{}(weight=1.0)", "{}(weight=2.0)", "{}(weight=7.5)", "{}(weight=25.0)")
    names = [each.format("classifier_free") for each in specs]
    names += ["classifier_free(weight=7.5, interval=(-4.0, 4.0))", "apg(weight=7.5, norm=1.0)"]
    return {f"`{k}`": guided(law, k, count, sizes.steps // 2).reshape(-1, 64) for k in names}


def prediction(sizes: Sizes) -> Rows:
    """An exact network of the noise, read as if it predicted something else."""

    def read(how, points, x, t):
        alpha, sigma = SDE.alpha(t), SDE.sigma(t)
        eps = (x - alpha * exactly(points, x, t)) / sigma
        return {
            "the noise, as it is": lambda: (x - sigma * eps) / alpha,
            "v": lambda: alpha * x - sigma * eps,
            "x_0": lambda: eps,
            "the noise, with the other sign": lambda: (x + sigma * eps) / alpha,
        }[how]()

    names = "the noise, as it is", "v", "x_0", "the noise, with the other sign"
    return {k: draw(sizes, partial(read, k), "dpmpp", "log_snr", steps=20) for k in names}


def scale(sizes: Sizes) -> Rows:
    """Data from 0 to 255 in the place of [-1, 1], shown in [-1, 1]; and written out wrongly."""

    def of_range(low, high, sde, points, x, t):
        data = low + (points + 1) / 2 * (high - low)
        return exact.Dataset(data, STD * (high - low) / 2).denoiser(sde)(x, t)

    rows, right = {}, None
    for name, sde in (("VP", SDE), ("EDM", EDM())):
        for low, high in ((-1.0, 1.0), (0.0, 255.0)):
            x = draw(sizes, partial(of_range, low, high, sde), "dpmpp", "log_snr", sde)
            x = (x - low) / (high - low) * 2 - 1
            right = x if right is None else right
            rows[f"{name}, data in [{low:g}, {high:g}]"] = x
    rows["right samples, shown as if in [0, 1]"] = 2 * np.asarray(right) - 1
    return rows


def last_noise(sizes: Sizes) -> Rows:
    """What is left of the noise at t_min."""
    rows = {}
    for t_min in (1e-3, 3e-2):
        sde = VP(t_min=t_min)
        for denoise in (False, True):
            noise = float(sde.sigma(jnp.asarray(t_min)))
            label = f"sigma(t_min) = {noise:.3f}, `denoise={denoise}`"
            denoiser = partial(exactly, sde=sde)
            x = draw(sizes, denoiser, "ancestral", "log_snr", sde, denoise=denoise)
            rows[label] = x
    return rows


def label(sizes: Sizes) -> Rows:
    """A network that is told another noise level than that of x."""

    def told(factor, points, x, t):
        at = SDE.t_of_log_snr(SDE.log_snr(t) - 2 * jnp.log(factor))
        return exactly(points, x, at)

    factors = (0.5, 0.8, 1.0, 1.25, 2.0)
    return {
        f"told sigma/alpha x {f:g}": draw(sizes, partial(told, f), "dpmpp", "log_snr")
        for f in factors
    }


PARTS_OF_ROWS = (few_steps, grid, guidance, prediction, scale, last_noise, label)
ROWS = {part.__name__: part for part in PARTS_OF_ROWS}


def outside(x: np.ndarray) -> float:
    """The share of numbers that are far from the data."""
    return float(np.mean(np.abs(x) > 1.25))


def table(name: str, rows: Rows, law: tuple[np.ndarray, np.ndarray]) -> None:
    """Prints how far samples are from the law."""
    print(f"\n| {name} | Frechet distance | outside |\n|---|---|---|")
    for what, x in rows.items():
        x = np.asarray(x, np.float64)
        far = frechet_distance(x.mean(axis=0), np.cov(x.T), *law)
        shown = f"{far:.3f}" if far < 1000 else f"{far:.1e}"
        print(f"| {what} | {shown} | {outside(x):.1%} |", flush=True)


def strips(path: Path, rows: Rows) -> None:
    """The first samples of each row."""
    with plots.figure(path, 0.42 * len(rows), (len(rows), 1)) as axes:
        for panel, (name, x) in zip(axes[:, 0], rows.items(), strict=True):
            tiles = np.pad(np.asarray(x[:SHOWN]).reshape(-1, 8, 8), ((0, 0), (0, 0), (0, 1)))
            tiles[:, :, 8] = np.nan
            panel.imshow(np.concatenate([*tiles], axis=1), cmap="gray", vmin=-1, vmax=1)
            panel.set(xticks=[], yticks=[])
            shown = name.replace("`", "").replace("classifier_free", "cfg")
            panel.set_ylabel(shown, rotation=0, ha="right", va="center", fontsize=8)
            panel.spines[:].set_visible(False)
            panel.grid(False)


def fid(sizes: Sizes, path: Path | None) -> None:
    """The Frechet distance of n exact samples from their own law, by n, and in closed form."""
    cov = np.cov(images(sizes).T) + STD**2 * np.eye(64)
    values, factor = np.linalg.eigvalsh(cov), np.linalg.cholesky(cov)
    counts = [n for n in (100, 300, 1000, 3000, 10_000, 30_000) if n <= 30 * sizes.samples]
    print("\n| samples of the truth itself | Frechet distance | closed form |\n|---|---|---|")
    found, said = [], []
    for n in counts:
        drawn = []
        for seed in range(5):
            x = np.random.default_rng(seed).normal(size=(n, 64)) @ factor.T
            drawn.append(frechet_distance(x.mean(axis=0), np.cov(x.T), np.zeros(64), cov))
        found.append((np.mean(drawn), np.std(drawn, ddof=1)))
        said.append(bias(values, n))
        print(f"| {n:,} | {found[-1][0]:.4f} +- {found[-1][1]:.4f} | {said[-1]:.4f} |", flush=True)
    if path:
        with plots.figure(path, 2.4) as ((axes,),):
            axes.errorbar(counts, *np.transpose(found), fmt="o", label="measured, five seeds")
            axes.plot(counts, said, color=plots.GREY, label="closed form, about 1/n")
            axes.set(xscale="log", yscale="log", xlabel="number of samples")
            axes.set(ylabel="Frechet distance")
            axes.legend()


def bias(values: np.ndarray, n: int) -> float:
    """The expected Frechet distance of n samples of a Gaussian from itself, to order 1/n, by the
    eigenvalues of its covariance:

        sum_i l_i / n + [ sum_ij l_i l_j / (l_i + l_j) + sum_i l_i / 2 ] / (2 (n - 1))

    The first is the error of the mean. The second is the second order of tr (A C)^(1/2) in the
    error of a covariance that has the law of Wishart.
    """
    pairs = values[:, None] * values[None] / (values[:, None] + values[None])
    return float(values.sum() / n + (pairs.sum() + values.sum() / 2) / (2 * (n - 1)))


def dequantisation(sizes: Sizes, path: Path | None) -> None:
    """Bits/dim of the digits by their own Gaussian, its covariance widened by s^2, three ways. A
    value is a bin of width 2/17 in x; only the first is a bound on the bits of the values."""
    values = (images(sizes).astype(float) + 1) * 8
    u = np.random.default_rng(0).random(values.shape)
    ways = {
        "uniform noise of a whole bin": (values + u) / 8.5 - 1,
        "uniform noise of half a bin": (values + 0.25 + u / 2) / 8.5 - 1,
        "no noise": (values + 0.5) / 8.5 - 1,
    }
    mean, cov = ways["no noise"].mean(axis=0), np.cov(ways["no noise"].T)
    widths = (0.1, 0.03, 0.01, 0.003, 0.001, 0.0003)
    print("\n| noise | " + " | ".join(f"s = {s:g}" for s in widths) + " |")
    print("|---" * (len(widths) + 1) + "|")
    found = {}
    for name, x in ways.items():
        found[name] = []
        for s in widths:
            own, away = cov + s**2 * np.eye(64), x - mean
            squares = np.sum(away * np.linalg.solve(own, away.T).T, axis=1)
            nats = squares / 2 + np.linalg.slogdet(2 * np.pi * own)[1] / 2
            found[name].append(float(np.mean(nats) / 64 / np.log(2) + np.log2(8.5)))
        print(f"| {name} | " + " | ".join(f"{b:.2f}" for b in found[name]) + " |", flush=True)
    if path:
        with plots.figure(path, 2.4) as ((axes,),):
            for (name, bits), marker in zip(found.items(), plots.MARKERS, strict=False):
                axes.plot(widths, bits, marker=marker, label=name)
            axes.set(xscale="log", ylim=(1, 5), xlabel="s, the least width of the model")
            axes.set(ylabel='"bits/dim"')
            axes.invert_xaxis()
            axes.legend()


def trained(sizes: Sizes, law: Any, rate: float) -> tuple[Model, Any, Any]:
    """A perceptron after so many steps at a constant rate: the model, its raw parameters, and
    their average of decay 0.999."""
    model = Model(MLP(features=(64, 64)), SDE, parametrization.v(parametrization.time()))
    laws = {"time_law": law, "weighting": weighting.simple()}
    objective, ring = denoising(model, labels({}), **laws), exact.ring()
    params = model.init(jax.random.key(3), jnp.zeros((1, 2)))
    optimizer = optax.adam(rate)

    def step(carry, key):
        params, average, state = carry
        key_data, key_loss = jax.random.split(key)
        x = ring.sample(key_data, 256).astype(jnp.float32)
        batch = {"x": x, "cond": {}}
        gradient = jax.grad(
            lambda p: objective.losses(p, key_loss, batch, Training()).value.mean()
        )(params)
        with jax.numpy_dtype_promotion("standard"):  # optax mixes floats and counts
            updates, state = optimizer.update(gradient, state)
        params = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: 0.999 * a + 0.001 * p, average, params)
        return (params, average, state), None

    keys = jax.random.split(jax.random.key(4), sizes.train)
    run = jax.jit(lambda carry, keys: jax.lax.scan(step, carry, keys)[0])
    params, average, _ = run((params, params, optimizer.init(params)), keys)
    return model, params, average


def ring_figures(sizes: Sizes, denoiser: Any, grid: str) -> tuple[np.ndarray, float, float]:
    """Samples of 20 steps, their distance from the ring (sliced Wasserstein), and the RMS distance
    of the denoiser from the exact one, over log-SNR."""
    ring, times = exact.ring(), build("sampling.grids", grid, SDE, 20).astype(jnp.float32)

    @jax.jit
    def measure():
        x = SDE.prior_sample(jax.random.key(0), (4 * sizes.samples, 2), jnp.float32)
        at = jax.random.key(1), solvers.dpmpp(SDE), denoiser, x, times
        drawn = sampling.sample(*at, denoise=True).x
        truth = ring.sample(jax.random.key(2), len(x)).astype(jnp.float32)
        levels = grids.log_snr(SDE, 20).astype(jnp.float32)

        def off(key, t):
            x_t = SDE.perturb(key, truth, t)
            return jnp.mean((denoiser(x_t, t) - ring.denoiser(SDE)(x_t, t)) ** 2)

        keys = jax.random.split(jax.random.key(5), len(levels))
        error = jnp.sqrt(jnp.mean(jax.vmap(off)(keys, levels)))
        return drawn, sliced_wasserstein(jax.random.key(6), drawn, truth), error

    drawn, far, error = measure()
    return np.asarray(drawn), float(far), float(error)


def averages(sizes: Sizes, path: Path | None) -> None:
    """Raw and averaged parameters of one training."""
    model, raw, average = trained(sizes, time_law.log_snr_uniform(), 5e-3)
    print("\n| parameters | denoiser, RMS error | samples, distance |\n|---|---|---|")
    found = {}
    for name, params in (("raw", raw), ("averaged, decay 0.999", average)):
        found[name] = ring_figures(sizes, model.denoiser(params, {}), "log_snr")
        print(f"| {name} | {found[name][2]:.4f} | {found[name][1]:.4f} |", flush=True)
    if path:
        found["exact denoiser"] = ring_figures(sizes, exact.ring().denoiser(SDE), "log_snr")
        with plots.figure(path, 2.4, (1, 3)) as axes:
            for panel, (name, (x, far, _)) in zip(axes[0], found.items(), strict=True):
                panel.plot(*x[:1500].T, ".", ms=1.8, alpha=0.6, mew=0)
                panel.set(title=name, xlabel=f"distance {far:.3f}", aspect="equal")
                panel.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6), xticks=[], yticks=[])


def law_and_grid(sizes: Sizes) -> None:
    """Two laws of t in training, two grids in sampling."""
    print("\n| trained with | grid `uniform` | grid `log_snr` | denoiser, RMS error |")
    print("|---|---|---|---|")
    for name in ("uniform", "log_snr_uniform"):
        model, _, average = trained(sizes, build("training.time_law", name), 2e-3)
        denoiser = model.denoiser(average, {})
        by_grid = [ring_figures(sizes, denoiser, g) for g in ("uniform", "log_snr")]
        cells = " | ".join(f"{far:.4f}" for _, far, _ in by_grid)
        print(f"| `{name}` | {cells} | {by_grid[0][2]:.4f} |", flush=True)
    truth = [ring_figures(sizes, exact.ring().denoiser(SDE), g) for g in ("uniform", "log_snr")]
    print("| the exact denoiser | " + " | ".join(f"{far:.4f}" for _, far, _ in truth) + " | 0 |")


def evaluations(sizes: Sizes) -> None:
    """Distance from the end of the ODE, by steps and by evaluations."""
    truth = draw(sizes, exactly, "heun", "log_snr", steps=4 * sizes.steps, denoise=False)
    print("\n| solver | steps | evaluations | RMS distance from the ODE |\n|---|---|---|---|")
    for solver, steps in (("ddim", 20), ("heun", 20), ("heun", 10), ("dpmpp", 20)):
        x = draw(sizes, exactly, solver, "log_snr", steps=steps, denoise=False)
        each = 2 if solver == "heun" else 1
        rms = np.sqrt(np.mean((x - truth) ** 2))
        print(f"| `{solver}` | {steps} | {each * steps} | {rms:.4f} |", flush=True)


PARTS = (*ROWS, "fid", "dequantisation", "averages", "law_and_grid", "evaluations")


def of_classes() -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of the digits of all classes."""
    law = classes().mixture
    weights, means, covs = (np.asarray(a) for a in (law.weights, law.means, law.covs))
    mean = weights @ means
    away = means - mean[None]
    return mean, np.einsum("k,kij->ij", weights, covs) + (weights[:, None] * away).T @ away


def main() -> None:
    """Prints the tables."""
    parser = command.parser(__doc__)
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--points", type=int, default=500, help="digits that the law is of")
    parser.add_argument("--steps", type=int, default=100, help="where many are right")
    parser.add_argument("--train", type=int, default=4000, help="steps of the perceptron")
    parser.add_argument("--picture", type=Path, help="a folder for the pictures")
    small: dict[str, Any] = {"samples": 20, "points": 50, "steps": 4, "train": 4}
    small["parts"] = ("few_steps", "prediction", "fid", "dequantisation", "averages")
    options = command.parse(parser, **small)
    sizes = Sizes(options.samples, options.points, options.steps, options.train)
    warnings.filterwarnings("ignore", message=".* is large: expect")
    curves = {"fid": fid, "dequantisation": dequantisation, "averages": averages}
    for part in options.parts:
        path = options.picture / f"mistake_{part}.png" if options.picture else None
        if part in ROWS:
            rows = ROWS[part](sizes)
            table(part, rows, of_classes() if part == "guidance" else moments(law_of(sizes)))
            if path:
                strips(path, rows)
        elif part in curves:
            curves[part](sizes, path)
        else:
            {"law_and_grid": law_and_grid, "evaluations": evaluations}[part](sizes)


if __name__ == "__main__":
    main()
