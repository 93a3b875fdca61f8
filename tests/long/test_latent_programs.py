"""Compiled programs of latent models: frozen parameters are arguments, the decoder runs once, and
an identity in the place of an autoencoder changes no bit."""

import chex
import jax
import numpy as np

from configs import digits_dit
from score_sde.codecs import moments
from score_sde.data import train_iterator
from score_sde.experiment import build, program, samplers
from score_sde.runtime import mesh
from score_sde.training import perceptual
from score_sde.types import Needs
from tests import latents
from tests.latents import Blocks, frozen, small

BULK = 54_321  # parameters of an autoencoder, which are in nothing else


def bulky(folder):
    return frozen(Blocks(bulk=BULK), folder, shift=[0.0] * 4, scale=[1.0] * 4)


def check_arguments(text, name):
    """The bulk is an argument of the function of this name, and no text is as long as it."""
    head = next(line for line in text.splitlines() if "func.func" in line and f"@{name}" in line)
    assert f"tensor<{BULK}xf32>" in head
    assert not [line for line in text.splitlines() if len(line) > 4 * BULK]


def test_the_autoencoder_is_an_argument_of_a_training_step():
    config = small()
    experiment = build.build_experiment(config, load=bulky)
    check_arguments(program.lowered_step(config, experiment).as_text(), "main")


def test_features_of_a_loss_are_arguments_of_a_training_step(monkeypatch):
    """Those of a network that an autoencoder's images are compared in."""

    def heavy():
        def make(net):
            return jax.tree_util.Partial(lambda p, x: [x * p["others"].mean()], net.params)

        return Needs(("DIR",), make)

    monkeypatch.setattr(perceptual, "random_convolutions", heavy)
    config = small()
    config.codec = "pixels()"
    config.objective = {"name": "autoencoding", "time_law": "uniform"}
    config.objective.perceptual = "random_convolutions()"
    model = build.build_model(config)
    monkeypatch.setattr(build, "build_model", lambda config: model._replace(net=Blocks()))
    experiment = build.build_experiment(config, load=bulky)
    check_arguments(program.lowered_step(config, experiment).as_text(), "main")


def test_the_autoencoder_is_an_argument_of_the_sampler():
    """The function that the sampler compiles; what calls it here holds the arrays."""
    config = small()
    experiment = build.build_experiment(config, load=bulky)
    params = build.abstract_state(experiment).params
    sampler = samplers.build_sampler(config, experiment, 8)
    text = jax.jit(sampler).lower(params, jax.random.key(0)).as_text()
    body = text[text.index("func.func private @draw") :]
    check_arguments(body, "draw")


def test_the_decoder_runs_once_for_a_batch(monkeypatch):
    """However many steps there are; and the encoder never."""
    calls = []

    class Counted(Blocks):
        def encode(self, x):
            jax.debug.callback(lambda: calls.append("encode"))
            return super().encode(x)

        def decode(self, z):
            jax.debug.callback(lambda: calls.append("decode"))
            return super().decode(z)

    monkeypatch.setitem(latents.NETS, "counted", Counted())
    config = small("counted", **{"sampling.steps": 5})
    one = mesh.make(1, jax.devices()[:1])
    experiment = build.build_experiment(config, load=latents.load)._replace(mesh=one)
    params = build.initial_state(config, experiment).params
    sampler = samplers.build_sampler(config, experiment, 8)
    jax.effects_barrier()
    calls.clear()
    for first in (0, 8):
        jax.block_until_ready(sampler(params, jax.random.key(0), first))
    jax.effects_barrier()
    assert calls == ["decode", "decode"]


def test_an_identity_in_the_place_of_an_autoencoder(monkeypatch):
    """A transformer on the latents of an autoencoder that leaves images as they are, without noise,
    trains and samples as that on the images, bit for bit."""
    monkeypatch.setattr(moments, "LOG_VARIANCES", (-np.inf, 20.0))
    monkeypatch.setattr(latents, "CERTAIN", -np.inf)
    one, found = mesh.make(1, jax.devices()[:1]), []
    for codec in ("pixels()", "autoencoder(workdir='pixels')"):
        config = digits_dit.get_config()
        config.net.update({"patch_size": 4, "width": 8, "depth": 1, "num_heads": 2})
        config.train.update(steps=2, batch_size=16, ema_warmup=False)
        config.optim.warmup = 1
        config.sampling.update(solver="ddim", grid="log_snr", steps=3, batch_size=8)
        config.codec = codec
        experiment = build.build_experiment(config, load=latents.load)._replace(mesh=one)
        state = build.initial_state(config, experiment)
        step = program.compiled_step(config, experiment, 1)
        batches = train_iterator(experiment.data.train, batch_size=16, seed=0)
        for _ in range(2):
            batch = program.stack(batches, 1, experiment.sharded(axis=1))
            state, metrics = step(jax.random.key(1), state, batch)
        drawn = samplers.build_sampler(config, experiment, 8)(state.params, jax.random.key(2))
        found.append(jax.device_get((state, metrics, drawn)))
    chex.assert_trees_all_equal(*found, strict=True)
