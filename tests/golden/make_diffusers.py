"""Makes diffusers/: tiny networks of random weights, and what diffusers computes with them.

    pip install diffusers==0.42.0 torch==2.13.0
    python tests/golden/make_diffusers.py

A case is a folder as `save_pretrained` leaves it, with golden.npz beside: x [b, h, w, c], t [b]
(labels, or noise levels of a VE model), output (the network's) and x_0 (what a scheduler makes of
it, unclipped). No weight is left at its start, since some start at zero. The network of attn_skip,
which cannot be small, has no weights in its folder: `draw` makes them again, from names and shapes.
"""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent / "diffusers"


def draw(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights from names and shapes alone, by NumPy's frozen legacy generator."""
    weights = {}
    for name, shape in shapes.items():
        z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        if name == "time_proj.weight":
            weights[name] = z
        elif len(shape) > 1:
            weights[name] = z / np.sqrt(np.prod(shape[1:]))
        else:
            weights[name] = 0.2 * z + ("norm" in name and name.endswith("weight"))
    return {name: value.astype(np.float32) for name, value in weights.items()}


UNETS = {
    "ho": {  # as google/ddpm-cifar10-32
        "sample_size": 8,
        "block_out_channels": (8, 8, 16),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 2,
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
        "norm_num_groups": 4,
    },
    "tutorial": {  # the defaults of the class, as in the training example
        "sample_size": 8,
        "block_out_channels": (8, 24),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "velocity": {
        "sample_size": 4,
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": (8, 16),
        "down_block_types": ("AttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": 4,
        "norm_num_groups": 8,
        "center_input_sample": True,
    },
    "skip": {  # as google/ncsnpp-celebahq-256
        "sample_size": 8,
        "block_out_channels": (8, 16, 16),
        "down_block_types": ("SkipDownBlock2D",) * 3,
        "up_block_types": ("SkipUpBlock2D",) * 3,
        "layers_per_block": 1,
        "attention_head_dim": None,
        "time_embedding_type": "fourier",
        "mid_block_scale_factor": 1.41421356237,
        "norm_eps": 1e-6,
        "norm_num_groups": None,
        "center_input_sample": True,
    },
    "attn_skip": {
        "sample_size": 4,
        "block_out_channels": (128, 128),
        "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
        "layers_per_block": 1,
        "attention_head_dim": None,
        "time_embedding_type": "fourier",
        "mid_block_scale_factor": 1.41421356237,
        "norm_eps": 1e-6,
        "norm_num_groups": None,
    },
}
HALVED = ("ho", "tutorial", "velocity", "skip")  # weights rounded to, and stored in, float16
# name of the scheduler's class, its fields, and the labels or noise levels to try
SCHEDULERS = {
    "ho": ("DDPMScheduler", {}, (0, 300, 999)),
    "tutorial": ("DDIMScheduler", {"beta_schedule": "squaredcos_cap_v2"}, (0, 421, 998)),
    "velocity": (
        "DPMSolverMultistepScheduler",
        {
            "beta_schedule": "scaled_linear",
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "num_train_timesteps": 500,
        },
        (0, 250, 499),
    ),
    "skip": ("ScoreSdeVeScheduler", {"sigma_max": 348.0}, (0.01, 1.3, 200.0)),
    "attn_skip": ("ScoreSdeVeScheduler", {"sigma_max": 378.0, "snr": 0.075}, (0.02, 7.0)),
}


def main() -> None:
    import diffusers
    import torch

    torch.set_num_threads(1)
    for name, fields in UNETS.items():
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        net = diffusers.UNet2DModel(**fields).eval()
        shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
        weights = {key: torch.tensor(value) for key, value in draw(shapes).items()}
        if name in HALVED:
            weights = {key: value.half().float() for key, value in weights.items()}
        net.load_state_dict(weights)

        kind, options, labels = SCHEDULERS[name]
        scheduler = getattr(diffusers, kind)(**options)
        rng = np.random.RandomState(0)
        size, channels = fields["sample_size"], fields.get("in_channels", 3)
        x = rng.standard_normal((len(labels), channels, size, size)).astype(np.float32)
        if kind == "ScoreSdeVeScheduler":
            t = np.array(labels, np.float32)
            x = 0.5 + x * np.sqrt(t**2 + 0.1).reshape(-1, 1, 1, 1)
        else:
            t = np.array(labels)
        with torch.no_grad():
            output = net(torch.tensor(x), torch.tensor(t)).sample.numpy()
        golden = {"x": x, "output": output, "x_0": x_0(diffusers, scheduler, x, t, output)}
        golden = {key: value.transpose(0, 2, 3, 1) for key, value in golden.items()}

        layout = folder if name in ("ho", "skip") else None
        if name in HALVED:
            net.half()
        if name == "ho":  # the names and the file of the first versions
            net.save_config(layout)
            torch.save(of_old(net.state_dict()), folder / "diffusion_pytorch_model.bin")
        elif name == "attn_skip":
            net.save_config(folder / "unet")
            (folder / "unet" / "shapes.json").write_text(json.dumps(shapes, indent=0) + "\n")
        else:
            net.save_pretrained(layout or folder / "unet")
            next(folder.rglob("*.safetensors")).chmod(0o644)
        scheduler.save_pretrained(layout or folder / "scheduler")
        np.savez_compressed(folder / "golden.npz", t=t, **golden)
        print(name, sum(value.numel() for value in weights.values()), np.abs(output).max())


def x_0(diffusers, scheduler, x, t, output):
    """E[x_0 | x_t] by diffusers' own step."""
    import torch

    if scheduler.__class__.__name__ == "ScoreSdeVeScheduler":
        sigma = t.astype(float).reshape(-1, 1, 1, 1)
        return x + sigma**2 * output
    ddim = diffusers.DDIMScheduler.from_config(scheduler.config, clip_sample=False)
    ddim.set_timesteps(scheduler.config.num_train_timesteps)
    ddim.alphas_cumprod = ddim.alphas_cumprod.double()
    return np.stack(
        [
            ddim.step(
                torch.tensor(o).double(), int(i), torch.tensor(x_i).double()
            ).pred_original_sample.numpy()
            for x_i, i, o in zip(x, t, output, strict=True)
        ]
    )


def of_old(state):
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for key, value in state.items():
        for new, old in names.items():
            key = key.replace(f".{new}.", f".{old}.")
        renamed[key] = value
    return renamed


if __name__ == "__main__":
    main()
