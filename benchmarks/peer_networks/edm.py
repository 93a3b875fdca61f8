"""EDM's DDPM++ (arXiv:2206.00364) in PyTorch: the layers of `SongUNet`, by the same names."""

import math
import re

import torch
from flax.traverse_util import unflatten_dict
from torch import nn
from torch.nn import functional as F

from peer_networks.fields import check_others
from score_sde.nets.edm import SongUNet

EPS = 1e-6  # of the normalisations


def norm(channels):
    """Groups of at least four channels, at most 32."""
    return nn.GroupNorm(min(32, channels // 4), channels, EPS)


class Block(nn.Module):
    """`edm_blocks.SongBlock`, with one head of attention or none."""

    def __init__(self, before, after, width, dropout, attention=False, resample=None):
        super().__init__()
        self.dropout, self.attends, self.resample = dropout, attention, resample
        self.norm0, self.norm1 = norm(before), norm(after)
        self.conv0 = nn.Conv2d(before, after, 3, padding=1)
        self.conv1 = nn.Conv2d(after, after, 3, padding=1)
        self.affine = nn.Linear(width, after)
        self.skip = nn.Identity()
        if resample or before != after:
            self.skip = nn.Conv2d(before, after, 1)
        if attention:
            self.norm2 = norm(after)
            self.qkv, self.proj = nn.Conv2d(after, 3 * after, 1), nn.Conv2d(after, after, 1)

    def resampled(self, x):
        if self.resample == "up":
            return F.interpolate(x, scale_factor=2, mode="nearest")
        return F.avg_pool2d(x, 2) if self.resample == "down" else x

    def forward(self, x, embedding):
        h = self.conv0(self.resampled(F.silu(self.norm0(x))))
        h = F.silu(self.norm1(h + self.affine(embedding)[:, :, None, None]))
        h = self.conv1(F.dropout(h, self.dropout, self.training))
        x = (self.skip(self.resampled(x)) + h) * math.sqrt(0.5)
        if not self.attends:
            return x
        b, c, height, width = x.shape
        parts = self.qkv(self.norm2(x)).reshape(b, c, 3, height * width)
        q, k, v = parts.permute(2, 0, 3, 1)[:, :, None]
        h = F.scaled_dot_product_attention(q, k, v)[:, 0].mT.reshape(x.shape)
        return (x + self.proj(h)) * math.sqrt(0.5)


class Peer(nn.Module):
    """The network. Of the conditions it reads the label; no example is augmented."""

    def __init__(self, net: SongUNet, shape):
        super().__init__()
        self.net, (side, _, channels) = net, shape
        width = net.model_channels * net.channel_mult_emb
        if net.num_classes:
            self.map_label = nn.Linear(net.num_classes, net.model_channels)
        if net.augment_dim:
            self.map_augment = nn.Linear(net.augment_dim, net.model_channels, bias=False)
        self.map_layer0 = nn.Linear(net.model_channels, width)
        self.map_layer1 = nn.Linear(width, width)
        self.down, self.up = nn.ModuleDict(), nn.ModuleDict()

        def block(before, after, **options):
            return Block(before, after, width, net.dropout, **options)

        c = net.model_channels
        self.enc_0_conv, skips = nn.Conv2d(channels, c, 3, padding=1), [c]
        levels = [(i, side >> i, m * net.model_channels) for i, m in enumerate(net.channel_mult)]
        for level, size, after in levels:
            if level:
                self.down[f"enc_{level}_down"] = block(c, c, resample="down")
                skips.append(c)
            attends = size in net.attn_resolutions
            for i in range(net.num_blocks):
                self.down[f"enc_{level}_block{i}"] = block(c, after, attention=attends)
                c = after
                skips.append(c)
        last = levels[-1][0]
        self.middle = nn.ModuleDict(
            {
                f"dec_{last}_in0": block(c, c, attention=True),
                f"dec_{last}_in1": block(c, c),
            }
        )
        for level, size, after in reversed(levels):
            if level != last:
                self.up[f"dec_{level}_up"] = block(c, c, resample="up")
            for i in range(net.num_blocks + 1):
                attends = i == net.num_blocks and size in net.attn_resolutions
                both = c + skips.pop()
                self.up[f"dec_{level}_block{i}"] = block(both, after, attention=attends)
                c = after
        self.dec_0_aux_norm = norm(c)
        self.dec_0_aux_conv = nn.Conv2d(c, channels, 3, padding=1)

    def embedding(self, noise, label):
        half = self.net.model_channels // 2
        rates = torch.arange(half, device=noise.device) / (half - 1)
        angle = noise[:, None] * 1e-4**rates
        h = torch.cat([angle.sin(), angle.cos()], dim=1)
        if classes := self.net.num_classes:
            h = h + self.map_label(F.one_hot(label, classes).to(h.dtype) * math.sqrt(classes))
        if self.net.augment_dim:
            h = h + self.map_augment(h.new_zeros(len(h), self.net.augment_dim))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(h))))

    def forward(self, x, noise, label):
        embedding = self.embedding(noise, label)
        skips = [self.enc_0_conv(x)]
        for block in self.down.values():
            skips.append(block(skips[-1], embedding))
        h = skips[-1]
        for block in self.middle.values():
            h = block(h, embedding)
        for block in self.up.values():
            h = h if block.resample else torch.cat([h, skips.pop()], dim=1)
            h = block(h, embedding)
        return self.dec_0_aux_conv(F.silu(self.dec_0_aux_norm(h)))


def peer(net: SongUNet, shape) -> Peer:
    """With the fields of `net`, for images of this shape."""
    check_others(
        net,
        *("model_channels", "channel_mult", "num_blocks", "attn_resolutions", "dropout"),
        *("num_classes", "channel_mult_emb", "augment_dim"),
    )
    return Peer(net, shape)


def as_ours(peer: Peer, net: SongUNet) -> dict:
    """Its parameters as those of `net`."""
    params = {}
    for name, value in peer.state_dict().items():
        array = value.numpy()
        *layers, kind = re.sub(r"^(down|middle|up)\.", "", name).split(".")
        if kind == "weight":
            kind = "kernel" if array.ndim > 1 else "scale"
            array = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T
        params[(*layers, kind)] = array
    return unflatten_dict(params)
