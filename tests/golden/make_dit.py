"""Makes tests/golden/dit/: small transformers of DiT's and SiT's own code and of diffusers, with
random weights, and what they give.

pip install torch==2.13.0 torchvision timm==1.0.31 diffusers==0.42.0
python tests/golden/make_dit.py DIT/models.py SIT/models.py

The arguments are files of checkouts of facebookresearch/DiT and willisma/SiT.
"""

import argparse
import importlib.util
import shutil
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent / "dit"
SIZE, CHANNELS, CLASSES = 8, 4, 3
FILES = {  # of DiT's or SiT's own code
    "dit": {"patch_size": 2, "hidden_size": 12, "depth": 3, "num_heads": 2, "mlp_ratio": 4.0},
    "sit": {"patch_size": 4, "hidden_size": 8, "depth": 2, "num_heads": 4, "mlp_ratio": 2.0},
}
TIMES = {"dit": (0.0, 250.0, 999.0), "sit": (0.0, 0.3, 1.0)}


def draw(shapes, seed=0):
    """Weights of about unit gain, none of which are zero."""
    rng = np.random.RandomState(seed)
    return {
        name: (rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]) or 1)).astype(np.float32)
        for name, shape in shapes.items()
    }


def randomised(net, seed=0):
    import torch

    state = net.state_dict()
    kept = {name: value for name, value in state.items() if name == "pos_embed"}
    shapes = {name: tuple(value.shape) for name, value in state.items() if name not in kept}
    drawn = {name: torch.tensor(value) for name, value in draw(shapes, seed).items()}
    net.load_state_dict({**kept, **drawn})
    return net.eval()


def examples():
    rng = np.random.RandomState(1)
    x = rng.standard_normal((3, CHANNELS, SIZE, SIZE)).astype(np.float32)
    return x, np.array([0, CLASSES, 2])  # the second has no class


def save(name, x, t, label, output):
    arrays = {"x": x.transpose(0, 2, 3, 1), "output": output.transpose(0, 2, 3, 1)}
    label = np.where(label == CLASSES, -1, label)
    np.savez_compressed(HERE / f"{name}.npz", t=np.float32(t), label=label, **arrays)
    print(name, np.abs(output).max())


def main(*models: str) -> None:
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    make_files(*models)
    make_folder()


def make_files(*models):
    import torch

    x, label = examples()
    tensors = torch.tensor(x), torch.tensor(label)
    for (name, fields), file in zip(FILES.items(), models, strict=True):
        spec = importlib.util.spec_from_file_location(f"{name}_models", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        make = {"dit": "DiT", "sit": "SiT"}[name]
        options = {"input_size": SIZE, "in_channels": CHANNELS, "num_classes": CLASSES, **fields}
        net = randomised(getattr(module, make)(**options))
        with torch.no_grad():
            output = net(tensors[0], torch.tensor(TIMES[name]), tensors[1]).numpy()
        save(name, x, TIMES[name], label, output)
        if name == "dit":  # as the published files
            torch.save(net.state_dict(), HERE / "dit.pt")
        else:  # as their training writes, with the average other than the parameters
            average = {k: v.clone() for k, v in net.state_dict().items()}
            optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0)
            net(tensors[0], torch.tensor(TIMES[name]), tensors[1]).square().mean().backward()
            optimizer.step()
            content = {"model": net.state_dict(), "ema": average, "opt": optimizer.state_dict()}
            content["args"] = argparse.Namespace(model="SiT-XL/2", epochs=1400, wandb=False)
            torch.save(content, HERE / "sit.pt")


def make_folder():
    import diffusers
    import torch

    x, label = examples()
    net = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=6,
        in_channels=CHANNELS,
        out_channels=2 * CHANNELS,
        num_layers=2,
        sample_size=SIZE,
        num_embeds_ada_norm=CLASSES,
        norm_eps=1e-6,
    )
    randomised(net)
    first = net.transformer_blocks[0].norm1.emb.state_dict()
    for block in net.transformer_blocks:  # copies, as a conversion of DiT's weights makes them
        block.norm1.emb.load_state_dict(first)
    times = (0, 250, 999)
    with torch.no_grad():
        output = net(torch.tensor(x), torch.tensor(times), torch.tensor(label)).sample.numpy()
    save("diffusers", x, times, label, output)
    folder = HERE / "diffusers"
    net.save_pretrained(folder / "transformer")
    next(folder.rglob("*.safetensors")).chmod(0o644)
    diffusers.DDIMScheduler(clip_sample=False).save_pretrained(folder / "scheduler")


if __name__ == "__main__":
    main(*sys.argv[1:])
