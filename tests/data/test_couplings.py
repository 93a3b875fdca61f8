"""Pairings of batches: optimal, entropic, within a class; and data sets of two ends."""

import itertools

import numpy as np
import pytest

from score_sde.config import build
from score_sde.data.couplings import sinkhorn
from score_sde.data.source import Arrays, Data
from score_sde.errors import ConfigError, DataError
from score_sde.types import Feature

NUMBERS = {"x": Feature((2,)), "source": Feature((2,)), "label": Feature((), 2), "c": Feature(())}


def batch_of(n, seed=0, dims=2):
    random = np.random.default_rng(seed)
    x, source = random.normal(size=(2, n, dims))
    return {"x": x, "source": source, "label": random.integers(2, size=n),
            "c": random.normal(size=n)}  # fmt: skip


def coupling(spec):
    return build("data.augment", spec, NUMBERS)


def cost_of(batch):
    return np.sum((batch["x"] - batch["source"]) ** 2)


def test_exact_coupling_is_the_best_of_all_orders():
    batch = batch_of(6)
    found = coupling("exact_coupling(part='x')")(batch, np.zeros(6))
    best = min(
        cost_of({**batch, "source": batch["source"][list(order)]})
        for order in itertools.permutations(range(6))
    )
    np.testing.assert_allclose(cost_of(found), best, rtol=1e-12)
    assert sorted(map(tuple, found["source"])) == sorted(map(tuple, batch["source"]))
    np.testing.assert_array_equal(found["x"], batch["x"])


def test_pixels_are_scaled_to_x():
    """Noise of an entropic plan is in the units of x: 255 and 0 are 2 apart."""
    features = {"image": Feature((1, 1, 1), 256), "source": Feature((1, 1, 1), 256)}
    image = np.array([0, 255], np.uint8).reshape(2, 1, 1, 1)
    paired = build("data.augment", "entropic_coupling(variance=2.0)", features)
    # costs 0 and 4 over 2 variance = 4: the plan is (1, 1/e; 1/e, 1)/(2 + 2/e)
    share = 1 / (1 + np.exp(-1))
    for u, crossed in ((share - 0.01, False), (share + 0.01, True)):
        found = paired({"image": image, "source": image}, np.array([u, 0.5]))
        assert (found["source"][0, 0, 0, 0] == 255) == crossed


@pytest.mark.parametrize("cond", ["label", "c"])
def test_a_condition_in_the_cost_keeps_it(cond):
    """With a large weight an x_1 goes to an example of the class that it came with."""
    batch = batch_of(40)
    batch["number"] = np.arange(40)
    batch["source"] = np.stack([batch["number"], batch["number"]], axis=1).astype(float)
    found = coupling(f"exact_coupling(part='x', cond='{cond}', weight=1e9)")(batch, np.zeros(40))
    came = found["source"][:, 0].astype(int)
    np.testing.assert_array_equal(batch[cond][came], batch[cond])
    free = coupling("exact_coupling(part='x')")(batch, np.zeros(40))["source"][:, 0].astype(int)
    assert np.mean(batch[cond][free] != batch[cond]) > 0.2


@pytest.mark.parametrize(("n", "known"), [(2, 0.32), (8, 0.75), (32, 0.92)])
def test_batches_of_numbers_are_paired_by_rank(n, known):
    """The correlation of sorted batches: E of the products of normal order statistics."""
    features = {"x": Feature(()), "source": Feature(())}
    paired = build("data.augment", "exact_coupling(part='x')", features)
    random = np.random.default_rng(1)
    products = []
    for _ in range(6000 // n):
        x, source = random.normal(size=(2, n))
        products.append(paired({"x": x, "source": source}, np.zeros(n))["source"] * x)
        np.testing.assert_array_equal(np.argsort(x), np.argsort(x))
    products = np.concatenate(products)
    assert abs(products.mean() - known) < 5 * products.std() / np.sqrt(len(products))


def test_sinkhorn_has_both_ends_and_the_form_of_a_plan():
    cost = np.random.default_rng(0).uniform(0, 5, size=(7, 7))
    plan = sinkhorn(cost, 200)
    np.testing.assert_allclose(plan.sum(axis=0), 1 / 7, rtol=1e-10)
    np.testing.assert_allclose(plan.sum(axis=1), 1 / 7, rtol=1e-14)
    potential = np.log(plan) + cost  # f_i + g_j
    np.testing.assert_allclose(potential + potential[0, 0], potential[:1] + potential[:, :1])


def test_entropic_batches_near_the_schroedinger_plan():
    """Of N(0, 1) twice with noise 1 the covariance is (sqrt(5) - 1)/2."""
    features = {"x": Feature(()), "source": Feature(())}
    paired = build("data.augment", "entropic_coupling(variance=1.0, part='x')", features)
    random, products = np.random.default_rng(2), []
    for _ in range(12):
        x, source = random.normal(size=(2, 300))
        found = paired({"x": x, "source": source}, random.random(300))["source"]
        products.append(np.cov(x, found)[0, 1])
    assert abs(np.mean(products) - (np.sqrt(5) - 1) / 2) < 0.03


def test_independent_coupling_is_an_order_of_u():
    batch = batch_of(3)
    found = coupling("independent_coupling")(batch, np.array([0.5, 0.9, 0.1]))
    np.testing.assert_array_equal(found["source"], batch["source"][[2, 0, 1]])


@pytest.mark.parametrize(("spec", "message"), [
    ("exact_coupling", "no part 'image'"),
    ("exact_coupling(part='x', weight=1.0)", "name the part"),
    ("exact_coupling(part='x', cond='label')", "weight above 0"),
    ("entropic_coupling(variance=0.0, part='x')", "must be above 0"),
    ("independent_coupling(source='other')", "no part 'other'"),
])  # fmt: skip
def test_wrong_couplings(spec, message):
    with pytest.raises(ConfigError, match=message):
        coupling(spec)


def set_of(n, shape=(2, 2, 1), first=0):
    image = np.arange(first, first + n, dtype=np.uint8).reshape(n, 1, 1, 1) * np.ones(
        shape, np.uint8
    )
    source = Arrays(image=image)
    return Data(f"set{n}", source, source, {"image": Feature(shape, 16)})


def test_two_sets():
    both = build("data", {"name": "two_sets", "of": (set_of(3), set_of(2, first=7))})
    assert [int(both.train[i]["source"][0, 0, 0]) for i in range(3)] == [7, 8, 7]
    assert [int(both.train[i]["image"][0, 0, 0]) for i in range(3)] == [0, 1, 2]
    assert both.features["source"] == Feature((2, 2, 1), 16)
    with pytest.raises(DataError, match="set paired=False"):
        build("data", {"name": "two_sets", "of": (set_of(3), set_of(2)), "paired": True})
    with pytest.raises(DataError, match="both ends need the same"):
        build("data", {"name": "two_sets", "of": (set_of(3), set_of(3, (4, 4, 1)))})
    with pytest.raises(DataError, match="needs two data sets"):
        build("data", {"name": "two_sets", "of": (set_of(3),)})


def test_observed_is_the_operator_of_x():
    from score_sde.inverse import operators

    data = set_of(12, (8, 8, 1))
    data.train.parts["image"] = np.random.default_rng(0).integers(16, size=(12, 8, 8, 1))
    options = {"name": "observed", "of": (data,), "operator": None}
    x = data.train.parts["image"] / 7.5 - 1
    blur = operators.gaussian_blur((8, 8, 1), 1.0)
    options["operator"] = lambda shape: operators.gaussian_blur(shape, 1.0)
    exact = build("data", options).train.parts["source"] / 7.5 - 1
    np.testing.assert_allclose(exact, blur.apply(x.astype(np.float32)), atol=1e-5)
    noisy = build("data", options | {"noise": 0.1}).train.parts["source"] / 7.5 - 1
    assert abs(np.std(noisy - exact) - 0.1) < 5 * 0.1 / np.sqrt(2 * exact.size)
    again = build("data", options | {"noise": 0.1}).train.parts["source"] / 7.5 - 1
    np.testing.assert_array_equal(noisy, again)
    options["operator"] = lambda shape: operators.block_average(shape, 2)
    with pytest.raises(DataError, match="take an operator that keeps it"):
        build("data", options)
