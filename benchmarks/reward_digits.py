"""Digits steered by a trained classifier, at equal calls of the network:
`python benchmarks/reward_digits.py`.

A table of docs/research/tilted.md. The reward is r = ln p(class | x) of a trained classifier at
its least noise, as `models.rewards.log_class` makes it; the law p e^r is then, as far as the
classifier is right, that of the digits of the class. The ways to it are the label of the network,
plain guidance by the same classifier at every noise level, and rewards with and without weights. A
support vector machine that was fitted to real digits reads the samples: it is no part of the
reward. Each number is the mean of several draws of all classes, with its standard error.

    python main.py --mode train --config configs/digits_classes.py --workdir runs/classes
    python main.py --mode train --config configs/digits_classifier.py --workdir runs/classifier
    python benchmarks/reward_digits.py
"""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import command
import jax
import jax.numpy as jnp
import numpy as np
from classes import frechet, real, spread
from sklearn.svm import SVC

import score_sde
from score_sde import sampling
from score_sde.conditioning.labels import log_prob
from score_sde.config import build
from score_sde.models import guidance, tilting
from score_sde.processes import VP
from score_sde.sampling import grids

CALLS = 160  # of the network, for each digit
ROWS = (  # what is steered by, the solver, steps
    ("the label", "ancestral", CALLS),
    ("classifier_free(weight=2)", "ancestral", CALLS // 2),
    ("classifier", "ancestral", CALLS),
    ("classifier", "feynman_kac(particles=4)", CALLS // 4),
    ("r(D)", "dpmpp", CALLS),
    ("r(D)", "ancestral", CALLS),
    ("r(D)", "feynman_kac(particles=4)", CALLS // 4),
    ("r(D)", "feynman_kac(particles=4, pull=0.5)", CALLS // 4),
    ("r(D)", "feynman_kac(particles=8, pull=0.0)", CALLS // 8),
)
SDE = VP(t_min=1e-3)


def laws(network: Any, classifier: Any) -> Callable[..., dict[str, Callable[[], tilting.Tilted]]]:
    """`(params, judge, label) -> ` what leads to the digits of these labels, by name."""

    def of(params, judge, label):
        with_label, nothing = (
            network.denoiser(params, {"label": each}) for each in (label, -jnp.ones_like(label))
        )

        def log_class(x, t):
            return log_prob(classifier.network(judge, x, jnp.broadcast_to(t, len(x))), label)

        def reward(x):
            return log_class(x, jnp.asarray(classifier.sde.t_min, x.dtype))

        return {
            "the label": lambda: tilting.alone(with_label),
            "classifier_free(weight=2)": lambda: tilting.between(
                guidance.of_two(with_label, nothing), 2.0
            ),
            "classifier": lambda: tilting.valued(SDE, nothing, log_class),
            "r(D)": lambda: tilting.rewarded(SDE, nothing, reward),
        }

    return of


def drawer(of: Callable, kind: str, spec: str, steps: int, asked: np.ndarray) -> Callable:
    """`(key, params, judge) -> digits [n, 64]` in [-1, 1]."""
    solver = build("solvers", spec, SDE)
    p = solver.particles

    def draw(key, params, judge):
        start, walk = jax.random.split(key)
        label = jnp.repeat(jnp.asarray(asked), p)
        x = SDE.prior_sample(start, (len(label), 8, 8, 1), jnp.float32)
        tilt = of(params, judge, label)[kind]()
        grid = grids.log_snr(SDE, steps).astype(jnp.float32)
        return sampling.sample(walk, solver, tilt, x, grid).x[::p].reshape(len(asked), 64)

    return draw


def _with_error(values: list[float], digits: int = 3, scale: float = 1.0) -> str:
    a = scale * np.asarray(values)
    error = a.std(ddof=1) / np.sqrt(len(a)) if len(a) > 1 else float("nan")
    return f"{a.mean():.{digits}f} ± {error:.{digits}f}"


def main() -> None:
    """Prints a Markdown table."""
    parser = command.parser(__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/classes"))
    parser.add_argument("--classifier", type=Path, default=Path("runs/classifier"))
    parser.add_argument("--digits", type=int, default=30, help="of each class, in a draw")
    parser.add_argument("--draws", type=int, default=4)
    small = Path("runs", "small")
    options = command.parse(
        parser, workdir=small / "classes", classifier=small / "classifier", digits=2, draws=1
    )
    trained, judge = score_sde.load(options.workdir), score_sde.load(options.classifier)
    of = laws(trained.trained.experiment.model, judge.trained.experiment.model)
    (train, train_label), (test, test_label) = map(real, (trained.data.train, trained.data.test))
    svm = SVC(C=10).fit(train, train_label)
    asked = np.tile(np.arange(10, dtype=np.int32), options.digits)
    print(
        f"real test digits: {svm.score(test, test_label):.1%} told, spread "
        f"{spread(test, test_label):.3f}; {len(asked)} training digits: Frechet distance",
        _with_error([frechet(x, test) for x in _parts(train, len(asked))]),
    )
    print("| steered by | solver | steps | agreement, % | spread | Frechet | ms of a digit |")
    print("|---" * 7 + "|")
    for kind, spec, steps in ROWS[2:4] if options.small else ROWS:
        draw = drawer(of, kind, spec, 2 if options.small else steps, asked)
        arguments = trained.params, judge.params
        compiled = jax.jit(draw).lower(jax.random.key(0), *arguments).compile()
        found, begin = [], time.process_time()
        for i in range(options.draws):
            x = np.asarray(compiled(jax.random.key(i), *arguments), float)
            found.append(np.round(16 * np.clip(x / 2 + 0.5, 0, 1)) / 16)
        cost = 1e3 * (time.process_time() - begin) / options.draws / len(asked)
        cells = (
            _with_error([float(np.mean(svm.predict(x) == asked)) for x in found], 1, 100.0),
            _with_error([spread(x, asked) for x in found]),
            _with_error([frechet(x, test) for x in found]),
            f"{cost:.0f}",
        )
        print(f"| {kind} | `{spec}` | {steps} | {' | '.join(cells)} |", flush=True)


def _parts(x: np.ndarray, size: int) -> list[np.ndarray]:
    """Parts of this size of real digits, in a random order."""
    x = np.random.default_rng(0).permutation(x)
    return [x[i : i + size] for i in range(0, len(x) - size + 1, size)]


if __name__ == "__main__":
    main()
