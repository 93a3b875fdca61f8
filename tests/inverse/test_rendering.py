"""Pictures of voxels: closed forms of what is absorbed, and which way is which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.inverse import rendering
from score_sde.inverse.rendering import about_z, render, seen_from, silhouette, turned


def test_an_even_medium_absorbs_exponentially(x64):
    """n layers of density d and one colour c: c (1 - e^-nd) + background e^-nd."""
    density = jnp.full((6, 2, 3), 0.3)
    colour = jnp.broadcast_to(jnp.array([1.0, 0.5]), (6, 2, 3, 2))
    left = np.exp(-6 * 0.3)
    truth = np.array([1.0, 0.5]) * (1 - left) + 0.2 * left
    np.testing.assert_allclose(render(density, colour, 0.2), np.tile(truth, (2, 3, 1)), rtol=1e-12)
    np.testing.assert_allclose(silhouette(density), np.full((2, 3, 1), 1 - left), rtol=1e-12)


def test_two_layers_by_hand_and_the_gradient_by_differences(x64):
    rng = np.random.default_rng(0)
    density, colour = (jnp.asarray(rng.random(shape)) for shape in ((2, 1, 1), (2, 1, 1, 1)))
    (a, b), (c, d) = density[:, 0, 0], colour[:, 0, 0, 0]
    truth = (1 - np.exp(-a)) * c + np.exp(-a) * (1 - np.exp(-b)) * d + np.exp(-a - b) * 0.7
    assert float(render(density, colour, 0.7)[0, 0, 0]) == pytest.approx(float(truth), rel=1e-12)

    def light(density):
        return jnp.sum(render(density, colour, 0.7))

    gradient = jax.grad(light)(density)
    for i in range(2):
        step = jnp.zeros_like(density).at[i].set(1e-6)
        slope = (light(density + step) - light(density - step)) / 2e-6
        assert float(gradient[i, 0, 0]) == pytest.approx(float(slope), rel=1e-7)


def test_the_sides():
    """One opaque voxel of each corner's colour: the nearest hides the others, z is up."""
    volume = jnp.zeros((3, 3, 3)).at[0, 0, 0].set(1).at[2, 1, 2].set(2).at[1, 2, 0].set(3)
    front, right, above = (seen_from(side, volume) for side in rendering.SIDES)
    assert front[0, 2, 0] == right[2, 2, 0] == above[2, 2, 0] == 1
    assert front[1, 0, 2] == right[0, 0, 1] == above[0, 1, 2] == 2
    assert front[2, 2, 1] == right[1, 2, 2] == above[2, 0, 1] == 3
    opaque = jnp.zeros((3, 3, 3)).at[0, 0, 0].set(50.0).at[0, 2, 0].set(50.0)
    colour = jnp.zeros((3, 3, 3, 1)).at[0, 0, 0].set(1.0).at[0, 2, 0].set(0.5)
    seen = render(seen_from("front", opaque), seen_from("front", colour))
    np.testing.assert_allclose(seen[..., 0], _at(2, 0, 1.0), atol=1e-6)
    with pytest.raises(ValueError, match="there is no side 'below': one of front, right, above"):
        seen_from("below", volume)


def _at(row, column, value):
    picture = np.zeros((3, 3))
    picture[row, column] = value
    return picture


def test_a_quarter_turn_moves_voxels(x64):
    """About z by 90 degrees: x becomes y."""
    volume = jax.random.normal(jax.random.key(0), (4, 4, 4, 2))
    quarter = turned(volume, about_z(jnp.asarray(np.pi / 2)))
    np.testing.assert_allclose(quarter, np.rot90(volume, axes=(0, 1)), atol=1e-12)
    # a ramp is linear, so that interpolation between voxels is exact where they are all inside
    x, y, z = (a - 4.0 for a in jnp.meshgrid(*(jnp.arange(9.0),) * 3, indexing="ij"))
    angle = 0.4
    ramp = turned(x + 2 * y + 3 * z, about_z(jnp.asarray(angle)))
    back_x, back_y = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    truth = back_x + 2 * back_y + 3 * z
    np.testing.assert_allclose(ramp[2:7, 2:7], truth[2:7, 2:7], atol=1e-12)
