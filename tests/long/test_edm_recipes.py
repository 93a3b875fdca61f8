"""The recipes of EDM and EDM2: what their docstrings say, laws by hand, and a step of each."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import edm, edm2
from score_sde.config import build
from score_sde.data import train_iterator
from score_sde.experiment import build as experiments
from score_sde.experiment import optimization, requests, samplers
from score_sde.experiment.program import compiled_step, stack
from score_sde.models.model import num_params
from score_sde.runtime import mesh
from score_sde.training import ema

ALL = [(module, name) for module in (edm, edm2) for name in module.RECIPES]
SMALL = {"model_channels": 8, "channel_mult": (1,), "num_blocks": 1, "attn_resolutions": ()}


def row(module, name):
    """The line of a recipe in the docstring, without its name."""
    line = re.search(rf"^    (?:\S+, )?{name}\b.*$", module.__doc__, re.MULTILINE)[0]
    return re.split(r"\s{2,}", line.strip())[1:]


@pytest.mark.parametrize(
    ("module", "name"),
    [pair for pair in ALL if pair[1] in ("cifar10-cond-ve", "img512-s")],
    ids=lambda part: part if isinstance(part, str) else "",
)
def test_sizes_in_the_docstring(module, name):
    config = module.get_config(name)
    side, channels = (64, 4) if "512" in name else (config.data.image_size or 32, 3)
    net = experiments.build_model(config).net
    cond = {"label": jnp.zeros(1, jnp.int32)}

    def init(key):
        return net.init(key, jnp.zeros((1, side, side, channels)), jnp.ones(1), cond)["params"]

    millions = num_params(jax.eval_shape(init, jax.random.key(0))) / 1e6
    assert f"{millions:.1f}" in row(module, name)[0]


@pytest.mark.parametrize(("module", "name"), ALL, ids=lambda p: p if isinstance(p, str) else "")
def test_every_recipe_names_what_exists(module, name):
    config = module.get_config(name)
    steps = [cell for cell in row(module, name) if re.fullmatch(r"\d{3},\d{3}|1,048,576", cell)]
    assert f"{config.train.steps:,}" in steps
    experiment = experiments.build_experiment(config)
    build("data.augment", config.data.augment, experiment.data.features)
    sde = requests.sampling_sde(config)
    solver = build("solvers", config.sampling.solver, sde)
    evaluations = 2 * config.sampling.steps + config.sampling.denoise
    assert evaluations == {"cifar10": 35, "ffhq": 79, "afhqv2": 79, "imagenet64": 511}.get(
        name.split("-")[0], 63
    )
    assert solver.nfe is None  # each step has two evaluations, which `sample` counts
    if "EMA" not in name and config.sampling.ema_length:
        assert f"@{config.sampling.ema_length:.3f}" in " ".join(row(module, name))


def test_laws_of_edm_by_hand():
    """At a batch of 512: a rate of 1e-3 after 10 million images; a half-life of 500,000 images, or
    a twentieth of those so far."""
    config = edm.get_config("cifar10-uncond-vp")
    _, rate = optimization.build_optimizer(config)
    with jax.numpy_dtype_promotion("standard"):
        for step in (1, 5000, 19_532, 300_000):
            assert float(rate(step)) == pytest.approx(1e-3 * min(step * 512 / 10e6, 1), rel=1e-3)
    (average,) = optimization.build_averages(config)
    for step in (100, 10_000, 300_000):
        images = step * 512
        beta = 0.5 ** (512 / min(0.5e6, 0.05 * images))
        assert 1 - float(average(jnp.asarray(step))) == pytest.approx(beta, rel=1e-5)


def test_laws_of_edm2_by_hand():
    """ref_lr / sqrt(max(step / ref_batches, 1)) min(images / 10^7, 1), and lengths .05 and .10."""
    config = edm2.get_config("img512-s")
    _, rate = optimization.build_optimizer(config)
    with jax.numpy_dtype_promotion("standard"):
        for step in (1000, 4883, 60_000, 70_001, 500_000):
            wanted = 0.01 / math.sqrt(max(step / 70_000, 1)) * min(step * 2048 / 10e6, 1)
            assert float(rate(step)) == pytest.approx(wanted, rel=2e-4)
    averages = optimization.build_averages(config)
    for average, length in zip(averages, (0.05, 0.1), strict=True):
        gamma = ema.gamma_of(length)  # beta is (1 - dt/t)^(gamma + 1)
        assert float(average(jnp.asarray(999))) == pytest.approx(1 - 0.999 ** (gamma + 1), rel=1e-4)
    law, weighting = (
        build(f"training.{part}", config.objective[part]) for part in ("time_law", "weighting")
    )
    sde = experiments.build_model(config).sde
    u = jnp.asarray((np.arange(2000) + 0.5) / 2000, jnp.float32)
    log_sigma = np.log(law.quantile(sde, u))
    assert log_sigma.mean() == pytest.approx(-0.4, abs=5e-3)
    assert log_sigma.std() == pytest.approx(1.0, abs=5e-3)
    assert "edm(mean=-0.4, std=1.0" in config.objective.weighting
    assert weighting(sde, u[:1] + 1).shape == (1,)


def small(module, name, folder):
    """A recipe with the smallest network of its kind, and data of 8x8."""
    config = module.get_config(name)
    rng = np.random.default_rng(0)
    if config.codec.name == "pixels":
        images = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
        np.savez(folder / "images.npz", image=images, label=np.arange(40) % 10)
        config.data = {
            "name": "npz",
            "path": str(folder / "images.npz"),
            "augment": config.data.augment,
        }
        config.net.num_classes = min(config.net.num_classes, 10)
    else:
        latent = rng.normal(size=(40, 8, 8, 4)).astype(np.float32) / 2
        np.save(folder / "latents.npy", latent)
        np.save(folder / "labels.npy", np.arange(40) % 10)
        config.data.update(path=str(folder), augment="none")
    config.net.update(SMALL)
    config.train.update(batch_size=8, steps=1)
    config.optim.warmup = 1
    config.sampling.update(steps=2, num_samples=8, batch_size=8, ema_length=None)
    return config


@pytest.mark.parametrize(
    ("module", "name"), [(edm, "cifar10-cond-ve"), (edm2, "img512-m")], ids=["edm", "edm2"]
)
def test_a_step_and_a_draw(module, name, tmp_path):
    """The augmentation's numbers reach the network; EDM2's stored weights stay normalised."""
    config = small(module, name, tmp_path)
    with jax.default_prng_impl("unsafe_rbg"):  # compiles in a fraction of the time
        one = mesh.make(1, jax.devices()[:1])
        experiment = experiments.build_experiment(config)._replace(mesh=one)
        state = experiments.initial_state(config, experiment)
        before = jax.device_get(state.params)
        augment = build("data.augment", config.data.augment, experiment.data.features)
        batches = train_iterator(experiment.data.train, batch_size=8, seed=0, augment=augment)
        batch = stack(batches, 1, experiment.sharded(axis=1))
        step = compiled_step(config, experiment, 1)
        state, metrics = step(jax.random.key(0), state, batch)
        assert np.isfinite(metrics["loss"][0])
        after = jax.device_get(state.params)
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), after, before)
        if module is edm:
            assert moved["map_augment"]["kernel"] > 0
            assert np.abs(batch["augment"]).max() > 0
        else:
            for leaf in jax.tree.leaves(after):
                if leaf.ndim > 1:
                    rms = np.sqrt(np.mean(leaf**2, axis=tuple(range(leaf.ndim - 1))))
                    np.testing.assert_allclose(rms, 1, atol=3e-4)
            assert moved["logvar_linear"]["kernel"] > 0
        drawn = samplers.build_sampler(config, experiment, 8)(state.ema[0], jax.random.key(1))
    assert bool(drawn.finite.all())
    assert int(drawn.nfe) == 5
