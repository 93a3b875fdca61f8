"""Bridges between two data sets against closed forms: `python benchmarks/two_ends.py`.

The tables of docs/research/two_ends.md: which pairing a bridge draws, how iterative Markovian
fitting converges, and what pairing by batches does to conditions. Nothing is trained. The last
table is of trained models, named by their workdirs, after

    python main.py --mode train,sample --config configs/digits_deblur_bridge.py \
        --workdir runs/bridge --config.sampling.num_samples=2376
    python benchmarks/two_ends.py --workdirs runs/bridge

A workdir of mode edit has `edit.npz`, as that of configs/digits_deblur.py. Half a minute of
processor time.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import command
import jax
import jax.numpy as jnp
import numpy as np

from score_sde import sampling, solvers
from score_sde.config import build
from score_sde.data.files import read_arrays
from score_sde.processes import Flow
from score_sde.processes.exact_bridge import Pairs, gaussian, markovian, schroedinger
from score_sde.processes.two_ends import Brownian, Trigonometric
from score_sde.sampling import grids
from score_sde.types import Feature

ZERO = jnp.zeros(1)
RHO = 0.9  # of the data and the condition


def of_numbers(first: float | jax.Array, second: float | jax.Array, cross: float | jax.Array):
    """Pairs of numbers of mean 0 with these variances and this covariance."""
    one, two, both = (jnp.full((1, 1), value, float) for value in (first, second, cross))
    return gaussian((ZERO, ZERO), (one, two), both)


def drawn(sde, pairs: Pairs, told: bool, n: int, steps: int) -> tuple[jax.Array, jax.Array]:
    """x_1, and the x_0 that `ancestral` leads to with the exact denoiser."""
    _, x_1 = pairs.sample(jax.random.key(1), n)
    denoiser = pairs.denoiser_given(sde, x_1) if told else pairs.denoiser(sde)
    times, solver = grids.uniform(sde, steps), solvers.ancestral(sde)
    out = sampling.sample(jax.random.key(2), solver, denoiser, x_1, times, denoise=True)
    return x_1, out.x


def pairings(n: int, steps: int, variances: Sequence[float]) -> None:
    """Prints the correlation of pairs, and that which a bridge draws."""
    print("| noise | pairs | drawn, closed form | `ancestral` | told x_1 | Schroedinger |")
    print("|---|---|---|---|---|---|")
    for variance in variances:
        sde = Brownian(variance=variance, t_min=1e-5)
        one = jnp.eye(1)
        plan = schroedinger(sde, (ZERO, ZERO), (one, one)).covs[0][0, 1]
        for given in (0.9, 0.0):
            pairs = of_numbers(1.0, 1.0, given)
            exact = markovian(sde, pairs).covs[0][0, 1]
            run = jax.jit(lambda told, sde=sde, pairs=pairs: drawn(sde, pairs, told, n, steps),
                          static_argnums=0)  # fmt: skip
            free, told = (correlation(*run(told)) for told in (False, True))
            print(f"| {variance} | {given} | {exact:.3f} | {free:.3f} | {told:.3f} | {plan:.3f} |")


def correlation(a: jax.Array, b: jax.Array) -> float:
    """Of two columns of numbers."""
    return float(np.corrcoef(np.asarray(a)[:, 0], np.asarray(b)[:, 0])[0, 1])


def plans() -> None:
    """Prints the precision of the plan, and the errors of iterative Markovian fitting."""
    random = np.random.default_rng(0)
    covs = [a @ a.T + np.eye(3) for a in random.normal(size=(2, 3, 3))]
    sde, zero = Brownian(variance=0.3, t_min=1e-9), jnp.zeros(3)
    plan = schroedinger(sde, (zero, zero), (jnp.asarray(covs[0]), jnp.asarray(covs[1])))
    off = np.linalg.inv(np.asarray(plan.covs[0]))[:3, 3:]
    print(f"\nlargest error of the precision -I/e: {np.max(np.abs(off + np.eye(3) / 0.3)):.1e}")
    moved = np.max(np.abs(markovian(sde, plan).covs[0] - plan.covs[0]))
    print(f"how far a round moves the plan: {moved:.1e}\n")
    print("| process | " + " | ".join(f"round {i}" for i in range(5)) + " |")
    print("|" + "---|" * 6)
    for sde in (Brownian(t_min=1e-9), Trigonometric(t_min=1e-9)):
        errors = imf(sde, 5)
        print(f"| {type(sde).__name__} | " + " | ".join(f"{e:.2g}" for e in errors) + " |")


def imf(sde, rounds: int) -> list[float]:
    """The errors of the covariance of pairs of N(0, 1) and N(0, 4), independent at first."""
    one, four = jnp.eye(1), 4 * jnp.eye(1)
    end = schroedinger(sde, (ZERO, ZERO), (one, four)).covs[0][0, 1]

    @jax.jit
    def projected(cross):
        return markovian(sde, gaussian((ZERO, ZERO), (one, four), cross)).covs[0, :1, 1:]

    cross, errors = jnp.zeros((1, 1)), []
    for _ in range(rounds):
        errors.append(float(cross[0, 0] - end))
        cross = projected(cross)
    return errors


def broken(n: int, weight: float, batches: int) -> tuple[float, float, float, float]:
    """What flow matching on batches of n makes of x_0 | c ~ N(rho c, 1 - rho^2) from N(0, 1): the
    correlation of the pairs, the slope of the mean in c, the variance, and E|x_0 - x_1|^2.

    The denoiser E[x_0 | x_t, c] is regressed on x_t and c, by the moments of the pairs."""
    number = Feature(())
    features = dict.fromkeys(("x", "source", "c"), number)
    spec = {"name": "exact_coupling", "part": "x"}
    spec |= {"cond": "c", "weight": weight} if weight else {}
    paired = build("data.augment", spec, features)
    random = np.random.default_rng(n)
    rows = []
    for _ in range(batches):
        c, w, z = random.normal(size=(3, n))
        batch = {"x": RHO * c + np.sqrt(1 - RHO**2) * w, "source": z, "c": c}
        batch = paired(batch, random.random(n))
        rows.append(np.stack([batch["x"], batch["source"], c]))
    found = np.concatenate(rows, axis=1)
    cov, sde = jnp.asarray(np.cov(found)), Flow(t_min=1e-5, t_max=1.0)

    def denoiser(x, t):  # of the condition c = 1
        seen = jnp.stack([jnp.array([1 - t, t, 0 * t]), jnp.array([0.0, 0.0, 1.0])])
        gain = jnp.linalg.solve(seen @ cov @ seen.T, seen @ cov[:, 0])
        return gain[0] * x + gain[1]

    x_1 = jnp.asarray([[-1.0], [1.0]])
    times = grids.uniform(sde, 500)
    out = sampling.sample(jax.random.key(0), solvers.ddim(sde), denoiser, x_1, times).x[:, 0]
    r = np.corrcoef(found[0], found[1])[0, 1]
    distance = np.mean((found[0] - found[1]) ** 2)
    return r, float(jnp.mean(out)), float((out[1] - out[0]) / 2) ** 2, distance


def conditions(batches: int) -> None:
    """Prints what batches of pairs do to a condition, and the cure."""
    print("\n| batch | weight of c | pairs' correlation | slope | by the formula | variance "
          "| by the formula | mean square distance |")  # fmt: skip
    print("|" + "---|" * 8)
    for n in (2, 8, 32, 128):
        for weight in (0.0,) if n < 32 else (0.0, 10.0, 100.0):
            r, slope, variance, distance = broken(n, weight, batches * 8 // n)
            formula = ["", ""]
            if not weight:
                q2 = (1 - RHO**2) / (1 - r**2 * RHO**2)
                formula = [f"{RHO * (1 - r * q2**0.5):.3f}", f"{q2:.3f}"]
            print(f"| {n} | {weight:g} | {r:.3f} | {slope:.3f} | {formula[0]} | {variance:.3f} "
                  f"| {formula[1]} | {distance:.2f} |")  # fmt: skip


def images(workdirs: list[Path]) -> None:
    """Prints the errors of trained models on the test digits, in units of x."""
    test = build("data", {"name": "digits"}).test
    truth = np.stack([test[i]["image"] for i in range(len(test))]).astype(float) / 8 - 1
    print("\n| model | one sample | mean of 8 |\n|---|---|---|")
    for workdir in workdirs:
        results = results_of(workdir, len(truth))
        each = np.sqrt(np.mean((results - truth[:, None]) ** 2))
        mean = np.sqrt(np.mean((results.mean(axis=1) - truth) ** 2))
        print(f"| {workdir} | {each:.3f} | {mean:.3f} |")


def results_of(workdir: Path, n: int) -> np.ndarray:
    """Results [n, k, ...] of the first n test images, in units of x: those of mode edit, or samples
    that begin at the test examples in turn."""
    if (workdir / "edit.npz").exists():
        found = read_arrays(workdir / "edit.npz")["results"]
    else:
        found = read_arrays(workdir / "samples.npz")["samples"]
        found = np.swapaxes(found.reshape(-1, n, *found.shape[1:]), 0, 1)
    return found.astype(float) / 127.5 - 1


def draw(path: Path, workdirs: list[Path], n: int) -> None:
    """The picture of the page."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    number = 3 + bool(workdirs)
    figure, axes = plt.subplots(1, number, figsize=(3.2 * number, 3.2))
    two = Pairs(  # two points to two points, each to the one opposite
        jnp.full(2, 0.5),
        jnp.asarray([[1.0, -1.0], [-1.0, 1.0]]),
        jnp.stack([0.01 * jnp.eye(2)] * 2),
    )
    sde = Brownian(variance=0.3, t_min=1e-4)
    times = grids.uniform(sde, 200)
    for axis, told in zip(axes[:2], (False, True), strict=True):
        _, x_1 = two.sample(jax.random.key(1), n)
        denoiser = two.denoiser_given(sde, x_1) if told else two.denoiser(sde)
        out = sampling.sample(
            jax.random.key(2), solvers.ancestral(sde), denoiser, x_1, times, trajectory=True
        )
        assert out.trajectory is not None
        for path_, start in zip(np.asarray(out.trajectory)[:, :, 0].T, x_1[:, 0], strict=True):
            axis.plot(times, path_, lw=0.6, color="tab:red" if start > 0 else "tab:blue")
        axis.set(title=f"pairs (-1, 1) and (1, -1){', told $x_1$' if told else ''}", xlabel="t")
    axes[0].set_ylabel("$x_t$")
    noise = np.geomspace(0.01, 10, 25)
    unit = Brownian(variance=1.0, t_min=1e-6)

    @jax.jit
    def curves(variance):  # of unit variances, in units of the noise
        scale = 1 / variance
        cov = scale * jnp.eye(1)
        plan = schroedinger(unit, (ZERO, ZERO), (cov, cov)).covs[0, 0, 1]
        found = [of_numbers(scale, scale, r * scale) for r in (0.9, 0.0)]
        return jnp.stack([*(markovian(unit, pairs).covs[0, 0, 1] for pairs in found), plan]) / scale

    values = np.array([curves(v) for v in noise])
    for column, label in zip(values.T, ("pairs of 0.9", "pairs of 0", "Schroedinger"), strict=True):
        axes[2].semilogx(noise, column, "k--" if label == "Schroedinger" else "-", label=label)
    axes[2].set(title="correlation that is drawn", xlabel="variance of the noise")
    axes[2].legend(fontsize=8)
    if workdirs:
        blur = functools.partial(build, "inverse.operators", "gaussian_blur(std=1.0)")
        spec = {"name": "observed", "of": (build("data", "digits"),), "noise": 0.05}
        test = build("data", spec | {"operator": blur}).test
        found = results_of(workdirs[0], len(test))
        shown = []
        for i in range(5):
            start, truth = (
                np.asarray(test[i][part], float) / 8 - 1 for part in ("source", "image")
            )
            shown.append([start, *found[i, :2], truth])
        rows = np.concatenate([np.concatenate(row, axis=0) for row in shown], axis=1)
        axes[3].imshow(rows[..., 0], cmap="gray_r", vmin=-1, vmax=1)
        axes[3].set(title="start, two results, truth", xticks=[], yticks=[])
    figure.tight_layout()
    figure.savefig(path, dpi=64)
    command.few_colours(path, 48)


def main() -> None:
    """Prints the tables."""
    jax.config.update("jax_enable_x64", True)
    parser = command.parser(__doc__)
    parser.add_argument("--samples", type=int, default=10000, help="of each pairing")
    parser.add_argument("--steps", type=int, default=400, help="of `ancestral`")
    parser.add_argument("--variances", type=float, nargs="+", default=[0.1, 1.0], help="of noise")
    parser.add_argument("--batches", type=int, default=20000, help="of 8, for the conditions")
    parser.add_argument("--workdirs", type=Path, nargs="*", default=[], help="of trained models")
    parser.add_argument("--picture", type=Path, help="where to draw it")
    options = command.parse(parser, samples=200, steps=10, batches=100, variances=[1.0])
    pairings(options.samples, options.steps, options.variances)
    plans()
    conditions(options.batches)
    if options.workdirs:
        images(options.workdirs)
    if options.picture:
        draw(options.picture, options.workdirs, 24)


if __name__ == "__main__":
    main()
