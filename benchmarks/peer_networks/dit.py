"""diffusers' DiTTransformer2DModel, of the same settings as `DiT`."""

import tempfile
from pathlib import Path

from safetensors.numpy import save_file
from sides import diffusers_models
from sides.diffusers_models import Transformer

from peer_networks.fields import check_others
from score_sde.nets.dit import DiT
from score_sde.published import dit_diffusers, dit_names


def peer(net: DiT, shape) -> Transformer:
    """With the fields of `net`, for latents of this shape."""
    check_others(
        net,
        *("patch_size", "width", "depth", "num_heads", "num_classes", "out_channels"),
        *("freq_shift", "dropout"),
    )
    return diffusers_models.dit(net, shape)


def as_ours(peer: Transformer, net: DiT) -> dict:
    """Its parameters as those of `net`."""
    with tempfile.TemporaryDirectory() as folder:
        peer.save_config(folder)
        state = {name: value.numpy() for name, value in peer.state_dict().items()}
        save_file(state, Path(folder, "diffusion_pytorch_model.safetensors"))
        Path(folder, "scheduler_config.json").write_text("{}")  # a folder has one
        _, state = dit_diffusers.read(Path(folder), net.depth)
    return dit_names.to_ours(net, state, peer.out_channels)
