"""EDM's augmentation: the public code's images and numbers, and changes with a known result."""

import numpy as np
import pytest

from score_sde.config import build
from score_sde.data import labelled_images
from score_sde.data.augment import draw, geometric
from score_sde.data.geometry import SYM6, Change, warped
from tests.published_cases import GOLDEN

FEATURES = labelled_images((8, 8, 3))


def images(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def smooth(h, w):
    """One bump well inside an image [h, w, 1]."""
    y, x = np.mgrid[:h, :w]
    bump = np.exp(-((y - 0.45 * h) ** 2 + (x - 0.55 * w) ** 2) / (0.1 * h * w / 4))
    return bump[..., None].astype(np.float32)


def test_images_and_numbers_are_those_of_the_public_code():
    golden = np.load(GOLDEN / "edm" / "augment.npz")
    for (x, y, *rest), image, found, numbers in zip(
        *(golden[key] for key in ("changes", "image", "found", "numbers")), strict=True
    ):
        scale, rotation, stretch, axis, *shift = map(float, rest)
        change = Change((int(x), int(y)), scale, rotation, stretch, axis, tuple(shift))
        np.testing.assert_allclose(change.apply(image), found, atol=2e-5)  # of numbers up to 4
        np.testing.assert_allclose(change.numbers, numbers, atol=1e-6)


def test_the_filter_is_orthonormal_with_six_vanishing_moments():
    """sum h_i h_(i + 2k) = [k = 0], sum h = sqrt 2, and sum (-1)^i i^m h_i = 0 for m < 6."""
    assert np.sum(SYM6) == pytest.approx(np.sqrt(2), abs=1e-9)
    products = [SYM6[: 12 - 2 * k] @ SYM6[2 * k :] for k in range(6)]
    np.testing.assert_allclose(products, np.eye(6)[0], atol=1e-9)
    i = np.arange(12.0) - 5.5
    moments = [np.sum((-1) ** np.arange(12) * i**m * SYM6) for m in range(6)]
    np.testing.assert_allclose(moments, 0, atol=1e-7)


def test_nothing_happens_at_p_0():
    batch = {"image": images(20, 8, 8, 3), "label": np.arange(20)}
    changed = build("data.augment", "geometric(p=0.0)", FEATURES)(
        dict(batch), np.linspace(0, 0.99, 20)
    )
    np.testing.assert_array_equal(changed["image"], batch["image"])
    assert not changed["augment"].any()
    assert changed["augment"].shape == (20, 9)
    np.testing.assert_array_equal(changed["label"], batch["label"])


def test_flips_mirror_exactly():
    image = images(6, 8, 3).astype(np.float32)
    for flips, expected in [((1, 0), image[:, ::-1]), ((0, 1), image[::-1])]:
        change = Change(flips=flips)
        np.testing.assert_array_equal(change.apply(image), expected)
        assert change.numbers == (*flips, *(0,) * 7)


def test_a_shift_moves_pixels():
    """By 2 pixels to the right and 1 down; pixels from beyond the edge are reflections."""
    image = images(8, 16, 3).astype(np.float32)
    found = Change(shift=(1.0, 1.0)).apply(image)
    expected = np.pad(image, [(1, 0), (2, 0), (0, 0)], mode="reflect")[:8, :16]
    np.testing.assert_allclose(found, expected, atol=1e-3)  # of 255


def test_a_quarter_turn_and_a_scaling_show_the_right_places():
    """A positive angle turns against the clock; a factor of 2 doubles distances from the middle."""
    image = smooth(33, 33)
    turned = Change(rotation=np.pi / 2).apply(image)
    np.testing.assert_allclose(turned, np.rot90(image), atol=0.02)
    wide = Change(scale=5.0).apply(image)
    y, x = np.mgrid[10:24, 10:24]
    np.testing.assert_allclose(wide[2 * y - 16, 2 * x - 16], image[y, x], atol=0.01)


@pytest.mark.parametrize(
    "change",
    [
        {"scale": 0.7},
        {"rotation": 0.6},
        {"stretch": 0.8, "axis": 0.4},
        {"shift": (0.31, -0.27)},
        {"scale": -0.4, "rotation": -1.1, "stretch": 0.5, "axis": 2.0, "shift": (0.2, 0.3)},
    ],
)
def test_the_inverse_restores_a_smooth_image(change):
    """Up to what linear interpolation of the enlarged image loses twice."""
    image = smooth(40, 40)
    forward = Change(**change).inverse_map(40, 40)
    square = np.concatenate([forward, [[0, 0, 1]]])
    back = warped(warped(image, forward), np.linalg.inv(square)[:2])
    inside = (slice(8, -8), slice(8, -8))
    assert np.abs(warped(image, forward) - image)[inside].max() > 0.03  # something happened
    assert np.abs(back - image)[inside].max() < 0.01


def test_how_often_things_happen_and_what_is_told():
    """Shares of 1,000 images within four standard errors; the numbers have unit variance."""
    changes = [draw(np.random.default_rng(i), 0.12) for i in range(1000)]
    numbers = np.array([change.numbers for change in changes])
    shares = (numbers != 0).mean(axis=0)
    expected = [0.5, 0.06, *(0.12,) * 7]
    expected[6] = 0.06  # sin of an axis that is horizontal half the time
    error = 4 * np.sqrt(np.array(expected) / 1000)
    assert np.all(np.abs(shares - expected) < error)
    for column in (2, 7, 8):
        told = numbers[numbers[:, column] != 0, column]
        assert told.std() == pytest.approx(1, abs=4 / np.sqrt(2 * len(told)))


def test_images_depend_on_their_own_number_alone():
    augment = geometric(FEATURES, p=0.9)
    batch = {"image": images(4, 8, 8, 3)}
    u = np.array([0.1, 0.3, 0.7, 0.9])
    together = augment(dict(batch), u)
    for i in range(4):
        alone = augment({"image": batch["image"][i : i + 1]}, u[i : i + 1])
        np.testing.assert_array_equal(alone["image"][0], together["image"][i])
        np.testing.assert_array_equal(alone["augment"][0], together["augment"][i])


def test_wrong_options():
    with pytest.raises(ValueError, match=r"p=1\.5 is not between 0 and 1"):
        geometric(FEATURES, p=1.5)
    with pytest.raises(ValueError, match="has no part 'sound'"):
        geometric(FEATURES, part="sound")
