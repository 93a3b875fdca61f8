"""Makes latent_diffusion/: tiny U-Nets and autoencoders of diffusers with random weights, and what
they give.

    pip install diffusers==0.42.0 torch==2.13.0
    python tests/golden/make_latent_diffusion.py

A case is a folder with config.json as `save_pretrained` leaves it, shapes.json, from which
`make_diffusers.draw` makes the weights again, and golden.npz. The folder of vae_plain has weights
instead, as `save_pretrained` writes them in 16 bits and several files.
"""

import json
import shutil
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent / "latent_diffusion"
CROSS = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
PLAIN = ("DownBlock2D", "UpBlock2D")


def blocks(*kinds):
    down, up = zip(*kinds, strict=True)
    return {"down_block_types": down, "up_block_types": up[::-1]}


SMALL = {
    "sample_size": 8,
    "block_out_channels": (16, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "cross_attention_dim": 12,
}
UNETS = {
    "sd15": {**SMALL, **blocks(CROSS, PLAIN), "attention_head_dim": 4},
    "sd21": {
        **SMALL,
        **blocks(CROSS, CROSS),
        "in_channels": 9,  # as for inpainting
        "attention_head_dim": [2, 4],
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    "sdxl": {
        **SMALL,
        **blocks(PLAIN, CROSS),
        "attention_head_dim": [1, 4],
        "transformer_layers_per_block": [3, 2],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 6,
        "projection_class_embeddings_input_dim": 10 + 6 * 6,
    },
}
VAES = {
    "vae": {
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "layers_per_block": 1,
        "latent_channels": 3,
        "norm_num_groups": 4,
        "sample_size": 16,
        "scaling_factor": 0.5,
        "shift_factor": 0.25,
    },
    "vae_plain": {
        "in_channels": 2,
        "out_channels": 2,
        "block_out_channels": (8,),
        "layers_per_block": 2,
        "latent_channels": 1,
        "norm_num_groups": 2,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "mid_block_add_attention": False,
    },
}
TIMES = (0, 421, 999)


def main() -> None:
    import torch

    torch.set_num_threads(1)
    shutil.rmtree(HERE, ignore_errors=True)
    for name, fields in UNETS.items():
        unet(name, fields)
    for name, fields in VAES.items():
        vae(name, fields)


def made(kind, name, fields):
    """The network with weights that are not zero anywhere; and its folder."""
    import diffusers
    import torch
    from make_diffusers import draw

    folder = HERE / name
    net = getattr(diffusers, kind)(**fields).eval()
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    weights = {key: torch.tensor(value) for key, value in draw(shapes).items()}
    if name == "vae_plain":
        weights = {key: value.half().float() for key, value in weights.items()}
    net.load_state_dict(weights)
    if name == "vae_plain":
        net.half().save_pretrained(folder, variant="fp16", max_shard_size="15KB")
        for file in folder.glob("*.safetensors"):
            file.chmod(0o644)
        net.float()
    else:
        net.save_config(folder)
        (folder / "shapes.json").write_text(json.dumps(shapes, indent=0) + "\n")
    return net, folder


def save(folder, **arrays):
    """Images become [b, h, w, c]."""
    arrays = {
        name: np.asarray(value).transpose(0, 2, 3, 1) if np.ndim(value) == 4 else np.asarray(value)
        for name, value in arrays.items()
    }
    np.savez_compressed(folder / "golden.npz", **arrays)
    print(folder.name, {name: float(np.abs(value).max()) for name, value in arrays.items()})


def unet(name, fields):
    import torch

    net, folder = made("UNet2DConditionModel", name, fields)
    rng = np.random.RandomState(0)

    def drawn(*shape):
        return torch.tensor(rng.standard_normal(shape).astype(np.float32))

    x, direction = drawn(3, 4, 8, 4), drawn(3, 4, 8, 4)
    context, image = drawn(3, 5, 12), drawn(3, fields.get("in_channels", 4) - 4, 8, 4)
    vector = drawn(3, 10)
    sizes = torch.tensor([[512, 768, 0, 64, 512, 512], [8, 8, 0, 0, 8, 8], [1024, 0, 7, 1, 2, 3]])
    mask = torch.tensor([[1, 1, 0, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]])

    def output(x, mask=None, dtype=torch.float32):
        added = {"text_embeds": vector.to(dtype), "time_ids": sizes.to(dtype)}
        with torch.no_grad():
            return net.to(dtype)(
                torch.cat([x, image], 1).to(dtype),
                torch.tensor(TIMES),
                context.to(dtype),
                added_cond_kwargs=added,
                encoder_attention_mask=mask,
            ).sample

    arrays = {"x": x, "context": context, "output": output(x)}
    if name == "sd15":
        step = 1e-4 * direction.double()
        high, low = (output(x.double() + s, dtype=torch.float64) for s in (step, -step))
        arrays |= {"mask": mask, "masked_output": output(x, mask)}
        arrays |= {"direction": direction, "tangent": ((high - low) / 2e-4).float()}
    if name == "sdxl":
        arrays |= {"vector": vector, "sizes": sizes}
    if "in_channels" in fields:
        arrays |= {"image": image}
    save(folder, t=np.array(TIMES), **arrays)


def vae(name, fields):
    import torch

    net, folder = made("AutoencoderKL", name, fields)
    rng = np.random.RandomState(0)
    x = rng.standard_normal((2, fields.get("in_channels", 3), 16, 8)).astype(np.float32)
    with torch.no_grad():
        law = net.encode(torch.tensor(x)).latent_dist
        z = rng.standard_normal(law.mean.shape).astype(np.float32)
        decoded = net.decode(torch.tensor(z)).sample
    save(
        folder,
        x=x,
        moments=law.parameters,
        mean=law.mean,
        std=law.std,
        kl=law.kl(),
        z=z,
        decoded=decoded,
    )


if __name__ == "__main__":
    main()
