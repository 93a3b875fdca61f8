"""What guidance gives and takes on the digits: `python benchmarks/classes.py`.

The rows of docs/guides/guidance.md: samples' agreement with the class asked for, as told by a
support vector machine fitted to the real training digits; their spread, the mean over pixels and
classes of the standard deviation within a class; and the Frechet distance of pixels to the test
images. The networks are to be trained first, the worse one for autoguidance with
`--config.train.steps=400`:

    python main.py --mode train --config configs/digits_classes.py --workdir runs/classes
    python main.py --mode train --config configs/digits_classes.py --workdir runs/weak \
        --config.train.steps=400
    python main.py --mode train --config configs/digits_classifier.py --workdir runs/classifier
"""

from functools import partial
from pathlib import Path

import command
import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import sqrtm
from sklearn.svm import SVC

import score_sde
from score_sde import sampling, solvers
from score_sde.conditioning.conditioner import null
from score_sde.conditioning.labels import log_prob
from score_sde.data import gather
from score_sde.models import guidance, guidance_weights
from score_sde.sampling import grids

WEIGHTS = {
    "classifier_free": (0.0, 1.0, 1.25, 1.5, 2.0, 3.0),
    "classifier_free, interval (-4, 4)": (3.0,),
    "cfg_pp with ddim": (0.4,),
    "autoguidance": (1.5,),
    "classifier, no label": (4.0,),
}


def real(source):
    """Pixels in [0, 1], [n, 64], and labels."""
    batch = gather(source, np.arange(len(source)))
    return batch["image"].reshape(-1, 64) / 16, batch["label"]


def frechet(a, b) -> float:
    """Squared, between the normal laws of two sets of samples."""
    mean, covs = a.mean(axis=0) - b.mean(axis=0), [np.cov(x.T) for x in (a, b)]
    return float(mean @ mean + np.trace(sum(covs) - 2 * sqrtm(covs[0] @ covs[1]).real))


def spread(x, label) -> float:
    """Mean over pixels and classes of the standard deviation."""
    return float(np.mean([x[label == k].std(axis=0).mean() for k in np.unique(label)]))


def main() -> None:
    """Prints a Markdown table."""
    parser = command.parser(__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/classes"))
    parser.add_argument("--weak", type=Path, default=Path("runs/weak"))
    parser.add_argument("--classifier", type=Path, default=Path("runs/classifier"))
    parser.add_argument("--samples", type=int, default=1500)
    parser.add_argument("--steps", type=int, default=20)
    small = Path("runs", "small")
    options = command.parse(
        parser,
        workdir=small / "classes",
        weak=small / "classes",
        classifier=small / "classifier",
        samples=100,
        steps=2,
    )

    trained, weaker, classifier = map(
        score_sde.load, (options.workdir, options.weak, options.classifier)
    )
    experiment, codec, sde = trained.trained.experiment, trained.codec, trained.process
    model, other = experiment.model, classifier.trained.experiment.model
    times = grids.log_snr(sde, options.steps)
    label = jnp.arange(options.samples, dtype=jnp.int32) % 10
    cond = {"label": label}
    nothing = null(experiment.conditioner, cond)
    everything = (trained.params, weaker.params, classifier.params)

    def free(weight_of):
        def denoiser(params, weak, judge, w):
            of_cond = partial(model.denoiser, params)
            pair = guidance.in_one_batch(of_cond, cond, nothing)
            return guidance.guide(pair, weight_of(w))

        return denoiser

    def autoguided(params, weak, judge, w):
        return guidance.guide(
            guidance.of_two(model.denoiser(params, cond), model.denoiser(weak, cond)), w
        )

    def classified(params, weak, judge, w):
        def of_label(x_t, t):
            return log_prob(other.network(judge, x_t, t), label)

        return guidance.with_classifier(sde, model.denoiser(params, nothing), of_label, w)

    denoisers = {
        "classifier_free": free(lambda w: w),
        "classifier_free, interval (-4, 4)": free(
            lambda w: guidance_weights.within(sde, w, -4.0, 4.0)
        ),
        "cfg_pp with ddim": free(lambda w: guidance_weights.cfg_pp_weight(sde, times, w)),
        "autoguidance": autoguided,
        "classifier, no label": classified,
    }
    (train, train_label), (test, test_label) = map(real, (trained.data.train, trained.data.test))
    svm = SVC(C=10).fit(train, train_label)
    print(f"real digits: {svm.score(test, test_label):.1%} told, spread", end=" ")
    print(f"{spread(train, train_label):.3f}, Frechet distance {frechet(train, test):.3f}")
    print("| guidance | weight | agreement | spread | Frechet distance |")
    print("| --- | --- | --- | --- | --- |")
    for name, denoiser in denoisers.items():
        solver = (solvers.ddim if "ddim" in name else solvers.dpmpp)(sde)

        @jax.jit
        def draw(params, weak, judge, w, denoiser=denoiser, solver=solver):
            x = sde.prior_sample(jax.random.key(7), (options.samples, 8, 8, 1), jnp.float32)
            guided = denoiser(params, weak, judge, w)
            out = sampling.sample(jax.random.key(1), solver, guided, x, times, denoise=True)
            return codec.quantize(codec.decode(out.x))

        for w in WEIGHTS[name]:
            x = np.asarray(draw(*everything, jnp.float32(w))).reshape(-1, 64) / 16
            agreement = np.mean(svm.predict(x) == np.asarray(label))
            cells = [f"{agreement:.1%}", f"{spread(x, np.asarray(label)):.3f}"]
            print(f"| {name} | {w} | {' | '.join(cells)} | {frechet(x, test):.3f} |", flush=True)


if __name__ == "__main__":
    main()
