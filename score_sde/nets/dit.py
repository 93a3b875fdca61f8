"""A transformer for arrays of any number of axes: images, latents, video, signals, sets."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Real

from score_sde.nets.checks import check_fields
from score_sde.nets.convolution import product
from score_sde.nets.embedding import (
    add_conditions,
    add_numbers,
    given,
    given_label,
    given_tokens,
    positional_features,
)
from score_sde.nets.layers import Dense
from score_sde.nets.positions import angles, noise_of_tokens, patchify, sines, unpatchify
from score_sde.nets.remat import POLICIES
from score_sde.nets.text import TextTransformer, masked_mean
from score_sde.nets.transformer import (
    GELU,
    AdaptiveNorm,
    Block,
    CrossAttention,
    CrossBlock,
    HeadNorm,
    Heads,
    JointBlock,
    Residual,
    Shared,
    SwiGLU,
    changed,
    layer_norm,
    linear,
    rms_norm,
    same,
    zero_linear,
)
from score_sde.types import Cond

_BLOCKS = {"none": Block, "cross": CrossBlock, "joint": JointBlock}
_CHANGED = {name: changed(block) for name, block in _BLOCKS.items()}
_NORMS = {"layer": layer_norm, "rms": rms_norm}
_MLPS = {"gelu": GELU, "swiglu": SwiGLU}
_OPTIONS = {
    "positions": ("sines", "rope", "sines+rope", "none"),
    "context": tuple(_BLOCKS),
    "norm": tuple(_NORMS),
    "mlp": tuple(_MLPS),
    "remat": tuple(POLICIES),
}
_FEATURES = 256  # of the noise level


class DiT(nn.Module):
    """The diffusion transformer of Peebles & Xie (arXiv:2212.09748), on patches of any array.

    `net.apply({"params": p}, x [b, *axes, c], noise, cond, train) -> [b, *axes, c]`. What the
    output means is up to the parametrization; at the start it is 0. `noise` is one number for each
    example, [b]; or for each token, [b, n]; or for each patch along the first axes, such as
    [b, frames] where a patch is one frame long. For a set of n points [b, n, c], patch_size=1 and
    positions="none": permuted points give permuted outputs.

    The parameters of the blocks are stacked, [depth, ...], and `jax.lax.scan` goes through them: a
    program is as long at any depth. cond["control"] [k, b, n, width] is optional: what ControlNets
    add to the tokens after each of the first k blocks (`nets.controlnet`).

    Fields:
        patch_size: numbers along each axis that make a token, or one number for all axes.
        width, depth, num_heads: channels of a token, blocks, heads of attention.
        mlp_ratio: hidden channels of the perceptron of a block, in multiples of width.
        mlp: "gelu", or "swiglu" (`SwiGLU`).
        norm: "layer", or "rms", which leaves the mean (arXiv:1910.07467).
        qk_norm: whether queries and keys are normalised (`HeadNorm`).
        positions: "sines", factorised and added to the tokens; "rope", rotary ones in each
            attention; "sines+rope", both; "none".
        registers: learnt tokens beside those of x (arXiv:2309.16588).
        embed_width: 0, or the channels between the two linear layers that embed the patches, of
            which the first has no bias (JiT, arXiv:2511.13720).
        class_tokens, class_tokens_from: so many tokens beside those of x, from the block of this
            number on. Each is the embedding of the class plus a learnt vector (JiT).
        num_classes: 0, or the number of classes of cond["label"], int [b]; negative is none, which
            has an embedding of its own.
        cond_features: 0, or the dimensions d of cond["vector"], [b, d].
        numbers: names of conditions, float [b], each embedded beside the noise level; ("jump",)
            makes a flow map (`models.flow_map`).
        cond_channels: 0, or the channels of cond["image"], [b, *axes, channels], read beside x.
        context: how blocks read cond["context"], [b, m, context_features]: by "cross" attention
            (`CrossBlock`), in "joint" attention (`JointBlock`); "none". cond["context_mask"],
            [b, m], is optional: blocks ignore the tokens where it is False.
        context_features: the dimensions of a context token; 0 with "none" or with a vocabulary.
        vocabulary: 0, or the number of words of cond["tokens"], int [b, m], of which negative ones
            are padding. A small transformer makes the context of them (`TextTransformer`), and
            their mean is added to the embedding of the noise.
        text_depth: blocks of that transformer.
        out_channels: those of the output; 0 is as many as x has.
        freq_shift: shifts the frequencies of the noise (`positional_features`).
        dropout: its rate after attention and perceptron, used when `train`, with the rng "dropout".
        dtype: of the computation, by default that of x. Parameters are always float32; statistics
            of the normalisation, and the softmax, are at least float32.
        remat: which results inside blocks are computed again for the gradient, to save memory:
            "none", "elementwise" (all but products) or "all".

    Raises:
        ValueError: an unknown option; heads that do not divide the width; class tokens without
            classes, or from a block on that is not there; axes that are no multiple
            of the patches; noise or a condition of another shape, or a missing condition.
    """

    patch_size: int | tuple[int, ...] = 2
    width: int = 384
    depth: int = 12
    num_heads: int = 6
    mlp_ratio: float = 4.0
    mlp: str = "gelu"
    norm: str = "layer"
    qk_norm: bool = False
    positions: str = "sines"
    registers: int = 0
    embed_width: int = 0
    class_tokens: int = 0
    class_tokens_from: int = 0
    num_classes: int = 0
    cond_features: int = 0
    numbers: tuple[str, ...] = ()
    cond_channels: int = 0
    context: str = "none"
    context_features: int = 0
    vocabulary: int = 0
    text_depth: int = 2
    out_channels: int = 0
    freq_shift: int = 0
    dropout: float = 0.0
    dtype: Any = None
    remat: str = "none"

    def __post_init__(self):
        check_fields(self, _OPTIONS)
        if self.num_heads < 1 or self.width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} does not divide width={self.width}")
        if "rope" in self.positions and self.width // self.num_heads % 2:
            raise ValueError("rotary positions need heads of an even number of channels")
        sources = bool(self.context_features) + bool(self.vocabulary)
        if sources != (self.context != "none"):
            raise ValueError(
                f"context={self.context!r} does not go with "
                f"context_features={self.context_features} and vocabulary={self.vocabulary}"
            )
        if self.class_tokens and not self.num_classes:
            raise ValueError(f"class_tokens={self.class_tokens} needs num_classes")
        if not 0 <= self.class_tokens_from < max(self.depth, 1):
            raise ValueError(
                f"class_tokens_from={self.class_tokens_from} is none of the {self.depth} blocks"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b *axes c"],
        noise: Real[Array, "b *levels"],
        cond: Cond | None = None,
        train: bool = False,
    ) -> Float[Array, "b *axes _"]:
        h, context, shared, c, label = self._tokens(x, noise, cond)
        said = (cond or {}).get("control")
        h, context = self._blocks("blocks", self._first, train, h, context, shared, said)
        if self.class_tokens:
            rows = self._learnt("class_tokens", self.class_tokens, h) + label[:, None]
            h, shared = prepended(rows, h, shared)
            later = self.depth - self._first
            h, context = self._blocks("later_blocks", later, train, h, context, shared)
        h = h[:, self.registers + self.class_tokens :]

        (h,) = AdaptiveNorm(_NORMS[self.norm], name="out_norm")(h, c)
        patch, grid = self._patches(x)
        channels = self.out_channels or x.shape[-1]
        h = zero_linear(h, math.prod(patch) * channels, name="out")
        return unpatchify(h.reshape(len(x), *grid, -1), patch).astype(x.dtype)

    @property
    def _first(self) -> int:
        """The blocks without class tokens."""
        return self.class_tokens_from if self.class_tokens else self.depth

    def _patches(self, x):
        """Numbers along each axis that make a token, and tokens along each axis."""
        axes = x.shape[1:-1]
        patch = self.patch_size
        patch = (patch,) * len(axes) if isinstance(patch, int) else tuple(patch)
        return patch, tuple(n // p for n, p in zip(axes, patch, strict=False))

    # The methods below make layers of the compact method that calls them.

    def _tokens(self, x, noise, cond):
        """What the blocks begin with: the tokens, the context, what all blocks share, the embedding
        of noise and conditions, and that of the classes."""
        dtype = jnp.dtype(self.dtype or x.dtype)
        patches = patchify(self._beside(x, cond), self._patches(x)[0])
        grid = patches.shape[1:-1]
        n = math.prod(grid)
        h = self._embed_patches(patches.reshape(len(x), n, -1).astype(dtype))
        if "sines" in self.positions:
            h = h + jnp.asarray(sines(grid, self.width), dtype)[None]
        label = self._label(cond, len(x), dtype)
        c = self._embed(noise, grid, label, cond, dtype)
        context, mask = self._context(cond, len(x), dtype)
        if self.vocabulary and context is not None and mask is not None:
            c = c + linear(masked_mean(context, mask), self.width, name="embed_text")
        shared = Shared(c, self._angle(grid), mask)
        if self.registers:
            h, shared = prepended(self._learnt("registers", self.registers, h), h, shared)
        return h, context, shared, c, label

    def _beside(self, x, cond):
        if not self.cond_channels:
            return x
        image = given(cond, "image", (*x.shape[:-1], self.cond_channels))
        return jnp.concatenate([x, image.astype(x.dtype)], axis=-1)

    def _embed_patches(self, patches):
        if self.embed_width:
            init = nn.initializers.xavier_uniform()
            kernel = self.param(
                "embed_bottleneck", init, (patches.shape[-1], self.embed_width), jnp.float32
            )
            patches = product(patches, jnp.asarray(kernel, patches.dtype))
        return linear(patches, self.width, name="embed_patch")

    def _label(self, cond, size, dtype):
        """The embeddings of the classes, [b, width]; zeros without classes."""
        if not self.num_classes:
            return jnp.zeros((size, self.width), dtype)
        label = given_label(cond, size)
        rows = nn.Embed(
            self.num_classes + 1,
            self.width,
            embedding_init=nn.initializers.normal(0.02),
            dtype=dtype,
            name="embed_label",
        )
        return rows(jnp.where(label < 0, self.num_classes, label))

    def _embed(self, noise, grid, label, cond, dtype):
        """c: the embedding of the noise plus those of the conditions, [b, 1 or n, width]."""
        levels = noise_of_tokens(noise, grid)
        v = levels.reshape(-1).astype(np.promote_types(dtype, np.float32))
        h = positional_features(v, _FEATURES, self.freq_shift).reshape(*levels.shape, _FEATURES)
        init = nn.initializers.normal(0.02)
        for i, activation in enumerate((nn.silu, lambda h: h)):
            layer = Dense(self.width, init, name=f"embed_{i}")
            h = activation(layer(h.astype(dtype)))
        conditions = add_conditions(label, cond, num_classes=0, cond_features=self.cond_features)
        conditions = add_numbers(conditions, cond, self.numbers)
        return h + conditions[:, None]

    def _angle(self, grid):
        """Those of rotary positions, if there are any."""
        if "rope" not in self.positions:
            return None
        of_axes = angles(grid, self.width // self.num_heads // 2)
        return jnp.asarray(np.concatenate(of_axes, axis=1), jnp.float32)

    def _learnt(self, name, count, like):
        """So many learnt tokens, the same for each example."""
        init, shape = nn.initializers.normal(0.02), (count, self.width)
        rows = self.param(name, init, shape, jnp.float32).astype(like.dtype)
        return jnp.broadcast_to(rows, (len(like), *shape))

    def _context(self, cond, size, dtype):
        """The tokens of the context, and which of them are there; None, None without."""
        if self.context == "none":
            return None, None
        if self.vocabulary:
            tokens = given_tokens(cond, size)
            text = TextTransformer(
                self.vocabulary, self.width, self.text_depth, self.num_heads, name="text"
            )
            return text(tokens, dtype), tokens >= 0
        m = np.shape((cond or {}).get("context", ()))[1:2]
        context = given(cond, "context", (size, *(m or (0,)), self.context_features))
        mask = (cond or {}).get("context_mask")
        if mask is not None:
            mask = given(cond, "context_mask", (size, *m)).astype(bool)
        return linear(context.astype(dtype), self.width, name="embed_context"), mask

    def _blocks(self, name, length, train, h, context, shared, changes=None):
        """The tokens and the context after so many blocks, whose parameters are stacked."""
        if not length:
            return h, context
        if changes is None:
            blocks = self._scanned(_BLOCKS[self.context], name, length, train)
            return blocks((h, context), shared)[0]
        k, *shape = changes.shape
        if k > length or tuple(shape) != h.shape:
            raise ValueError(
                f"cond['control'] has the shape {changes.shape}; {length} blocks have tokens of "
                f"shape {h.shape}"
            )
        changes = jnp.pad(changes.astype(h.dtype), ((0, length - k), *((0, 0),) * len(shape)))
        blocks = self._scanned(_CHANGED[self.context], name, length, train, each=(0,))
        return blocks((h, context), shared, changes)[0]

    def _scanned(self, cls, name, length, train, each=()) -> Any:
        """A loop through blocks of this class. each: the axes of further arguments along which each
        block has its own."""
        dropout = self.dropout if train else 0.0
        norm, head_norm = _NORMS[self.norm], HeadNorm if self.qk_norm else same
        mlp = partial(_MLPS[self.mlp], round(self.mlp_ratio * self.width))
        parts = {
            "heads": partial(Heads, self.num_heads, norm, head_norm),
            "residual": partial(Residual, norm, mlp, dropout),
            "dropout": dropout,
        }
        if self.context == "cross":
            parts["cross"] = partial(CrossAttention, self.num_heads, head_norm)
        if (policy := POLICIES[self.remat]) is not None:
            cls = nn.remat(cls, policy=policy, prevent_cse=False)
        in_axes: Any = (nn.broadcast, *each)
        scanned = nn.scan(
            cls,
            variable_axes={"params": 0, "intermediates": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=in_axes,
            length=length,
        )
        return scanned(**parts, name=name)


def prepended(
    rows: Float[Array, "b k w"], h: Float[Array, "b n w"], shared: Shared
) -> tuple[Float[Array, "b m w"], Shared]:
    """More tokens before the others, and what the blocks read of all. The new ones have the mean
    noise level, and no position."""
    k, c, angle = rows.shape[1], shared.c, shared.angle
    if c.shape[1] > 1:
        mean = jnp.mean(c, axis=1, keepdims=True)
        c = jnp.concatenate([jnp.repeat(mean, k, axis=1), c], axis=1)
    if angle is not None:
        angle = jnp.pad(angle, ((k, 0), (0, 0)))
    return jnp.concatenate([rows, h], axis=1), shared._replace(c=c, angle=angle)
