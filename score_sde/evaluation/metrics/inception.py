"""Inception-v3 as the Inception Score and FID use it: the network of December 2015.

It differs from the published Inception-v3 (arXiv:1512.00567) in three ways, which its weights need:
averages at the border are only over pixels of the image, the last block takes a maximum where the
others take an average, and there are 1,008 classes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from os import PathLike
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float32

from score_sde.published import torch_file
from score_sde.published.matching import misfit
from score_sde.types import PyTree

SIZE = 299
NUM_CLASSES = 1008
_EPS = 1e-3  # of the batch normalisation


class InceptionV3(nn.Module):
    """`net.apply({"params": p}, x [b, 299, 299, 3]) -> (features [b, 2048], logits [b, 1008])`.

    x is in about [-1, 1]. The kernels and biases include the batch normalisation (`params_of`). The
    layers have their names in the file of the weights.
    """

    @nn.compact
    def __call__(
        self, x: Float32[Array, "b h w 3"]
    ) -> tuple[Float32[Array, "b 2048"], Float32[Array, "b 1008"]]:
        x = _conv(x, "Conv2d_1a_3x3", 32, (3, 3), 2, "VALID")
        x = _conv(x, "Conv2d_2a_3x3", 32, (3, 3), 1, "VALID")
        x = _conv(x, "Conv2d_2b_3x3", 64, (3, 3))
        x = _shrink(x)
        x = _conv(x, "Conv2d_3b_1x1", 80)
        x = _conv(x, "Conv2d_4a_3x3", 192, (3, 3), 1, "VALID")
        x = _shrink(x)
        x = _Mixed5(32, name="Mixed_5b")(x)
        x = _Mixed5(64, name="Mixed_5c")(x)
        x = _Mixed5(64, name="Mixed_5d")(x)
        x = _Mixed6a(name="Mixed_6a")(x)
        x = _Mixed6(128, name="Mixed_6b")(x)
        x = _Mixed6(160, name="Mixed_6c")(x)
        x = _Mixed6(160, name="Mixed_6d")(x)
        x = _Mixed6(192, name="Mixed_6e")(x)
        x = _Mixed7a(name="Mixed_7a")(x)
        x = _Mixed7(_average, name="Mixed_7b")(x)
        x = _Mixed7(_maximum, name="Mixed_7c")(x)
        x = jnp.mean(x, axis=(1, 2))
        return x, nn.Dense(NUM_CLASSES, precision=jax.lax.Precision.HIGHEST, name="fc")(x)


class _Mixed5(nn.Module):
    pool_features: int

    @nn.compact
    def __call__(self, x):
        one = _conv(x, "branch1x1", 64)
        five = _conv(x, "branch5x5_1", 48)
        five = _conv(five, "branch5x5_2", 64, (5, 5))
        three = _conv(x, "branch3x3dbl_1", 64)
        three = _conv(three, "branch3x3dbl_2", 96, (3, 3))
        three = _conv(three, "branch3x3dbl_3", 96, (3, 3))
        pool = _conv(_average(x), "branch_pool", self.pool_features)
        return jnp.concatenate([one, five, three, pool], axis=-1)


class _Mixed6a(nn.Module):
    @nn.compact
    def __call__(self, x):
        once = _conv(x, "branch3x3", 384, (3, 3), 2, "VALID")
        twice = _conv(x, "branch3x3dbl_1", 64)
        twice = _conv(twice, "branch3x3dbl_2", 96, (3, 3))
        twice = _conv(twice, "branch3x3dbl_3", 96, (3, 3), 2, "VALID")
        return jnp.concatenate([once, twice, _shrink(x)], axis=-1)


class _Mixed6(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        one = _conv(x, "branch1x1", 192)
        seven = _conv(x, "branch7x7_1", self.width)
        seven = _conv(seven, "branch7x7_2", self.width, (1, 7))
        seven = _conv(seven, "branch7x7_3", 192, (7, 1))
        twice = _conv(x, "branch7x7dbl_1", self.width)
        twice = _conv(twice, "branch7x7dbl_2", self.width, (7, 1))
        twice = _conv(twice, "branch7x7dbl_3", self.width, (1, 7))
        twice = _conv(twice, "branch7x7dbl_4", self.width, (7, 1))
        twice = _conv(twice, "branch7x7dbl_5", 192, (1, 7))
        pool = _conv(_average(x), "branch_pool", 192)
        return jnp.concatenate([one, seven, twice, pool], axis=-1)


class _Mixed7a(nn.Module):
    @nn.compact
    def __call__(self, x):
        three = _conv(x, "branch3x3_1", 192)
        three = _conv(three, "branch3x3_2", 320, (3, 3), 2, "VALID")
        seven = _conv(x, "branch7x7x3_1", 192)
        seven = _conv(seven, "branch7x7x3_2", 192, (1, 7))
        seven = _conv(seven, "branch7x7x3_3", 192, (7, 1))
        seven = _conv(seven, "branch7x7x3_4", 192, (3, 3), 2, "VALID")
        return jnp.concatenate([three, seven, _shrink(x)], axis=-1)


class _Mixed7(nn.Module):
    pool: Any

    @nn.compact
    def __call__(self, x):
        one = _conv(x, "branch1x1", 320)
        three = _conv(x, "branch3x3_1", 384)
        three_a = _conv(three, "branch3x3_2a", 384, (1, 3))
        three_b = _conv(three, "branch3x3_2b", 384, (3, 1))
        twice = _conv(x, "branch3x3dbl_1", 448)
        twice = _conv(twice, "branch3x3dbl_2", 384, (3, 3))
        twice_a = _conv(twice, "branch3x3dbl_3a", 384, (1, 3))
        twice_b = _conv(twice, "branch3x3dbl_3b", 384, (3, 1))
        pool = _conv(self.pool(x), "branch_pool", 192)
        return jnp.concatenate([one, three_a, three_b, twice_a, twice_b, pool], axis=-1)


def _conv(x, name, features, size=(1, 1), stride=1, padding="SAME"):
    """A convolution and a ReLU, of the compact method it is called in."""
    layer = nn.Conv(
        features,
        size,
        strides=stride,
        padding=padding,
        precision=jax.lax.Precision.HIGHEST,
        name=name,
    )
    return nn.relu(layer(x))


def _average(x):
    return nn.avg_pool(x, (3, 3), (1, 1), "SAME", count_include_pad=False)


def _maximum(x):
    return nn.max_pool(x, (3, 3), (1, 1), "SAME")


def _shrink(x):
    return nn.max_pool(x, (3, 3), (2, 2))


def load(path: str | PathLike) -> PyTree:
    """The parameters in `pt_inception-2015-12-05-6726825d.pth`, which pytorch-fid uses.

    Raises:
      FileNotFoundError. ValueError: the file is damaged, or does not fit the network.
    """
    state = torch_file.read(path)
    try:
        return params_of(state)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from None


def params_of(state: Any) -> PyTree:
    """The float32 parameters from a dictionary of arrays with the names and shapes of `expected`.

    Counts of batches are ignored. Raises ValueError with a list of what does not fit.
    """
    if not isinstance(state, Mapping):
        raise ValueError(f"holds a {type(state).__name__}, not arrays by name")
    shapes = expected()
    state = {name: a for name, a in state.items() if not name.endswith("num_batches_tracked")}
    problems = [f"{name} is missing" for name in shapes if name not in state]
    problems += [f"{name} is left over" for name in state if name not in shapes]
    for name, shape in shapes.items():
        found = getattr(state.get(name), "shape", None)
        if name in state and found != shape:
            problems.append(f"{name} has shape {found}, not {shape}")
    if problems:
        raise ValueError(misfit(problems))
    params = {}
    for module in _modules():
        kernel, bias = _folded(".".join(module), state)
        params[(*module, "kernel")], params[(*module, "bias")] = kernel, bias
    if not all(np.isfinite(a).all() for a in params.values()):
        raise ValueError("has numbers that are not finite")
    return unflatten_dict({name: jnp.asarray(a, jnp.float32) for name, a in params.items()})


def expected() -> dict[str, tuple[int, ...]]:
    """The names and shapes of the arrays in the file, except counts of batches."""
    shapes = {}
    for module, (*size, ins, outs) in _modules().items():
        name = ".".join(module)
        if module == ("fc",):
            shapes |= {f"{name}.weight": (outs, ins), f"{name}.bias": (outs,)}
            continue
        shapes[f"{name}.conv.weight"] = (outs, ins, *size)
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.bn.{leaf}"] = (outs,)
    return shapes


@functools.cache
def _modules() -> dict[tuple[str, ...], tuple[int, ...]]:
    """The paths of the layers and the shapes of their kernels."""
    net, image = InceptionV3(), jnp.zeros((1, SIZE, SIZE, 3))
    shapes = jax.eval_shape(lambda: net.init(jax.random.key(0), image)["params"])
    return {path[:-1]: a.shape for path, a in flatten_dict(shapes).items() if path[-1] == "kernel"}


def _folded(name: str, state: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The kernel and the bias of a layer, with the normalisation after it included."""
    if f"{name}.weight" in state:
        return state[f"{name}.weight"].T, state[f"{name}.bias"]
    scale, bias, mean, variance = (
        state[f"{name}.bn.{leaf}"].astype(np.float64)
        for leaf in ("weight", "bias", "running_mean", "running_var")
    )
    scale = scale / np.sqrt(variance + _EPS)
    return state[f"{name}.conv.weight"].transpose(2, 3, 1, 0) * scale, bias - mean * scale
