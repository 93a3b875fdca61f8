"""Guidance against the scores of exact mixtures, and the door to it."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from score_sde import (
    conditions,
    evaluate,
    guidance,
    records,
    report,
    samplers,
    sampling,
    solvers,
    thresholding,
)
from score_sde import experiment as door
from score_sde.checkpoint import CheckpointError, Checkpoints
from score_sde.config import ConfigError
from score_sde.exact import Labelled, Mixture
from score_sde.grids import log_snr
from score_sde.sde import DDPM, EDM, VP, Flow, SubVP
from score_sde.types import counted

WEIGHTS = np.array([-0.5, 0.0, 0.3, 1.0, 1.5, 4.0])
CLASSES = np.array([0, 1, 1, 2])


def mixture(seed=0):
    """Four components in two dimensions."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(4, 2, 2)) / 2
    covs = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(2)
    arrays = (np.array([0.1, 0.2, 0.3, 0.4]), rng.normal(size=(4, 2)) * 2, covs)
    return Mixture(*map(jnp.asarray, arrays))


def labelled():
    return Labelled(mixture(), jnp.asarray(CLASSES))


@pytest.fixture
def points(x64):
    """x [6, 2], t [6] and labels [6]."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(6, 2)) * 2)
    return x, jnp.linspace(0.2, 0.9, 6), {"label": jnp.array([0, 1, 2, 2, 1, 0])}


# --- closed forms ----------------------------------------------------------------------------


def test_a_class_is_the_mixture_of_its_components(points):
    x, t, _ = points
    sde, whole = SubVP(), mixture()

    @jax.jit
    def both():
        ours, truth = [], []
        for label in (-1, 0, 1, 2):
            own = np.flatnonzero((label == CLASSES) | (label < 0))
            share = jnp.sum(whole.weights[own])
            alone = Mixture(whole.weights[own] / share, whole.means[own], whole.covs[own])
            log_prob = alone.log_prob(sde, x, t)
            bayes = jnp.log(share) + log_prob - whole.log_prob(sde, x, t)
            truth.append((alone.denoiser(sde)(x, t), log_prob, bayes))
            cond = {"label": jnp.full(6, label)}
            ours.append(
                (
                    labelled().denoiser(sde, cond)(x, t),
                    labelled().log_prob(sde, x, t, cond),
                    labelled().log_class(sde, x, t, cond),
                )
            )
        return ours, truth

    ours, truth = both()
    for found, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(truth), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    posterior = np.exp([log_class for _, _, log_class in ours])
    np.testing.assert_allclose(posterior[0], 1, rtol=1e-12)
    np.testing.assert_allclose(posterior[1:].sum(axis=0), 1, rtol=1e-12)


@pytest.mark.parametrize("sde", [VP(), SubVP(), EDM(), Flow()], ids=lambda s: type(s).__name__)
def test_guided_scores_are_those_of_the_product(sde, points):
    """p_pos^w p_neg^(1-w): of a class and of all, and of two models; a classifier does the same."""
    x, t, cond = points
    truth, other = labelled(), mixture(seed=3)
    of_cond = functools.partial(truth.denoiser, sde)

    @jax.jit
    @jax.vmap
    def scores(w):
        def tilted(x):
            given, plain = truth.log_prob(sde, x, t, cond), truth.mixture.log_prob(sde, x, t)
            return jnp.sum(w * given + (1 - w) * plain)

        def extrapolated(x):
            better, worse = truth.mixture.log_prob(sde, x, t), other.log_prob(sde, x, t)
            return jnp.sum(w * better + (1 - w) * worse)

        def log_class(x, t):
            return truth.log_class(sde, x, t, cond)

        nothing = conditions.null(cond)
        ours = (
            guidance.guide(guidance.in_one_batch(of_cond, cond, nothing), w),
            guidance.with_classifier(sde, of_cond(nothing), log_class, w),
            guidance.guide(guidance.of_two(of_cond(nothing), other.denoiser(sde)), w),
        )
        ours = [sde.score(x, t, denoiser(x, t)) for denoiser in ours]
        return ours, [jax.grad(log_p)(x) for log_p in (tilted, tilted, extrapolated)]

    for found, expected in zip(*scores(jnp.asarray(WEIGHTS)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)


def test_weights_of_one_and_zero_are_the_plain_ones(points):
    x, t, _ = points
    sde = VP()
    better, worse = (jax.jit(mixture(seed).denoiser(sde)) for seed in (0, 3))
    pair = guidance.of_two(better, worse)
    np.testing.assert_array_equal(guidance.guide(pair, 1.0)(x, t), better(x, t))
    np.testing.assert_allclose(guidance.guide(pair, 0.0)(x, t), worse(x, t), rtol=1e-12)
    with_nothing = guidance.with_classifier(sde, better, lambda x, t: jnp.zeros(6), 3.0)
    np.testing.assert_array_equal(with_nothing(x, t), better(x, t))


def test_both_conditions_are_one_call_at_one_time_or_many(points):
    x, t, cond = points
    sde, calls, made, count = VP(), [], [], None

    def of_cond(cond):
        nonlocal count
        counting, count = counted(labelled().denoiser(sde, cond))

        def denoise(x_t, t):
            calls.append((x_t.shape, t.shape))
            return counting(x_t, t)

        return denoise

    @jax.jit
    def run(x, t):
        pair = guidance.in_one_batch(of_cond, cond, conditions.null(cond))
        ours = [pair(x, time) for time in (t, t[0])]
        made.append(count())
        given, nothing = labelled().denoiser(sde, cond), mixture().denoiser(sde)
        truth = [(given(x, time), nothing(x, time)) for time in (t, t[0])]
        solver, guided = solvers.ddim(sde), guidance.guide(pair, 2.0)
        return ours, truth, sampling.sample(jax.random.key(0), solver, guided, x, t[::-1]).nfe

    ours, truth, nfe = run(x, t)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11), ours, truth)
    assert made == [2]
    assert calls[:2] == [((12, 2), (12,)), ((12, 2), ())]
    assert nfe == len(t) - 1


def test_an_interval_of_noise_levels(points):
    x, t, cond = points
    sde = VP()
    pair = jax.jit(guidance.of_two(labelled().denoiser(sde, cond), mixture().denoiser(sde)))
    levels = np.asarray(sde.log_snr(t))
    schedule = guidance.within(sde, 3.0, (levels[2] + levels[3]) / 2, levels[1])
    inside = np.array([False, True, True, False, False, False])
    ours, always = (np.asarray(guidance.guide(pair, w)(x, t)) for w in (schedule, 3.0))
    np.testing.assert_array_equal(ours[inside], always[inside])
    np.testing.assert_array_equal(ours[~inside], np.asarray(pair(x, t)[0])[~inside])
    with pytest.raises(ValueError, match=r"interval=\(4\.0, 1\.0\) is not \(low, high\)"):
        guidance.classifier_free(sde, t, interval=(4.0, 1.0))


@pytest.mark.parametrize("sde", [VP(t_min=1e-3), EDM(t_max=10.0)], ids=["VP", "EDM"])
def test_cfg_plus_plus_is_the_papers_update(sde, points):
    """x_s = alpha_s D_w + sigma_s eps_neg, with D_w guided by the strength (Chung et al. 2024)."""
    x, _, cond = points
    times, strength = log_snr(sde, 6), 0.6
    guided = guidance.cfg_pp(sde, times, strength)
    of_cond = functools.partial(labelled().denoiser, sde)
    denoiser = guided.guided(of_cond, None)(cond)

    @jax.jit
    def run(x):
        out = sampling.sample(
            jax.random.key(0), solvers.ddim(sde), denoiser, x, times, denoise=True, trajectory=True
        )
        return out, sde.alpha(times), sde.sigma(times)

    out, alphas, sigmas = jax.device_get(run(x))
    pair = jax.jit(lambda x, t: (of_cond(cond)(x, t), of_cond(conditions.null(cond))(x, t)))
    z = np.asarray(x)
    for i, (alpha, sigma) in enumerate(zip(alphas, sigmas, strict=True)):
        np.testing.assert_allclose(out.trajectory[i], z, rtol=1e-9)
        given, nothing = (
            (z - alpha * np.asarray(d)) / sigma for d in pair(jnp.asarray(z), times[i])
        )
        eps = nothing + strength * (given - nothing)
        clean = (z - sigma * eps) / alpha
        if i < 6:
            z = alphas[i + 1] * clean + sigmas[i + 1] * nothing
    np.testing.assert_allclose(out.x, clean, rtol=1e-9)


def test_cfg_plus_plus_between_the_times_of_a_grid(points):
    sde = VP()

    @jax.jit
    def run():
        times = log_snr(sde, 4)
        schedule = guidance.cfg_pp_weight(sde, times, 1.0)
        middle = schedule((times[1:] + times[:-1]) / 2)
        return schedule(times), schedule(times[2]), middle, sde.log_snr(times) / 2

    weights, single, middle, lam = run()
    expected = 1 / (1 - np.exp(-np.append(np.diff(lam), np.inf)))
    np.testing.assert_allclose(weights, expected, rtol=1e-10)
    np.testing.assert_array_equal(single, weights[2])
    np.testing.assert_array_equal(middle, weights[:-1])
    with pytest.raises(ValueError, match=r"goes by the steps of the grid, .* such as ddim"):
        guidance.cfg_pp(sde, jnp.array([1.0, 0.1]))


def test_rescaling_brings_the_standard_deviation_back(x64):
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(size=(2, 5, 4, 3))
    x, t = jnp.zeros((5, 4, 3)), jnp.asarray(0.5)

    def guided(rescale):
        pair = lambda x_t, t: (jnp.asarray(positive), jnp.asarray(negative))  # noqa: E731
        return np.asarray(guidance.guide(pair, 3.0, rescale)(x, t))

    plain = negative + 3 * (positive - negative)
    ratio = positive.std(axis=(1, 2)) / plain.std(axis=(1, 2))
    rescaled = plain * ratio[:, None, None]
    np.testing.assert_allclose(guided(0.7), 0.7 * rescaled + 0.3 * plain, rtol=1e-12)
    np.testing.assert_allclose(guided(1.0).std(axis=(1, 2)), positive.std(axis=(1, 2)), rtol=1e-12)
    constant = guidance.guide(lambda x_t, t: (x_t, x_t), 3.0, 1.0)(x, t)
    np.testing.assert_array_equal(constant, x)


def test_thresholds(x64):
    images = 2 * np.random.default_rng(0).normal(size=(4, 5, 6))
    images[0] *= 0.1  # within the range

    def change(kind, values, low, high, **options):
        denoiser = getattr(thresholding, kind)(float(low), float(high), **options)(lambda x, t: x)
        return np.asarray(denoiser(jnp.asarray(values), jnp.asarray(0.5)))

    s = np.maximum(np.percentile(np.abs(images).reshape(4, -1), 90, axis=1), 1)[:, None, None]
    assert s[0] == 1 < s[1]
    dynamic = np.clip(images, -s, s) / s
    np.testing.assert_allclose(change("dynamic", images, -1, 1, percentile=0.9), dynamic)
    unit = change("dynamic", (images + 1) / 2, 0, 1, percentile=0.9)
    np.testing.assert_allclose(unit, (dynamic + 1) / 2, atol=1e-12)
    np.testing.assert_array_equal(change("static", images, -1, 1), np.clip(images, -1, 1))
    np.testing.assert_array_equal(change("none", images, -1, 1), images)
    with pytest.raises(ValueError, match=r"percentile=99\.5 is not between 0 and 1"):
        thresholding.dynamic(-1.0, 1.0, percentile=99.5)


def test_a_classifier_says_nothing_where_alpha_is_zero(x64):
    sde = DDPM(num_steps=100, zero_terminal_snr=True)
    x, denoiser = jnp.ones((2, 2)), lambda x_t, t: x_t
    guided = guidance.with_classifier(sde, denoiser, lambda x, t: jnp.sum(x, axis=1))
    np.testing.assert_array_equal(guided(x, jnp.asarray(1.0)), x)


# --- the door --------------------------------------------------------------------------------


def small(**changes):
    """A conditional perceptron on the digits, with parameters that nobody trained."""
    config = digits.get_config()
    config.net = {"name": "mlp.MLP", "features": (8,), "embedding_dim": 8, "num_classes": 10}
    config.objective.drop_cond = 0.1
    config.sampling.update(solver="ddim", grid="log_snr", steps=3)
    config.sampling.update(num_samples=20, batch_size=16)
    config.update_from_flattened_dict(changes)
    return config


def classifier(**changes):
    config = small(**{"objective.name": "classification", **changes})
    config.net = {
        "name": "classifier.Classifier",
        "num_classes": 10,
        "nf": 8,
        "ch_mult": (1,),
        "num_res_blocks": 1,
        "attn_resolutions": (),
        "dropout": 0.0,
    }
    return config


def put(config, workdir, steps=(7,), scale=1 / 3):
    """A workdir whose checkpoints are random numbers of this scale, others at each step."""
    workdir.mkdir(exist_ok=True)
    experiment = door.load(config)
    abstract = jax.eval_shape(lambda: door.initial_state(config, experiment))
    records.store_config(config, workdir)
    checkpoints = Checkpoints(workdir)
    for step in steps:
        rng = np.random.default_rng(step)
        state = jax.tree.map(
            lambda a, rng=rng: np.asarray(scale * rng.normal(size=a.shape), a.dtype), abstract
        )
        checkpoints.save(step, state, None, records.as_json(config))
    checkpoints.close()
    return workdir


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    root = tmp_path_factory.mktemp("guides")
    return {
        "classes": put(small(), root / "classes"),
        "weak": put(small(**{"net.features": (4,)}), root / "weak", steps=(1, 2)),
        "classifier": put(classifier(), root / "classifier"),
    }


def restored(config, workdir):
    return jax.device_get(records.restore(config, workdir))


def test_every_guidance_of_a_config(workdirs):
    """What the door builds is what the parts make, and a guide's parameters are no constants."""
    experiment, params, _ = restored(small(), workdirs["classes"])
    weak = small(**{"net.features": (4,)})
    other, weak_params, step = restored(weak, workdirs["weak"])
    judge, judge_params, _ = restored(classifier(), workdirs["classifier"])
    assert step == 2
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 8, 8, 1)), jnp.float32)
    t, cond = jnp.array([0.1, 0.3, 0.5]), {"label": jnp.array([3, 9, -1])}
    of_cond = functools.partial(experiment.model.denoiser, params)
    pair = guidance.in_one_batch(of_cond, cond, conditions.null(cond))
    sde = samplers.sampling_sde(small())

    def log_prob(x_t, t):
        logits = jax.nn.log_softmax(judge.model.network(judge_params, x_t, t))
        return jnp.array([1.0, 1.0, 0.0]) * logits[jnp.arange(3), jnp.array([3, 9, 0])]

    both = guidance.of_two(of_cond(cond), other.model.denoiser(weak_params, cond))
    truth = {
        "unguided": of_cond(cond),
        "classifier_free(weight=2.5, interval=(-9.0, 2.0), rescale=0.4)": guidance.guide(
            pair, guidance.within(sde, 2.5, -9.0, 2.0), 0.4
        ),
        "cfg_pp(strength=0.5)": guidance.guide(
            pair, guidance.cfg_pp_weight(sde, log_snr(sde, 3), 0.5)
        ),
        f"autoguidance(workdir='{workdirs['weak']}', weight=3.0)": guidance.guide(both, 3.0),
        f"classifier(workdir='{workdirs['classifier']}', scale=2.0)": guidance.with_classifier(
            sde, of_cond(cond), log_prob, 2.0
        ),
    }
    found = {}
    for spec in truth:
        config = small(**{"sampling.guidance": spec, "sampling.threshold": "static"})
        found[spec] = samplers.build_denoiser(config, experiment)

    @jax.jit
    def both(found):
        ours = [denoiser_of(params, cond)(x, t) for denoiser_of in found]
        return ours, [jnp.clip(denoiser(x, t), -1, 1) for denoiser in truth.values()]

    # on one device, which compiles faster
    for ours, expected in zip(*both(jax.device_get(list(found.values()))), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
        assert np.std(np.abs(expected) < 1) > 0.1  # it is not all clipped

    auto = next(spec for spec in truth if spec.startswith("auto"))
    assert not jax.tree.leaves(found["unguided"])
    jax.tree.map(np.testing.assert_array_equal, *map(jax.tree.leaves, (found[auto], weak_params)))
    earlier = small(**{"sampling.guidance": auto.replace(")", ", step=1)")})
    leaves = jax.tree.leaves(samplers.build_denoiser(earlier, experiment))
    assert not np.array_equal(leaves[0], jax.tree.leaves(weak_params)[0])


def test_labels_in_turn_over_batches(workdirs, tmp_path):
    """A sample's label goes by its number, not by its place in a batch, its guidance by the label;
    on eight devices."""
    spec = "classifier_free(weight=2.0)"
    config = small(**{"sampling.labels": (3, 1, 4, -1), "sampling.guidance": spec})
    result = evaluate.sample(config, workdirs["classes"])
    with np.load(workdirs["classes"] / "samples.npz") as file:
        labels, images = file["labels"], file["samples"]
    np.testing.assert_array_equal(labels, [3, 1, 4, -1] * 5)
    assert result["labels"] == {"-1": 5, "1": 5, "3": 5, "4": 5}
    assert (result["guidance"], result["nfe"]) == (spec, 4)
    assert json.loads((workdirs["classes"] / "sample.json").read_text()) == result

    experiment, params, _ = records.restore(config, workdirs["classes"])
    key = jax.random.fold_in(door.key_for(config, "sample"), 1)  # of the second batch
    key_prior, _, key_solver = jax.random.split(key, 3)
    sde = samplers.sampling_sde(config)
    x = sde.prior_sample(key_prior, (16, 8, 8, 1), np.float32)
    cond = {"label": jnp.array([3, 1, 4, -1] * 4)}

    @jax.jit
    def draw(params):
        of_cond = functools.partial(experiment.model.denoiser, params)
        pair = guidance.of_two(of_cond(cond), of_cond(conditions.null(cond)))
        denoiser, solver, times = guidance.guide(pair, 2.0), solvers.ddim(sde), log_snr(sde, 3)
        return sampling.sample(key_solver, solver, denoiser, x, times, denoise=True).x

    levels = experiment.pixels.decode(draw(params), dequantized=True)[:4]
    ours = np.round(images[16:].astype(float) * 16 / 255)
    assert np.mean(ours != np.asarray(levels)) < 0.01  # rounding at the edge of a level


def test_labels_at_random_and_none(workdirs):
    experiment = door.load(small())
    numbers = jnp.arange(1000)
    drawn = samplers.build_labels(small(), experiment)(jax.random.key(0), numbers)
    counts = np.bincount(drawn, minlength=10)
    assert len(counts) == 10
    assert np.sum((counts - 100) ** 2 / 100) < 27.9  # chi^2 of 9 degrees of freedom, p = 0.001
    plain = small(**{"net.num_classes": 0})
    none = samplers.build_labels(plain, door.load(plain))(jax.random.key(0), numbers)
    np.testing.assert_array_equal(none, -1)
    # a classifier asks for labels whatever the network
    plain.sampling.update(guidance=f"classifier(workdir='{workdirs['classifier']}')", labels=(2,))
    asked = samplers.build_labels(plain, door.load(plain))(jax.random.key(0), numbers)
    np.testing.assert_array_equal(asked, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"net.num_classes": 7}, r"net\.num_classes is 7, and the data set digits has 10 class"),
        (
            {"sampling.labels": (3, 10)},
            "labels: label 10 is none of the 10 classes 0 to 9",
        ),
        ({"sampling.labels": (0.5,)}, r"label 0\.5 is none"),
        ({"net.num_classes": 0, "sampling.labels": (1,)}, "the network has no classes"),
        (
            {"net.num_classes": 0, "sampling.guidance": "classifier_free"},
            "needs a network with classes",
        ),
        (
            {"objective.drop_cond": 0.0, "sampling.guidance": "cfg_pp"},
            r"objective\.drop_cond is 0: train with 0\.1",
        ),
        ({"objective.drop_cond": 1.5}, r"objective: drop_cond=1\.5 is not between"),
        ({"objective.name": "guessing"}, r"'guessing': one of denoising, classification"),
        ({"objective.name": "classification", "net.num_classes": 0}, "set it to 10"),
        ({"sampling.guidance": "cfg"}, "guidance: unknown name 'cfg'; did you mean 'cfg_pp'"),
        ({"sampling.guidance": "autoguidance"}, r"needs the field\(s\) workdir"),
        ({"sampling.threshold": "clip"}, "thresholding: unknown name 'clip'"),
        (
            {"sampling.guidance": "autoguidance(workdir='nowhere')"},
            "nowhere has no checkpoint",
        ),
        ({"sampling.guidance": "autoguidance(workdir='WEAK', step=5)"}, r"step 5: one of \[1, 2\]"),
        (
            {"sampling.guidance": "classifier(workdir='WEAK')"},
            "weak was trained with objective.name='denoising', and this kind of guide is of",
        ),
        (
            {"sde": "SubVP", "sampling.guidance": "autoguidance(workdir='WEAK')"},
            r"weak has sde VP\(.*\), and the network that it is to guide SubVP\(",
        ),
        (
            {"data.centered": False, "sampling.guidance": "autoguidance(workdir='WEAK')"},
            "weak has data.centered True, and the network that it is to guide False",
        ),
    ],
)
def test_a_mistake_is_one_line(workdirs, changes, message):
    changes = {
        key: value.replace("WEAK", str(workdirs["weak"])) if isinstance(value, str) else value
        for key, value in changes.items()
    }
    config = small(**changes)
    with pytest.raises((ConfigError, CheckpointError), match=message) as error:
        samplers.build_sampler(config, door.load(config), 8)
    assert "\n" not in str(error.value)


def test_evaluation_of_a_classifier_that_knows_nothing(tmp_path, monkeypatch):
    """Of ten equal logits the loss is ln 10, and class 0 is what is guessed at every level."""
    monkeypatch.setattr(report.figures, "report", lambda *_: None)
    monkeypatch.setattr(report, "DRAWS", 1)
    monkeypatch.setattr(report, "LEVELS", 3)
    config = classifier(**{"evaluate.parts": ("loss",)})
    report.evaluate(config, put(config, tmp_path, scale=0.0))
    loss = json.loads((tmp_path / "evaluate.json").read_text())["loss"]
    assert loss["loss"] == pytest.approx(np.log(10), rel=1e-6)
    test = door.load(config).data.test
    share = np.mean([test[i]["label"] != 0 for i in range(len(test))])
    np.testing.assert_allclose(loss["classification_error"]["value"], share, rtol=1e-6)
    assert len(loss["classification_error"]["value"]) == 3


def test_labels_are_dropped_in_training_only():
    experiment = door.load(small(**{"objective.drop_cond": 1.0}))
    shapes = jax.eval_shape(lambda: experiment.model.init(jax.random.key(0), (8, 8, 1)))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), shapes)
    x = jnp.asarray(rng.normal(size=(4, 8, 8, 1)), jnp.float32)

    @jax.jit
    def both(label):
        batch = {"x": x, "cond": {"label": label}}
        key = jax.random.key(0)
        mean, _ = experiment.objective(params, key, batch)
        return mean, experiment.losses(params, key, batch).value

    (train, test), (train_without, test_without) = both(jnp.arange(4)), both(jnp.full(4, -1))
    assert train == train_without
    assert not np.any(test == test_without)


def test_a_classifier_does_not_draw(workdirs):
    for mode in (evaluate.sample, evaluate.likelihood):
        with pytest.raises(ConfigError, match="a classifier does not denoise: it has --mode train"):
            mode(classifier(), workdirs["classifier"])
    with pytest.raises(ConfigError, match="holds another model"):
        evaluate.sample(small(), workdirs["classifier"])
