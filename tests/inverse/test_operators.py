"""Operators against NumPy and SciPy, and the identities of a singular value decomposition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from score_sde.config import build
from score_sde.errors import ConfigError
from score_sde.inverse import consistent, observe, observed, pseudo_inverse
from score_sde.inverse.operators import clip, dense, mask

SHAPE = (8, 6, 3)  # no two sides alike
SPECS = [
    "mask(keep='random', fraction=0.3)",
    "grey",
    "block_average",
    "gaussian_blur(std=0.8)",
    "motion_blur(length=4, angle=30.0)",
    "random_projection(rows=20)",
]


def images(n=2, seed=0):
    return np.random.default_rng(seed).normal(size=(n, *SHAPE))


def shifted(x, rows, columns):
    return ndimage.shift(x, (0, rows, columns, 0), order=1, mode="grid-wrap")


def direct(spec, x):
    """What an operator of SPECS does, by NumPy and SciPy alone."""
    b, height, width, channels = x.shape
    angle, away = np.pi / 6, np.arange(4) - 1.5
    return {
        "grey": lambda: x.mean(axis=-1, keepdims=True),
        "block_average": lambda: x.reshape(b, height // 2, 2, width // 2, 2, channels).mean((2, 4)),
        "gaussian_blur(std=0.8)": lambda: ndimage.gaussian_filter(
            x, (0, 0.8, 0.8, 0), mode="wrap", truncate=9
        ),
        "motion_blur(length=4, angle=30.0)": lambda: np.mean(
            [shifted(x, -a * np.sin(angle), a * np.cos(angle)) for a in away], axis=0
        ),
    }[spec]()


@pytest.mark.parametrize("spec", SPECS)
def test_linear_operators(x64, spec):
    operator = build("inverse.operators", spec, SHAPE)
    svd, inverse = operator.svd, pseudo_inverse(operator)

    @jax.jit
    def every(x, u, y):
        c, d = svd.right(x), svd.left_t(y)
        return {
            "A x": operator.apply(x),
            "A A+ A x": operator.apply(inverse(operator.apply(x))),
            "A+ A A+ y": inverse(operator.apply(inverse(y))),
            "A+ y": inverse(y),
            "<A x, y>": jnp.vdot(operator.apply(x), y),
            "<x, A* y>": jnp.vdot(x, operator.adjoint(y)),
            # A A+ and A+ A are symmetric
            "<A A+ y, A u>": jnp.vdot(operator.apply(inverse(y)), operator.apply(u)),
            "<y, A u>": jnp.vdot(y, operator.apply(u)),
            "<A+ A x, u>": jnp.vdot(inverse(operator.apply(x)), u),
            "<x, A+ A u>": jnp.vdot(x, inverse(operator.apply(u))),
            "V^T V c": svd.right(svd.right_t(c)),
            "U^T U d": svd.left_t(svd.left(d)),
            "<V c, x>": jnp.vdot(svd.right_t(c), x),
            "<c, c>": jnp.vdot(c, c),
            "<U d, y>": jnp.vdot(svd.left(d), y),
            "<d, d>": jnp.vdot(d, d),
            "c": c,
            "d": d,
        }

    x, u = images(), images(seed=1)
    y = np.random.default_rng(2).normal(size=(2, *operator.y_shape))
    at = every(*(jnp.asarray(a) for a in (x, u, y)))
    for left, right in (
        ("<A x, y>", "<x, A* y>"),
        ("A A+ A x", "A x"),
        ("A+ A A+ y", "A+ y"),
        ("<A A+ y, A u>", "<y, A u>"),
        ("<A+ A x, u>", "<x, A+ A u>"),
        ("V^T V c", "c"),
        ("U^T U d", "d"),
        ("<V c, x>", "<c, c>"),
        ("<U d, y>", "<d, d>"),
    ):
        np.testing.assert_allclose(at[left], at[right], rtol=1e-9, atol=1e-11, err_msg=left)
    assert np.all(svd.values >= 0)
    if spec in SPECS[1:5]:
        np.testing.assert_allclose(at["A x"], direct(spec, x), rtol=1e-10, atol=1e-12)


def test_motion_along_the_axes(x64):
    """Of an odd length: SciPy's mean over a window."""
    x = images()
    for angle, axis in ((0.0, 2), (90.0, 1)):
        operator = build("inverse.operators", f"motion_blur(length=3, angle={angle})", SHAPE)
        truth = ndimage.uniform_filter1d(x, 3, axis=axis, mode="wrap")
        np.testing.assert_allclose(operator.apply(jnp.asarray(x)), truth, atol=1e-12)


def test_masks_keep_what_they_say():
    x = images()
    seen = {}
    for keep in ("left", "right", "top", "bottom", "centre", "border"):
        operator = mask(SHAPE, keep)
        y = operator.apply(jnp.asarray(x, jnp.float32))
        picture = np.asarray(pseudo_inverse(operator)(y))
        assert set(np.unique(picture == x.astype(np.float32))) == {False, True}
        seen[keep] = (picture != 0).all(axis=(0, 3)) & (picture == x.astype(np.float32))[0, ..., 0]
    truth = np.zeros((8, 6), bool)
    truth[:, :3] = True
    np.testing.assert_array_equal(seen["left"], truth)
    np.testing.assert_array_equal(seen["right"], ~truth)
    truth = np.zeros((8, 6), bool)
    truth[:4] = True
    np.testing.assert_array_equal(seen["top"], truth)
    np.testing.assert_array_equal(seen["bottom"], ~truth)
    truth = np.zeros((8, 6), bool)
    truth[2:6, 1:4] = True
    np.testing.assert_array_equal(seen["centre"], truth)
    np.testing.assert_array_equal(seen["border"], ~truth)
    # truth values for pixels, or for numbers: y in the order of the image
    for own in (truth, np.broadcast_to(truth[..., None], SHAPE)):
        found = mask(SHAPE, own).apply(jnp.asarray(x, jnp.float32))
        np.testing.assert_array_equal(found, x.astype(np.float32)[:, truth].reshape(2, -1))
    pixels = build("inverse.operators", "mask(keep='random', fraction=0.3, seed=1)", SHAPE)
    assert pixels.y_shape == (3 * round(0.3 * 48),)


def test_rounded_zeros_have_no_inverse(x64):
    """A matrix of rank 2, whose third singular value is a rounding error."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(3, 2)) @ rng.normal(size=(2, 5))
    y = rng.normal(size=(4, 3))
    found = pseudo_inverse(dense(matrix))(jnp.asarray(y))
    np.testing.assert_allclose(found, y @ np.linalg.pinv(matrix).T, rtol=1e-9)


def test_clip():
    y = clip(SHAPE, gain=2.0).apply(jnp.asarray(images(), jnp.float32))
    np.testing.assert_array_equal(y, np.clip(2 * images().astype(np.float32), -1, 1))


def test_known_numbers_become_those_of_y(x64):
    """Bit for bit where a coefficient is a number of x; and what A does not see stays."""
    truth, x = jnp.asarray(images()), jnp.asarray(images(seed=3))
    for spec in SPECS[:5]:
        operator = build("inverse.operators", spec, SHAPE)

        @jax.jit
        def fix(x, operator=operator):
            seen = observe(jax.random.key(0), operator, truth, 0.0)
            fixed = consistent(seen, x)
            seen_part = pseudo_inverse(operator)(operator.apply(fixed - x))
            return fixed, operator.apply(fixed), seen.y, seen_part

        fixed, found, y, seen_part = fix(x)
        if spec.startswith("mask"):
            np.testing.assert_array_equal(found, y)
            assert np.sum(np.asarray(fixed != x)) == y.size
        np.testing.assert_allclose(found, y, atol=1e-12)
        np.testing.assert_allclose(seen_part, fixed - x, atol=1e-10)


def test_noise_is_what_it_says(x64):
    operator = mask(SHAPE, "top")
    x = jnp.zeros((500, *SHAPE))
    y = observe(jax.random.key(1), operator, x, 0.3).y
    # y.size normal numbers: the deviation's own is 1/sqrt(2 n); four of them
    assert abs(float(jnp.std(y)) / 0.3 - 1) < 4 / np.sqrt(2 * y.size)


def test_mistakes_are_told_in_one_line():
    operator = mask(SHAPE, "left")
    y = np.zeros((2, 72))
    for message, make in (
        (r"2 of the 144 observed numbers are NaN", lambda: observed(operator, bad(y), 0.1)),
        (r"has the shape \[b, 72\], not \[2, 71\]", lambda: observed(operator, y[:, 1:], 0.1)),
        (r"noise is a standard deviation, 0 or more, not -1", lambda: observed(operator, y, -1.0)),
        (r"0 or more, not nan", lambda: observed(operator, y, float("nan"))),
        (
            r"examples of \(8, 6, 3\), not \(4, 6, 3\)",
            lambda: observe(jax.random.key(0), operator, jnp.zeros((1, 4, 6, 3)), 0.0),
        ),
        (r"y has errors of 0.1", lambda: consistent(observed(operator, y, 0.1), jnp.zeros(SHAPE))),
        (r"has no pseudo-inverse", lambda: pseudo_inverse(clip(SHAPE))),
        (r"truth values of that shape.*\(6, 8\)", lambda: mask(SHAPE, np.zeros((6, 8), bool))),
        (r"keeps nothing", lambda: mask(SHAPE, np.zeros((8, 6), bool))),
    ):
        with pytest.raises(ValueError, match=message) as error:
            make()
        assert "\n" not in str(error.value)
    for spec, message in {
        "mask(keep='middle')": "unknown keep 'middle': one of left, right",
        "mask(fraction=1.5)": "fraction must be between 0 and 1, not 1.5",
        "block_average(factor=4)": "factor must divide the sides 8 and 6, not be 4",
        "gaussian_blur(std=0.0)": "std must be positive, not 0.0",
        "motion_blur(length=0)": "length must be at least 1, not 0",
        "random_projection(rows=0)": "rows must be from 1 to 144",
        "blur": "unknown name 'blur'.*gaussian_blur",
    }.items():
        with pytest.raises(ConfigError, match=message):
            build("inverse.operators", spec, SHAPE)
    with pytest.raises(ConfigError, match=r"height, width and channels, not the shape \(5,\)"):
        build("inverse.operators", "grey", (5,))


def bad(y):
    y = y.copy()
    y[0, :2] = np.nan, np.inf
    return y
