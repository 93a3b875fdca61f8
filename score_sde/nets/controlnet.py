"""ControlNets (Zhang et al. 2023, arXiv:2302.05543): a copy of the first half of a network, which
also sees a hint, such as an outline, and changes what the second half reads."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Real

from score_sde.nets.checks import fields_of
from score_sde.nets.conditional_unet import ConditionalUNet
from score_sde.nets.dit import DiT
from score_sde.nets.layers import Conv, conv
from score_sde.nets.ncsnpp import NCSNpp
from score_sde.nets.positions import patchify
from score_sde.nets.transformer import Block, CrossBlock, JointBlock, linear, telling, zero_linear
from score_sde.types import Cond, PyTree

HINT = "hint"  # the part of the condition with the hint, if it has no other name


class Controlled(nn.Module):
    """A network, and ControlNets that change what it reads.

    It is called as the network is: `net.apply({"params": p}, x, noise, cond, train)`. Its
    parameters are {"net": ..., "controls_0": ..., ...}. An example with a hint below 0 has none,
    and the network is as it was.

    Fields:
        net: the network, which reads cond["control"].
        controls: the ControlNets, such as `ControlUNet`.
        weights: the factor of what each of them says; () is 1.
        intervals: for each the least and the largest noise, in the network's numbers, at which it
            says something; () is always.
        deeper: factors from 1/10 in the first layer to 1 in the last, spaced evenly in logarithm:
            the guess mode of the ControlNet's authors.

    Raises:
        ValueError: there are more or fewer weights or intervals than ControlNets.
    """

    net: nn.Module
    controls: tuple[nn.Module, ...]
    weights: tuple[float, ...] = ()
    intervals: tuple[tuple[float, float], ...] = ()
    deeper: bool = False

    def __post_init__(self):
        for field in ("weights", "intervals"):
            found = getattr(self, field)
            if found and len(found) != len(self.controls):
                raise ValueError(
                    f"{field}={found} has {len(found)} entries for {len(self.controls)} ControlNets"
                )
        super().__post_init__()

    @property
    def numbers(self) -> tuple[str, ...]:
        """Those that the network reads."""
        return getattr(self.net, "numbers", ())

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b ..."],
        noise: Real[Array, "b ..."],
        cond: Cond | None = None,
        train: bool = False,
    ) -> Float[Array, "b ..."]:
        count = len(self.controls)
        weights = self.weights or (1.0,) * count
        intervals = self.intervals or ((-math.inf, math.inf),) * count
        said = [
            control(x, noise, cond, train, weight, interval, self.deeper)
            for control, weight, interval in zip(self.controls, weights, intervals, strict=True)
        ]
        control = jax.tree.map(lambda *a: sum(a[1:], a[0]), *said)
        return self.net(x, noise, {**(cond or {}), "control": control}, train)


class ControlUNet(ConditionalUNet):
    """The way down and the middle of a `ConditionalUNet`, with a convolution of one pixel, at first
    0, after each of its feature maps.

    `net.apply({"params": p}, x [b, h, w, c], noise [b], cond, train)` gives what is added to the
    feature maps, in the order of diffusers. cond[hint] is [b, f h, f w, hint_features], from 0 to
    1, with f = 2^(len(hint_channels) - 1).

    Fields:
        hint: the part of the condition that has the hint.
        hint_features: its channels.
        hint_channels: of the convolutions that bring the hint to the size of x, each of half the
            size of the one before; (16, 32, 96, 256) in Stable Diffusion.
    """

    hint: str = HINT
    hint_features: int = 3
    hint_channels: tuple[int, ...] = (16, 32, 96, 256)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        noise: Real[Array, " b"],
        cond: Cond | None = None,
        train: bool = False,
        weight: float = 1.0,
        interval: tuple[float, float] = (-math.inf, math.inf),
        deeper: bool = False,
    ) -> tuple[Array, ...]:
        factor = 2 ** (len(self.hint_channels) - 1)
        size = (x.shape[1] * factor, x.shape[2] * factor, self.hint_features)
        hint = hint_of(cond, self.hint, (len(x), *size))
        block, transformer = self._layers(x, noise, cond, train)
        h = conv(self._beside(x, cond), self.first, name="conv_in")
        h = h + encoded(hint.astype(h.dtype), self.hint_channels, self.first)
        maps = self._down(h, block, transformer)
        maps.append(self._middle(maps[-1], block, transformer))
        return told(maps, says(noise, hint, interval), depths(len(maps), weight, deeper))


class ControlNCSNpp(NCSNpp):
    """The way down and the middle of an `NCSNpp`, as `ControlUNet` has those of the other U-Net.

    Fields:
        hint: the part of the condition that has the hint.
        hint_features: its channels.
        hint_channels: as those of `ControlUNet`; of one convolution, the hint is as large as x.
    """

    hint: str = HINT
    hint_features: int = 3
    hint_channels: tuple[int, ...] = (16,)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w c"],
        noise: Real[Array, " b"],
        cond: Cond | None = None,
        train: bool = False,
        weight: float = 1.0,
        interval: tuple[float, float] = (-math.inf, math.inf),
        deeper: bool = False,
    ) -> tuple[Array, ...]:
        factor = 2 ** (len(self.hint_channels) - 1)
        size = (x.shape[1] * factor, x.shape[2] * factor, self.hint_features)
        hint = hint_of(cond, self.hint, (len(x), *size))
        h, block = self._begun(x, noise, cond, train)
        first = self._first(h) + encoded(hint.astype(h.dtype), self.hint_channels, self.nf)
        maps = self._down(h, first, block)
        maps.append(self._middle(maps[-1], block))
        return told(maps, says(noise, hint, interval), depths(len(maps), weight, deeper))


class ControlDiT(DiT):
    """The first blocks of a `DiT`, with a dense layer, at first 0, after each of them.

    `net.apply({"params": p}, x [b, *axes, c], noise, cond, train)` gives what is added to the
    tokens after each block, [depth, b, n, width]. cond[hint] is [b, *(f axes), hint_features], from
    0 to 1.

    Fields:
        hint: the part of the condition that has the hint.
        hint_features: its channels.
        hint_factor: f, how many numbers of the hint along an axis are one of x: in a latent space
            that of the autoencoder.
    """

    hint: str = HINT
    hint_features: int = 3
    hint_factor: int = 1

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b *axes c"],
        noise: Real[Array, "b *levels"],
        cond: Cond | None = None,
        train: bool = False,
        weight: float = 1.0,
        interval: tuple[float, float] = (-math.inf, math.inf),
        deeper: bool = False,
    ) -> Float[Array, "k b n w"]:
        axes = tuple(n * self.hint_factor for n in x.shape[1:-1])
        hint = hint_of(cond, self.hint, (len(x), *axes, self.hint_features))
        h, context, shared, *_ = self._tokens(x, noise, cond)
        there = self._encoded(hint.astype(h.dtype), self._patches(x)[0])
        h = h + jnp.pad(there, ((0, 0), (h.shape[1] - there.shape[1], 0), (0, 0)))  # registers
        cls = telling(_BLOCKS[self.context])
        _, said = self._scanned(cls, "blocks", self.depth, train)((h, context), shared)
        scales = jnp.asarray(depths(self.depth, weight, deeper), said.dtype)
        level = noise.reshape(len(noise), -1).max(axis=1)
        told = says(level, hint, interval)[None, :, None, None]
        return jnp.where(told, scales[:, None, None, None] * said, 0)

    def _encoded(self, hint, patch):
        patches = patchify(hint, tuple(n * self.hint_factor for n in patch))
        h = patches.reshape(len(hint), -1, patches.shape[-1])
        h = nn.silu(linear(h, self.width, name="hint_in"))
        return zero_linear(h, self.width, name="hint_out")


_BLOCKS: dict[str, type[Block]] = {"none": Block, "cross": CrossBlock, "joint": JointBlock}
_CONTROLS = {  # by the network that they control
    ConditionalUNet: ControlUNet,
    DiT: ControlDiT,
    NCSNpp: ControlNCSNpp,
}


def control_of(net: nn.Module, hint: str = HINT, **options: Any) -> nn.Module:
    """The ControlNet of a network, with its fields, and these options as others.

    Raises:
        ValueError: there is none of such networks, or it has no such field.
    """
    cls = _CONTROLS.get(type(net))
    if cls is None:
        known = ", ".join(known.__name__ for known in _CONTROLS)
        raise ValueError(
            f"the network {type(net).__name__} has no ControlNet; those that have one are {known}"
        )
    own = {f.name for f in dataclasses.fields(cls)} - {"parent", "name"}
    if wrong := sorted(set(options) - own):
        raise ValueError(f"{cls.__name__} has no field {', '.join(wrong)}")
    return cls(**{**fields_of(net), "hint": hint, **options})


def begun(fresh: PyTree, net: PyTree) -> PyTree:
    """Parameters of a ControlNet at the start of its training: those of the network, where it has
    such a layer, and `fresh` ones elsewhere. Of stacked blocks it takes the first."""

    def taken(path, new):
        there: Any = net
        for key in path:
            there = there.get(key.key) if isinstance(there, dict) else None
        if there is None:
            return new
        if there.shape[1:] == new.shape[1:] and there.shape[0] > new.shape[0]:
            there = there[: new.shape[0]]
        return there if there.shape == new.shape else new

    return jax.tree_util.tree_map_with_path(taken, fresh)


def hint_of(cond: Cond | None, name: str, shape: tuple[int, ...]) -> Float[Array, "b ..."]:
    """cond[name], a hint.

    Raises:
        ValueError: it is missing, or has another shape than this.
    """
    found = (cond or {}).get(name)
    if found is None or found.shape != shape:
        what = "which is missing" if found is None else f"not {found.shape}"
        raise ValueError(f"the ControlNet needs cond[{name!r}] of shape {shape}, {what}")
    return found


def says(
    noise: Real[Array, " b"], hint: Float[Array, "b ..."], interval: tuple[float, float]
) -> Bool[Array, " b"]:
    """Whether a ControlNet says something of an example: there is a hint, and the noise is in the
    interval."""
    there = hint.reshape(len(hint), -1).min(axis=1) >= 0
    return there & (noise >= interval[0]) & (noise <= interval[1])


def encoded(
    hint: Float[Array, "b h w d"], channels: Sequence[int], features: int
) -> Float[Array, "b h2 w2 features"]:
    """The hint at the size of x, at first 0: convolutions of the compact method that calls this,
    each of half the size of the one before."""
    h = nn.silu(conv(hint, channels[0], name="hint_in"))
    for i, (narrow, wide) in enumerate(itertools.pairwise(channels)):
        h = nn.silu(conv(h, narrow, name=f"hint_{2 * i}"))
        options = {"stride": 2, "padding": ((1, 1), (1, 1))}
        h = nn.silu(conv(h, wide, name=f"hint_{2 * i + 1}", **options))
    return zero_conv(h, features, 3, name="hint_out")


def told(
    maps: Sequence[Array], says: Bool[Array, " b"], scales: Sequence[float]
) -> tuple[Array, ...]:
    """What is added to each feature map: a convolution of one pixel, at first 0, in the compact
    method that calls this. The last map is that of the middle. says: for which examples."""
    names = [*map(str, range(len(maps) - 1)), "middle"]
    return tuple(
        jnp.where(
            says[:, None, None, None],
            scale * zero_conv(h, h.shape[-1], 1, name=f"told_{name}"),
            0,
        )
        for h, scale, name in zip(maps, scales, names, strict=True)
    )


def zero_conv(
    x: Float[Array, "b h w c"], features: int, size: int, *, name: str
) -> Float[Array, "b h w d"]:
    """A convolution of the compact method that calls this, which starts at zero."""
    return Conv(features, size, kernel_init=nn.initializers.zeros, name=name)(x)


def depths(count: int, weight: float, deeper: bool) -> tuple[float, ...]:
    """The factor of each of `count` feature maps, the last one the deepest."""
    rising = np.logspace(-1, 0, count) if deeper else np.ones(count)
    return tuple((weight * rising).tolist())
