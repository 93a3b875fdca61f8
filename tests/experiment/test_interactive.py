"""`score_sde.load`: what a notebook does is what the modes do."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import score_sde
from score_sde.errors import CheckpointError, ConfigError, ConvergenceError
from score_sde.experiment import build, workdirs
from score_sde.modes.likelihood import likelihood
from score_sde.modes.sample import sample
from score_sde.modes.train import train
from tests.modes.test_train import small
from tests.stored import arrays

LIKELIHOOD = {"rtol": 1e-2, "atol": 1e-2, "probes": 1}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    train(small(), workdir)
    return workdir


def test_fields_that_are_meant_are_not_reported(run, capsys):
    score_sde.load(run, **{"sampling.steps": 5})
    assert capsys.readouterr().out == ""


def test_samples_are_those_of_the_mode(run):
    """With its key; by another solver as with those options; whatever their number."""
    config = small()
    sample(config, run)
    truth = arrays(run / "samples.npz")["samples"]
    model = score_sde.load(run)
    key = build.key_for(config, "sample")
    np.testing.assert_array_equal(model.sample(key, 8), truth)
    np.testing.assert_array_equal(model.sample(key, 3), truth[:3])
    sample(small(**{"sampling.solver": "dpmpp", "sampling.steps": 5}), run)
    other = arrays(run / "samples.npz")["samples"]
    np.testing.assert_array_equal(model.sample(key, 8, solver="dpmpp", steps=5), other)
    assert not np.array_equal(truth, other)
    loaded = score_sde.load(run, **{"sampling.solver": "dpmpp", "sampling.steps": 5})
    np.testing.assert_array_equal(loaded.sample(key, 8), other)


def test_noise_that_is_given(run):
    """The samples start from it: those of a batch, and of one alone, in any place of it."""
    model = score_sde.load(run)
    key = jax.random.key(0)
    x = np.asarray(model.process.prior_sample(key, (10, *model.codec.shape), np.float32))
    drawn = model.sample(key, 10, x=x)
    np.testing.assert_array_equal(model.sample(jax.random.key(1), 10, x=x), drawn)  # ddim
    np.testing.assert_array_equal(model.sample(key, 1, x=x[7:8])[0], drawn[7])
    assert not np.array_equal(drawn[0], drawn[1])


def test_the_denoiser_is_the_networks(run):
    model = score_sde.load(run)
    experiment, params, step = workdirs.restore(small(), run)
    assert model.step == step == 8
    x, t = jax.random.normal(jax.random.key(0), (2, 8, 8, 1)), jnp.float32(0.4)
    nothing = {"label": jnp.full(2, -1)}
    truth = experiment.model.denoiser(params, nothing)(x, t)
    for denoiser in (model.denoiser(), model.denoiser(nothing)):
        np.testing.assert_array_equal(denoiser(x, t), truth)
    assert jax.tree.structure(model.params) == jax.tree.structure(params)


def test_likelihoods_are_those_of_the_mode(run):
    config = small()
    config.likelihood.update(LIKELIHOOD)
    model = score_sde.load(run)
    raw = np.stack([model.data.test[i]["image"] for i in range(297)])
    labels = np.array([model.data.test[i]["label"] for i in range(297)])
    found = model.log_likelihood(
        build.key_for(config, "likelihood"), raw, labels=labels, **LIKELIHOOD
    )
    truth = likelihood(config, run)["bits_per_dim"]
    np.testing.assert_allclose(found.bits_per_dim.mean(), truth, rtol=1e-6)
    # 17 values in a cell of 2/17, for 64 pixels
    bits = -found.nats / (64 * np.log(2)) + np.log2(17) - 1
    np.testing.assert_allclose(found.bits_per_dim, bits, rtol=1e-5)


def test_x_is_shown_as_samples_are(run):
    """x = 2 v/16 - 1 of the values v in 0..16 is the grey 255 v/16."""
    model, v = score_sde.load(run), np.arange(64).reshape(1, 8, 8, 1) % 17
    shown = model.show((2 * v / 16 - 1).astype(np.float32))
    assert shown.dtype == np.uint8
    np.testing.assert_array_equal(shown, np.round(255 * v / 16))


def test_a_call_with_the_same_options_compiles_nothing(run):
    model, key = score_sde.load(run), jax.random.key(0)
    raw = np.stack([model.data.test[i]["image"] for i in range(3)])

    def twice():
        model.sample(key, 3, steps=2)
        model.log_likelihood(key, raw, **LIKELIHOOD)

    twice()
    with jax.log_compiles(), jax.no_tracing():
        twice()


def test_mistakes_are_one_line(run, tmp_path):
    model, key = score_sde.load(run), jax.random.key(0)

    def shape(*sizes):
        return np.zeros(sizes, np.float32)

    for call, message in (
        (lambda: model.sample(key, 1, step=3), r"no field 'sampling\.step'; did you mean 'steps'"),
        (lambda: model.sample(key, 1, steps="many"), r"sampling\.steps: .*"),
        (lambda: model.sample(key, 1, labels=(3,)), "the network has no classes"),
        (lambda: model.denoiser(labels=(3,)), "the network has no classes"),
        (lambda: model.denoiser(prompts="a cat"), r"conditioner labels reads sampling\.labels"),
        (lambda: model.sample(key, 1, solver="dpmp"), "did you mean 'dpmpp'"),
        (lambda: model.log_likelihood(key, shape(2, 16, 16, 3)), "image is 16x16x3, .* 8x8x1$"),
        (lambda: model.log_likelihood(key, shape(2)), "each image is a number, and the model's"),
        (lambda: model.sample(key, 2, x=shape(2, 8, 8, 3)), "each x is 8x8x3, and the model's"),
        (lambda: model.show(shape(8, 8, 1)), "each x is 8x1, and the model's are 8x8x1"),
        (lambda: model.sample(key, 0), "must be positive"),
        (lambda: score_sde.load(run, **{"samplin.steps": 3}), "no part 'samplin'; did you mean"),
        (lambda: score_sde.load(run, sead=3), "no field 'sead'; did you mean 'seed'"),
    ):
        with pytest.raises(ConfigError, match=message) as error:
            call()
        assert "\n" not in str(error.value)
    with pytest.raises(CheckpointError, match="run --mode train"):
        score_sde.load(tmp_path)
    with pytest.raises(ConvergenceError, match="1 of 1 samples are not finite"):
        model.sample(key, 1, x=np.full((1, 8, 8, 1), np.nan, np.float32))


def test_configs_of_earlier_versions_are_read(run, tmp_path):
    """One as it was stored before there were codecs, objectives and optimisers by name."""
    shutil.copytree(run, tmp_path / "old")
    path = tmp_path / "old" / "config.json"
    new = json.loads(path.read_text())
    old = json.loads(path.read_text())
    codec = old.pop("codec")
    old["conditioning"] = old.pop("c_noise")
    old["data"]["levels"] = old["data"].pop("num_values", None)
    old["watermark"]["level"] = old["watermark"].pop("p_value")
    for part in ("conditioner", "adapter"):
        del old[part]
    flip = old["data"].pop("augment") == "flip"
    old["data"] |= {"centered": codec["centered"], "dequantize": codec["dequantize"], "flip": flip}
    old["sampling"]["truncate"] = codec["truncate"]
    del old["optim"]["optimizer"]
    old["optim"] |= {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
    path.write_text(json.dumps(old))
    assert workdirs.as_json(workdirs.stored_config(tmp_path / "old")) == new
    key = jax.random.key(0)
    ours, truth = (score_sde.load(where).sample(key, 2) for where in (tmp_path / "old", run))
    np.testing.assert_array_equal(ours, truth)
    sample(small(), tmp_path / "old")  # and it is no other model
    # a betas of its own, and a classifier with the fields of denoising
    old["optim"]["beta2"] = 0.99
    old["objective"]["name"] = "classification"
    path.write_text(json.dumps(old))
    found = workdirs.stored_config(tmp_path / "old")
    assert found.optim.optimizer == "adamw(b2=0.99, weight_decay=0.0)"
    assert set(found.objective) == {"name", "time_law"}


@pytest.fixture(scope="module")
def of_classes(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("classes")
    options = {"net.num_classes": 10, "objective.drop_cond": 0.1, "optim.learning_rate": 0.1}
    train(small(**options, **{"sampling.guidance": "classifier_free(weight=2.0)"}), workdir)
    return workdir


def test_other_labels_are_the_same_program(of_classes):
    """Of samples, and of what is compiled over the denoiser."""
    model, key = score_sde.load(of_classes), jax.random.key(0)
    x, t = jax.random.normal(key, (3, 8, 8, 1)), jnp.float32(0.4)
    value = jax.jit(lambda denoiser, x: denoiser(x, t))

    def both(*labels):
        denoiser = model.denoiser(labels=labels)
        return model.sample(key, 3, labels=labels), value(denoiser, x)

    first = both(1, 2)
    with jax.no_tracing():
        other = both(3)
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[1], other[1])
    np.testing.assert_array_equal(score_sde.load(of_classes).sample(key, 3, labels=(3,)), other[0])
    denoiser = model.denoiser(labels=(3,))
    np.testing.assert_array_equal(denoiser(x, 0.4), denoiser(x, t))  # a number of Python is a time
    np.testing.assert_array_equal(
        value(score_sde.load(of_classes).denoiser(labels=(3,)), x), other[1]
    )


def test_the_program_over_a_denoiser_holds_no_parameters(of_classes):
    model = score_sde.load(of_classes)
    denoiser, x = model.denoiser(labels=(3,)), jnp.zeros((3, 8, 8, 1))
    traced = jax.make_jaxpr(lambda denoiser, x: denoiser(x, 0.4))(denoiser, x)
    held = sum(np.size(a) for a in traced.consts)
    parameters = sum(a.size for a in jax.tree.leaves(model.params))
    assert held < 0.01 * parameters
    given = {id(a) for a in jax.tree.leaves(denoiser)}
    assert given >= {id(a) for a in jax.tree.leaves(model.params)}
