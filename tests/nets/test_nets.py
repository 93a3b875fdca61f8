"""The networks against closed forms, symmetries and independent implementations."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from score_sde.nets.embedding import FourierFeatures, positional_features
from score_sde.nets.layers import (
    Combine,
    Conv,
    Dense,
    DownConv,
    Dropout,
    GroupNorm,
    ResBlock,
    UpConv,
    add_bias,
)
from score_sde.nets.mlp import MLP
from score_sde.nets.ncsnpp import NCSNpp
from score_sde.nets.resampling import downsample, upsample

TINY = {"nf": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "attn_resolutions": (4,), "dropout": 0.5}
VE = {"embedding": "fourier", "fir": True, "scale_by_sigma": True, "centered": False}
PYRAMIDS = {"progressive": "output_skip", "progressive_input": "input_skip"}
NOISE = jnp.array([0.3, 7.0])


# Between two programs for one network: some 30 layers, whose sums of up to 500 terms are each right
# to a unit or two of float32's 1.2e-7, and the square root of 30 of them, as they are independent.
ROUNDING = 1e-5


def image(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def parameters(net, x, cond=None):
    """Random parameters, none of which are zero; much faster to get than by compiling `init`."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(net.init, jax.random.key(0), x, NOISE, cond)["params"]

    def draw(path, spec):
        fan_in = np.prod(spec.shape[:-1]) if len(spec.shape) > 1 else 100
        mean = 1 if path[-1].key == "scale" else 0
        return jnp.asarray(mean + rng.normal(size=spec.shape) / np.sqrt(fan_in), spec.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@partial(jax.jit, static_argnums=0)
def apply(net, params, x, noise=NOISE, cond=None):
    return net.apply({"params": params}, x, noise, cond)


def relative_error(a, b):
    return np.max(np.abs(np.asarray(a, float) - np.asarray(b, float))) / np.max(np.abs(b))


# --- published sizes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "fields", "millions"),
    [
        (32, {}, 61.8),
        (32, {**VE, "progressive_input": "residual"}, 62.8),
        (32, {"num_res_blocks": 8}, 106.6),
        (32, {**VE, "progressive_input": "residual", "num_res_blocks": 8}, 107.6),
        (256, {**VE, **PYRAMIDS, "ch_mult": (1, 1, 2, 2, 2, 2, 2), "num_res_blocks": 2}, 65.6),
        (
            1024,
            {
                **VE,
                **PYRAMIDS,
                "nf": 16,
                "ch_mult": (1, 2, 4, 8, 16, 32, 32, 32),
                "num_res_blocks": 1,
            },
            105.8,
        ),
    ],
    ids=["ddpmpp", "ncsnpp", "ddpmpp_deep", "ncsnpp_deep", "ncsnpp_256", "ncsnpp_1024"],
)
def test_published_parameter_counts(size, fields, millions):
    x, noise = jnp.zeros((1, size, size, 3)), jnp.ones(1)
    variables = jax.eval_shape(NCSNpp(**fields).init, jax.random.key(0), x, noise)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    assert round(count / 1e6, 1) == millions


# --- layers ----------------------------------------------------------------------------------

KERNELS = [None, (1, 1), (1, 2, 1), (1, 3, 3, 1), (1, 2, 3, 4), (1, 4, 6, 4, 1)]


def scipy_resampled(x, kernel, up, down):
    """StyleGAN2's upfirdn by scipy's, with the padding of a factor of two."""
    taps = np.array(kernel or (1, 1), float) / sum(kernel or (1, 1)) * up
    p = len(taps) - 2
    before = (p + 1) // 2 + up - 1
    for axis in (1, 2):
        size = x.shape[axis] * up // down
        full = scipy.signal.upfirdn(taps, x, up, 1, axis=axis)
        start = len(taps) - 1 - before
        index = start + down * np.arange(size)
        full = np.concatenate([full, np.zeros_like(full)], axis=axis)  # the inserted zeros' tail
        x = np.take(full, index, axis=axis)
    return x


@pytest.mark.parametrize("kernel", KERNELS)
def test_resampling_is_upfirdn(kernel):
    x = image(2, 6, 4, 3)
    # weights of sum 1, five taps at most along each axis, a rounding each, of numbers below 4
    exact = {"rtol": 0, "atol": 10 * 4 * float(np.finfo(np.float32).eps)}
    np.testing.assert_allclose(upsample(x, kernel), scipy_resampled(x, kernel, 2, 1), **exact)
    np.testing.assert_allclose(downsample(x, kernel), scipy_resampled(x, kernel, 1, 2), **exact)


def test_resampling_without_filter_is_nearest_neighbour_and_mean():
    x = image(1, 4, 6, 2)
    np.testing.assert_allclose(upsample(x), np.repeat(np.repeat(x, 2, 1), 2, 2), atol=1e-6)
    mean = np.asarray(x).reshape(1, 2, 2, 3, 2, 2).mean((2, 4))
    np.testing.assert_allclose(downsample(x), mean, atol=1e-6)


def test_up_conv_is_transposed_convolution_then_filter():
    x = image(1, 4, 5, 2)
    layer = UpConv(3, (1, 3, 3, 1))
    kernel, bias = image(3, 3, 2, 3, seed=1), image(3, seed=2)
    params = {"conv": {"kernel": kernel, "bias": bias}}
    zeros = np.zeros((7, 9, 2))
    zeros[::2, ::2] = x[0]
    fir = np.outer((1, 3, 3, 1), (1, 3, 3, 1)) / 16
    for o in range(3):
        full = sum(scipy.signal.correlate2d(zeros[..., i], kernel[..., i, o]) for i in range(2))
        expected = scipy.signal.convolve2d(full, fir)[2:-2, 2:-2] + bias[o]
        np.testing.assert_allclose(
            layer.apply({"params": params}, x)[0, ..., o], expected, atol=1e-5
        )


@pytest.mark.parametrize(("taps", "cut"), [((1, 3, 3, 1), slice(1, -1)), ((1, 2, 4), slice(0, -1))])
def test_down_conv_is_filter_then_strided_convolution(taps, cut):
    """With StyleGAN2's padding of n taps: p = n - 2 + 3 - 1, (p + 1) // 2 before and p // 2 after;
    of the n - 1 on each side that the whole convolution has, the rest is cut."""
    x = image(1, 6, 8, 2)
    layer = DownConv(3, taps)
    kernel, bias = image(3, 3, 2, 3, seed=1), image(3, seed=2)
    params = {"conv": {"kernel": kernel, "bias": bias}}
    fir = np.outer(taps, taps) / sum(taps) ** 2
    for o in range(3):
        smooth = [scipy.signal.convolve2d(x[0, ..., i], fir)[cut, cut] for i in range(2)]
        expected = sum(
            scipy.signal.correlate2d(s, kernel[..., i, o], "valid") for i, s in enumerate(smooth)
        )
        np.testing.assert_allclose(
            layer.apply({"params": params}, x)[0, ..., o], expected[::2, ::2] + bias[o], atol=1e-5
        )


def test_down_conv_without_a_filter():
    """A zero after the image and none before it, as "SAME" of JAX has it at stride 2."""
    x = image(1, 6, 8, 2)
    kernel, bias = image(3, 3, 2, 3, seed=1), image(3, seed=2)
    found = DownConv(3).apply({"params": {"conv": {"kernel": kernel, "bias": bias}}}, x)
    padded = np.pad(x[0], ((0, 1), (0, 1), (0, 0)))
    for o in range(3):
        whole = sum(
            scipy.signal.correlate2d(padded[..., i], kernel[..., i, o], "valid") for i in range(2)
        )
        np.testing.assert_allclose(found[0, ..., o], whole[::2, ::2] + bias[o], atol=1e-5)


def test_the_pyramid_joins_the_features_in_front():
    """cat([conv(pyramid), h]), or the sum (Combine of the 2021 code)."""
    pyramid, h = image(2, 4, 4, 3), image(2, 4, 4, 5, seed=1)
    kernel, bias = image(1, 1, 3, 5, seed=2), image(5, seed=3)
    params = {"conv": {"kernel": kernel, "bias": bias}}
    brought = np.asarray(pyramid) @ np.asarray(kernel)[0, 0] + np.asarray(bias)
    for method, truth in {"cat": np.concatenate([brought, h], -1), "sum": brought + h}.items():
        found = Combine(method).apply({"params": params}, pyramid, h)
        np.testing.assert_allclose(found, truth, atol=1e-5)


def test_dropout_comes_before_the_last_convolution():
    """So it leaves the bias of that one (DDPM)."""
    x, embedding = image(2, 4, 4, 8), image(2, 16, seed=1)
    layer = ResBlock(8, True, 0.9, 0.0, True, GroupNorm)
    params = layer.init(jax.random.key(0), x, embedding, False)["params"]
    params["conv_1"] = {"kernel": jnp.zeros((3, 3, 8, 8)), "bias": jnp.arange(8.0)}
    rngs = {"dropout": jax.random.key(1)}
    found = layer.apply({"params": params}, x, embedding, True, rngs=rngs)
    np.testing.assert_allclose(found, (np.asarray(x) + np.arange(8)) / np.sqrt(2), atol=1e-5)


@pytest.mark.parametrize(("channels", "groups"), [(3, 1), (8, 2), (24, 6), (36, 9), (132, 22)])
def test_group_norm(channels, groups):
    # a mean of 1000 standard deviations: E[x^2] - E[x]^2 would have no digit left
    x = 1000 + image(2, 4, 6, channels)
    y = GroupNorm().apply({"params": {"scale": jnp.ones(channels), "bias": jnp.ones(channels)}}, x)
    g = np.asarray(x, float).reshape(2, 24, groups, -1)
    g = (g - g.mean((1, 3), keepdims=True)) / np.sqrt(g.var((1, 3), keepdims=True) + 1e-6) + 1
    np.testing.assert_allclose(y, g.reshape(x.shape), atol=2e-3)


def test_statistics_of_group_norm():
    """eps beside a variance as small, and sums of bfloat16's numbers in float32: 2^-9 of the result
    is its own rounding."""
    x = 1e-3 * image(2, 4, 6, 4)
    variables = {"params": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}}
    far = (50 + image(2, 4, 6, 4)).astype(jnp.bfloat16)
    for values, tolerance in ((x, 1e-5), (far, 2**-8)):
        g = np.asarray(values, float)
        mean, variance = (f(g, axis=(1, 2, 3), keepdims=True) for f in (np.mean, np.var))
        truth = (g - mean) / np.sqrt(variance + 1e-6)
        found = GroupNorm().apply(variables, values)
        assert found.dtype == values.dtype
        np.testing.assert_allclose(np.asarray(found, float), truth, rtol=tolerance, atol=tolerance)


def test_group_norm_and_its_derivatives_are_those_of_the_formula(x64):
    """Of first and second order, with sums over pixels of g and of g (y - mean) alone."""
    rng = np.random.default_rng(3)
    x, g, tangent = (jnp.asarray(rng.normal(1, 2, (2, 5, 3, 8))) for _ in range(3))
    params = {name: jnp.asarray(rng.normal(size=8)) for name in ("scale", "bias")}

    def ours(params, x):
        return GroupNorm().apply({"params": params}, x)

    def formula(params, x):
        y = x.reshape(2, 5, 3, 2, 4)
        mean = y.mean((1, 2, 4), keepdims=True)
        y = (y - mean) / jnp.sqrt(((y - mean) ** 2).mean((1, 2, 4), keepdims=True) + 1e-6)
        return y.reshape(x.shape) * params["scale"] + params["bias"]

    def derivatives(norm):
        def gradient(x):
            return jax.vjp(norm, params, x)[1](g)

        return norm(params, x), gradient(x), jax.jvp(gradient, (x,), (tangent,))

    with jax.numpy_rank_promotion("allow"):
        truth = derivatives(formula)
    chex.assert_trees_all_close(derivatives(ours), truth, rtol=1e-11, atol=1e-12)
    text = str(jax.make_jaxpr(lambda x: jax.vjp(ours, params, x)[1](g))(x))
    over_pixels = re.findall(r"reduce_sum\[\s*axes=\((?:0, )?1, 2\)", text)
    assert len(over_pixels) == 4  # of y and (y - mean)^2, g and g (y - mean)


def test_gradients_of_biases_in_bfloat16_are_summed_in_float32():
    """Of ones they count examples and pixels: sums of bfloat16 end at 256 where they are made one
    by one, and at 1024 or so on the CPU."""
    ones = jnp.ones((128, 32, 32, 4), jnp.bfloat16)

    def bias_of(layer, x):
        params = layer.init(jax.random.key(0), x)["params"]
        back = jax.vjp(lambda params: layer.apply({"params": params}, x), params)[1]
        y = jax.eval_shape(lambda: layer.apply({"params": params}, x))
        return back(jnp.ones(y.shape, y.dtype))[0]["bias"]

    conv = Conv(4, 1)
    for layer in (conv, Dense(4)):
        np.testing.assert_array_equal(bias_of(layer, ones), 4 * [128 * 32 * 32])
    shift = jnp.ones((128, 1, 1, 4), jnp.bfloat16)
    by_shift = jax.vjp(lambda shift: add_bias(ones, shift), shift)[1](ones)[0]
    np.testing.assert_array_equal(by_shift, np.full(shift.shape, 32 * 32))
    assert bias_of(conv, ones).dtype == jnp.float32


def test_embeddings():
    v = jnp.array([0.0, 1.0, 999.0])
    p = positional_features(v, 8)
    w = 10000.0 ** -(np.arange(4) / 3)
    angle = np.asarray(v, float)[:, None] * w
    np.testing.assert_allclose(p, np.concatenate([np.sin(angle), np.cos(angle)], 1), atol=2e-4)

    layer = FourierFeatures(1000, 16.0)
    params = layer.init(jax.random.key(0), v)
    assert np.std(params["params"]["kernel"]) == pytest.approx(16, rel=0.1)
    f = layer.apply(params, v)
    np.testing.assert_array_equal(f[0], np.repeat([0.0, 1.0], 1000))
    np.testing.assert_allclose(f[:, :1000] ** 2 + f[:, 1000:] ** 2, 1, rtol=1e-5)
    gradient = jax.grad(lambda params: layer.apply(params, v).sum())(params)
    assert not gradient["params"]["kernel"].any()


# --- NCSNpp ----------------------------------------------------------------------------------

COMBINATIONS = [
    {"resblock": "ddpm", "resamp_with_conv": False},
    {"resblock": "ddpm", "resamp_with_conv": True, **PYRAMIDS, "progressive_combine": "cat"},
    {"resblock": "ddpm", "fir": True, "progressive": "residual", "progressive_input": "residual"},
    {"resblock": "biggan", "progressive": "residual", "progressive_input": "input_skip"},
    {"resblock": "biggan", "fir": True, "progressive_input": "residual", "skip_rescale": False},
    {"resblock": "biggan", "fir": True, **PYRAMIDS},
]


@pytest.mark.parametrize("fields", COMBINATIONS)
def test_every_option_commutes_with_transposition(fields):
    """Exchanging h and w in the image and in every kernel exchanges them in the output."""
    net = NCSNpp(**TINY, **fields)
    height = 4 if fields is COMBINATIONS[0] else 8  # attention goes by height, so only mid_attn
    net = net.clone(attn_resolutions=())
    x = image(2, height, 8, 3)
    params = parameters(net, x)
    swapped = jax.tree.map(lambda p: jnp.swapaxes(p, 0, 1) if p.ndim == 4 else p, params)
    out = apply(net, params, x)
    again = apply(net, swapped, jnp.swapaxes(x, 1, 2))
    assert np.std(out) > 0.1
    assert relative_error(jnp.swapaxes(again, 1, 2), out) < ROUNDING
    assert relative_error(apply(net, params, jnp.swapaxes(x, 1, 2)), again) > 0.1


@pytest.mark.parametrize("resblock", ["ddpm", "biggan"])
def test_initial_kernels(resblock):
    """Uniform of variance scale / fan, the fan being the mean of both (default_init of the 2021
    code). The scale is 1, 0.1 of NIN, and init_scale of the last layer of each block and of the
    network."""
    net = NCSNpp(
        **{**TINY, "ch_mult": (1, 3)},
        resblock=resblock,
        progressive="residual",
        progressive_input="residual",
        cond_features=5,
        init_scale=0.3,
    )
    x, cond = jnp.zeros((2, 8, 8, 3)), {"vector": jnp.zeros((2, 5))}
    key = jax.random.key(0, impl="unsafe_rbg")
    params = jax.jit(lambda key: net.init(key, x, NOISE, cond)["params"])(key)
    seen = set()
    for path, kernel in jax.tree_util.tree_leaves_with_path(params):
        *block, layer, kind = (part.key for part in path)
        if kind != "kernel":
            assert np.all(np.asarray(kernel) == (kind == "scale"))
            continue
        scale = 1.0
        if layer in ("conv_1", "out_conv") or (layer == "out" and block):
            scale = 0.3
        elif layer in ("query", "key", "value") or (layer == "shortcut" and resblock == "ddpm"):
            scale = 0.1
        seen.add(scale)
        field = np.prod(kernel.shape[:-2])
        bound = np.sqrt(3 * scale / (field * np.mean(kernel.shape[-2:])))
        assert np.abs(kernel).max() <= bound * (1 + 1e-6), path
        # a square of U(-b, b) has the mean b^2/3 and the variance 4 b^4/45
        error = np.mean(np.asarray(kernel, float) ** 2) / (bound**2 / 3) - 1
        assert abs(error) < 5 * np.sqrt(0.8 / kernel.size), (path, error)
    assert seen == {0.1, 0.3, 1.0}


def test_the_way_of_a_residual_pyramid():
    """From what layers gave, what those after them were given: on the way down resampled features,
    on the way up (pyramid + features) / sqrt 2 for both (the 2021 code), and the skips."""
    net = NCSNpp(
        nf=8,
        ch_mult=(1, 1, 1),
        num_res_blocks=1,
        attn_resolutions=(),
        resblock="ddpm",
        resamp_with_conv=False,
        fir=True,
        progressive="residual",
    )
    x = image(2, 8, 8, 3)
    params = parameters(net, x)

    @jax.jit
    def run(params):
        gave = net.apply({"params": params}, x, NOISE, capture_intermediates=True)[1]
        gave = {
            name: of["__call__"][0]
            for name, of in gave["intermediates"].items()
            if name != "__call__"
        }

        def block(name, h):
            layer = ResBlock(8, False, 0.0, 0.0, True, GroupNorm)
            return layer.apply({"params": params[name]}, h, gave["embed_1"], False)

        def joined(level):
            return (gave[f"up_{level}_pyramid"] + gave[f"up_{level}_1"]) / np.sqrt(2)

        fir = (1, 3, 3, 1)
        h = jnp.concatenate([upsample(joined(1), fir), gave["down_0_0"]], axis=-1)
        truth = {
            "down_1_0": block("down_1_0", downsample(gave["down_0_0"], fir)),
            "up_0_0": block("up_0_0", h),
            "up_0_pyramid": UpConv(8, fir).apply({"params": params["up_0_pyramid"]}, joined(1)),
            "up_1_pyramid": UpConv(8, fir).apply(
                {"params": params["up_1_pyramid"]}, gave["up_2_conv"]
            ),
            "out_norm": GroupNorm().apply({"params": params["out_norm"]}, joined(0)),
        }
        return {name: gave[name] for name in truth}, truth

    found, truth = run(params)
    for name, value in truth.items():
        assert relative_error(found[name], value) < ROUNDING, name


def test_attention_goes_by_height():
    for resolution, names in ((4, {"down_0_0_attn", "up_0_attn"}), (8, set())):
        net = NCSNpp(**{**TINY, "ch_mult": (1,), "attn_resolutions": (resolution,)})
        made = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((2, 4, 8, 3)), NOISE)
        found = {name for name in made["params"] if name.endswith("attn")}
        assert found == names | {"mid_attn"}


def test_starts_at_zero():
    net, x = NCSNpp(**{**TINY, "ch_mult": (1,)}), image(2, 4, 4, 3)
    # this generator compiles much faster than the default one
    out = jax.jit(lambda key: net.init_with_output(key, x, NOISE)[0])(
        jax.random.key(0, impl="unsafe_rbg")
    )
    assert 0 < np.max(np.abs(out)) < 1e-3


@pytest.fixture(scope="module")
def tiny():
    """A network with every kind of part, its parameters, an input and its output."""
    net = NCSNpp(**TINY, progressive_input="residual", fir=True, embedding="fourier")
    x = image(2, 8, 8, 3)
    params = parameters(net, x)
    return net, params, x, apply(net, params, x)


@pytest.fixture(scope="module")
def small():
    """A network of one level, for tests that take gradients."""
    net = NCSNpp(**{**TINY, "ch_mult": (1,)})
    x = image(2, 4, 4, 3)
    return net, parameters(net, x), x


def test_names_tell_level_and_position(tiny):
    assert set(tiny[1]) == {
        *("fourier", "embed_0", "embed_1", "conv_in"),
        *("down_0_0", "down_0_resample", "down_0_pyramid", "down_1_0", "down_1_0_attn"),
        *("mid_0", "mid_attn", "mid_1"),
        *("up_1_0", "up_1_1", "up_1_attn", "up_1_resample", "up_0_0", "up_0_1"),
        *("out_norm", "out_conv"),
    }


def test_examples_are_independent(tiny):
    net, params, x, out = tiny
    single = jax.jit(jax.vmap(lambda x, s: net.apply({"params": params}, x[None], s[None])[0]))
    assert relative_error(single(x, NOISE), out) < ROUNDING


def test_uncentered_data_and_division_by_sigma(tiny):
    net, params, x, out = tiny
    other = apply(net.clone(centered=False, scale_by_sigma=True), params, (x + 1) / 2)
    assert relative_error(other * NOISE[:, None, None, None], out) < ROUNDING


def test_fourier_features_of_the_input_have_their_period_and_parity():
    """The input is x, sin 4 pi x, sin 8 pi x, cos 4 pi x, cos 8 pi x. A network that sees some of
    them alone has their symmetries."""
    net = NCSNpp(**TINY, input_fourier=(2, 3))
    x = image(2, 8, 8, 1)
    params = parameters(net, x)
    kernel = params["conv_in"]["kernel"]

    def differs(seen, other):
        unseen = [i for i in range(kernel.shape[2]) if i not in seen]
        conv = params["conv_in"] | {"kernel": kernel.at[:, :, unseen].set(0)}
        out, changed = (apply(net, params | {"conv_in": conv}, each) for each in (x, other))
        return relative_error(changed, out)

    rounding = 10 * ROUNDING  # that of an angle of 8 pi x, |x| < 4, moves a feature by 1e-5
    for seen, period in (([1, 2, 3, 4], 0.5), ([2, 4], 0.25)):
        assert differs(seen, x + period) < rounding
        assert differs(seen, x + period / 2) > 0.01
    assert differs([3, 4], -x) < rounding
    assert differs([1], -x) > 0.01
    assert differs([2], -x) > 0.01
    assert differs([0], x + 0.5) > 0.01


def test_float64_is_computed_throughout_and_differentiates(small, x64):
    net, params, x = small
    x, v = (jnp.asarray(a, jnp.float64) for a in (x, image(2, 4, 4, 3, seed=3)))
    assert {str(p.dtype) for p in jax.tree.leaves(params)} == {"float32"}

    def f(x):
        return net.apply({"params": params}, x, jnp.asarray(NOISE, jnp.float64))

    y, tangent = jax.jit(lambda x: jax.jvp(f, (x,), (v,)))(x)
    assert y.dtype == jnp.float64
    h = 1e-4
    difference = apply(net, params, x + h * v) - apply(net, params, x - h * v)
    assert relative_error(tangent, difference / (2 * h)) < 1e-6
    gradient = jax.jit(lambda x: jax.vjp(f, x)[1](y)[0])(x)
    assert float(jnp.vdot(gradient, v)) == pytest.approx(float(jnp.vdot(y, tangent)), rel=1e-9)


def test_bfloat16_has_no_product_of_float32(tiny):
    """Neither the network nor its gradient: statistics and the softmax alone are float32."""
    net, params, x, _ = tiny
    half = net.clone(dtype=jnp.bfloat16)

    def loss(params):
        return jnp.sum(half.apply({"params": params}, x, NOISE) ** 2)

    text = jax.jit(jax.grad(loss)).lower(params).as_text()
    operands = re.findall(r"stablehlo\.(?:dot_general|convolution).* : \((.*?)\) ->", text)
    assert len(operands) > 3 * sum("conv_1" in block for block in params.values())
    assert not [pair for pair in operands if "f32" in pair]


def test_bfloat16_agrees_within_its_rounding(tiny):
    net, params, x, out = tiny
    half = apply(net.clone(dtype=jnp.bfloat16), params, x)
    assert half.dtype == jnp.float32
    assert 1e-4 < relative_error(half, out) < 0.05  # bfloat16 has 8 bits, eps 0.004
    # of labels bfloat16 has every fourth only
    small, labels = MLP(features=(16,), embedding_dim=8), jnp.array([997.0, 999.0])
    params = parameters(small, x)
    truth = apply(small, params, x, labels)
    half = apply(small.clone(dtype=jnp.bfloat16), params, x, labels)
    assert 1e-4 < relative_error(half, truth) < 0.05


REMAT = ("none", "elementwise", "all")


def test_remat_changes_nothing(small):
    net, params, x = small
    rngs = {"dropout": jax.random.key(5)}

    def run(remat):
        def loss(params):
            variables = {"params": params}
            y = net.clone(remat=remat).apply(variables, x, NOISE, train=True, rngs=rngs)
            return jnp.mean(y**2), y

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    plain, y = run("none")
    for again, y_again in map(run, REMAT[1:]):  # other programs, which may round differently
        assert relative_error(y, y_again) < ROUNDING
        chex.assert_trees_all_close(plain, again, rtol=1e-4, atol=1e-6)


def test_remat_keeps_less_and_elementwise_computes_no_convolution_again(small):
    net, params, x = small

    def run(remat):
        """Bytes that are kept for the gradient, and the convolutions that it takes."""

        def output(params):
            return net.clone(remat=remat).apply({"params": params}, x, NOISE)

        def gradient(params):
            y, back = jax.vjp(output, params)
            return back(y)

        _, back = jax.eval_shape(lambda params: jax.vjp(output, params), params)
        text = str(jax.make_jaxpr(gradient)(params))
        return sum(a.size * a.dtype.itemsize for a in jax.tree.leaves(back)), text.count(
            "convolution["
        )

    kept, convolutions = zip(*map(run, REMAT), strict=True)
    blocks = sum("conv_1" in block for block in params.values())
    assert kept[2] < kept[1] < kept[0]
    # each block has two of them, of which "all" computes one again: the last is not asked for
    assert np.subtract(convolutions, convolutions[0]).tolist() == [0, 0, blocks]


@pytest.mark.parametrize("rate", [0.1, 0.37])
def test_dropout_has_its_rate_keeps_the_mean_and_draws_neighbours_independently(rate):
    shape = (64, 128, 129)
    y = Dropout(rate).apply({}, jnp.ones(shape), True, rngs={"dropout": jax.random.key(0)})
    lost, n = np.asarray(y == 0), np.prod(shape)
    deviation = np.sqrt(rate * (1 - rate) / n)
    assert abs(lost.mean() - rate) < 4 * deviation + 2**-17
    np.testing.assert_allclose(y[~lost], 1 / (1 - rate), rtol=2**-16 / (1 - rate))
    assert abs(np.mean(y) - 1) < 4 * deviation / (1 - rate)
    for axis in range(3):
        both = np.delete(lost, 0, axis) & np.delete(lost, -1, axis)
        assert abs(both.mean() - rate**2) < 6 * rate / np.sqrt(n)


def test_dropout_only_in_training(small):
    net, params, x = small

    @jax.jit
    def run(key):
        return net.apply({"params": params}, x, NOISE, train=True, rngs={"dropout": key})

    a, again, b = (run(jax.random.key(i)) for i in (0, 0, 1))
    np.testing.assert_array_equal(a, again)
    assert relative_error(a, b) > 1e-2
    # neither evaluation nor a rate of zero changes anything, or asks for a key
    out = apply(net, params, x)
    train = net.clone(dropout=0.0).apply({"params": params}, x, NOISE, train=True)
    assert relative_error(train, out) < ROUNDING


def test_labels_act_through_their_embedding_alone(tiny):
    net, params, x, out = tiny
    labelled = net.clone(num_classes=3)
    table = jnp.asarray(np.random.default_rng(0).normal(size=(3, 32)), jnp.float32)
    with_table = {**params, "embed_label": {"embedding": table.at[0].set(0)}}
    ys = [apply(labelled, with_table, x, NOISE, {"label": jnp.array(v)}) for v in ([0, 0], [0, 2])]
    assert relative_error(ys[0], out) < ROUNDING
    assert relative_error(ys[1][0], out[0]) < ROUNDING
    assert relative_error(ys[1][1], out[1]) > 1e-3
    with pytest.raises(ValueError, match="label"):
        labelled.apply({"params": with_table}, x, NOISE)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"progressive": "skip"}, r"progressive='skip'.*output_skip"),
        ({"progressive_input": "skip"}, "input_skip"),
        ({"progressive_combine": "add"}, "sum"),
        ({"resblock": "resnet"}, "biggan"),
        ({"embedding": "sine"}, "positional"),
        ({"scale_by_sigma": True}, "fourier"),
    ],
)
def test_wrong_fields_name_the_right_ones(fields, message):
    with pytest.raises(ValueError, match=message):
        NCSNpp(**fields)


def test_image_that_cannot_be_halved():
    with pytest.raises(ValueError, match=r"30x32 .* multiples of 8"):
        jax.eval_shape(NCSNpp().init, jax.random.key(0), jnp.zeros((1, 30, 32, 3)), jnp.ones(1))


# --- MLP -------------------------------------------------------------------------------------


def test_mlp_against_numpy():
    net = MLP(features=(16, 8), embedding_dim=6, num_classes=2)
    x, label = image(2, 3, 2), jnp.array([0, 1])
    start = net.init(jax.random.key(0), x, NOISE, {"label": label})["params"]
    assert not apply(net, start, x, NOISE, {"label": label}).any()

    params = parameters(net, x, {"label": label})
    p = jax.tree.map(lambda a: np.asarray(a, float), params)

    def dense(name, h):
        return h @ p[name]["kernel"] + p[name]["bias"]

    def swish(h):
        return h / (1 + np.exp(-h))

    angle = np.asarray(NOISE, float)[:, None] * 10000.0 ** -(np.arange(3) / 2)
    e = dense("embed_0", np.concatenate([np.sin(angle), np.cos(angle)], 1))
    e = swish(dense("embed_1", swish(e)) + p["embed_label"]["embedding"][label])
    h = np.asarray(x, float).reshape(2, 6)
    for i in range(2):
        h = swish(dense(f"dense_{i}", h) + dense(f"noise_{i}", e))
    expected = dense("out", h).reshape(2, 3, 2)
    out = apply(net, params, x, NOISE, {"label": label})
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


def test_mlp_options():
    net, x = MLP(embedding="fourier", dtype=jnp.bfloat16), image(2, 2)
    assert apply(net, parameters(net, x), x).dtype == jnp.float32
    wide = net.clone(embedding_dim=1000, features=(8,), fourier_scale=3.0)
    frequencies = wide.init(jax.random.key(0), x, NOISE)["params"]["fourier"]["kernel"]
    assert np.std(frequencies) == pytest.approx(3, rel=0.1)
    with pytest.raises(ValueError, match="positional"):
        MLP(embedding="sine")
