"""diffusers' DiTTransformer2DModel, of the same settings as `DiT`."""

import tempfile
from pathlib import Path

from diffusers import DiTTransformer2DModel
from safetensors.numpy import save_file

from peer_networks.fields import check_others
from score_sde.nets.dit import DiT
from score_sde.published import dit_diffusers, dit_names


class Peer(DiTTransformer2DModel):
    """Gives an array. All blocks have one embedding of noise and class, as in DiT's own code; there
    each has a copy."""

    def forward(self, x, noise, label):
        return super().forward(x, noise, label).sample


def peer(net: DiT, shape) -> Peer:
    """With the fields of `net`, for latents of this shape."""
    check_others(
        net,
        *("patch_size", "width", "depth", "num_heads", "num_classes", "out_channels"),
        *("freq_shift", "dropout"),  # the peer's frequencies are those of freq_shift=1
    )
    made = Peer(
        num_attention_heads=net.num_heads,
        attention_head_dim=net.width // net.num_heads,
        in_channels=shape[-1],
        out_channels=net.out_channels or shape[-1],
        num_layers=net.depth,
        dropout=net.dropout,
        sample_size=shape[0],
        patch_size=net.patch_size,
        num_embeds_ada_norm=net.num_classes,
        norm_eps=1e-6,
    )
    first, *others = made.transformer_blocks
    for block in others:
        block.norm1.emb = first.norm1.emb
    return made


def as_ours(peer: Peer, net: DiT) -> dict:
    """Its parameters as those of `net`."""
    with tempfile.TemporaryDirectory() as folder:
        peer.save_config(folder)
        state = {name: value.numpy() for name, value in peer.state_dict().items()}
        save_file(state, Path(folder, "diffusion_pytorch_model.safetensors"))
        Path(folder, "scheduler_config.json").write_text("{}")  # a folder has one
        _, state = dit_diffusers.read(Path(folder), net.depth)
    return dit_names.to_ours(net, state, peer.out_channels)
