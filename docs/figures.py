"""Draws the pictures of docs/images: `python docs/figures.py`, or some by their names.

Every number in them is computed here, with denoisers that are known exactly; those of `peers` are
in the tables of docs/results/peers.md. Float64; two and a half minutes of processor time
(measured).
"""

from __future__ import annotations

import argparse
import re
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from score_sde import inverse, processes, sampling, solvers
from score_sde.conditioning.conditioner import null
from score_sde.conditioning.labels import Labels
from score_sde.config import build
from score_sde.data import gather
from score_sde.data.series import AR2
from score_sde.editing import tasks
from score_sde.evaluation import figures, plots, solver_error, token_chains
from score_sde.evaluation.metrics.frechet import frechet_distance
from score_sde.evaluation.metrics.wasserstein import sliced_wasserstein
from score_sde.inverse import rendering
from score_sde.media import pictures
from score_sde.models import guidance as guiding
from score_sde.processes import EDM, VE, VP, Flow, SubVP, derivative, exact
from score_sde.sampling import grids
from score_sde.sampling.likelihood import log_likelihood
from score_sde.solvers import tokens as token_solvers
from score_sde.training import ema, time_law, weighting
from score_sde.training.score_distillation import View, distil

DOCS = Path(__file__).parent
BLUE = plots.COLOURS[0]
POINTS = 600  # that a panel shows
SAMPLES = 4_000  # that a distance is measured with

image = lambda name: DOCS / "images" / f"{name}.png"  # noqa: E731


def scatter(axes, x, title, law=None, size=1.8):
    """Points in the plane, above the density of a law in grey."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    if law is not None:
        lines = jnp.linspace(left, right, 121), jnp.linspace(low, high, 121)
        places = jnp.stack(jnp.meshgrid(*lines), axis=-1).reshape(-1, 2)
        density = jnp.exp(law(places)).reshape(121, 121)
        levels = np.max(density) * np.array([0.02, 0.15, 0.5, 1.0])
        axes.contourf(*lines, density, levels, colors=("0.92", "0.84", "0.76"))
    axes.plot(*np.asarray(x[:POINTS]).T, ".", ms=size, color=BLUE, alpha=0.7, mew=0)
    axes.set(title=title, aspect="equal", xlim=(left, right), ylim=(low, high))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.grid(False)


def square(axes, extent, centre=(0.0, 0.0)):
    """Sets what panels of points show."""
    for one in axes.ravel():
        (x, y), e = centre, extent
        one.set(xlim=(x - e, x + e), ylim=(y - e, y + e))


# Diagrams


def diagram(axes, boxes, arrows):
    """Draws boxes, name -> (x, y, width, height, words, colour), and arrows between them."""
    from matplotlib.patches import FancyBboxPatch

    axes.set(xlim=(0, 100), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.grid(False)
    for x, y, width, height, words, colour in boxes.values():
        shape = "round,pad=0,rounding_size=1.2"
        options = {"facecolor": "white", "edgecolor": colour, "linewidth": 1.2}
        place = (x - width / 2, y - height / 2)
        axes.add_patch(FancyBboxPatch(place, width, height, shape, **options))
        first, _, rest = words.partition("\n")
        lines = words.count("\n")
        axes.text(x, y + 2.2 * lines, first, ha="center", va="center", weight="bold", color=colour)
        axes.text(x, y - 2.6, rest, ha="center", va="center", fontsize=8, linespacing=1.25)
    for begin, end in arrows:
        (x, y, width, height, *_), (u, v, wide, high, *_) = boxes[begin], boxes[end]
        if abs(y - v) < 1:
            side = np.sign(u - x)
            start, stop = (x + side * width / 2, y), (u - side * wide / 2, v)
        else:
            side = np.sign(v - y)
            start, stop = (x, y + side * height / 2), (u, v - side * high / 2)
        arrow = {"arrowstyle": "-|>", "color": plots.GREY, "shrinkA": 2, "shrinkB": 2}
        axes.annotate("", stop, start, arrowprops=arrow)


def one_denoiser():
    """What makes, changes and uses a denoiser."""
    makes, changes, uses, black = (plots.COLOURS[i] for i in (0, 1, 2, 6))
    boxes = {
        "change": (50, 42, 40, 13, "changes one\nguidance, a measurement, a threshold", changes),
        "make": (14, 16, 27, 20, "makes one\na trained network,\nan exact law, an import", makes),
        "denoiser": (50, 16, 30, 16, "denoiser\n(x_t, t) → E[x_0 | x_t]", black),
        "use": (86, 16, 27, 20, "uses one\nsolvers, likelihoods,\nedits, diagnostics", uses),
    }
    with plots.figure(image("one_denoiser"), 2.2) as ((axes,),):
        axes.set(ylim=(3, 51))
        diagram(axes, boxes, [("make", "denoiser"), ("denoiser", "use")])
        for x, start, stop in ((44, 24, 35.5), (56, 35.5, 24)):
            arrow = {"arrowstyle": "-|>", "color": plots.GREY, "shrinkA": 2, "shrinkB": 2}
            axes.annotate("", (x, stop), (x, start), arrowprops=arrow)


def parts():
    """Where a part goes: the way of an example in training, and of a sample."""
    data, model, use = plots.COLOURS[:3]
    boxes = {
        "data": (9, 46, 16, 12, "data set\ndata", data),
        "codec": (30, 46, 16, 12, "codec\ncodec", data),
        "process": (54, 46, 26, 12, "process, law of t\nsde, objective", model),
        "objective": (19.5, 27, 37, 12, "objective, weighting\nobjective, optim", use),
        "conditioner": (84, 46, 28, 12, "conditioner\nconditioner", model),
        "network": (54, 27, 26, 12, "network, prediction\nnet, parametrization", model),
        "guide": (84, 27, 28, 12, "guidance, inverse\nsampling.guidance, edit", use),
        "solver": (84, 8, 28, 12, "solver on a grid\nsampling.solver, .grid", use),
        "decode": (54, 8, 26, 12, "codec\nback to raw values", data),
        "medium": (30, 8, 16, 12, "medium\nfiles, pictures", data),
        "metric": (9, 8, 16, 12, "metric\nevaluate", data),
    }
    arrows = [("data", "codec"), ("codec", "process"), ("network", "objective")]
    arrows += [("network", "guide"), ("guide", "solver"), ("solver", "decode")]
    arrows += [
        ("decode", "medium"),
        ("medium", "metric"),
        ("process", "network"),
        ("conditioner", "network"),
    ]
    with plots.figure(image("parts"), 2.9) as ((axes,),):
        axes.set(ylim=(0, 54))
        diagram(axes, boxes, arrows)


# Processes


def paths() -> dict[str, processes.SDE]:
    """The continuous ones."""
    return {
        "VP": VP(),
        "sub-VP": SubVP(),
        "cosine": processes.Cosine(),
        "rectified flow": Flow(),
        "VE": VE(),
        "EDM": EDM(),
    }


def alpha_sigma():
    """alpha and sigma of each process over its times."""
    with plots.figure(image("alpha_sigma"), 3.4, (2, 3)) as axes:
        for panel, (name, sde) in zip(axes.ravel(), paths().items(), strict=True):
            t = jnp.linspace(sde.t_min, sde.t_max, 400)
            panel.plot(t, jnp.broadcast_to(sde.alpha(t), t.shape), label="alpha")
            panel.plot(t, sde.sigma(t), "--", label="sigma")
            panel.set(title=name, xlabel="t")
            if name in ("VE", "EDM"):
                panel.set(yscale="log")
        axes[0, 0].legend()


def log_snr():
    """The log-SNR of each process over its times, from the first to the last."""
    with plots.figure(image("log_snr"), 2.9) as ((axes,),):
        part = jnp.linspace(0, 1, 600)
        for sde in paths().values():
            axes.plot(part, sde.log_snr(sde.t_min + part * (sde.t_max - sde.t_min)))
        axes.set(xlim=(0, 1), ylim=(-15, 15), xlabel="(t - t_min) / (t_max - t_min)")
        axes.set(ylabel="log-SNR, ln(alpha²/sigma²)")
        plots.label_ends(axes, list(paths()))


def deviation(sde, t):
    """Of x_t, where x_0 has the variance of the mixture of `trajectories`."""
    return jnp.sqrt(sde.alpha(t) ** 2 * 1.27 + sde.sigma(t) ** 2)


def trajectories():
    """The density of x_t of a mixture on a line, and paths of the probability-flow ODE."""
    law = exact.Mixture(
        jnp.array([0.3, 0.5, 0.2]), jnp.array([[-1.5], [0.3], [1.6]]), jnp.full((3, 1, 1), 0.02)
    )
    chosen = {"VP": VP(t_min=1e-3), "VE": VE(t_min=1e-3), "rectified flow": Flow(t_min=1e-3)}
    with plots.figure(image("trajectories"), 2.5, (1, 3), sharey=True) as axes:
        for panel, (name, sde) in zip(axes[0], chosen.items(), strict=True):
            scale = partial(deviation, sde)
            t = jnp.linspace(sde.t_min, sde.t_max, 160)
            y = jnp.linspace(-2.6, 2.6, 161)
            density = [jnp.exp(law.log_prob(sde, y[:, None] * scale(s), s)) * scale(s) for s in t]
            shade = jnp.sqrt(jnp.stack(density, axis=1))
            panel.pcolormesh(t, y, shade, cmap="Blues", vmin=0, vmax=jnp.quantile(shade, 0.995))
            x = sde.prior_std * jnp.linspace(-1.7, 1.7, 13)[:, None]
            grid = grids.log_snr(sde, 200)
            solver, denoiser = solvers.heun(sde), law.denoiser(sde)
            key = jax.random.key(0)
            out = sampling.sample(key, solver, denoiser, x, grid, trajectory=True)
            states = out.trajectory[..., 0] / scale(grid)[:, None]
            panel.plot(grid, states, color="black", lw=0.7, alpha=0.8)
            panel.set(title=name, xlabel="t", xlim=(sde.t_min, sde.t_max), ylim=(-2.6, 2.6))
            panel.grid(False)
        axes[0, 0].set(ylabel="x_t / its standard deviation")


# Losses


def weightings():
    """Weightings and laws of t of VP over the log-SNR: relative to a weight of 1 at log-SNR 0, and
    with an area of 1."""
    sde = VP()
    names = ["simple", "likelihood", "min_snr", "v", "sigmoid", "edm"]
    laws = ["uniform", "log_snr_uniform", "log_normal", "logit_normal"]
    level = jnp.linspace(sde.log_snr(jnp.array(1.0)), sde.log_snr(jnp.array(1e-5)), 1200)[1:-1]
    t = sde.t_of_log_snr(level)
    rate = -derivative(sde.log_snr, t) * (sde.t_max - sde.t_min)  # of the log-SNR in uniform t
    of_likelihood = weighting.likelihood()(sde, t)  # which is 1 in the log-SNR
    with plots.figure(image("weightings"), 4.6, (2, 1), sharex=True) as column:
        for axes, kind in zip(column[:, 0], (names, laws), strict=True):
            for i, name in enumerate(kind):
                if kind is names:
                    value = getattr(weighting, name)()(sde, t) / of_likelihood
                else:
                    value = getattr(time_law, name)().density(sde, t) / rate
                area = jnp.trapezoid(value, level)
                unit = jnp.interp(0.0, level, value) if kind is names else area
                axes.plot(level, value / unit, ("-", "--")[i % 2], label=name)
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        column[0, 0].set(ylabel="weight of the noise error", yscale="log", ylim=(1e-3, 1e3))
        column[1, 0].set(ylabel="density of the law of t", xlabel="log-SNR, ln(alpha²/sigma²)")
        column[1, 0].set(ylim=(0, None), yticks=[])


def denoiser():
    """Where the denoiser sends points x_t, at three noise levels."""
    sde, law = EDM(), exact.three_gaussians()
    with plots.figure(image("denoiser"), 2.3, (1, 3)) as axes:
        square(axes, 3.0)
        for panel, sigma in zip(axes[0], (0.3, 1.0, 3.0), strict=True):
            line = jnp.linspace(-2.8, 2.8, 6)
            x = jnp.stack(jnp.meshgrid(line, line), axis=-1).reshape(-1, 2)
            mean = law.denoiser(sde)(x, jnp.array(sigma))
            scatter(panel, x, f"sigma = {sigma:g}", law.log_density, size=5)
            options = {"angles": "xy", "scale_units": "xy", "scale": 1, "width": 0.006}
            panel.quiver(*x.T, *(mean - x).T, color=BLUE, **options)


# Solvers


def few_steps():
    """What solvers draw of eight Gaussians on a ring in a few evaluations, and how far it is."""
    sde, law = VP(t_min=1e-3), exact.ring()
    x = sde.prior_sample(jax.random.key(0), (SAMPLES, 2))
    truth = law.sample(jax.random.key(1), SAMPLES)
    names = ["ddim", "heun", "dpmpp", "unipc", "dpmpp_sde"]
    with plots.figure(image("few_steps"), 4.3, (3, 5)) as axes:
        square(axes, 1.5)
        for row, budget in zip(axes, (5, 10, 20), strict=True):
            for panel, name in zip(row, names, strict=True):
                solver = build("solvers", name, sde)
                steps = solver_error.steps_within(solver, partial(grids.log_snr, sde), budget)
                out = sampling.sample(
                    *(jax.random.key(2), solver, law.denoiser(sde), x, grids.log_snr(sde, steps)),
                    denoise=True,
                )
                far = float(sliced_wasserstein(jax.random.key(3), out.x, truth))
                scatter(panel, out.x, name if budget == 5 else "", law.log_density)
                panel.set_xlabel(f"{far:.3f}", labelpad=2)
            row[0].set_ylabel(f"{budget} evaluations")


def orders():
    """Errors of the ends of paths against evaluations: their slopes are the orders."""
    sde, law = EDM(t_min=0.1, t_max=1.0), exact.three_gaussians()
    x = sde.prior_sample(jax.random.key(0), (256, 2))
    truth = solver_error.reference(sde, law.denoiser(sde), x, 1e-13)
    names = ["ddim", "heun", "dpm_solver", "dpmpp(order=4, start_order=3)"]

    def curve(name):
        solver, found = build("solvers", name, sde), []
        for steps in (10, 20, 40, 80, 160, 320):
            grid = grids.log_snr(sde, steps)
            out = sampling.sample(
                jax.random.key(1), solver, law.denoiser(sde), x, grid, denoise=True
            )
            found.append((int(out.nfe), *solver_error.rms_error(out.x, truth.x)))
        return figures.Curve(name, *zip(*found, strict=True))

    label = "RMS error of the end"
    panel = figures.Panel(label, [curve(name) for name in names], slopes=(1, 2, 3, 4))
    figures.error_curves(image("orders"), [panel])


def peers():
    """The tables of docs/results/peers.md."""
    text = (DOCS / "results/peers.md").read_text()
    with plots.figure(image("peers"), 2.6, (1, 2), sharey=True) as axes:
        tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
        for panel, table in zip(axes[0], tables, strict=True):
            rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()]
            (title, *nfe), lines = rows[0], rows[2:]
            for (name, *cells), marker in zip(lines, plots.MARKERS, strict=False):
                points = [(int(n), float(cell)) for n, cell in zip(nfe, cells, strict=True) if cell]
                panel.plot(*zip(*points, strict=True), marker=marker, label=name)
            panel.set(xscale="log", yscale="log", xlabel="network evaluations (NFE)")
            panel.set(title=re.sub(r", [\d,]+ starts.*", "", title))
            panel.set_xticks([5, 10, 20, 40], ["5", "10", "20", "40"])
            panel.minorticks_off()
        axes[0, 0].set(ylabel="RMS error (units of the data)")
        axes[0, 1].legend(loc="center left", bbox_to_anchor=(1, 0.5))


# What uses a denoiser


def digits(count) -> exact.Dataset:
    """The law of so many training digits [64] in [-1, 1], each blurred a little."""
    data = build("data", "sklearn_digits.digits").train
    x = gather(data, np.arange(count))["image"].reshape(count, 64) / 8.0 - 1
    return exact.Dataset(jnp.asarray(x), 0.05)


def paper_figure():
    """The Frechet distance of three solvers by evaluations, with error bars of three seeds."""
    law, sde = digits(300), VP(t_min=1e-3)
    points = np.asarray(law.points)
    truth = points.mean(axis=0), np.cov(points.T, bias=True) + law.std**2 * np.eye(64)
    steps = (5, 10, 20)

    def distance(key, points, solver, grid):
        denoiser = exact.Dataset(points, law.std).denoiser(sde)
        start, walk = jax.random.split(key)
        x = sde.prior_sample(start, (500, 64), grid.dtype)
        x = sampling.sample(walk, solver, denoiser, x, grid, denoise=True).x
        return jnp.mean(x, axis=0), jnp.cov(x.T)

    with plots.figure(image("paper_figure"), 2.8) as ((axes,),):
        for name, marker in zip(("ancestral", "ddim", "dpmpp"), plots.MARKERS, strict=False):
            solver, found = build("solvers", name, sde), []
            for n in steps:
                run = jax.jit(partial(distance, solver=solver, grid=grids.log_snr(sde, n)))
                drawn = [run(jax.random.key(seed), law.points) for seed in range(3)]
                found.append([frechet_distance(*map(np.asarray, one), *truth) for one in drawn])
            bars = np.std(found, axis=1, ddof=1)
            nfe = [n + 1 for n in steps]
            axes.errorbar(nfe, np.mean(found, axis=1), bars, marker=marker, capsize=2, label=name)
        exactly = law.sample(jax.random.key(9), 500)
        least = frechet_distance(np.mean(exactly, axis=0), np.cov(exactly.T), *truth)
        axes.axhline(least, color=plots.GREY, ls=":", label="samples of the truth")
        axes.set(xscale="log", yscale="log", xlabel="network evaluations (NFE)")
        axes.set(ylabel="Fréchet distance of pixels")
        axes.set_xticks(nfe, [f"{n:g}" for n in nfe])
        axes.minorticks_off()
        axes.legend()


def denoising():
    """Digits come out of noise: an animation of the exact denoiser of 300 training digits."""
    sde, denoiser = VP(t_min=1e-3), digits(300).denoiser
    start = sde.prior_sample(jax.random.key(3), (21, 64))
    at = jax.random.key(1), solvers.dpmpp(sde), denoiser(sde), start, grids.log_snr(sde, 25)
    out = sampling.sample(*at, trajectory=True)
    clips = np.clip(4 + 4 * np.asarray(out.trajectory)[5:], 0, 7)  # eight greys, and white
    clips = np.concatenate([clips, np.repeat(clips[-1:], 14, axis=0)]).astype(np.uint8)
    clips = clips.reshape(len(clips), 3, 7, 8, 8).transpose(0, 1, 3, 2, 4)
    edged = np.pad(clips, ((0, 0), (0, 0), (1, 1), (0, 0), (1, 1)), constant_values=8)
    frames = []
    for frame in edged.reshape(len(clips), 30, 70):
        large = Image.fromarray(np.kron(frame, np.ones((6, 6), np.uint8)), "P")
        large.putpalette([min(36 * grey, 255) for grey in range(9) for _ in "rgb"])
        frames.append(large)
    pictures.write_animation(image("denoising"), frames, 90)


def guidance():
    """Samples of a class by classifier-free guidance beside the law p(x | c)^w p(x)^(1 - w)."""
    sde, law = VP(t_min=1e-3), labelled()
    at_end, times = jnp.asarray(sde.t_min), grids.log_snr(sde, 200)

    def tilted(x, w):
        cond = {"label": jnp.ones(len(x), jnp.int32)}
        anything = law.mixture.log_prob(sde, x, at_end)
        return w * law.log_prob(sde, x, at_end, cond) + (1 - w) * anything

    cond = {"label": jnp.ones(SAMPLES, jnp.int32)}
    pair = guiding.in_one_batch(partial(law.denoiser, sde), cond, null(Labels(2), cond))
    x = sde.prior_sample(jax.random.key(0), (SAMPLES, 2))
    line = jnp.linspace(-2.4, 2.4, 241)
    places = jnp.stack(jnp.meshgrid(line, line), axis=-1).reshape(-1, 2)
    with plots.figure(image("guidance"), 2.5, (1, 3)) as axes:
        square(axes, 1.8, (0.8, 0.2))
        for panel, w in zip(axes[0], (1.0, 2.0, 4.0), strict=True):
            out = sampling.sample(
                *(jax.random.key(1), solvers.dpmpp(sde), guiding.guide(pair, w), x, times),
                denoise=True,
            )
            p = jax.nn.softmax(tilted(places, w))
            truth = jax.random.choice(jax.random.key(2), places, (SAMPLES,), p=p)
            far = float(sliced_wasserstein(jax.random.key(3), out.x, truth))
            scatter(panel, out.x, f"w = {w:g}", partial(tilted, w=w))
            panel.set_xlabel(f"distance {far:.3f}", labelpad=2)


def posteriors():
    """Samples given y by methods for inverse problems, beside the exact posterior."""
    sde, law, noise = VP(t_min=1e-3), labelled().mixture, 0.2
    matrix, y = jnp.array([[1.0, 0.4]]), jnp.array([0.35])
    truth = law.posterior(matrix, y, noise)
    seen = inverse.observed(inverse.operators.dense(matrix), y[None], noise)
    x = sde.prior_sample(jax.random.key(0), (SAMPLES, 2))
    drawn = {"the prior": law.sample(jax.random.key(1), SAMPLES)}
    for name in ("twisted", "mmps", "pigdm", "dps", "ddrm"):
        method = build("inverse", name, sde, seen)
        solver = method.solver(solvers.ancestral(sde))
        drawn[name] = sampling.sample(
            *(jax.random.key(2), solver, method.denoiser(law.denoiser(sde)), x),
            grids.log_snr(sde, 100),
        ).x
    exactly = truth.sample(jax.random.key(3), SAMPLES)
    with plots.figure(image("posteriors"), 4.6, (2, 3)) as axes:
        square(axes, 2.0)
        for panel, (name, points) in zip(axes.ravel(), drawn.items(), strict=True):
            far = float(sliced_wasserstein(jax.random.key(4), points, exactly))
            scatter(panel, points, name, truth.log_density)
            panel.set_xlabel(f"distance {far:.3f}", labelpad=2)


def at_end(law, sde, x):
    """The exact log-density of x at t_max."""
    return law.log_prob(sde, x, jnp.array(sde.t_max))


def log_likelihoods():
    """The worst error of log p of a mixture by the tolerance of the ODE."""
    law, tolerances = exact.three_gaussians(), 10.0 ** -np.arange(2, 9)
    x = law.sample(jax.random.key(0), 64)
    chosen = {"VP": VP(), "sub-VP": SubVP(), "VE": VE(), "EDM": EDM()}
    with plots.figure(image("log_likelihoods"), 2.8, (1, 2), sharey=True) as axes:
        for own, panel in enumerate(axes[0]):
            for (name, sde), marker in zip(chosen.items(), plots.MARKERS, strict=False):
                prior = partial(at_end, law, sde) if own else None
                truth = law.log_prob(sde, x, jnp.array(sde.t_min))

                @jax.jit
                def error(tolerance, sde=sde, prior=prior, truth=truth):
                    found = log_likelihood(
                        *(jax.random.key(1), sde, law.denoiser(sde), x),
                        prior=prior,
                        rtol=tolerance,
                        atol=tolerance,
                    )
                    return jnp.max(jnp.abs(found.log_prob - truth))

                worst = [error(tolerance) for tolerance in tolerances]
                panel.plot(tolerances, worst, marker=marker, label=name)
            panel.set(xscale="log", yscale="log", xlabel="tolerance, relative and absolute")
            panel.invert_xaxis()
        axes[0, 0].set(title="the prior N(0, prior_std² I)", ylabel="worst error (nats)")
        axes[0, 1].set(title="the exact law at t_max as the prior")
        axes[0, 1].legend()


def averages():
    """Profiles of power-function averages, and one that is made of stored others."""
    stored = ema.Profiles(
        np.tile([ema.gamma_of(length) for length in (0.05, 0.1)], 32),
        np.repeat(np.arange(1, 33) / 32, 2),
    )
    wanted = ema.Profiles(np.array([ema.gamma_of(0.13)]), np.ones(1))
    tau = np.linspace(0.002, 1, 500)

    def profile(gamma, end):
        inside = np.where(tau <= end, tau, 0.0)
        return (gamma + 1) * inside**gamma / end ** (gamma + 1)

    found = ema.combine(stored, wanted)
    parts = zip(found.weights, stored.gamma, stored.end, strict=True)
    made = sum(weight * profile(gamma, end) for weight, gamma, end in parts)
    with plots.figure(image("averages"), 2.6) as ((axes,),):
        for length in (0.05, 0.1, 0.13):
            stored_or_not = "wanted" if length == 0.13 else "stored"
            label = f"length {length:g}, {stored_or_not}"
            axes.plot(tau, profile(ema.gamma_of(length), 1.0), label=label)
        axes.plot(tau, made, "--", color="black", label="0.13, made of 64 stored ones")
        axes.set(xlabel="part of the training", ylabel="weight in the average")
        axes.set(xlim=(0, 1), ylim=(0, 11))
        axes.legend(loc="upper left", title=f"error of the made one: {found.error:.0e}")


def tokens():
    """The error of solvers of tokens with an exact denoiser, from the law of their chains."""
    probs = np.random.default_rng(0).dirichlet(np.full(27, 0.3)).reshape(3, 3, 3)
    law, counts = exact.Table(jnp.asarray(probs)), (1, 2, 4, 8, 16, 32, 64)
    masks, cosine, uniform = (
        processes.Masking(),
        processes.Masking(schedule="cosine"),
        processes.Uniform(values=3),
    )
    rows = {
        "unmask": (token_solvers.ancestral_law(masks), masks),
        "unmask, cosine schedule": (token_solvers.ancestral_law(cosine), cosine),
        "tau_leaping, cosine schedule": (token_solvers.leaping_law(cosine), cosine),
        "unmask, uniform noise": (token_solvers.ancestral_law(uniform), uniform),
        "remask(eta=0.1)": (token_solvers.remasking_law(masks, 0.1), masks),
    }
    with plots.figure(image("tokens"), 3.2) as ((axes,),):
        for (name, (transition, process)), marker in zip(rows.items(), plots.MARKERS, strict=False):
            denoiser, errors = law.denoiser(process), []
            for n in counts:
                found = token_chains.law_of(transition, process, denoiser, 3, 3, n)
                errors.append(token_chains.total_variation(found, process, probs))
            axes.loglog(counts, errors, marker=marker, label=name)
        axes.set(xlabel="steps", ylabel="total variation to the truth")
        plots.label_ends(axes, list(rows))


def distilled():
    """Points that score distillation moves, on a Gaussian: SDS and VSD."""
    law = exact.Gaussian(jnp.array([0.5, 0.0]), jnp.array([[1.0, 0.6], [0.6, 0.8]]))
    sde = EDM(t_min=0.05, t_max=10.0)
    model = law.denoiser(sde)
    start = 0.4 * jax.random.normal(jax.random.key(0), (400, 2)) + jnp.array([[-2.0, 2.0]])

    def sds(key, x):
        return View(x, model)

    def vsd(key, x):
        moments = jnp.mean(x, axis=0), jnp.cov(x.T, bias=True)
        return View(x, model, exact.Gaussian(*moments).denoiser(sde))

    with plots.figure(image("distilled"), 2.8, (1, 3)) as axes:
        square(axes, 4)
        density = partial(law.log_density)
        scatter(axes[0, 0], start, "start", density)
        for panel, render in zip(axes[0, 1:], (sds, vsd), strict=True):
            optimizer = optax.adam(lambda n: 0.05 * (1 - n / 1000))
            x, _ = distil(
                jax.random.key(1),
                *(sde, render, start),
                time_law=time_law.log_snr_uniform(),
                weighting=weighting.min_snr(1.0),
                optimizer=optimizer,
                steps=1000,
            )
            scatter(panel, x, f"{render.__name__.upper()}, 1,000 steps", density)


def plug():
    """An object whose pictures from three sides are a square, a triangle and a disc, by SDS on
    exact models of such pictures, of three sizes each."""
    k = 20
    across, up = jnp.meshgrid(jnp.arange(k) - (k - 1) / 2, (k - 1) / 2 - jnp.arange(k))
    radii = jnp.array([5.0, 6.5, 8.0])[:, None, None]
    across, up = across[None], up[None]
    shapes = {
        "front": (jnp.abs(across) < radii) & (jnp.abs(up) < radii),
        "right": (jnp.abs(up) < radii) & (jnp.abs(across) < (radii - up) / 2),
        "above": across**2 + up**2 < radii**2,
    }
    sde = EDM(t_min=0.02, t_max=4.0)
    laws = [exact.Dataset(s[..., None].astype(float), 0.05).denoiser(sde) for s in shapes.values()]

    def seen(density):
        layers = [rendering.seen_from(side, density) for side in shapes]
        return jnp.stack([rendering.silhouette(each) for each in layers])

    def render(key, volume):
        def model(x_t, t):
            return jnp.concatenate([law(x_t[i, None], t[i, None]) for i, law in enumerate(laws)])

        return View(seen(jax.nn.softplus(volume)), model)

    volume, _ = jax.jit(
        lambda key: distil(
            *(key, sde, render, jnp.full((k, k, k), -4.0)),
            time_law=time_law.log_snr_uniform(),
            weighting=weighting.min_snr(1.0),
            optimizer=optax.adam(0.1),
            steps=600,
        )
    )(jax.random.key(0))
    density = jax.nn.softplus(volume)
    names = ["front", "right side", "above"]
    panels = dict(zip(names, seen(density), strict=True))
    for degrees in (30, 60):
        turned = rendering.turned(density, rendering.about_z(jnp.radians(degrees * 1.0)))
        panels[f"turned by {degrees}°"] = rendering.silhouette(rendering.seen_from("front", turned))
    with plots.figure(image("plug"), 1.9, (1, len(panels))) as axes:
        for panel, (title, picture) in zip(axes[0], panels.items(), strict=True):
            panel.imshow(1 - picture[..., 0], cmap="gray", vmin=0, vmax=1)
            panel.set(title=title, xticks=[], yticks=[])
            panel.grid(False)


def forecast():
    """Forecasts of two autoregressive processes by the exact denoiser, above their law."""
    sde, length, known, shown = VP(t_min=1e-4), 32, 24, 30
    time = np.arange(length)
    with plots.figure(image("forecast"), 2.6, (1, 2), sharey=True) as axes:
        for i, (panel, pair) in enumerate(zip(axes[0], ((1.6, -0.8), (0.3, 0.5)), strict=True)):
            process = AR2(*pair)
            law = exact.Gaussian(jnp.zeros(length), jnp.asarray(process.covariance(length)))
            source = process.sample(np.random.default_rng(4 + i), 1, length)
            tools = tasks.Tools(
                shape=(length, 1),
                sde=sde,
                solver=solvers.dpmpp(sde),
                grid=lambda sde: grids.log_snr(sde, 40),
                method=lambda seen: inverse.mmps(sde, seen, iterations=known),
                completions=shown,
            )
            edit = build("editing.tasks", f"forecast(known={known / length})", tools)
            run = jax.jit(
                lambda x, edit=edit, law=law: (
                    edit.run(jax.random.key(1), lambda k: law.denoiser(sde), x).x
                )
            )
            found = run(jnp.asarray(source)[..., None])[0, :, known:, 0]
            mean, cov = process.forecast(source[0, :known], length - known)
            half = 1.2816 * np.sqrt(np.diag(cov))  # of 80 %
            band = panel.fill_between(time[known:], mean - half, mean + half, color="0.8", lw=0)
            lines = panel.plot(time[known:], found.T, color=BLUE, lw=0.5, alpha=0.7)
            (truth,) = panel.plot(time, source[0], color="black")
            panel.axvline(known - 0.5, color=plots.GREY, lw=0.8, ls=":")
            panel.set(title=f"a = {pair[0]:g}, b = {pair[1]:g}", xlabel="time")
        axes[0, 0].legend([truth, lines[0], band], ["series", "samples", "80 % of the law"])


FIGURES = {
    draw.__name__: draw
    for draw in (
        *(one_denoiser, parts, denoising, paper_figure),
        *(alpha_sigma, log_snr, trajectories, weightings, denoiser, few_steps, orders, peers),
        *(guidance, posteriors, log_likelihoods, averages, tokens, distilled, plug, forecast),
    )
}


def main() -> None:
    """Draws what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help=f"of pictures: {', '.join(FIGURES)}")
    chosen = parser.parse_args().names or FIGURES
    if unknown := set(chosen) - set(FIGURES):
        parser.error(f"no picture {', '.join(sorted(unknown))}: there are {', '.join(FIGURES)}")
    (DOCS / "images").mkdir(exist_ok=True)
    with jax.enable_x64(True):
        for name in chosen:
            FIGURES[name]()
            print(f"{image(name)}: {image(name).stat().st_size / 1024:.0f} KB", flush=True)


if __name__ == "__main__":
    main()
