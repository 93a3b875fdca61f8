"""Makes edm/: what the public code of EDM and EDM2 computes with small networks of random weights.

    pip install torch==2.13.0 numpy
    git clone https://github.com/NVlabs/edm EDM; git clone https://github.com/NVlabs/edm2 EDM2
    python tests/golden/make_edm.py EDM EDM2

A case is CASE.npz: x [b, h, w, c], sigma, label (-1 for none), augment, output (of the network),
denoised (of the preconditioned one) and logvar (of EDM2); with the shapes of the weights, which
`draw` makes again. Two cases are also written as the public code writes them, CASE.pkl, in float16.
In the place of the source of their classes is a line that would end the program that executes it.
augment.npz has images before and after EDM's augmentation.
"""

import json
import pickle
import sys
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent / "edm"
VE = {
    "embedding_type": "fourier",
    "channel_mult_noise": 2,
    "encoder_type": "residual",
    "resample_filter": [1, 3, 3, 1],
}
# name of the preconditioning, and its options
CASES = {
    "ddpmpp": (
        "EDMPrecond",
        {
            "img_resolution": 8,
            "img_channels": 3,
            "label_dim": 5,
            "augment_dim": 9,
            "model_type": "SongUNet",
            "model_channels": 8,
            "channel_mult": [1, 2],
            "num_blocks": 1,
            "attn_resolutions": [4],
            "sigma_data": 0.6,
        },
    ),
    "ncsnpp": (
        "VEPrecond",
        {
            "img_resolution": 16,
            "img_channels": 3,
            "label_dim": 4,
            "augment_dim": 9,
            "model_channels": 16,
            "channel_mult": [2, 1, 2],
            "num_blocks": 2,
            "attn_resolutions": [8],
            "channel_mult_emb": 2,
            **VE,
        },
    ),
    "skips": (
        "VPPrecond",
        {
            "img_resolution": 16,
            "img_channels": 1,
            "model_channels": 16,
            "channel_mult": [1, 2, 2],
            "num_blocks": 1,
            "attn_resolutions": [16, 4],
            "encoder_type": "skip",
            "decoder_type": "skip",
            "resample_filter": [1, 3, 3, 1],
        },
    ),
    "adm": (
        "EDMPrecond",
        {
            "img_resolution": 16,
            "img_channels": 3,
            "label_dim": 4,
            "augment_dim": 9,
            "model_channels": 32,
            "channel_mult": [1, 2, 4],
            "num_blocks": 1,
            "attn_resolutions": [8, 4],
            "channel_mult_emb": 2,
        },
    ),
    "iddpm": (
        "iDDPMPrecond",
        {
            "img_resolution": 8,
            "img_channels": 3,
            "label_dim": 3,
            "model_channels": 32,
            "channel_mult": [1, 2],
            "num_blocks": 1,
            "attn_resolutions": [4],
        },
    ),
    "edm2": (
        "Precond",
        {
            "img_resolution": 8,
            "img_channels": 4,
            "label_dim": 5,
            "model_channels": 8,
            "channel_mult": [1, 2],
            "num_blocks": 1,
            "attn_resolutions": [4],
            "channels_per_head": 8,
            "logvar_channels": 16,
        },
    ),
    "edm2_options": (
        "Precond",
        {
            "img_resolution": 16,
            "img_channels": 3,
            "label_dim": 0,
            "model_channels": 16,
            "channel_mult": [2, 1, 3],
            "num_blocks": 2,
            "attn_resolutions": [8],
            "channels_per_head": 16,
            "channel_mult_noise": 3,
            "channel_mult_emb": 2,
            "resample_filter": [1, 3, 3, 1],
            "res_balance": 0.4,
            "attn_balance": 0.2,
            "concat_balance": 0.3,
            "clip_act": 2.0,
        },
    ),
}
PICKLED = ("ddpmpp", "edm2")
SIGMAS = {"EDMPrecond": (0.01, 0.7, 30.0), "Precond": (0.01, 0.7, 30.0)}
OTHER_SIGMAS = (0.05, 0.9, 20.0)


def draw(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights from names and shapes alone, by NumPy's frozen legacy generator."""
    weights = {}
    for name, shape in shapes.items():
        z = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        if name.endswith(("freqs", "phases")):
            weights[name] = 3 * z
        elif len(shape) > 1:
            weights[name] = z / np.sqrt(np.prod(shape[1:]))
        else:
            weights[name] = 0.2 * z + (name.endswith("weight") or not shape)
    return {name: np.asarray(value, np.float32) for name, value in weights.items()}


def learnt(name: str) -> bool:
    """Whether a weight is not a constant of the architecture."""
    return not name.endswith("resample_filter") and name != "u"


def main() -> None:
    import torch

    torch.set_num_threads(1)
    HERE.mkdir(exist_ok=True)
    checkouts = dict(zip(("networks", "networks_edm2"), sys.argv[1:3], strict=True))
    np.savez_compressed(HERE / "augment.npz", **augmented(checkouts["networks"]))
    for case, (kind, options) in CASES.items():
        module = "networks_edm2" if kind == "Precond" else "networks"
        networks = imported(checkouts[module], f"training.{module}")
        net = getattr(networks, kind)(**options).eval()
        state = net.state_dict()
        shapes = {name: tuple(a.shape) for name, a in state.items() if learnt(name)}
        weights = draw(shapes)
        if case in PICKLED:
            weights = {name: a.astype(np.float16).astype(np.float32) for name, a in weights.items()}
        net.load_state_dict(state | {name: torch.tensor(a) for name, a in weights.items()})
        golden = computed(net, kind, options)
        np.savez_compressed(HERE / f"{case}.npz", shapes=json.dumps(shapes), **golden)
        if case in PICKLED:
            write(net, HERE / f"{case}.pkl")
        print(case, sum(a.size for a in weights.values()), np.abs(golden["denoised"]).max())


def imported(checkout: str, name: str):
    """A module of a checkout. Both checkouts have packages of the same names."""
    import importlib

    for known in [
        m for m in sys.modules if m.split(".")[0] in ("training", "torch_utils", "dnnlib")
    ]:
        del sys.modules[known]
    sys.path[:] = [checkout, *(place for place in sys.path if place not in sys.argv[1:])]
    importlib.invalidate_caches()
    return importlib.import_module(name)


def augmented(checkout: str) -> dict[str, np.ndarray]:
    """Images of EDM's augmentation, with what it drew: the columns of `changes` are whether to flip
    along x and y, scale, rotation, stretch, axis and shift (x, y)."""
    import torch

    p, drawn = 0.6, []
    pipe = imported(checkout, "training.augment").AugmentPipe(
        p=p, xflip=1e8, yflip=1, scale=1, rotate_frac=1, aniso=1, translate_frac=1
    )
    own = {name: getattr(torch, name) for name in ("rand", "randn", "randint")}
    for name, function in own.items():

        def recorded(*args, function=function, **options):
            drawn.append(function(*args, **options))
            return drawn[-1]

        setattr(torch, name, recorded)
    torch.manual_seed(0)
    image = np.random.RandomState(0).standard_normal((8, 2, 12, 16)).astype(np.float32)
    found, numbers = pipe(torch.tensor(image))
    for name, function in own.items():
        setattr(torch, name, function)

    values = [a.numpy().reshape(-1, 8) for a in drawn]
    x, _, y, y_p, scale, scale_p, turn, turn_p, stretch, axis, stretch_p, axis_p, shift, shift_p = (
        values
    )
    rotation, axis = (2 * turn - 1) * np.pi, (2 * axis - 1) * np.pi
    columns = [x, y * (y_p < p), scale * (scale_p < p), rotation * (turn_p < p)]
    columns += [stretch * (stretch_p < p), axis * (axis_p < 0.5), shift * (shift_p < p)]
    images = {"image": image, "found": found.numpy()}
    images = {name: a.transpose(0, 2, 3, 1) for name, a in images.items()}
    return images | {"changes": np.concatenate(columns).T, "numbers": numbers.numpy()}


def computed(net, kind: str, options: dict) -> dict[str, np.ndarray]:
    import torch

    rng = np.random.RandomState(0)
    sigma = np.array(SIGMAS.get(kind, OTHER_SIGMAS), np.float32)
    size, classes = options["img_resolution"], options.get("label_dim", 0)
    x = rng.standard_normal((3, options["img_channels"], size, size))
    x = (x * np.sqrt(sigma**2 + 0.3).reshape(-1, 1, 1, 1)).astype(np.float32)
    label = np.array([classes - 1, -1, 0] if classes else [-1] * 3)
    hot = np.eye(max(classes, 1), dtype=np.float32)[label] * (label >= 0)[:, None].astype(
        np.float32
    )
    found, extra = {"sigma": sigma, "label": label}, {}
    if options.get("augment_dim"):
        found["augment"] = rng.standard_normal((3, 9)).astype(np.float32)
        extra["augment_labels"] = torch.tensor(found["augment"])
    if kind == "Precond":
        extra["return_logvar"] = True
    network = net.unet if kind == "Precond" else net.model
    network.register_forward_hook(lambda module, given, output: outputs.append(output))
    outputs = []
    with torch.no_grad():
        out = net(
            torch.tensor(x), torch.tensor(sigma), torch.tensor(hot) if classes else None, **extra
        )
    network._forward_hooks.clear()
    if kind == "Precond":
        out, found["logvar"] = out[0], out[1].numpy().reshape(-1)
    images = {"x": x, "output": outputs[0].numpy(), "denoised": out.numpy()}
    return found | {name: a.transpose(0, 2, 3, 1) for name, a in images.items()}


def write(net, path: Path) -> None:
    """As the public code writes a network, but for the source of its classes."""
    import torch

    for module in net.modules():
        for cls in type(module).__mro__:
            if "_orig_module_src" in vars(cls):
                cls._orig_module_src = "raise SystemExit('the source was executed')"
    data = {"ema": net.requires_grad_(False).to(torch.float16), "dataset_kwargs": {"path": "data"}}
    with path.open("wb") as file:
        pickle.dump(data, file)


if __name__ == "__main__":
    main()
