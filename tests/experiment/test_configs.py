"""Configs: what a docstring says of the size is true, and, shrunken, they make experiments."""

import functools
import importlib.util
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.config import build
from score_sde.experiment import build as experiments
from score_sde.experiment import requests
from score_sde.models.model import num_params
from tests import latents

ROOT = Path(__file__).parent.parent.parent / "configs"
OTHERS = (
    "__init__.py",
    "base.py",
    "paper.py",
    "diffusers.py",
    "stable_diffusion.py",
    "adm.py",
    "edm.py",
    "edm2.py",
)
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
    path.with_suffix(".txt").write_bytes(b"abcdefghijklmnopqrstuvwxyz " * 40)
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
    if config.data.name in ("shapes", "shape_edits", "moving_shapes"):  # which have captions
        config.data = {**config.data.to_dict(), "image_size": 16, "train": 40, "test": 40}
    elif config.data.name == "observed":
        pass  # of the digits
    elif config.data.name == "two_sets":
        few = ("blue", 0), ("red", 1)
        config.data.of = tuple(
            f"shapes(colours=({colour!r},), image_size=16, train=40, test=40, seed={seed})"
            for colour, seed in few
        )
    elif config.codec.name in ("pixels", "autoencoder"):
        config.data = {"name": "npz", "path": str(images), "augment": "none"}
    elif config.data.name == "text_file":
        config.data.update(path=str(Path(images).with_suffix(".txt")), length=16)
    elif config.codec.name in ("image_tokens", "tokens"):
        pass  # the digits, and the words within Python
    elif "path" in config.data:
        config.data.path = str(images)
    if "classifier" in path.stem:
        config.net.update(nf=8, ch_mult=(1,), attn_resolutions=())
    elif "autoencoder" in path.stem:
        config.net.update(channels=4, ch_mult=(1,), num_res_blocks=1, groups=2, in_channels=3)
    elif config.net.name in ("dit.DiT", "video.VideoDiT"):
        size = {"patch_size": 2, "width": 8, "depth": 1, "num_heads": 2}
        ours = "path" in config.data  # else the data are those of the config
        classes = 10 if ours and config.net.num_classes else config.net.num_classes
        context = 8 * 8 * 3 if config.net.context_features else 0  # of neighbours
        config.net.update(num_classes=classes, class_tokens_from=0, **size)
        config.net.context_features = context
        if config.codec.name == "autoencoder":
            latents.seen_beside(config, 12)  # those of `latents.frozen_in`
    elif config.net.name == "adm.ADM":  # its objective needs the learned variance
        config.net.update(nf=16, ch_mult=(1,), num_res_blocks=1, attn_rates=())
    elif path.parent == ROOT:  # most of the digits, whose U-Net tests/test_main.py trains
        classes = config.net.get("num_classes", 0)
        size = {"features": (16,), "embedding_dim": 8, "num_classes": classes}
        config.net = {"name": "mlp.MLP", **size, "numbers": config.net.get("numbers", ())}
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
    experiments.build_experiment(config, load=latents.load_of(config))
    sde = requests.sampling_sde(config)
    build("solvers", config.sampling.solver, sde)
    build("sampling.grids", config.sampling.grid, sde, 2)
