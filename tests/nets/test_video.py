"""Networks of video: image networks frame by frame at first, and attention over time then."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from score_sde.config import build
from score_sde.nets.positions import sines
from score_sde.nets.transformer import layer_norm
from score_sde.nets.video import OverTime, VideoDiT, VideoNCSNpp, from_image

TINY = {"patch_size": 2, "width": 16, "depth": 2, "num_heads": 2}
UNET = {"nf": 8, "ch_mult": (1,), "num_res_blocks": 1, "attn_resolutions": (), "dropout": 0.0}
B, F, SIDE = 2, 3, 4


def clips(seed=0, channels=3):
    return jax.random.normal(jax.random.key(seed), (B, F, SIDE, SIDE, channels))


def noised(params, seed=7, scale=0.3):
    """Parameters without zeros, of the same shapes."""
    flat = flatten_dict(params)
    keys = jax.random.split(jax.random.key(seed), len(flat))
    pairs = zip(keys, flat.items(), strict=True)
    return unflatten_dict({k: a + scale * jax.random.normal(key, a.shape) for key, (k, a) in pairs})


def one_of_each(value):
    return jnp.repeat(value, F, axis=0)


def test_an_image_transformer_gives_the_same_frames_bit_for_bit():
    """With labels, a context, an image beside each frame, and a noise level of each frame."""
    fields = {**TINY, "num_classes": 3, "cond_channels": 1, "context": "cross"}
    video = {**fields, "context_features": 5, "numbers": ("frame",)}
    net = build("nets", {"name": "video.VideoDiT", **video})
    image_net = build("nets", {"name": "dit.DiT", **fields, "context_features": 5})
    x, beside, noise = clips(), clips(1, 1), jnp.linspace(0.1, 0.9, B * F).reshape(B, F)
    label, context = jnp.array([2, -1]), jax.random.normal(jax.random.key(2), (B, 4, 5))
    cond = {"label": label, "context": context, "image": beside}
    frames = [a.reshape(-1, *a.shape[2:]) for a in (x, noise, beside)]
    of_frames = {"label": one_of_each(label), "context": one_of_each(context), "image": frames[2]}

    image = noised(image_net.init(jax.random.key(3), frames[0], frames[1], of_frames)["params"])
    params = net.init(jax.random.key(4), x, noise, cond)["params"]
    truth = jax.jit(image_net.apply)({"params": image}, *frames[:2], of_frames)
    begun = from_image(params, image)
    ours = jax.jit(net.apply)({"params": begun}, x, noise, cond)
    np.testing.assert_array_equal(ours.reshape(truth.shape), truth)
    changed = jax.jit(net.apply)({"params": noised(begun)}, x, noise, cond)
    assert np.abs(changed - ours).max() > 0.1  # then the layers over time do something
    np.testing.assert_array_equal(  # one number for each clip is one for all its frames
        jax.jit(net.apply)({"params": begun}, x, noise[:, 0], cond),
        jax.jit(net.apply)({"params": begun}, x, jnp.repeat(noise[:, :1], F, 1), cond),
    )


def test_an_image_unet_gives_the_same_frames():
    """The same numbers in the same order, in other programs of XLA: it rounds them otherwise."""
    net, image_net = VideoNCSNpp(**UNET), build("nets", {"name": "ncsnpp.NCSNpp", **UNET})
    x, noise = clips(), jnp.linspace(0.1, 0.9, B * F).reshape(B, F)
    frames = x.reshape(-1, SIDE, SIDE, 3), noise.reshape(-1)
    image = noised(image_net.init(jax.random.key(3), *frames)["params"])
    params = net.init(jax.random.key(4), x, noise)["params"]
    truth = jax.jit(image_net.apply)({"params": image}, *frames)
    ours = jax.jit(net.apply)({"params": from_image(params, image)}, x, noise)
    scale = np.abs(truth).max()
    np.testing.assert_allclose(ours.reshape(truth.shape), truth, rtol=0, atol=64 * scale * 2**-23)
    whole = {"params": noised(from_image(params, image))}
    changed = jax.jit(net.apply)(whole, x, noise)
    far = x.at[:, 0].add(1.0)  # the last frame hears of the first
    assert np.abs(jax.jit(net.apply)(whole, far, noise) - changed)[:, -1].max() > 0.01


def test_attention_over_time_written_out():
    layer, x = OverTime(F), jax.random.normal(jax.random.key(0), (B * F, 2, 6))
    c = jax.random.normal(jax.random.key(2), (B * F, 4))
    params = noised(layer.init(jax.random.key(1), x, c)["params"])
    ours = layer.apply({"params": params}, x, c).reshape(B, F, 2, 6)
    parts = params["norm"]["modulation"], params["qkv"], params["out"]
    (m, n), (w, u), (v, d) = (
        [np.asarray(p[k], np.float64) for k in ("kernel", "bias")] for p in parts
    )
    told = np.asarray(c, np.float64)
    shift, scale = np.split(told / (1 + np.exp(-told)) @ m + n, 2, axis=1)
    clip = np.asarray(x, np.float64).reshape(B, F, 2, 6)
    shift, scale = shift.reshape(B, F, 6), scale.reshape(B, F, 6)
    for b, place in np.ndindex(B, 2):
        rows = clip[b, :, place]
        h = np.asarray(layer_norm(jnp.float32(rows))) * (1 + scale[b]) + shift[b]
        q, k, value = np.split((h + sines((F,), 6)) @ w + u, 3, axis=1)
        weights = np.exp(q @ k.T / np.sqrt(6))
        found = weights / weights.sum(1, keepdims=True) @ value
        truth = rows + np.concatenate([found, sines((F,), 6)], axis=1) @ v + d
        np.testing.assert_allclose(ours[b, :, place], truth, rtol=1e-5, atol=1e-5)


def test_what_does_not_fit_is_named():
    net, x = VideoDiT(**TINY), clips()
    with pytest.raises(ValueError, match=r"noise has the shape \(2, 4\): of 2 clips of 3 frames"):
        jax.eval_shape(net.init, jax.random.key(0), x, jnp.ones((B, 4)))
    params = {"out": {"kernel": jnp.ones((2, 3))}}
    with pytest.raises(ValueError, match=r"has out/kernel \[2, 4\], and .* has one of \[2, 3\]"):
        from_image(params, {"out": {"kernel": jnp.ones((2, 4))}})
    with pytest.raises(ValueError, match=r"has in/bias \[1\], and .* has none: give both the same"):
        from_image(params, {"in": {"bias": jnp.ones(1)}})
