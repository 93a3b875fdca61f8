"""Solids: points are on the surface, evenly, and what was drawn is read back."""

import numpy as np
import pytest

from score_sde.config import build
from score_sde.data import solids_reading
from score_sde.data.solids import CONE, CYLINDER, KINDS, LARGE, TORUS, turned
from score_sde.errors import DataError

N = 40_000


def surface(kind):
    u = np.random.default_rng(0).random((3, N))
    return KINDS[kind](*u)


@pytest.mark.parametrize("kind", KINDS)
def test_points_are_on_the_surface_with_its_normal(kind):
    """The distance is 0, and grows by h at a step of h along the normal, where no edge is near."""
    points, normal = surface(kind)
    np.testing.assert_allclose(solids_reading.distance(kind, points), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(normal, axis=1), 1, rtol=1e-12)
    for side in (1e-3, -1e-3):
        away = solids_reading.distance(kind, points + side * normal)
        assert np.mean(np.abs(away - 1e-3) < 1e-6) > 0.98
    inside = np.sum(points * normal, axis=1)  # outward: the origin is inside, or in the hole
    assert inside.min() > (-1 if kind == "torus" else 0)


def test_points_are_even_by_area():
    """Shares of the surface, within four standard errors of a binomial."""

    def near(found, share):
        assert abs(np.mean(found) - share) < 4 * np.sqrt(share * (1 - share) / N)

    sphere, cube, cylinder, cone, torus = (surface(kind)[0] for kind in KINDS)
    near(sphere[:, 2] > 0.5, 0.25)
    near(sphere[:, 0] > 0.5, 0.25)
    for axis in range(3):
        near(cube[:, axis] > 0.5999999, 1 / 6)
    near(cube[:, 0] > 0.3, 1 / 6 + 4 / 6 / 4)
    radius, half = CYLINDER
    caps = radius / (radius + 2 * half)
    near(cylinder[:, 2] > half - 1e-9, caps / 2)
    near((cylinder[:, 2] > half - 1e-9) & (np.hypot(*cylinder.T[:2]) < radius / 2), caps / 8)
    near(np.abs(cylinder[:, 2]) < half / 2, (1 - caps) / 2)
    radius, low, high = CONE
    base = radius / (radius + np.hypot(radius, high - low))
    near(cone[:, 2] < low + 1e-9, base)
    near(cone[:, 2] > (low + high) / 2, (1 - base) / 4)
    # the outer half of a torus: 1/2 + r / (pi R)
    near(np.hypot(*torus.T[:2]) > TORUS[0], 0.5 + TORUS[1] / (np.pi * TORUS[0]))
    near(torus[:, 0] > 0, 0.5)


def test_kind_and_size_are_read_back():
    data = build("data", {"name": "solids", "train": 100, "test": 5})
    kinds, sizes = list(KINDS), []
    for i in range(40):
        example = data.train[i]
        found = solids_reading.read(example["points"])
        assert found.kind == kinds[example["label"]]
        assert found.distance < 0.006  # half of a step in size, and a degree of a cube's turn
        size = "large" if found.size >= LARGE else "small"
        if abs(found.size - LARGE) > 0.01:
            assert example["caption"] == [f"a {size} {found.kind}"]
        sizes.append(found.size)
    assert 0.5 <= min(sizes) < 0.6
    assert 0.9 < max(sizes) <= 1.0


def test_a_cloud_that_is_no_solid_is_far_from_all():
    rng = np.random.default_rng(0)
    assert solids_reading.read(rng.normal(size=(64, 3)) / 2).distance > 0.1
    blurred = surface("torus")[0][:64] + 0.05 * rng.normal(size=(64, 3))
    found = solids_reading.read(turned(blurred[None], np.array([1.0]))[0])
    assert found.kind == "torus"
    assert found.distance == pytest.approx(0.05, rel=0.3)


def test_examples_depend_on_their_numbers_and_the_seed():
    small, large, other = (
        build("data", {"name": "solids", "train": n, "test": 5, "seed": seed, "normals": True})
        for n, seed in ((5, 0), (50, 0), (5, 1))
    )
    np.testing.assert_array_equal(small.train.parts["points"], large.train.parts["points"][:5])
    places = [data.parts["points"][..., :3] for data in (small.train, other.train, small.test)]
    for unlike in places[1:]:
        assert np.mean(unlike == places[0]) < 0.01
    assert small.features["points"].shape == small.train[0]["points"].shape == (64, 6)
    only = build("data", {"name": "solids", "kinds": ("cone",), "train": 5, "test": 5})
    assert only.features["label"].values == 1
    assert solids_reading.read(only.test[4]["points"]).kind == "cone"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 0}, "points, train and test must be at least 1, got 0"),
        ({"kinds": ("egg",)}, "there is no kind 'egg': one of sphere, cube, cylinder, cone, torus"),
        ({"kinds": ()}, "kinds is empty"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(DataError, match=message):
        build("data", {"name": "solids", **options})
