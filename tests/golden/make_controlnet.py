"""Makes controlnet/: tiny ControlNets of diffusers with random weights, and what they and the
U-Nets of latent_diffusion/ under them give.

    pip install diffusers==0.42.0 torch==2.13.0
    python tests/golden/make_controlnet.py

A case is a folder with config.json as `save_pretrained` leaves it, shapes.json, from which
`make_diffusers.draw` makes the weights again, and golden.npz: what the ControlNet gives, also in
guess mode, and the output of the U-Net with two of them, at .7 and .4, of two hints.
"""

import json
import shutil
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent / "controlnet"
CASES = {  # the U-Net below, and the channels of the hint's convolutions
    "sd15": {"conditioning_embedding_out_channels": (4, 6, 8)},
    "sdxl": {"conditioning_embedding_out_channels": (4, 8), "conditioning_channels": 1},
}
WEIGHTS = (0.7, 0.4)


def main() -> None:
    import torch

    torch.set_num_threads(1)
    shutil.rmtree(HERE, ignore_errors=True)
    for name, options in CASES.items():
        make(name, options)


def make(name, options):
    import diffusers
    import torch
    from make_diffusers import draw
    from make_latent_diffusion import UNETS

    def with_weights(net, seed=0):
        shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
        weights = {key: torch.tensor(value) for key, value in draw(shapes).items()}
        if seed:  # another one, of the same shapes
            weights = {key: value.flip(0) for key, value in weights.items()}
        net.load_state_dict(weights)
        return shapes

    fields = UNETS[name]
    unet = diffusers.UNet2DConditionModel(**fields).eval()
    with_weights(unet)
    own = {k: v for k, v in fields.items() if k not in ("up_block_types", "sample_size")}
    nets = [diffusers.ControlNetModel(**own, **options).eval() for _ in WEIGHTS]
    shapes, _ = (with_weights(net, seed) for seed, net in enumerate(nets))
    nets[0].save_config(HERE / name)
    (HERE / name / "shapes.json").write_text(json.dumps(shapes, indent=0) + "\n")

    rng = np.random.RandomState(0)

    def drawn(*shape):
        return torch.tensor(rng.standard_normal(shape).astype(np.float32))

    factor = 2 ** (len(options["conditioning_embedding_out_channels"]) - 1)
    size = (2, options.get("conditioning_channels", 3), 4 * factor, 8 * factor)
    x, context, t = drawn(2, 4, 4, 8), drawn(2, 5, 12), torch.tensor([421, 999])
    hints = [torch.tensor(rng.uniform(size=size).astype(np.float32)) for _ in WEIGHTS]
    added = {}
    if name == "sdxl":
        sizes = torch.tensor([[512.0, 768, 0, 64, 512, 512], [8, 8, 0, 0, 8, 8]])
        added = {"text_embeds": drawn(2, 10), "time_ids": sizes}

    def said(net, hint, weight=1.0, guess=False):
        down, middle = net(
            x,
            t,
            context,
            hint,
            conditioning_scale=weight,
            guess_mode=guess,
            added_cond_kwargs=added or None,
            return_dict=False,
        )
        return [*down, middle]

    with torch.no_grad():
        pairs = zip(nets, hints, WEIGHTS, strict=True)
        *down, middle = (sum(both) for both in zip(*(said(*each) for each in pairs), strict=True))
        output = unet(
            x,
            t,
            context,
            added_cond_kwargs=added or None,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
        ).sample
        alone, guess = (said(nets[0], hints[0], guess=mode) for mode in (False, True))
    images = {"x": x, "hint": hints[0], "hint_1": hints[1], "output": output}
    images |= {f"said_{i}": h for i, h in enumerate(alone)}
    images |= {f"guess_{i}": h for i, h in enumerate(guess)}
    arrays = {key: value.numpy().transpose(0, 2, 3, 1) for key, value in images.items()}
    arrays |= {"t": t.numpy(), "context": context.numpy()}
    if added:
        arrays |= {"vector": added["text_embeds"].numpy(), "sizes": added["time_ids"].numpy()}
    np.savez_compressed(HERE / name / "golden.npz", **arrays)
    print(name, len(alone), float(np.abs(arrays["output"]).max()))


if __name__ == "__main__":
    main()
