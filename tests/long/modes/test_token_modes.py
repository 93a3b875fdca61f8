"""Modes of a model of tokens: the same as of any other, and what it cannot do is told."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits_tokens
from score_sde.errors import ConfigError
from score_sde.experiment import workdirs
from score_sde.experiment.build import key_for
from score_sde.modes.detect import detect
from score_sde.modes.edit import edit
from score_sde.modes.evaluate import evaluate
from score_sde.modes.likelihood import likelihood
from score_sde.modes.pairs import pairs
from score_sde.modes.sample import sample
from score_sde.modes.solvers import solvers
from score_sde.modes.train import train
from score_sde.sampling.likelihood import elbo
from tests.modes.test_train import equal, final_state
from tests.stored import arrays


def small(**changes):
    """A perceptron of tokens, eight steps."""
    config = digits_tokens.get_config()
    config.net = {"name": "mlp.MLP", "features": (32,)}
    config.train.update(steps=8, batch_size=16, log_every=2, checkpoint_every=4, sample_every=0)
    config.sampling.update(steps=4, num_samples=8, batch_size=8)
    config.likelihood.batch_size = 150
    config.evaluate.update(num_samples=16)
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    train(small(), workdir)
    return workdir


def test_a_run_that_goes_on_is_the_same(run, tmp_path):
    train(small(**{"train.steps": 4, "optim.schedule": "constant"}), tmp_path / "a")
    train(small(**{"optim.schedule": "constant"}), tmp_path / "a")
    train(small(**{"optim.schedule": "constant"}), tmp_path / "b")
    config = small(**{"optim.schedule": "constant"})
    equal(final_state(config, tmp_path / "a"), final_state(config, tmp_path / "b"))


def test_samples_are_images_and_depend_on_their_numbers_alone(run):
    """Multiples of 255/16, as pixels show 17 values, whatever the size of the batch."""
    whole = sample(small(), run)
    found = arrays(run / "samples.npz")["samples"]
    assert whole["nfe"] == 4
    assert found.shape == (8, 8, 8, 1)
    assert set(np.unique(found)) <= {round(255 * i / 16) for i in range(17)}
    sample(small(**{"sampling.batch_size": 4}), run)
    np.testing.assert_array_equal(arrays(run / "samples.npz")["samples"], found)


@pytest.mark.parametrize("name", ["first_hitting", "remask(eta=0.05)", "confident", "tau_leaping"])
def test_solvers_of_tokens_draw_whole_images(run, name):
    result = sample(small(**{"sampling.solver": name}), run)
    assert result["nfe"] == (64 if name == "first_hitting" else 4)


def test_the_likelihood_is_the_bound_of_each_example(run):
    """The mean over the test images of what `elbo` gives for each, with its own key."""
    result = likelihood(small(), run)
    trained = workdirs.restore(small(), run)
    experiment, source = trained.experiment, trained.experiment.data.test
    root = key_for(small(), "likelihood")
    x = jnp.asarray(np.stack([source[i]["image"] for i in range(len(source))])).reshape(-1, 64)
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(root, i))[1])(jnp.arange(len(x)))
    denoiser = experiment.objective.result(trained.params, {})
    nats = elbo(keys, experiment.model.sde, denoiser, x.astype(jnp.int32))
    bits = -np.asarray(nats) / (64 * np.log(2))
    assert result["bits_per_dim"] == pytest.approx(float(bits.mean()), rel=1e-5)
    assert result["nfe"] == 64


def test_evaluate_has_the_loss_the_likelihood_and_metrics(run):
    config = small(**{"evaluate.parts": ("loss", "likelihood", "metrics"), "evaluate.nfe": (2, 4)})
    evaluate(config, run)
    result = json.loads((run / "evaluate.json").read_text())
    assert [row.get("nfe") for row in result["metrics"]["rows"]] == [None, 2, 4]
    errors = result["loss"]["token_error"]["value"]
    assert errors[0] == pytest.approx(1, abs=0.1)  # most noise: little is known after 8 steps
    assert errors[-1] < 1e-6


@pytest.mark.parametrize("mode", [edit, detect, solvers, pairs])
def test_what_needs_real_numbers_is_refused_in_one_line(run, mode):
    config = small(**{"watermark.key": 1})
    with pytest.raises(ConfigError, match="of tokens gives probabilities") as error:
        mode(config, run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling.denoise": True}, "denoise=False"),
        ({"likelihood.bound": None}, "likelihood.bound='elbo"),
        ({"evaluate.parts": ("field",)}, "of tokens gives probabilities"),
        ({"sampling.solver": "ddim"}, "take flow_map, or of tokens unmask"),
        ({"sampling.guidance": "apg(weight=3.0)"}, "of tokens take geometric"),
    ],
)
def test_mistakes_are_told_in_one_line(run, changes, message):
    mode = likelihood if "likelihood.bound" in changes else sample
    mode = evaluate if "evaluate.parts" in changes else mode
    with pytest.raises(ConfigError, match=message) as error:
        mode(small(**changes), run)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sde": "VP"}, "set sde='Masking'"),
        ({"sde": "Uniform(values=5)"}, "values=17"),
        ({"parametrization": "eps"}, "without_itself"),
        ({"parametrization": "without_itself(values=5)"}, "values=17"),
        ({"parametrization": "posterior(values=17)"}, "redraw known tokens"),
        ({"c_noise": "log_snr"}, "c_noise='time'"),
        ({"codec": {"name": "pixels"}}, "image_tokens"),
    ],
)
def test_parts_that_do_not_go_together_are_told(changes, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        train(small(**changes), tmp_path)
