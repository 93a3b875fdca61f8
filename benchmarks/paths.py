"""Samples of growing grids along one Brownian path: `python benchmarks/paths.py`.

The tables of docs/research/paths.md, with exact denoisers in float64.

1. Strong errors: the median distance, along shared paths of `sampling.paths`, between samples of N
   evaluations and those of `sra1` with 2,048 steps. The data are the three Gaussians of
   `exact.three_gaussians`, EDM from noise level 10 to 0.1, steps equal in log-SNR.
2. The same image at growing N: how far the samples of N and of 2N steps are apart, RMS over pixels
   in [-1, 1], with a path and with independent noise; and how many change their nearest digit. The
   data are 500 digits of sklearn, EDM from 80 to 0.02.

With `--picture FILE` it draws both. 100 seconds of processor time.
"""

import itertools
from pathlib import Path

import command
import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from score_sde import sampling
from score_sde.config import build
from score_sde.evaluation import plots
from score_sde.processes import EDM, exact
from score_sde.sampling import grids, paths

STRONG = ("euler_maruyama", "ancestral", "dpmpp_sde", "sra1", "shark")
EACH = {"sra1": 2, "shark": 2}  # evaluations a step
IMAGES = ("dpmpp_sde", "sra1")


def ends(sde, denoiser, spec, noise, x, n):
    """The samples of n steps of a solver."""
    solver, times = build("solvers", spec, sde), grids.log_snr(sde, n)
    run = jax.jit(lambda x: sampling.sample(noise, solver, denoiser, x, times, denoise=True).x)
    return np.asarray(run(x))


def strong(count: int, budgets: list[int], finest: int) -> dict[str, list[float]]:
    """Prints and returns the errors of each solver."""
    sde = EDM(t_min=0.1, t_max=10.0)
    denoiser = exact.three_gaussians().denoiser(sde)
    noise = paths.path(sde)(jax.random.split(jax.random.key(0), count))
    x = sde.prior_sample(jax.random.key(1), (count, 2))
    truth = ends(sde, denoiser, "sra1", noise, x, finest)
    print("| evaluations |", " | ".join(map(str, budgets)), "| slope |")
    print("|---" * (len(budgets) + 2) + "|")
    found = {}
    for name in STRONG:
        steps = [budget // EACH.get(name, 1) for budget in budgets]
        away = [ends(sde, denoiser, name, noise, x, n) - truth for n in steps]
        errors = [float(np.median(np.linalg.norm(a, axis=1))) for a in away]
        slope = np.log(errors[-2] / errors[-1]) / np.log(steps[-1] / steps[-2])
        row = " | ".join(f"{error:.1e}" for error in errors)
        print(f"| `{name}` | {row} | {slope:.2f} |")
        found[name] = errors
    return found


def digits(points: int) -> np.ndarray:
    """Of sklearn, [points, 64] in [-1, 1]."""
    return load_digits(return_X_y=True)[0][:points] / 8 - 1


def images(points: int, count: int, steps: list[int]) -> dict[str, list[np.ndarray]]:
    """Prints how far samples are apart, and returns those of the first solver by their noise."""
    sde, data = EDM(t_min=0.02), jnp.asarray(digits(points))
    denoiser = exact.Dataset(data, 0.1).denoiser(sde)
    keys = jax.random.split(jax.random.key(0), count)
    x = sde.prior_sample(jax.random.key(1), (count, data.shape[1]))

    def nearest(x):
        return np.argmin(np.sum((x[:, None] - np.asarray(data)) ** 2, axis=-1), axis=1)

    shown = {}
    pairs = [f"{n} and {2 * n}" for n in steps[:-1]]
    print("\n| RMS, other digit |", " | ".join(pairs), "|")
    print("|---" * (len(pairs) + 1) + "|")
    for solver in IMAGES:
        for noise in ("independent", "path"):
            made = build("sampling.paths", noise, sde)(keys)
            found = [ends(sde, denoiser, solver, made, x, n) for n in steps]
            cells = [
                f"{np.sqrt(np.mean((a - b) ** 2)):.4f}, {np.mean(nearest(a) != nearest(b)):.0%}"
                for a, b in itertools.pairwise(found)
            ]
            print(f"| `{solver}`, `{noise}` |", " | ".join(cells), "|", flush=True)
            shown.setdefault(noise, found)
    return shown


def draw(file: Path, budgets: list[int], errors, steps: list[int], shown) -> None:
    """The errors on the left, one image at each number of steps on the right."""
    with plots.figure(file, 2.8, (1, 2)) as axes:
        left, right = axes[0]
        for (name, values), marker in zip(errors.items(), plots.MARKERS, strict=False):
            left.plot(budgets, values, marker=marker, label=name)
        left.set(xscale="log", yscale="log", xlabel="evaluations", ylabel="distance to the limit")
        left.set_xticks(budgets, list(map(str, budgets)))
        left.minorticks_off()
        left.legend()
        rows = [np.stack(found)[:, 1].reshape(-1, 8, 8) for found in shown.values()]
        framed = [np.pad(row, ((0, 0), (1, 1), (1, 1)), constant_values=1.0) for row in rows]
        right.imshow(
            np.concatenate([np.concatenate(list(row), axis=1) for row in framed]),
            cmap="gray",
            vmin=-1,
            vmax=1,
        )
        right.grid(visible=False)
        right.set_xticks(10 * np.arange(len(steps)) + 4.5, steps)
        right.set_yticks([4.5, 14.5], list(shown), rotation=90, va="center")
        right.set(xlabel="steps of dpmpp_sde: one start, one key")


def main() -> None:
    """Prints the tables."""
    jax.config.update("jax_enable_x64", True)
    parser = command.parser(__doc__)
    parser.add_argument("--paths", type=int, default=256, help="of the strong errors")
    parser.add_argument("--budgets", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--finest", type=int, default=2048, help="steps of the limit")
    parser.add_argument("--points", type=int, default=500, help="digits in the data set")
    parser.add_argument("--images", type=int, default=32, help="of the second table")
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 40, 80, 160])
    parser.add_argument("--picture", type=Path, help="file of the picture")
    small = {"paths": 4, "budgets": [4, 8], "finest": 16, "points": 8, "images": 2}
    options = command.parse(parser, **small, steps=[2, 4])
    errors = strong(options.paths, options.budgets, options.finest)
    shown = images(options.points, options.images, options.steps)
    if options.picture is not None:
        draw(options.picture, options.budgets, errors, options.steps, shown)


if __name__ == "__main__":
    main()
