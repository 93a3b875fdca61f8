"""Autoencoders whose latents are known, for tests of latent models."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from configs import digits_classifier
from score_sde.codecs.pixels import pixels
from score_sde.experiment import build, digests, workdirs
from score_sde.runtime.checkpoint import Checkpoints
from score_sde.types import Feature, Frozen
from tests import perceptron

CERTAIN = -30.0  # a log variance: the least that counts


class Blocks(nn.Module):
    """The latents of an image are its squares of n x n pixels, a channel for each pixel; with n = 1
    the image itself. The parameters are the gain, and others that change nothing."""

    n: int = 2
    bulk: int = 1

    def setup(self):
        self.gain = self.param("gain", nn.initializers.ones, ())
        self.others = self.param("others", nn.initializers.ones, (self.bulk,))

    def encode(self, x):
        b, h, w, c = x.shape
        z = x.reshape(b, h // self.n, self.n, w // self.n, self.n, c).transpose(0, 1, 3, 2, 4, 5)
        z = z.reshape(b, h // self.n, w // self.n, -1) * self._one
        return jnp.concatenate([z, jnp.full_like(z, CERTAIN)], axis=-1)

    def decode(self, z):
        b, h, w, _ = z.shape
        x = z.reshape(b, h, w, self.n, self.n, -1).transpose(0, 1, 3, 2, 4, 5)
        return x.reshape(b, h * self.n, w * self.n, -1) / self._one

    def __call__(self, x, noise=None, cond=None, train=False):
        return self.decode(jnp.split(self.encode(x), 2, axis=-1)[0])

    @property
    def _one(self):
        return self.gain * jnp.mean(self.others)


def frozen(net=None, digest="one", shift=0.0, scale=1.0, **codec):
    """A network of latents of the digits, as `experiment.frozen.load` gives it."""
    net = net or Blocks()
    params = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))["params"]

    def inner(features):
        return pixels({"image": digits_image(), **features}, **codec)

    return Frozen(net, params, digest, {"codec": inner, "shift": shift, "scale": scale})


def frozen_in(folder):
    """In the place of `experiment.frozen.load`: an autoencoder of images of any channels."""
    return frozen(digest=folder)


def load_of(config):
    """What loads the frozen networks of a config: autoencoders or, of a reward, a classifier of the
    same x that nobody trained."""
    if not config.objective.get("reward"):
        return frozen_in

    def load(folder):
        classifier, other = digits_classifier.get_config(), config.copy_and_resolve_references()
        other.net, other.objective = classifier.net, classifier.objective
        experiment = build.build_experiment(other)
        params = jax.device_get(build.initial_state(other, experiment).params)
        # of logits that depend on x, and that differ by class
        params = jax.tree.map(lambda a: a + _waves(a), params)
        about = {"model": experiment.model, "gives": experiment.objective.gives}
        return Frozen(experiment.model.net, params, folder, about)

    return load


def _waves(a):
    return (0.1 * np.sin(np.arange(a.size))).reshape(a.shape).astype(a.dtype)


def seen_beside(config, channels):
    """Sets the channels of the latents that a network which edits by instruction sees beside x."""
    if config.adapter:
        config.adapter = re.sub(r"cond_channels=\d+", f"cond_channels={channels}", config.adapter)
    if "cond_channels" in config.net and config.net.cond_channels:
        config.net.cond_channels = channels


def digits_image():
    """The feature of the images of the digits."""
    return Feature((8, 8, 1), 17)


NETS = {
    "one": Blocks(),
    "two": Blocks(),
    "pixels": Blocks(1),
}
"""Autoencoders by the names of folders that are not there."""


def load(folder):
    """In the place of `experiment.workdirs.load_frozen`. The name is the digest too."""
    net = NETS[folder]
    channels = net.n**2
    return frozen(net, folder, shift=[0.0] * channels, scale=[1.0] * channels)


def small(folder="one", **changes):
    """A perceptron on latents of the digits, without labels: a few steps on eight devices."""
    config = perceptron.get_config()
    config.codec = f"autoencoder(workdir='{folder}')"
    config.train.update(steps=3, batch_size=16, log_every=2, checkpoint_every=4, sample_every=0)
    config.sampling.update(solver="ddim", grid="log_snr", steps=3, num_samples=8, batch_size=64)
    config.update_from_flattened_dict(changes)
    return config


def gaussian(folder="one", **changes):
    """The same with EDM's parametrization: with an output of zero, its start, the network is the
    exact denoiser of N(0, 0.16)."""
    config = small(folder)
    config.parametrization, config.c_noise = "edm(sigma_data=0.4)", "log_snr(scale=0.1)"
    config.update_from_flattened_dict(changes)
    return config


def untrained(config, workdir):
    """A workdir whose only checkpoint is what a training starts from."""
    experiment = workdirs.load(config)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(0, build.initial_state(config, experiment), None, {})
    checkpoints.close()
    workdirs.store_config(config, workdir)
    digests.store(experiment, workdir)
