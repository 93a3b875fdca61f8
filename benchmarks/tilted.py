"""Tilted laws, and whether samplers reach them: `python benchmarks/tilted.py`.

The tables and the picture of docs/research/tilted.md. Gaussians: the law of each sampler in closed
form, and that of weighted samples in the limit of many particles. Mixtures: weighted particles.
Rewards: samples steered by r(D(x_t)). Rules: what becomes of the same reward under three rules of
public code. Digits: a Gaussian for each class of the real digits, with exact denoisers and the
exact classifier of noisy digits, as in benchmarks/saturation.py; and a trained network if its
workdir is named, after

    python main.py --mode train --config configs/digits_classes.py --workdir runs/classes
    python benchmarks/tilted.py --workdir runs/classes

Their reward is ln p(class | x) of a logistic regression on clean training digits. A support vector
machine reads the samples.

`--picture FILE` draws the picture. All but the digits are in float64.
"""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import command
import jax
import jax.numpy as jnp
import numpy as np
from classes import frechet, real, spread
from saturation import digits
from scipy import integrate, stats
from sklearn.linear_model import LogisticRegression
from sklearn.svm import SVC

import score_sde
from score_sde import sampling, solvers
from score_sde.config import build
from score_sde.evaluation import plots
from score_sde.evaluation.weighted_law import weighted_law
from score_sde.models import guidance, tilting
from score_sde.processes import VP, exact
from score_sde.processes.exact_tilted import powers, times
from score_sde.sampling import grids
from score_sde.solvers.particles import effective_size, log_mean, systematic, take
from score_sde.types import Noise

SDE = VP(t_min=1e-4)
WEIGHT = 2.0  # of guidance on the digits
PARTS = ("gaussians", "mixtures", "rewards", "rules", "digits")
CALLS = 160  # of networks, for each sample of a digit


def gaussian(mean: float, variance: float) -> exact.Gaussian:
    """In one dimension."""
    return exact.Gaussian(jnp.array([mean]), jnp.array([[variance]]))


def two() -> tuple[exact.Gaussian, exact.Gaussian]:
    """The law without, and with a condition."""
    return gaussian(0.0, 1.0), gaussian(1.0, 0.25)


def bimodal() -> exact.Mixture:
    """Two components, which no power leaves as they are."""
    covs = jnp.array([[[0.3]], [[0.5]]])
    return exact.Mixture(jnp.array([0.3, 0.7]), jnp.array([[-1.5], [1.0]]), covs)


def guided() -> tilting.Tilted:
    """Classifier-free guidance of weight 2 between the two Gaussians."""
    without, with_ = (law.denoiser(SDE) for law in two())
    return tilting.between(guidance.of_two(with_, without), 2.0)


def plain(solver: str, denoiser: Any, n: int) -> tuple[float, float]:
    """Mean and variance of what a solver makes of a Gaussian, whose steps are affine."""
    made = build("solvers", solver, SDE)
    grid = grids.log_snr(SDE, n)
    if solver.startswith("ancestral"):  # affine in the noise too: as a law without weights
        x, key = jax.random.normal(jax.random.key(0), (40_000, 1)), jax.random.key(1)
        out = jax.jit(lambda x: sampling.sample(key, made, denoiser, x, grid).x)(x)
        return float(out.mean()), float(out.var())
    ends = jnp.array([[0.0], [1.0]])
    out = jax.jit(lambda x: sampling.sample(jax.random.key(0), made, denoiser, x, grid).x)(ends)
    return float(out[0, 0]), float((out[1, 0] - out[0, 0]) ** 2)


def gaussians(steps: tuple[int, ...]) -> dict[str, list]:
    """Prints the errors of guidance of weight 2, a power and a product, and gives the laws."""
    (without, with_), found = two(), {}
    product = guidance.of_two(without.denoiser(SDE), with_.denoiser(SDE))
    cases = {
        "guidance of weight 2": (guided(), powers(two(), (-1.0, 2.0))),
        "p_1^2": (
            tilting.product(SDE, lambda x, t: (with_.denoiser(SDE)(x, t),), (2.0,)),
            powers((with_,), (2.0,)),
        ),
        "p_0 p_1": (tilting.product(SDE, product), powers(two(), (1.0, 1.0))),
    }
    print("\n| law | data_std | steps | mean | variance | ln Z | errors |\n" + "|---" * 7 + "|")
    for name, (tilt, (law, log_z)) in cases.items():
        truth = np.array([law.means[0, 0], law.covs[0, 0, 0], log_z])
        print(f"| {name} | truth | | " + " | ".join(f"{a:.4f}" for a in truth) + " | |")
        for std in (0.0, 0.5):
            solver = solvers.feynman_kac(SDE, 6, threshold=0.0, data_std=std, deal=False)
            run = jax.jit(partial(weighted_law, solver, tilt, SDE.prior_std))
            laws = [np.array(run(grids.log_snr(SDE, n))) for n in steps]
            for n, one in zip(steps, laws, strict=True):
                cells = " | ".join(f"{a:.4f}" for a in one)
                off = " ".join(f"{a:+.1e}" for a in one - truth)
                print(f"| {name} | {std} | {n} | {cells} | {off} |", flush=True)
            found[f"{name}, {std}"] = [truth, *laws]
    for solver in ("dpmpp", "ancestral"):
        mean, variance = plain(solver, guided(), steps[-1])
        print(f"guidance alone, {solver}: N({mean:.3f}, {variance:.3f})")
        found[solver] = [mean, variance]
    return found


def mixtures(groups: int, p: int, n: int) -> None:
    """Prints ln Z, and the share of the left mode, of weighted particles."""
    law, wide = bimodal(), gaussian(0.5, 1.0)
    single, both = law.denoiser(SDE), guidance.of_two(law.denoiser(SDE), wide.denoiser(SDE))
    cases = {
        "p^2": (tilting.product(SDE, lambda x, t: (single(x, t),), (2.0,)), times(law, law)),
        "p p_2": (tilting.product(SDE, both), times(law, wide)),
    }
    print("\n| law | ln Z | weighted | share below -0.4 | weighted | scores alone |")
    print("|---" * 6 + "|")
    for name, (tilt, truth) in cases.items():
        out = many(tilt, n, groups, p, threshold=1.0, data_std=0.7)
        x = np.asarray(out.x).reshape(groups, p)
        share, log_z = (x < -0.4).mean(axis=1), np.asarray(out.state.log_z)
        ends = jax.random.normal(jax.random.key(2), (20_000, 1)) / np.sqrt(2)
        flow = jax.jit(
            lambda x, tilt=tilt: (
                sampling.sample(
                    jax.random.key(0), solvers.dpmpp(SDE), tilt, x, grids.log_snr(SDE, n)
                ).x
            )
        )(ends)
        means, stds = truth.law.means[:, 0], np.sqrt(truth.law.covs[:, 0, 0])
        wanted = float(truth.law.weights @ stats.norm.cdf(-0.4, means, stds))
        cells = [f"{float(truth.log_z):.3f}", _with_error(log_z), f"{wanted:.3f}"]
        cells += [_with_error(share), f"{float(jnp.mean(flow < -0.4)):.3f}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _with_error(a: np.ndarray) -> str:
    error = a.std(ddof=1) / np.sqrt(len(a)) if len(a) > 1 else float("nan")
    return f"{a.mean():.3f} +- {error:.3f}"


def many(tilt: tilting.Tilted, n: int, groups: int, p: int, **options: Any) -> sampling.Sample:
    """Groups of p particles."""
    solver, grid = solvers.feynman_kac(SDE, p, **options), grids.log_snr(SDE, n)

    @jax.jit
    def draw(key):
        start, walk = jax.random.split(key)
        x = SDE.prior_sample(start, (groups * p, 1), grid.dtype)
        return sampling.sample(walk, solver, tilt, x, grid)

    return draw(jax.random.key(0))


def quadratic(x: jax.Array) -> jax.Array:
    """The reward whose law on N(0, 1) is N(0, 1/5)."""
    return -2 * jnp.sum(x**2, axis=-1)


def rewards(groups: int, p: int, n: int) -> None:
    """Prints the variance of samples steered by r(D(x_t)), r = -2 x^2 on N(0, 1)."""
    tilt = tilting.rewarded(SDE, gaussian(0.0, 1.0).denoiser(SDE), quadratic)
    print("\n| r = -2 x^2 on N(0, 1), V = r(D) | variance | ln Z |\n|---|---|---|")
    print(f"| truth | 0.200 | {-np.log(5) / 2:.3f} |")
    for solver in ("dpmpp", "ancestral"):
        print(f"| {solver}, no weights | {plain(solver, tilt, n)[1]:.3f} | |", flush=True)
    for pull in (0.0, 0.5):
        out = many(tilt, n, groups, p, pull=pull)
        variance = np.mean(np.asarray(out.x).reshape(groups, p) ** 2, axis=1)
        cells = f"{_with_error(variance)} | {_with_error(np.asarray(out.state.log_z))}"
        print(f"| feynman_kac(pull={pull}), {p} particles | {cells} |", flush=True)


def rules(groups: int, p: int, n: int) -> None:
    """Prints what rules of public code for r(D(x_t)) make of the same reward."""
    grid, denoiser = grids.log_snr(SDE, n), gaussian(0.0, 1.0).denoiser(SDE)
    ancestral = solvers.ancestral(SDE)

    def run(rule):
        def step(carry, ends):
            x, log_weights, before, state, key = carry
            t, s = ends
            key, walk, deal = jax.random.split(key, 3)
            now = quadratic(denoiser(x, t)).reshape(groups, p)
            if rule == "max":
                now = jnp.maximum(now, before)
            log_weights = log_weights + now - before
            few = effective_size(log_weights) < p / 2
            places = systematic(deal, log_weights)
            places = jnp.where(few[:, None], places, jnp.arange(p, dtype=jnp.int32)[None])
            lost = rule == "forgets"  # the weights where no particles are dealt anew
            log_weights = jnp.where(few[:, None] | lost, 0, log_weights)
            x, before = take(places, x), take(places, now.reshape(-1)).reshape(groups, p)
            noise = Noise(walk)
            x, state = ancestral.step(noise, denoiser, x, t, s, state)
            return (x, log_weights, before, state, key), None

        x = SDE.prior_sample(jax.random.key(0), (groups * p, 1), grid.dtype)
        low = jnp.full((groups, p), -jnp.inf if rule == "max" else 0.0)
        first = quadratic(denoiser(x, grid[0])).reshape(groups, p)
        weights, before = (first, first) if rule == "max" else (0 * low, low)
        start = (x, weights, before, ancestral.init(x, grid), jax.random.key(1))
        (x, weights, before, _, _), _ = jax.lax.scan(step, start, (grid[:-1], grid[1:]))
        now = quadratic(x).reshape(groups, p)
        now = jnp.maximum(now, before) if rule == "max" else now
        weights = weights + now - before
        if rule in ("forgets", "end"):  # no weights at the end, unless few particles count
            few = effective_size(weights) < p / 2
            weights = jnp.where(few[:, None], weights, 0)
        shares = jax.nn.softmax(weights, axis=1)
        return jnp.sum(shares * x.reshape(groups, p) ** 2, axis=1), log_mean(weights)

    print("\n| rule | variance (truth 0.200) |\n|---|---|")
    names = {
        "telescopes": "weights kept until particles are dealt anew",
        "forgets": "weights forgotten where many particles count, the baseline moves on",
        "end": "weights dropped at the end where many particles count",
        "max": "the largest reward of the path",
    }
    for rule, name in names.items():
        variance, _ = jax.jit(run, static_argnums=0)(rule)
        print(f"| {name} | {_with_error(np.asarray(variance))} |", flush=True)


class Model(NamedTuple):
    """of_label: `(params, label [b]) -> Denoiser`, -1 for no class. log_class: `(params, label) ->
    ((x_t, t) -> ln p(label | x_t) [b])`, if there is a classifier of noisy digits."""

    sde: Any
    params: Any
    of_label: Any
    log_class: Any
    shape: tuple[int, ...]


def exactly() -> Model:
    """Ten Gaussians."""
    law, sde = digits(), VP(t_min=1e-3)

    def of(arrays):
        return exact.Labelled(exact.Mixture(*arrays), law.classes)

    return Model(
        sde,
        (law.mixture.weights, law.mixture.means, law.mixture.covs),
        lambda arrays, label: of(arrays).denoiser(sde, {"label": label}),
        lambda arrays, label: lambda x, t: of(arrays).log_class(sde, x, t, {"label": label}),
        (64,),
    )


def network(workdir: Path) -> Model:
    """A conditional network."""
    trained = score_sde.load(workdir)
    model = trained.trained.experiment.model

    def of_label(params, label):
        return model.denoiser(params, {"label": label})

    return Model(VP(t_min=1e-3), trained.params, of_label, None, (8, 8, 1))


def regression(x: np.ndarray, label: np.ndarray) -> Any:
    """`(x_0 [b, ...] in [-1, 1], label [b]) -> ln p(label | x_0) [b]`, of pixels x in [0, 1]."""
    fitted = LogisticRegression(C=1.0, max_iter=1000).fit(x, label)
    slope, shift = (jnp.asarray(a, jnp.float32) for a in (fitted.coef_, fitted.intercept_))

    def reward(x, label):
        logits = (x.reshape(len(x), -1) / 2 + 0.5) @ slope.T + shift[None]
        return jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=1)[:, 0]

    return reward


def tilt_of(model: Model, kind: str, params: Any, label: jax.Array, reward: Any) -> tilting.Tilted:
    """p(x) p(label | x)^WEIGHT by the model, or p(x) e^r."""
    sde, nothing = model.sde, model.of_label(params, -jnp.ones_like(label))
    if kind == "label":
        return tilting.alone(model.of_label(params, label))
    if kind == "classifier_free":
        return tilting.between(guidance.of_two(model.of_label(params, label), nothing), WEIGHT)
    if kind == "classifier":
        return tilting.valued(sde, nothing, model.log_class(params, label), WEIGHT)
    return tilting.rewarded(sde, nothing, lambda x: reward(x, label))


ROWS = (  # what is steered by, the solver, steps
    ("label", "ancestral", CALLS),
    ("classifier_free", "dpmpp", CALLS // 2),
    ("classifier_free", "ancestral", CALLS // 2),
    ("classifier_free", "feynman_kac(particles=4)", CALLS // 8),
    ("classifier_free", "feynman_kac(particles=4, data_std=0.5)", CALLS // 8),
    ("classifier", "ancestral", CALLS),
    ("classifier", "feynman_kac(particles=4)", CALLS // 4),
    ("r(D)", "dpmpp", CALLS),
    ("r(D)", "ancestral", CALLS),
    ("r(D)", "feynman_kac(particles=8, pull=0.0)", CALLS // 8),
    ("r(D)", "feynman_kac(particles=4, pull=0.5)", CALLS // 4),
    ("r(D)", "feynman_kac(particles=4)", CALLS // 4),
    # more calls
    ("classifier_free", "feynman_kac(particles=8)", CALLS),
    ("r(D)", "feynman_kac(particles=16, pull=0.5)", CALLS),
)


def steer(model: Model, name: str, count: int, rows: tuple) -> None:
    """Prints how the digits of each way are read, and how far they are from what is wanted."""
    data = build("data", "sklearn_digits.digits")
    (train, train_label), (test, test_label) = map(real, (data.train, data.test))
    svm, reward = SVC(C=10).fit(train, train_label), regression(train, train_label)
    asked = np.tile(np.arange(10, dtype=np.int32), count)
    wanted = {"others": (test, test_label)}
    if model.log_class:
        wanted = {"others": true_digits(40 * count), "r(D)": true_digits(40 * count, reward)}
    print(f"\n{name}\n| steered by | solver | steps | agreement | spread | Frechet distance |")
    print("|---" * 6 + "|")

    def row(kind, solver, steps, x, label, truth):
        told = np.mean(svm.predict(x) == label)
        cells = f"{told:.1%} | {spread(x, label):.3f} | {frechet(x, truth):.3f}"
        print(f"| {kind} | {solver} | {steps} | {cells} |", flush=True)

    for kind, (x, label) in wanted.items():
        row(f"wanted of {kind}", "", "", x, label, x)
    if model.log_class:
        for kind, each in (("others", None), ("r(D)", reward)):
            x, label = true_digits(count, each, seed=8)
            truth = wanted[kind if each else "others"][0]
            row(f"wanted of {kind}, as many", "", "", x, label, truth)
    for kind, spec, steps in rows:
        solver = build("solvers", spec, model.sde)
        if kind == "classifier" and not model.log_class:
            continue

        @jax.jit
        def draw(params, kind=kind, solver=solver, steps=steps):
            start, walk = jax.random.split(jax.random.key(0))
            label = jnp.repeat(jnp.asarray(asked), solver.particles)
            x = model.sde.prior_sample(start, (len(label), *model.shape), jnp.float32)
            tilt = tilt_of(model, kind, params, label, reward)
            grid = grids.log_snr(model.sde, steps).astype(jnp.float32)
            return sampling.sample(walk, solver, tilt, x, grid).x[:: solver.particles]

        x = np.asarray(draw(model.params), float).reshape(-1, 64) / 2 + 0.5
        if not model.log_class:
            x = np.round(16 * np.clip(x, 0, 1)) / 16
        finite = np.isfinite(x).all(axis=1)
        if not finite.all():
            print(f"| {kind} | `{spec}` | {steps} | {1 - finite.mean():.1%} not finite | | |")
            continue
        row(kind, f"`{spec}`", steps, x, asked, wanted.get(kind, wanted["others"])[0])


def true_digits(count: int, reward: Any = None, seed: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Draws of the exact p(x) p(class | x)^WEIGHT, or of p(x) e^r, `count` of each class: of the
    class, or of all, dealt by their weights."""
    law, sde, found = digits(), VP(t_min=1e-3), []
    for k in range(10):
        own, deal = jax.random.split(jax.random.fold_in(jax.random.key(seed), k))
        label = jnp.full(count, k, jnp.int32)
        if reward is None:
            x = exact.Gaussian(law.mixture.means[k], law.mixture.covs[k]).sample(own, count)
            at = jnp.asarray(sde.t_min, x.dtype)
            value = (WEIGHT - 1) * law.log_class(sde, x, at, {"label": label})
        else:
            x = law.mixture.sample(own, 10 * count)
            value = reward(x, jnp.full(10 * count, k, jnp.int32))
        found.append(np.asarray(take(systematic(deal, value[None]), x))[:: len(x) // count])
    return np.concatenate(found) / 2 + 0.5, np.repeat(np.arange(10), count)


def draw(path: Path, found: dict[str, list], steps: tuple[int, ...], p: int) -> None:
    """The picture: laws of guidance, errors by steps, and a mixture to the power 2."""
    line = np.linspace(-0.5, 2.5, 301)
    truth, *laws = found["guidance of weight 2, 0.0"]
    with plots.figure(path, 2.5, (1, 3)) as axes:
        first, second, third = axes[0]
        for name, (mean, variance), style in (
            ("truth", truth[:2], {"color": "0.6", "linewidth": 4}),
            ("weighted", laws[-1][:2], {}),
            ("guidance, ODE", found["dpmpp"], {}),
            ("guidance, SDE", found["ancestral"], {}),
        ):
            first.plot(line, stats.norm.pdf(line, mean, np.sqrt(variance)), label=name, **style)
        first.set(title="Guidance, w = 2", xlabel="x", ylim=(0, 2.4))
        first.legend(loc="upper left", handlelength=1, fontsize=7)
        for std in (0.0, 0.5):
            truth, *laws = found[f"guidance of weight 2, {std}"]
            second.loglog(
                steps, [abs(a[1] - truth[1]) for a in laws], "o-", label=f"data_std {std}"
            )
        off = abs(found["dpmpp"][1] - truth[1])
        second.loglog(steps, [off] * len(steps), "--", label="guidance, ODE")
        second.loglog(steps, [2.0 / n for n in steps], ":", color=plots.GREY, label="slope 1")
        second.set(title="Error of the variance", xlabel="steps", ylim=(1e-4, 1))
        second.set_xticks(steps, [str(n) for n in steps])
        second.minorticks_off()
        second.legend(loc="upper right", ncols=2, columnspacing=1, handlelength=1.5, fontsize=6)
        law = bimodal()
        tilt = tilting.product(SDE, lambda x, t: (law.denoiser(SDE)(x, t),), (2.0,))
        out = many(tilt, steps[-1], 1, p, threshold=1.0, data_std=0.7)
        line = np.linspace(-3, 3, 301)
        squared = np.exp(2 * np.asarray(law.log_density(jnp.asarray(line)[:, None])))
        third.hist(out.x[:, 0], 60, range=(-3, 3), density=True, color=plots.COLOURS[0], alpha=0.6)
        third.plot(line, squared / integrate.trapezoid(squared, line), color="0.3", label="$p^2$")
        third.plot(line, np.sqrt(squared), "--", color=plots.COLOURS[1], label="p")
        third.set(title="A mixture, squared", xlabel="x")
        third.legend(handlelength=1.5, fontsize=7)


def main() -> None:
    """Prints the tables."""
    parser = command.parser(__doc__)
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS)
    parser.add_argument("--steps", nargs="+", type=int, default=[100, 200, 400])
    parser.add_argument("--groups", type=int, default=40, help="estimates of each number")
    parser.add_argument("--particles", type=int, default=1000)
    parser.add_argument("--digits", type=int, default=60, help="of each class")
    parser.add_argument("--workdir", type=Path, help="of configs/digits_classes.py")
    parser.add_argument("--picture", type=Path)
    options = command.parse(parser, steps=[10], groups=2, particles=20, digits=2)
    steps, size = tuple(options.steps), (options.groups, options.particles, options.steps[-1])
    with jax.enable_x64(True):
        if "gaussians" in options.parts:
            found = gaussians(steps)
            if options.picture:
                draw(options.picture, found, steps, 20 * options.particles)
        for name, part in (("mixtures", mixtures), ("rewards", rewards), ("rules", rules)):
            if name in options.parts:
                part(*size)
    rows = tuple((kind, solver, 2) for kind, solver, _ in ROWS[3:4]) if options.small else ROWS
    if "digits" in options.parts:
        steer(exactly(), "exact digits", options.digits, rows)
    if options.workdir:
        steer(network(options.workdir), str(options.workdir), options.digits, rows)


if __name__ == "__main__":
    main()
