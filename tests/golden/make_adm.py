"""Makes adm/: what OpenAI's code computes with random weights, for tests/published/test_adm.py.

    git clone https://github.com/openai/guided-diffusion
    pip install torch==2.13.0
    python tests/golden/make_adm.py guided-diffusion

A case is an .npz: `shapes`, JSON of the names and shapes of the weights, which `draw` makes again;
x [b, h, w, c], t [b], label [b] and output. No weight is left at its start, since many start at
zero. terms.npz is what their diffusion says of one learned variance, and respacing.json its steps
by their names.
"""

import json
import sys
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent / "adm"
UNET = {
    "image_size": 16,
    "in_channels": 3,
    "model_channels": 32,
    "out_channels": 6,
    "num_res_blocks": 1,
    "attention_resolutions": (2,),
    "channel_mult": (1, 2),
    "num_head_channels": 16,
    "use_scale_shift_norm": True,
    "resblock_updown": True,
}
CASES = {
    # as the 64-pixel model
    "new": {"use_new_attention_order": True, "num_classes": 10, "num_res_blocks": 2},
    # as the 256-pixel model, and the unconditional one
    "legacy": {"num_classes": 10, "channel_mult": (1, 1, 2), "attention_resolutions": (2, 4)},
    # as the 512-pixel model, whose first multiple is a half
    "half": {"channel_mult": (0.5, 1, 1.5), "model_channels": 64, "attention_resolutions": (4,)},
    # as the 128-pixel model, with the layers between blocks that the upsamplers' ancestors had
    "heads": {"num_head_channels": -1, "num_heads": 4, "resblock_updown": False},
    # options that no published file has
    "plain": {
        "resblock_updown": False,
        "conv_resample": False,
        "use_scale_shift_norm": False,
        "out_channels": 3,
    },
}
CLASSIFIERS = {
    "classifier": {"out_channels": 10, "num_res_blocks": 2},
    "classifier_new": {
        "out_channels": 7,
        "use_new_attention_order": True,
        "resblock_updown": False,
        "num_head_channels": 32,
    },
}
HALVED = ("legacy", "classifier")  # weights rounded to float16


def draw(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights from names and shapes alone, by NumPy's frozen legacy generator."""
    weights = {}
    for name, shape in shapes.items():
        z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        if len(shape) > 1:
            weights[name] = z / np.sqrt(np.prod(shape[1:]))
        else:
            weights[name] = 0.2 * z + (name.endswith("weight"))
    return {name: value.astype(np.float32) for name, value in weights.items()}


def inputs(net, size: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.RandomState(seed)
    found = {"x": rng.standard_normal((3, 3, size, size)), "t": np.array([0, 421, 999])}
    if getattr(net, "num_classes", None):
        found["label"] = rng.randint(0, net.num_classes, 3)
    return found


def run(net, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays of a case, channels last."""
    import torch

    arguments = {"y": torch.tensor(given["label"])} if "label" in given else {}
    x = given["x"].astype(np.float32)
    with torch.no_grad():
        output = net(torch.tensor(x), torch.tensor(given["t"]), **arguments).numpy()
    if output.ndim == 4:
        output = output.transpose(0, 2, 3, 1)
    return {**given, "x": x.transpose(0, 2, 3, 1), "output": output}


def main(folder: str) -> None:
    sys.path.insert(0, folder)
    import torch
    from guided_diffusion import gaussian_diffusion as gd
    from guided_diffusion.respace import SpacedDiffusion, space_timesteps
    from guided_diffusion.unet import EncoderUNetModel, UNetModel

    torch.set_num_threads(1)
    HERE.mkdir(exist_ok=True)
    classifiers = {name: {"pool": "attention", **options} for name, options in CLASSIFIERS.items()}
    for name, options in (CASES | classifiers).items():
        cls = EncoderUNetModel if name in classifiers else UNetModel
        fields = UNET | options
        net = cls(**fields).eval()
        shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
        weights = {key: torch.tensor(value) for key, value in draw(shapes).items()}
        if name in HALVED:
            weights = {key: value.half().float() for key, value in weights.items()}
        net.load_state_dict(weights)
        case = run(net, inputs(net, fields["image_size"]))
        np.savez_compressed(HERE / f"{name}.npz", shapes=json.dumps(shapes), **case)
        print(name, sum(np.prod(s) for s in shapes.values()), np.abs(case["output"]).max())

    def of_steps(table, t, shape):
        return torch.from_numpy(table)[t].reshape(-1, *(1,) * (len(shape) - 1)).expand(shape)

    gd._extract_into_tensor = of_steps  # theirs also rounds to float32

    # the moments of a step, and the terms of the bound, from one output of a network
    rng = np.random.RandomState(1)
    steps = np.array([0, 1, 2, 250, 999])
    shape = (len(steps), 2, 3, 3)
    x_0 = np.round((rng.uniform(-1, 1, shape) + 1) * 127.5) / 127.5 - 1
    x_0.reshape(-1)[:2] = -1, 1
    z, v = rng.standard_normal(shape), rng.uniform(-1.2, 1.2, shape)
    output = np.concatenate([z + 0.1 * rng.standard_normal(shape), v], axis=1)
    terms = {"steps": steps, "x_0": x_0, "z": z, "output": output}
    chains = {}
    for schedule in ("linear", "cosine"):
        betas = gd.get_named_beta_schedule(schedule, 1000)
        kinds = gd.ModelMeanType.EPSILON, gd.ModelVarType.LEARNED_RANGE, gd.LossType.MSE
        options = dict(zip(("model_mean_type", "model_var_type", "loss_type"), kinds, strict=True))
        chain = gd.GaussianDiffusion(betas=betas, **options)
        t, x = torch.tensor(steps), torch.tensor(x_0)
        x_t = chain.q_sample(x, t, torch.tensor(z))
        said = chain.p_mean_variance(lambda *_: torch.tensor(output), x_t, t, clip_denoised=False)
        for key in ("mean", "log_variance", "pred_xstart"):
            terms[f"{schedule}_{key}"] = said[key].numpy()
        vb = chain._vb_terms_bpd(lambda *_: torch.tensor(output), x, x_t, t, clip_denoised=False)
        terms[f"{schedule}_bits"] = vb["output"].numpy()
        chains[schedule] = betas, options

    # every step of a respaced chain, from x_T on, without noise: one mean after another
    betas, options = chains["linear"]
    chain = SpacedDiffusion(space_timesteps(1000, "10"), betas=betas, **options)
    x = torch.tensor(rng.standard_normal((1, 2, 3, 3)))
    seen, path = [], [x.numpy()]
    for i in reversed(range(chain.num_timesteps)):

        def model(x, t):
            seen.append(int(t[0]))
            return torch.cat([torch.tanh(x), torch.sin(3 * x)], dim=1)

        x = chain.p_mean_variance(model, x, torch.tensor([i]), clip_denoised=True)["mean"]
        path.append(x.numpy())
    terms |= {"path": np.stack(path), "labels": np.array(seen)}
    last = {k: a.swapaxes(-3, -1).swapaxes(-3, -2) if a.ndim > 3 else a for k, a in terms.items()}
    np.savez_compressed(HERE / "terms.npz", **last)

    names = ("250", "ddim25", "10", "21", "10,15,20", "ddim34", "100,50,25,10,2", "1000")
    found = {name: sorted(space_timesteps(1000, name)) for name in names}
    (HERE / "respacing.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
