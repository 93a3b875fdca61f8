"""A decoder is inverted, whatever its encoder gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.codecs.autoencoder import autoencoder
from score_sde.codecs.decoder import inverted
from score_sde.codecs.pixels import pixels
from tests import latents

FEATURES = {"image": latents.digits_image()}


class Mixing(latents.Blocks):
    """The decoder mixes the 4 numbers of each 2 x 2 pixels by a matrix of condition number 4, and
    the encoder knows nothing of it."""

    def decode(self, z):
        turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
        return super().decode(z @ jnp.asarray(turn * [0.5, 1, 1.5, 2], z.dtype))


def codec():
    return autoencoder(FEATURES, workdir="DIR", scale=(1.0, 2.0, 1.0, 0.5)).make(
        latents.frozen(Mixing())
    )


def test_the_latent_is_found_though_the_encoder_does_not_know_it():
    """Of an image in 17 values, as near as those allow: half a value of [-1, 1] is 1/16, and the
    matrix makes at most 2 of it, times a scale of at most 2."""
    made = codec()
    x = jax.random.uniform(jax.random.key(0), (3, 4, 4, 4), minval=-0.3, maxval=0.3)
    shown = made.show(made.decode(x))
    far = jnp.sqrt(jnp.mean((inverted(made, shown, 0) - x) ** 2))
    near = jnp.sqrt(jnp.mean((inverted(made, shown, 300) - x) ** 2))
    assert float(near) < 1 / 16 / np.sqrt(3) * 4
    assert float(far) > 3 * float(near)


def test_it_is_the_least_square():
    """The matrix is invertible, so the decoded image is the one that was shown, to the last bit
    once its numbers are values again; that of the encoder's latent is not."""
    made = codec()
    shown = np.random.default_rng(1).integers(0, 256, size=(2, 8, 8, 1)).astype(np.uint8)
    wanted = made.show_raw(made.raw_of(shown))  # with 17 values
    found = [made.show(made.decode(inverted(made, shown, steps))) for steps in (0, 300)]
    assert not np.array_equal(found[0], wanted)
    np.testing.assert_array_equal(found[1], wanted)


@pytest.mark.parametrize("steps", [0, 5])
def test_pixels_are_located_exactly(steps):
    plain = pixels(FEATURES)
    shown = np.random.default_rng(1).integers(0, 256, size=(2, 8, 8, 1)).astype(np.uint8)
    np.testing.assert_array_equal(inverted(plain, shown, steps), plain.locate(shown))


def test_no_step_is_what_the_encoder_gives():
    made = codec()
    shown = np.full((1, 8, 8, 1), 200, np.uint8)
    np.testing.assert_array_equal(inverted(made, shown, 0), made.locate(shown))
