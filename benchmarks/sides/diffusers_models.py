"""Networks of diffusers with the fields of ours, as modules `(x, noise [b], label [b]) -> array`.

They read the fields of `DiT` and `NCSNpp` from any object that has them. `throughput.py --peers`
times them too, and `peer_outputs.py` shows that the transformer with our weights has our outputs.
"""

from __future__ import annotations

from typing import Any

from diffusers import DiTTransformer2DModel, UNet2DModel


class Transformer(DiTTransformer2DModel):
    """Gives an array. All blocks have one embedding of noise and class, as in DiT's own code;
    diffusers has a copy in each."""

    def forward(self, x, noise, label):
        return super().forward(x, noise, label).sample


class UNet(UNet2DModel):
    """Gives an array, and reads no label."""

    def forward(self, x, noise, label):
        return super().forward(x, noise).sample


def dit(net: Any, shape: Any) -> Transformer:
    """The peer of `DiT`, for latents of this shape; its frequencies are those of freq_shift=1."""
    side, _, channels = shape
    made = Transformer(
        num_attention_heads=net.num_heads,
        attention_head_dim=net.width // net.num_heads,
        in_channels=channels,
        out_channels=net.out_channels or channels,
        num_layers=net.depth,
        dropout=net.dropout,
        sample_size=side,
        patch_size=net.patch_size,
        num_embeds_ada_norm=net.num_classes,
        norm_eps=1e-6,
    )
    first, *others = made.transformer_blocks
    for block in others:
        block.norm1.emb = first.norm1.emb
    return made


def unet(net: Any, shape: Any) -> UNet:
    """The peer of `NCSNpp`, for images of this shape; it has 3 % fewer parameters at 7.0M."""
    side, _, channels = shape
    attends = [side // 2**i in net.attn_resolutions for i in range(len(net.ch_mult))]
    return UNet(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=[net.nf * mult for mult in net.ch_mult],
        layers_per_block=net.num_res_blocks,
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        downsample_type="resnet",
        upsample_type="resnet",
        norm_num_groups=min(net.nf // 4, 32),
        attention_head_dim=None,
        dropout=net.dropout,
    )
