"""Configs: what a docstring says of the size is true, and, shrunken, they train and draw."""

import functools
import importlib.util
import math
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.config import build
from score_sde.data import gather, train_iterator
from score_sde.experiment import build as experiments
from score_sde.experiment import samplers
from score_sde.experiment.program import compiled_step, stack
from score_sde.models.model import num_params
from score_sde.runtime import mesh

ROOT = Path(__file__).parent.parent.parent / "configs"
OTHERS = ("__init__.py", "base.py", "paper.py", "diffusers.py", "adm.py", "edm.py", "edm2.py")
FILES = sorted(path for path in ROOT.rglob("*.py") if path.name not in OTHERS)
TRAINED = [path for path in FILES if "--mode train" in path.read_text()]


def load(path):
    spec = importlib.util.spec_from_file_location("config_under_test", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name(path):
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "images.npz"
    image = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    latent = np.random.default_rng(1).normal(size=(40, 8, 8, 4)).astype(np.float32)
    np.savez(path, image=image, label=np.arange(40) % 10, latent=latent)
    return path


@functools.cache
def size_in_millions(net, side):
    """Of the parameters, of a network in full size; nothing is computed."""
    params = jax.eval_shape(
        lambda key: net.init(key, jnp.zeros((1, side, side, 3)), jnp.ones(1)), jax.random.key(0)
    )
    return round(num_params(params["params"]) / 1e6, 1)


@pytest.mark.parametrize("path", FILES, ids=name)
def test_docstring(path):
    module = load(path)
    config = module.get_config()
    assert f"--config configs/{name(path)}" in module.__doc__
    if size := re.search(r"([\d.]+)M parameters", module.__doc__):
        net = experiments.build_model(config).net.clone(dropout=0.0)
        assert size_in_millions(net, config.data.image_size or 32) == float(size[1])


def shrunken(path, images="images.npz"):
    """The smallest network of its kind, and images of 8x8 where it has images."""
    config = load(path).get_config()
    if config.codec.name == "pixels":
        config.data = {"name": "npz", "path": str(images), "augment": "none"}
    elif "path" in config.data:
        config.data.path = str(images)
    if "classifier" in path.stem:
        config.net.update(nf=8, ch_mult=(1,), attn_resolutions=())
    elif config.net.name == "dit.DiT":
        size = {"patch_size": 2, "width": 8, "depth": 1, "num_heads": 2}
        config.net.update(num_classes=10 if config.net.num_classes else 0, **size)
    elif path.parent == ROOT:  # most of the digits, whose U-Net tests/test_main.py trains
        classes = config.net.get("num_classes", 0)
        size = {"features": (16,), "embedding_dim": 8, "num_classes": classes}
        config.net = {"name": "mlp.MLP", **size}
    else:  # of one level, but for pyramids, which join two
        levels = (1, 1) if config.net.get("progressive", "none") != "none" else (1,)
        config.net.update(nf=8, ch_mult=levels, num_res_blocks=1, attn_resolutions=(), dropout=0.0)
    config.optim.warmup = 1
    config.train.update(batch_size=8, steps=1, ema_rates=(0.9,), ema_warmup=False)
    config.sampling.update(steps=2, num_samples=8, batch_size=8)
    return config


@pytest.mark.parametrize("path", TRAINED, ids=name)
def test_names_what_exists(path, images):
    config = shrunken(path, images)
    experiments.build_experiment(config)
    sde = samplers.sampling_sde(config)
    build("solvers", config.sampling.solver, sde)
    build("sampling.grids", config.sampling.grid, sde, 2)


# The paper's configs are made of a process, a network and a kind of training each, by
# configs/paper.py: here every one of them is met.
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
        if (path.parent == ROOT and "class" not in path.stem) or name(path) in COMBINED
    ],
    ids=name,
)
def test_trains_and_draws(path, images):
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


def train_and_draw(config):
    one = mesh.make(1, jax.devices()[:1])  # tests/modes/test_train.py has eight
    experiment = experiments.build_experiment(config)._replace(mesh=one)
    state = experiments.initial_state(config, experiment)
    before = jax.device_get(state.params)
    batches = train_iterator(experiment.data.train, batch_size=8, seed=0)
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
    # One step of Adam moves each weight that has a gradient by the learning rate.
    moved = jax.tree.map(lambda a, b: np.abs(np.asarray(a) - b).max(), state.params, before)
    largest = max(jax.tree.leaves(moved))
    assert largest == pytest.approx(config.optim.learning_rate, rel=1e-2)

    drawn = samplers.build_sampler(config, experiment, 8)(state.ema[0], jax.random.key(1))
    raw = experiment.data.train[0][experiment.codec.part]
    assert drawn.shown.shape == (8, *raw.shape)
    assert drawn.shown.dtype == raw.dtype
    assert np.all(np.asarray(drawn.nfe) >= 3)
