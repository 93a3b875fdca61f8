"""Bounds of likelihoods against masses and densities in closed form: `python benchmarks/bounds.py`.

The tables and the picture of docs/research/likelihood_bounds.md. The first part has exact denoisers
of a mixture in one dimension, so that only the bound errs. The second is of trained models:

    python main.py --mode train --config configs/digits.py --workdir runs/digits
    python benchmarks/bounds.py --workdirs runs/digits --picture docs/images/likelihood_bounds.png

Half a minute of processor time, and two minutes for each model.
"""

import time
from pathlib import Path

import command
import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import score_sde
from score_sde.data.source import gather
from score_sde.evaluation import plots
from score_sde.processes import EDM, VP
from score_sde.processes.exact import Mixture
from score_sde.sampling import dequantisation, grids, information, quadrature, variational
from score_sde.types import Levels

LEVELS = Levels(-0.75, 0.5, 4)
VALUES = LEVELS.first + LEVELS.step * np.arange(LEVELS.number)
WEIGHTS, MEANS, STDS = np.array([0.6, 0.4]), np.array([-0.5, 0.4]), np.array([0.25, 0.2])
PROCESS, TAU, STEPS = VP(), 1.5, 50
ROWS = (
    None,  # the ODE, as the config has it
    "information(draws=64)",
    "dequantised(law='uniform', rtol=1e-4, atol=1e-4)",
    "dequantised(law='uniform', tau=2.0, rtol=1e-4, atol=1e-4)",
    "dequantised(law='truncated_normal', tau=2.0, rtol=1e-4, atol=1e-4)",
    "variational(draws=64, tau=1.0)",
    "variational(draws=64, tau=1.5)",
    "variational(draws=64, tau=2.0)",
    "variational(steps=50, tau=1.5)",
    "variational(steps=50, samples=8, tau=1.5)",
)


def law():
    """The mixture."""
    return Mixture(
        jnp.asarray(WEIGHTS), jnp.asarray(MEANS[:, None]), jnp.asarray(STDS[:, None, None] ** 2)
    )


def masses(rho=0.0):
    """P of the cell of each level, with noise rho."""
    edges = np.append(VALUES, VALUES[-1] + LEVELS.step) - LEVELS.step / 2
    std = np.hypot(STDS, rho)
    return WEIGHTS @ np.diff(stats.norm.cdf((edges - MEANS[:, None]) / std[:, None]), axis=1)


def of_levels():
    """The law of x at levels with the masses of the cells, and P."""
    p = masses() / masses().sum()
    return Mixture(jnp.asarray(p), jnp.asarray(VALUES)[:, None], jnp.zeros((len(p), 1, 1))), p


def identities():
    """Prints the worst errors of both forms of I-MMSE, by quadrature."""
    wide, x = EDM(t_min=3e-7, t_max=1e7), jnp.linspace(-1.2, 1.2, 7)[:, None]
    found = information.by_quadrature(wide, law().denoiser(wide), x)
    error = np.abs(found - law().log_density(x)).max()
    print(f"| ln p(x), seven points of a mixture | {error:.0e} |")
    discrete, p = of_levels()
    wide, fine = EDM(t_min=0.02, t_max=1e7), quadrature.Rule(points=300)
    x = jnp.asarray(VALUES)[:, None]
    found = variational.by_quadrature(wide, LEVELS, discrete.denoiser(wide), x, fine)
    print(f"| ln P(x), four levels | {np.abs(found - np.log(p)).max():.0e} |")


def dequantised(name, ks, n):
    """What the bound is below ln P, the mean over cells weighted by P, for each K; its standard
    error; and KL(q(u) || p(u | x)) by quadrature, the truth for K = 1."""
    process = variational.ended(PROCESS, LEVELS, TAU)
    t = jnp.asarray(process.t_min)
    alpha, rho = process.alpha(t), LEVELS.step / 2 / TAU
    p, noise = masses(rho), dequantisation.LAWS[name](process, LEVELS)

    def density(keys, y):
        log_prob = law().log_prob(process, alpha * y, t) + y.shape[1] * jnp.log(alpha)
        return log_prob, jnp.zeros(len(y), jnp.int32)

    nodes, weights = np.polynomial.legendre.leggauss(60)
    u = jnp.asarray(nodes * LEVELS.step / 2)
    log_q = noise.log_density(u)
    log_p = density(None, (VALUES[:, None] + u[None]).reshape(-1, 1))[0].reshape(len(p), -1)
    divergence = (log_q[None] - log_p + np.log(p)[:, None]) @ (
        weights * LEVELS.step / 2 * np.exp(log_q)
    )
    rows = []
    for k in ks:
        x = jnp.repeat(jnp.asarray(VALUES), n)[:, None]
        keys = jax.random.split(jax.random.key(k), len(x))
        mass = jax.jit(lambda keys, x, k=k: dequantisation.log_mass(keys, density, noise, x, k)[0])
        rows.append(below(mass(keys, x), p, n))
    return rows, float(p @ divergence / p.sum())


def below(found, p, n):
    """ln P less n estimates of each level, the mean with weights P; and the standard error."""
    found, share = np.asarray(found).reshape(len(p), n), p / p.sum()
    errors = found.std(axis=1, ddof=1) / np.sqrt(n)
    return float(share @ (np.log(p) - found.mean(axis=1))), float(np.hypot.reduce(share * errors))


def paths(ks, n):
    """The same of the variational bound with a few steps, against the law of levels."""
    discrete, p = of_levels()
    process = variational.ended(PROCESS, LEVELS, TAU)
    denoiser, times = discrete.denoiser(process), grids.log_snr(process, STEPS)
    rows = []
    for k in ks:

        @jax.jit
        def bound(keys, x):
            def one(keys):
                return variational.path_weight(keys, process, LEVELS, denoiser, x, times)

            return variational.log_mean_exp(jax.lax.map(one, keys))

        x = jnp.repeat(jnp.asarray(VALUES), n)[:, None]
        keys = jax.random.split(jax.random.key(k), (k, len(x)))
        rows.append(below(bound(keys, x), p, n))
    return rows


def digits(workdirs, images):
    """Prints bits per dimension of test images by every row, for each model."""
    print(f"\n| | {' | '.join(str(w) for w in workdirs)} | evaluations | kind |")
    print("|---|" + "---|" * (len(workdirs) + 2))
    models = [score_sde.load(workdir) for workdir in workdirs]
    for bound in ROWS:
        cells, about = [], ""
        for model in models:
            raw = gather(model.data.test, np.arange(images))[model.codec.part]
            begin = time.process_time()
            found = model.log_likelihood(jax.random.key(0), raw, None, bound=bound)
            bits, seconds = np.asarray(found.bits_per_dim), time.process_time() - begin
            error = bits.std(ddof=1) / np.sqrt(len(bits))
            cells.append(f"{bits.mean():.3f} ± {error:.3f} ({seconds:.0f} s)")
            about = f"{found.nfe.mean():.0f} | {found.kind}"
        name = f"`{bound}`" if bound else "the ODE, uniform dequantisation"
        print(f"| {name} | {' | '.join(cells)} | {about} |", flush=True)


def picture(path, ks, curves):
    """What each bound is below ln P by K; and the errors between whose curves ln p lies."""
    with plots.figure(path, 2.7, (1, 2)) as axes:
        left, right = axes[0]
        for (name, rows), marker in zip(curves.items(), plots.MARKERS, strict=False):
            left.plot(ks, [-gap for gap, _ in rows], marker=marker, label=name)
        gaps = [gap for gap, _ in curves["truncated normal"]]
        left.plot(
            ks, np.log(ks) - gaps, ":", color=plots.GREY, label="truncated, without $-\\ln K$"
        )
        left.axhline(0, color="black", lw=0.8)
        left.set(xscale="log", xlabel="K", ylabel="bound $-\\ln P$ (nats)", ylim=(-0.2, 0.12))
        left.set(title="mean over the cells of a mixture")
        left.legend(loc="lower right")
        wide, x = EDM(t_min=1e-4, t_max=1e3), jnp.array([[0.1]])
        log_snrs = np.linspace(-6, 9, 61)

        def error(log_snr):
            def f(x, nu):
                t = jnp.full(len(x), jnp.exp(-log_snr / 2))
                return variational.squared_error(wide, law().denoiser(wide), x, t, nu)

            return jnp.exp(log_snr) * quadrature.over_noise(f, x, quadrature.FINE)[0]

        ours = jax.lax.map(jax.jit(error), jnp.asarray(log_snrs))
        s = np.exp(log_snrs)
        right.plot(log_snrs, s * (0.1**2 + s) / (1 + s) ** 2, label="denoiser of N(0, 1)")
        right.plot(log_snrs, ours, label="denoiser of the mixture")
        right.fill_between(log_snrs, s * (0.1**2 + s) / (1 + s) ** 2, ours, color="0.88")
        right.set(xlabel="log-SNR", ylabel="SNR $\\cdot$ squared error", title="at x = 0.1")
        right.legend()


def main() -> None:
    """Prints the tables and draws the picture."""
    parser = command.parser(__doc__)
    parser.add_argument("--workdirs", nargs="*", type=Path, default=[], help="of trained models")
    parser.add_argument("--images", type=int, default=297, help="of the test set, from the first")
    parser.add_argument("--draws", type=int, default=4000, help="estimates of each level")
    parser.add_argument("--picture", type=Path, help="the file to draw")
    options = command.parse(parser, draws=50, images=4)
    with jax.enable_x64(True):
        print("| identity | worst error, nats |\n|---|---|")
        identities()
        ks, curves = (1, 4, 16, 64), {}
        print(
            "\n| below ln P, nats | K = 1 | 4 | 16 | 64 | divergence |\n|---|---|---|---|---|---|"
        )
        for name in dequantisation.LAWS:
            rows, divergence = dequantised(name, ks, options.draws)
            curves[name.replace("_", " ")] = rows
            line(name.replace("_", " "), rows, f"{divergence:.4f}")
        name = f"paths of {STEPS} steps"
        curves[name] = paths(ks, max(options.draws // 4, 20))
        line(name, curves[name], "")
        if options.picture:
            picture(options.picture, np.array(ks), curves)
    if options.workdirs:
        digits(options.workdirs, options.images)


def line(name, rows, last):
    """Prints a row of gaps."""
    cells = " | ".join(f"{gap:.4f} ± {error:.4f}" for gap, error in rows)
    print(f"| {name} | {cells} | {last} |", flush=True)


if __name__ == "__main__":
    main()
