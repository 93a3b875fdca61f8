"""The networks of Stable Diffusion by diffusers' configs, and their published sizes."""

import json

import jax

from score_sde.published import diffusers_unet, diffusers_vae

SIZES = {  # fields; others have diffusers' defaults, as in old files. Millions of parameters.
    "SD 1.5": ({"cross_attention_dim": 768}, 859.5),
    "SD 2.1": (
        {
            "cross_attention_dim": 1024,
            "attention_head_dim": [5, 10, 20, 20],
            "use_linear_projection": True,
        },
        865.9,
    ),
    "SDXL": (
        {
            "block_out_channels": [320, 640, 1280],
            "down_block_types": ["DownBlock2D", *["CrossAttnDownBlock2D"] * 2],
            "up_block_types": [*["CrossAttnUpBlock2D"] * 2, "UpBlock2D"],
            "cross_attention_dim": 2048,
            "attention_head_dim": [5, 10, 20],
            "transformer_layers_per_block": [1, 2, 10],
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        },
        2567.5,
    ),
    "VAE": (
        {
            "block_out_channels": [128, 256, 512, 512],
            "down_block_types": ["DownEncoderBlock2D"] * 4,
            "up_block_types": ["UpDecoderBlock2D"] * 4,
            "layers_per_block": 2,
        },
        83.7,
    ),
}


def published_size(name, folder):
    """Asserts the size of a network; returns it."""
    fields, millions = SIZES[name]
    module, channels = (diffusers_vae, ()) if name == "VAE" else (diffusers_unet, (4,))
    (folder / "config.json").write_text(json.dumps({"_class_name": module.CLASS, **fields}))
    net = module.module_of(folder)
    shapes = jax.tree.leaves(module.parameter_shapes(net, *channels))
    assert round(sum(leaf.size for leaf in shapes) / 1e6, 1) == millions
    return net
