"""Neighbours of a database as conditions: exact search, and models whose truth is known."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import cKDTree

from score_sde import sampling, solvers
from score_sde.conditioning.conditioner import null, unknown
from score_sde.conditioning.labels import Labels
from score_sde.conditioning.neighbours import DATABASE, NEIGHBOURS, neighbours
from score_sde.conditioning.search import different, nearest
from score_sde.models import guidance
from score_sde.models.model import Model
from score_sde.models.parametrization import time, x0
from score_sde.processes import VP
from score_sde.processes.exact import Gaussian, Labelled, Mixture
from score_sde.sampling.grids import log_snr
from score_sde.types import Feature
from tests.latents import digits_image, frozen

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 17, (60, 8, 8, 1), dtype=np.uint8)
IMAGE = {"image": digits_image()}
POINT: Any = {"point": Feature((2,))}
MEANS = 6 * np.array([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])  # far from each other
COVS = np.array([[[0.4, 0.1], [0.1, 0.2]]] * 3 + [[[0.1, 0.0], [0.0, 0.5]]])


def scaled(images):
    return images.reshape(len(images), -1) / 8 - 1.0


def assert_far(found, queries, distances):
    """Whether each neighbour [b, k, d] is so far from its query. (Of whole numbers several can be
    equally far.)"""
    away = np.linalg.norm(np.asarray(found, np.float64) - queries[:, None], axis=-1)
    np.testing.assert_allclose(away, distances, rtol=1e-6)


def of_images(**options) -> Any:
    return neighbours(IMAGE, database=IMAGES, **options)


def drawn(component, n, seed=1):
    """Points of one component of the mixture."""
    z = np.random.default_rng(seed).normal(size=(n, 2))
    return MEANS[component] + z @ np.linalg.cholesky(COVS[component]).T


def of_points(components, **options) -> Any:
    database = np.concatenate([drawn(c, 20, seed=9) for c in components])
    return neighbours(POINT, database=database, part="point", **options)


def mixture():
    return Mixture(jnp.array([0.1, 0.2, 0.3, 0.4]), jnp.asarray(MEANS), jnp.asarray(COVS))


class Exact:
    """In the place of a network: the exact denoiser of the component whose mean is nearest to the
    mean of the neighbours; of the whole mixture without neighbours, which are zeros."""

    def apply(self, variables, x, noise, cond, train, rngs=None):
        context = cond["context"]
        away = jnp.mean(context, axis=1)[:, None] - jnp.asarray(MEANS, context.dtype)[None]
        component = jnp.argmin(jnp.sum(away**2, axis=-1), axis=1)
        label = jnp.where(jnp.all(context == 0, axis=(1, 2)), -1, component)
        labelled = Labelled(mixture(), jnp.arange(4))
        return labelled.denoiser(VP(), {"label": label})(x, noise)


def model():
    net: Any = Exact()
    return Model(net, VP(), x0(time(scale=1.0)))


def test_search_finds_what_a_tree_finds(x64):
    """Of queries that are in the database and of others, at every k."""
    points, queries = RNG.normal(size=(200, 5)), RNG.normal(size=(30, 5)) + 3
    queries = np.concatenate([queries, points[::20]])
    for k in (1, 7, 200):
        truth = cKDTree(points).query(queries, k)[1].reshape(len(queries), k)
        np.testing.assert_array_equal(jax.jit(nearest, static_argnums=2)(queries, points, k), truth)


def test_equal_rows_count_once_and_the_first_of_equally_near_ones_is_taken():
    np.testing.assert_array_equal(different(np.array([[3], [1], [3], [1], [2]])), [[3], [1], [2]])
    points = jnp.array([[2.0], [-1.0], [1.0], [9.0]])
    np.testing.assert_array_equal(nearest(jnp.zeros((1, 1)), points, 3), [[1, 2, 0]])


def test_an_example_is_not_among_its_own_neighbours():
    """Nor is a copy of it. An image that differs in one pixel by one value is."""
    near = IMAGES[:1].copy()
    near[0, 0, 0, 0] ^= 1
    conditioner: Any = neighbours(IMAGE, database=np.concatenate([IMAGES, IMAGES[:9], near]), k=3)
    found = np.asarray(conditioner.encode({"image": IMAGES})["context"])
    others = np.concatenate([IMAGES, near])
    distances, numbers = cKDTree(scaled(others)).query(scaled(IMAGES), 4)
    np.testing.assert_array_equal(numbers[:, 0], np.arange(60))  # each itself, which is left out
    assert_far(found, scaled(IMAGES), distances[:, 1:])
    assert distances[0, 1] == 1 / 8
    np.testing.assert_allclose(found[0, 0], scaled(near)[0], atol=1e-6)


def test_an_image_that_is_not_in_the_database_has_the_nearest_k():
    queries = RNG.integers(0, 17, (5, 8, 8, 1), dtype=np.uint8)
    distances = cKDTree(scaled(IMAGES)).query(scaled(queries), 4)[0]
    cond = of_images(text=Labels(10)).encode({"image": queries, "label": np.arange(5)})
    assert_far(cond["context"], scaled(queries), distances)
    known = cKDTree(scaled(IMAGES)).query(cond["context"], 1)[0]
    np.testing.assert_allclose(known, 0, atol=1e-6)
    np.testing.assert_array_equal(cond["label"], np.arange(5))


def test_latents_can_be_what_images_are_compared_by():
    """Those of the autoencoder whose latents are 3 times the pixels in another order."""
    net = frozen()
    tripled = net._replace(params={"gain": jnp.float32(3), "others": jnp.ones(1)})
    needs = of_images(autoencoder="vae")
    assert needs.folders == ("vae",)
    conditioner = needs.make(tripled)
    found = np.asarray(conditioner.encode({"image": IMAGES})["context"])
    blocks = 3 * scaled(IMAGES).reshape(-1, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(60, -1)
    assert_far(found, blocks, cKDTree(blocks).query(blocks, 5)[0][:, 1:])
    assert conditioner.digests["autoencoder of the condition"] == "one"


def test_what_is_stored_makes_the_same_conditions_without_images():
    raw = {"image": IMAGES[:3]}
    stored = of_images().stored(raw)
    assert set(stored) == {NEIGHBOURS}
    shown = {**IMAGE, NEIGHBOURS: Feature((4, 64))}
    again: Any = neighbours(shown, database=IMAGES)
    assert set(again.features) == {NEIGHBOURS}
    np.testing.assert_array_equal(
        again.encode(stored)["context"], of_images().encode(raw)["context"]
    )
    assert again.digests == of_images().digests
    other: Any = neighbours(IMAGE, database=IMAGES[1:])
    assert other.digests[DATABASE] != again.digests[DATABASE]
    with pytest.raises(ValueError, match=r"holds neighbours of shape \(4, 64\).* finds \(2, 64\)"):
        neighbours(shown, database=IMAGES, k=2)


def test_samples_are_asked_for_by_images_in_turn():
    """Those given, or else those of the database."""
    conditioner, numbers = of_images(k=2), jnp.array([0, 1, 2, 61])
    keys = jax.random.split(jax.random.key(0), 4)
    given = [{"image": image} for image in IMAGES[5:7]]
    raw = conditioner.request((), given)(keys, numbers)
    np.testing.assert_array_equal(raw["image"], IMAGES[[5, 6, 5, 6]])
    raw = conditioner.request(())(keys, numbers)
    np.testing.assert_array_equal(raw["image"], IMAGES[[0, 1, 2, 1]])
    with pytest.raises(ValueError, match="no part 'image' whose neighbours could be found"):
        conditioner.request((), [{"label": 0}])
    with pytest.raises(ValueError, match=r"\(3,\) asks for labels, and the conditioner reads none"):
        conditioner.request((3,))


@pytest.mark.parametrize("component", range(4))
def test_neighbours_tell_the_component_to_the_exact_denoiser(x64, component):
    """E[x_0 | x_t, component] = m + alpha C (alpha^2 C + sigma^2 I)^-1 (x_t - alpha m), at every
    noise level, for queries that the database does not hold."""
    conditioner = of_points(range(4))
    cond = conditioner.encode({"point": drawn(component, 6)})
    x, t = jnp.asarray(RNG.normal(size=(6, 2))), jnp.linspace(0.01, 1.0, 6)
    found = jax.jit(model().denoiser({}, cond))(x, t)
    m, c = MEANS[component], COVS[component]
    for i in range(6):
        alpha, sigma = float(VP().alpha(t[i])), float(VP().sigma(t[i]))
        gain = alpha * c @ np.linalg.inv(alpha**2 * c + sigma**2 * np.eye(2))
        np.testing.assert_allclose(found[i], m + gain @ (x[i] - alpha * m), rtol=1e-10)


def test_guidance_is_the_score_of_the_tilted_density(x64):
    """s = grad ln p(x_t | component)^w p(x_t)^(1 - w), and D = (x_t + sigma^2 s)/alpha."""
    conditioner, weight = of_points(range(4)), 2.5
    cond = conditioner.encode({"point": drawn(2, 6)})
    nothing = null(conditioner, cond)
    np.testing.assert_array_equal(nothing["context"], np.zeros((6, 4, 2)))
    assert set(unknown(conditioner, 2)) == {NEIGHBOURS}
    x, t, sde = jnp.asarray(RNG.normal(size=(6, 2)) * 2), jnp.linspace(0.2, 0.9, 6), VP()
    how = guidance.classifier_free(sde, log_snr(sde, 4), weight=weight)
    of_guide: Any = None
    guided = how.guided(lambda c: model().denoiser({}, c), of_guide)(cond, nothing)
    alone = Gaussian(jnp.asarray(MEANS[2]), jnp.asarray(COVS[2]))

    def tilted(x):
        given, free = (law.log_prob(sde, x, t) for law in (alone, mixture()))
        return jnp.sum(weight * given + (1 - weight) * free)

    alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
    truth = (x + sigma**2 * jax.jit(jax.grad(tilted))(x)) / alpha
    np.testing.assert_allclose(jax.jit(guided)(x, t), truth, rtol=1e-9, atol=1e-10)


def test_another_database_draws_other_components():
    """With the same queries and the same noise: each sample is of the component of its neighbours,
    which is that of its query, or else the nearest that the other database has."""
    queries = np.concatenate([drawn(c, 4) for c in range(4)])
    keys, sde = jax.random.split(jax.random.key(0), 16), VP()
    solver, times = solvers.ddim(sde), log_snr(sde, 20)

    @jax.jit
    def draw(conditioner):
        denoiser = model().denoiser({}, conditioner.encode({"point": queries.astype(np.float32)}))
        x = sde.prior_sample(jax.random.key(1), (16, 2), np.float32)
        return sampling.sample(keys, solver, denoiser, x, times).x

    for components, expected in (((0, 1, 2, 3), (0, 1, 2, 3)), ((2, 3), (3, 2, 2, 3))):
        away = np.linalg.norm(draw(of_points(components))[:, None] - MEANS[None], axis=-1)
        np.testing.assert_array_equal(away.argmin(axis=1), np.repeat(expected, 4))
        assert away.min(axis=1).max() < 4  # the means are at least 12 apart


def test_mistakes_are_told():
    for k, message in ((0, "k must be at least 1"), (60, "k=60 needs 61 different images")):
        with pytest.raises(ValueError, match=message):
            of_images(k=k)
    with pytest.raises(ValueError, match=r"of shape \(4, 8, 1\), and the data set of shape"):
        neighbours(IMAGE, database=IMAGES[:, :4])
    with pytest.raises(ValueError, match=r"text gives cond\['context'\], as the neighbours do"):
        of_images(text=of_images())
