"""Guidance and classifiers in a config and in the modes, and one clear line per mistake."""

import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from score_sde import sampling, solvers
from score_sde.conditioning.conditioner import null
from score_sde.errors import CheckpointError, ConfigError
from score_sde.experiment import build, requests, samplers
from score_sde.experiment import workdirs as records
from score_sde.experiment.report import loss as loss_part
from score_sde.models import guidance, guidance_weights, projected
from score_sde.modes import evaluate, likelihood, sample
from score_sde.runtime.checkpoint import Checkpoints
from score_sde.sampling.grids import log_snr
from score_sde.training.objective import Training


def small(**changes):
    """A conditional perceptron on the digits, with parameters that nobody trained."""
    config = digits.get_config()
    config.net = {"name": "mlp.MLP", "features": (8,), "embedding_dim": 8, "num_classes": 10}
    config.objective.drop_cond = 0.1
    config.sampling.update(solver="ddim", grid="log_snr", steps=3)
    config.sampling.update(num_samples=20, batch_size=16)
    config.update_from_flattened_dict(changes)
    return config


def classifier():
    config = small()
    law = config.objective.time_law
    config.objective = {"name": "classification", "time_law": law}
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
    experiment = build.build_experiment(config)
    abstract = build.abstract_state(experiment)
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
    """What a config gives is what the parts make, and a guide's parameters are no constants."""
    experiment, params, _ = restored(small(), workdirs["classes"])
    weak = small(**{"net.features": (4,)})
    other, weak_params, step = restored(weak, workdirs["weak"])
    judge, judge_params, _ = restored(classifier(), workdirs["classifier"])
    assert step == 2
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 8, 8, 1)), jnp.float32)
    t, cond = jnp.array([0.1, 0.3, 0.5]), {"label": jnp.array([3, 9, -1])}
    of_cond = functools.partial(experiment.model.denoiser, params)
    pair = guidance.in_one_batch(of_cond, cond, null(experiment.conditioner, cond))
    sde = requests.sampling_sde(small())

    def log_prob(x_t, t):
        logits = jax.nn.log_softmax(judge.model.network(judge_params, x_t, t))
        return jnp.array([1.0, 1.0, 0.0]) * logits[jnp.arange(3), jnp.array([3, 9, 0])]

    both = guidance.of_two(of_cond(cond), other.model.denoiser(weak_params, cond))
    truth = {
        "unguided": of_cond(cond),
        "classifier_free(weight=2.5, interval=(-9.0, 2.0), rescale=0.4)": guidance.guide(
            pair, guidance_weights.within(sde, 2.5, -9.0, 2.0), 0.4
        ),
        "apg(weight=2.5, eta=0.3, norm=2.0)": guidance.guide(
            pair, 2.5, change=projected.along_mean(0.3, 2.0)
        ),
        "cfg_zero_star(weight=2.5, zero=0.0)": guidance.guide(
            pair, 2.5, change=projected.along_velocity(sde)
        ),
        "cfg_pp(strength=0.5)": guidance.guide(
            pair, guidance_weights.cfg_pp_weight(sde, log_snr(sde, 3), 0.5)
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
    chex.assert_trees_all_equal(*map(jax.tree.leaves, (found[auto], weak_params)), strict=True)
    earlier = small(**{"sampling.guidance": auto.replace(")", ", step=1)")})
    leaves = jax.tree.leaves(samplers.build_denoiser(earlier, experiment))
    assert not np.array_equal(leaves[0], jax.tree.leaves(weak_params)[0])


def test_labels_in_turn_over_batches(workdirs, tmp_path):
    """A sample's label goes by its number, not by its place in a batch, its guidance by the label;
    on eight devices."""
    spec = "classifier_free(weight=2.0)"
    config = small(**{"sampling.labels": (3, 1, 4, -1), "sampling.guidance": spec})
    result = sample.sample(config, workdirs["classes"])
    with np.load(workdirs["classes"] / "samples.npz") as file:
        labels, images = file["labels"], file["samples"]
    np.testing.assert_array_equal(labels, [3, 1, 4, -1] * 5)
    assert result["labels"] == {"-1": 5, "1": 5, "3": 5, "4": 5}
    assert (result["guidance"], result["nfe"]) == (spec, 4)
    assert json.loads((workdirs["classes"] / "sample.json").read_text()) == result

    experiment, params, _ = records.restore(config, workdirs["classes"])
    # those from number 16 on, which are in the second batch
    root, sde = build.key_for(config, "sample"), requests.sampling_sde(config)
    keys = jnp.stack([jax.random.split(jax.random.fold_in(root, 16 + i), 3) for i in range(4)])
    x = sde.prior_sample(keys[:, 0], (4, 8, 8, 1), np.float32)
    cond = {"label": jnp.array([3, 1, 4, -1])}

    @jax.jit
    def draw(params):
        of_cond = functools.partial(experiment.model.denoiser, params)
        pair = guidance.of_two(of_cond(cond), of_cond(null(experiment.conditioner, cond)))
        denoiser, solver, times = guidance.guide(pair, 2.0), solvers.ddim(sde), log_snr(sde, 3)
        return sampling.sample(keys[:, 2], solver, denoiser, x, times, denoise=True).x

    levels = experiment.codec.quantize(experiment.codec.decode(draw(params)))
    ours = np.round(images[16:].astype(float) * 16 / 255)
    assert np.mean(ours != np.asarray(levels)) < 0.01  # rounding at the edge of a level


def test_labels_at_random_and_none(workdirs):
    experiment = build.build_experiment(small())
    numbers, keys = jnp.arange(1000), jax.random.split(jax.random.key(0), 1000)
    drawn = requests.build_request(small(), experiment)(keys, numbers)["label"]
    counts = np.bincount(drawn, minlength=10)
    assert len(counts) == 10
    assert np.sum((counts - 100) ** 2 / 100) < 27.9  # chi^2 of 9 degrees of freedom, p = 0.001
    plain = small(**{"net.num_classes": 0})
    none = requests.build_request(plain, build.build_experiment(plain))(keys, numbers)["label"]
    np.testing.assert_array_equal(none, -1)
    # a classifier asks for labels whatever the network
    plain.sampling.update(guidance=f"classifier(workdir='{workdirs['classifier']}')", labels=(2,))
    asked = requests.build_request(plain, build.build_experiment(plain))(keys, numbers)["label"]
    np.testing.assert_array_equal(asked, 2)


def test_negative_labels_take_the_place_of_none(workdirs):
    """Samples are led away from the label of `sampling.negative`, each its own in turn; without
    one, from no label. The truth is the formula, on the two denoisers of the network."""
    config = small(**{"sampling.guidance": "classifier_free(weight=3.0)"})
    config.sampling.update(labels=(1, 2), negative=(5,))
    experiment, params, _ = records.restore(config, workdirs["classes"])
    numbers, keys = jnp.arange(4), jax.random.split(jax.random.key(0), 4)
    wanted = requests.build_request(config, experiment)(keys, numbers)
    unwanted = requests.build_negative(config, experiment)(keys, numbers)
    np.testing.assert_array_equal(wanted["label"], [1, 2, 1, 2])
    np.testing.assert_array_equal(unwanted["label"], [5] * 4)
    x, t = jax.random.normal(keys[0], (4, 8, 8, 1)), jnp.array(0.5)
    of_cond = samplers.build_denoiser(config, experiment)
    plain = experiment.objective.result
    positive, negative, none = (
        plain(params, {"label": jnp.array(label)})(x, t)
        for label in ([1, 2, 1, 2], [5] * 4, [-1] * 4)
    )
    nothing = {"label": jnp.full(4, -1)}
    for other, away in ((unwanted, negative), (None, negative), (nothing, none)):
        guided = of_cond(params, wanted, other)(x, t)
        np.testing.assert_allclose(guided, away + 3 * (positive - away), atol=1e-4)
    assert np.abs(negative - none).max() > 1e-3
    images = [
        sample.sample(config, workdirs["classes"])["num_samples"]
        and np.load(workdirs["classes"] / "samples.npz")["samples"]
        for config.sampling.negative in ((5,), (), (-1,))
    ]
    np.testing.assert_array_equal(images[1], images[2])
    assert np.any(images[0] != images[1])
    alone = small(**{"sampling.negative": (5,)})
    with pytest.raises(ConfigError, match=r"^sampling.negative=\(5,\) needs guidance that leads "):
        requests.build_negative(alone, experiment)
    with pytest.raises(ConfigError, match=r"^sampling.negative=\(5,\) needs guidance that leads "):
        samplers.build_denoiser(alone, experiment)
    asked = small(**{"sampling.prompts": ("a cat",)})
    with pytest.raises(ConfigError, match=r"the conditioner labels reads sampling\.labels"):
        requests.build_request(asked, experiment)


def test_a_network_that_needs_a_condition_is_led_away_from_one(workdirs):
    """It has never seen the condition that says nothing, and is not asked for it: not a number of
    this condition reaches the result."""
    config = small(**{"objective.drop_cond": 0.0})
    config.sampling.update(guidance="classifier_free(weight=3.0)", labels=(1, 2), negative=(5, 6))
    experiment, params, _ = records.restore(config, workdirs["classes"])
    plain, asked = experiment.objective.result, []

    def watched(params, cond):
        asked.extend(np.unique(cond["label"]))
        return plain(params, cond)

    experiment = experiment._replace(objective=experiment.objective._replace(result=watched))
    x, t = jax.random.normal(jax.random.key(0), (4, 8, 8, 1)), jnp.array(0.5)
    positive, negative = (
        plain(params, {"label": jnp.array(label)})(x, t) for label in ([1, 2, 1, 2], [5, 6, 5, 6])
    )
    cond = {"label": jnp.array([1, 2, 1, 2])}
    found = samplers.build_denoiser(config, experiment)(params, cond)(x, t)
    np.testing.assert_allclose(found, negative + 3 * (positive - negative), atol=1e-4)
    assert set(asked) == {1, 2, 5, 6}
    assert sample.sample(config, workdirs["classes"])["num_samples"] == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"net.num_classes": 7},
            r"net\.num_classes is 7, .* data set digits .* has 10: set it to 0 or 10",
        ),
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
            r"drop_cond is 0: train with 0\.1, or set sampling\.negative to what",
        ),
        ({"objective.drop_cond": 1.5}, r"denoising: drop_cond=1\.5 is not between"),
        ({"objective.name": "guessing"}, "unknown name 'guessing'.*classification, .*denoising"),
        ({"sampling.guidance": "cfg"}, "guidance: unknown name 'cfg'; did you mean 'cfg_pp'"),
        ({"sampling.guidance": "autoguidance"}, r"needs the field\(s\) workdir"),
        (
            {"sampling.guidance": "conditioned(weight=2.0)"},
            "needs a network that reads guidance: train one with net.numbers",
        ),
        ({"sampling.threshold": "clip"}, "thresholding: unknown name 'clip'"),
        (
            {"sampling.guidance": "autoguidance(workdir='nowhere')"},
            "nowhere has no checkpoint",
        ),
        ({"sampling.guidance": "autoguidance(workdir='WEAK', step=5)"}, r"step 5: one of \[1, 2\]"),
        (
            {"sampling.guidance": "classifier(workdir='WEAK')"},
            "objective.name='denoising', and this kind of guide is a classifier",
        ),
        (
            {"sde": "SubVP", "sampling.guidance": "autoguidance(workdir='WEAK')"},
            r"weak has sde VP\(.*\), and this config has SubVP\(",
        ),
        (
            {"codec.centered": False, "sampling.guidance": "autoguidance(workdir='WEAK')"},
            r"weak has x within \(-1\.0, 1\.0\), and this config has \(0\.0, 1\.0\)",
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
        samplers.build_sampler(config, build.build_experiment(config), 8)
    assert "\n" not in str(error.value)


def test_evaluation_of_a_classifier_that_knows_nothing(tmp_path, monkeypatch):
    """Of ten equal logits the loss is ln 10, and class 0 is what is guessed at every level."""
    monkeypatch.setattr(evaluate.report_page.figures, "report", lambda *_: None)
    monkeypatch.setattr(loss_part, "DRAWS", 1)
    monkeypatch.setattr(loss_part, "NOISE_LEVELS", 3)
    config = classifier()
    config.evaluate.parts = ("loss",)
    evaluate.evaluate(config, put(config, tmp_path, scale=0.0))
    loss = json.loads((tmp_path / "evaluate.json").read_text())["loss"]
    # the mean of equal numbers, a float32 sum of at most 297 of them, with a rounding each
    assert loss["loss"] == pytest.approx(np.log(10), rel=297 * float(np.finfo(np.float32).eps))
    test = build.build_experiment(config).data.test
    share = np.mean([test[i]["label"] != 0 for i in range(len(test))])
    np.testing.assert_allclose(loss["classification_error"]["value"], share, rtol=1e-6)
    assert len(loss["classification_error"]["value"]) == 3


def test_labels_are_dropped_in_training_only():
    experiment = build.build_experiment(small(**{"objective.drop_cond": 1.0}))
    shapes = build.abstract_state(experiment).params
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), shapes)
    x = jnp.asarray(rng.normal(size=(4, 8, 8, 1)), jnp.float32)

    @jax.jit
    def both(label):
        batch = {"x": x, "cond": {"label": label}}
        key = jax.random.key(0)
        losses = experiment.objective.losses
        return jnp.mean(losses(params, key, batch, Training()).value), losses(
            params, key, batch, None
        )[0]

    (train, test), (train_without, test_without) = both(jnp.arange(4)), both(jnp.full(4, -1))
    assert train == train_without
    assert not np.any(test == test_without)


def test_a_classifier_needs_all_classes():
    config = classifier()
    config.net.num_classes = 0
    with pytest.raises(ConfigError, match=r"net\.num_classes is 0: a classifier needs 10"):
        build.build_experiment(config)


def test_a_classifier_does_not_draw(workdirs):
    for mode in (sample.sample, likelihood.likelihood):
        with pytest.raises(ConfigError, match="does not denoise: it has --mode train"):
            mode(classifier(), workdirs["classifier"])
    with pytest.raises(ConfigError, match="holds another model"):
        sample.sample(small(), workdirs["classifier"])
