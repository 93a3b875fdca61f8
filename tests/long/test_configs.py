"""Configs train a step and draw samples, each with the smallest network of its kind."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.config import build
from score_sde.data import gather, train_iterator
from score_sde.data.source import Arrays
from score_sde.experiment import build as experiments
from score_sde.experiment import samplers
from score_sde.experiment.program import compiled_step, stack
from score_sde.runtime import mesh
from score_sde.training.teacher import Teacher
from tests import latents
from tests.experiment.test_configs import ROOT, TRAINED, images, name, shrunken  # noqa: F401

# The paper's configs are made of a process, a network and a kind of training each, by
# configs/paper.py: here every one of them is met.
# These differ from digits_mean_flow.py or digits_edm.py by an objective that tests/training knows.
ALIKE = [
    "digits_alpha_flow",
    "digits_ctm",
    "digits_improved_mean_flow",
    "digits_terminal_velocity",
    "few_steps",
    # they draw no samples: tests/long/test_latent_modes.py trains one
    *("digits_autoencoder", "shapes_autoencoder", "emoji_autoencoder"),
    "emoji_text",  # as shapes.py
    # they train over the workdir of another: tests/long/test_shape_worlds.py
    *("shapes_outline", "shapes_lora", "shapes_dreambooth", "emoji_lora"),
]
COMBINED = [
    "subvp/cifar10_ncsnpp_continuous.py",
    "ve/bedroom_ncsnpp_continuous.py",
    "vp/cifar10_ddpm.py",
]


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in TRAINED
        if (path.parent == ROOT and "class" not in path.stem and path.stem not in ALIKE)
        or name(path) in COMBINED
    ],
    ids=name,
)
def test_trains_and_draws(path, images):  # noqa: F811
    with jax.default_prng_impl("unsafe_rbg"):  # compiles in a fraction of the time
        train_and_draw(shrunken(path, images))


def square_of_target(config, experiment):
    """Mean and standard deviation over t of weight / density * E[target^2]."""
    sde, parametrization = experiment.model.sde, experiment.model.parametrization
    law, weighting = (
        build(f"training.{part}", config.objective[part]) for part in ("time_law", "weighting")
    )
    t = law.quantile(sde, jnp.asarray((np.arange(1000) + 0.5) / 1000, jnp.float32))
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    c_skip, c_out, _ = parametrization.scales(alpha, sigma)
    raw = gather(experiment.data.train, np.arange(36))
    square = float(jnp.mean(experiment.prepare(jax.random.key(0), raw)["x"] ** 2))
    target2 = ((1 - c_skip * alpha) / c_out) ** 2 * square + (c_skip * sigma / c_out) ** 2
    weight = weighting(sde, t) / law.density(sde, t) * (c_out * (alpha**2 + sigma**2) / sigma) ** 2
    return float(jnp.mean(weight * target2)), float(jnp.std(weight * target2))


def teacher_of(config, one):
    """A network that nobody trained, for an objective that has a teacher."""
    if not config.objective.get("teacher"):
        return None
    plain = config.copy_and_resolve_references()
    plain.objective = {"name": "denoising", "time_law": "uniform", "weighting": "simple"}
    plain.net.numbers = ()
    experiment = experiments.build_experiment(plain)._replace(mesh=one)
    params = experiments.initial_state(plain, experiment).params
    params = jax.tree.map(lambda a: a + 0.1, params)  # of another output than zero
    return Teacher(jax.tree_util.Partial(experiment.model.denoiser, params), params)


def paired(config, experiment):
    """The training examples, each with a noise where the objective learns from pairs."""
    source = experiment.data.train
    if not config.objective.get("pairs"):
        return source
    noise = np.random.default_rng(0).normal(size=(len(source), *experiment.codec.shape))
    return Arrays(**gather(source, np.arange(len(source))), noise=noise.astype(np.float32))


def train_and_draw(config):
    one = mesh.make(1, jax.devices()[:1])  # tests/modes/test_train.py has eight
    experiment = experiments.build_experiment(
        config, teacher=teacher_of(config, one), load=latents.load_of(config)
    )
    experiment = experiment._replace(mesh=one)
    state = experiments.initial_state(config, experiment)
    before = jax.device_get(state.params)
    source = paired(config, experiment)
    batches = train_iterator(source, batch_size=8, seed=0)
    step = compiled_step(config, experiment, 1)
    state, metrics = step(jax.random.key(0), state, stack(batches, 1, experiment.sharded(axis=1)))
    if config.objective.name == "denoising":
        # At its start the network's output is zero, up to the 1e-10 of its last layer, so the loss
        # is the mean square of the target: within four errors of chi^2 over the numbers of 8
        # examples and of what eight draws of t leave.
        mean, spread = square_of_target(config, experiment)
        numbers = math.prod(experiment.codec.shape)
        scale = 1.0 if config.objective.reduction == "mean" else numbers / 2
        error = np.hypot(mean * np.sqrt(2 / (8 * numbers)), spread / np.sqrt(8))
        assert abs(float(metrics["loss"][0]) / scale - mean) < 4 * error
    # One step of Adam moves each weight that has a gradient by the learning rate of its part. RAdam
    # begins as momentum, whose step is that times the gradient.
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(), state.params, before)
    largest = max(jax.tree.leaves(moved))
    rate = config.optim.learning_rate * max([1.0, *experiment.objective.rates.values()])
    if config.optim.optimizer == "radam":
        rate *= float(metrics["gradient_norm"][0])
        assert 0 < largest <= rate * (1 + 1e-2)
    else:
        assert largest == pytest.approx(rate, rel=1e-2)

    drawn = samplers.build_sampler(config, experiment, 8)(state.ema[0], jax.random.key(1))
    raw = experiment.data.train[0][experiment.codec.part]
    shown = jax.eval_shape(experiment.codec.show_raw, raw)
    assert drawn.shown.shape == (8, *shown.shape)
    assert drawn.shown.dtype == shown.dtype
    assert np.all(np.asarray(drawn.nfe) >= 2 + config.sampling.denoise)
