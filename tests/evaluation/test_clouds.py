"""Clouds of points: the distance by another library, and the accuracy of laws that are known."""

import numpy as np
import pytest
from scipy.spatial import KDTree

from score_sde.evaluation.metrics.clouds import chamfer, distinguished, one_nearest_neighbour


def test_chamfer_is_that_of_trees():
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=shape).astype(np.float32) for shape in ((3, 20, 3), (4, 15, 3)))
    truth = [
        [np.mean(KDTree(y).query(x)[0] ** 2) + np.mean(KDTree(x).query(y)[0] ** 2) for y in b]
        for x in a
    ]
    np.testing.assert_allclose(chamfer(a, b), truth, rtol=1e-5)
    np.testing.assert_array_equal(np.diag(chamfer(a, a)), 0)
    order = rng.permutation(20)
    np.testing.assert_allclose(chamfer(a[:, order], b), chamfer(a, b), rtol=1e-6)


def accuracy(a, b):
    def distance(x, y):
        return np.abs(x[:, None] - y[None])

    return one_nearest_neighbour(distance(a, a), distance(a, b), distance(b, b))


def test_accuracy_of_known_sets():
    """One law: 1/2, within four standard errors of 2,000 coins (neighbours are shared, which
    widens it by at most sqrt 2). Apart: 1. Copies: 0, and where both are equal a half each."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 1000))
    assert abs(accuracy(a, b) - 0.5) < 4 * 0.5 / np.sqrt(2000) * np.sqrt(2)
    assert accuracy(a, b + 100) == 1
    assert accuracy(a, a + 1e-9) == 0
    assert accuracy(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == 0
    assert accuracy(np.array([0.0, 1.0]), np.array([-1.0, 2.0])) == pytest.approx(0.25)


def test_sets_of_clouds_are_told_apart():
    """Balls of one size are not, balls of two sizes are; further fields are not looked at."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(2, 100, 30, 4))
    a[..., 3] += 50
    alike = distinguished(a, b)
    assert abs(alike["one_nearest_neighbour"] - 0.5) < 4 * 0.5 / np.sqrt(200) * np.sqrt(2)
    assert distinguished(a, 5 * b)["one_nearest_neighbour"] == 1
    assert distinguished(a, a)["minimum_matching_distance"] == 0
