r"""DiT (arXiv:2212.09748): transformers on latents of ImageNet, their training, and their files.

    python main.py --mode train --config configs/dit.py:XL/2 --config.data.path=LATENTS.npz \
        --workdir runs/dit
    python main.py --mode import,sample --config configs/dit.py:SOURCE --source SOURCE \
        --workdir runs/imported

Settings are S, B, L and XL with patches of 2, 4 or 8, such as `B/4`: latents of 32x32x4, for images
of 256 pixels; `XL/2-512` is 64x64x4, for 512 pixels. LATENTS.npz holds `latent`, float
[n, 32, 32, 4], as the autoencoder gives them (its mean, say), and `label`. The network sees .18215
times that. For the paper's mirrored images, put their latents into the file too.

SOURCE is a published or own file of DiT (.pt), or a folder of diffusers with a
`DiTTransformer2DModel`, such as that of facebook/DiT-XL-2-256. Its shapes say what its network is.
A file does not tell the number of heads: of a width other than the published ones, set
--config.net.num_heads. Half of a published head's channels are the variance, which these
samplers do not need; `--config.net.out_channels=8` keeps them. Samples are latents, drawn as grey
maps.

Published FID of 50,000 guided images (the readme of their code): XL/2 2.27, XL/2-512 3.04; after
400,000 steps, unguided: XL/2 19.5. XL/2 does 119 Gflops a forward pass of one example, 525 at 512
px. The weight of guidance, 1.5, and the 7M steps of XL/2 are quoted from memory. The paper's
guidance changes three of four channels of x; `classifier_free` changes all.
    --config.sampling.guidance="classifier_free(weight=1.5)"
"""

from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import base
from score_sde.config import at
from score_sde.errors import ConfigError
from score_sde.experiment.base import net_fields
from score_sde.nets.dit import DiT
from score_sde.published import dit

SIZES = {  # width, depth, heads
    "S": (384, 12, 6),
    "B": (768, 12, 12),
    "L": (1024, 24, 16),
    "XL": (1152, 28, 16),
}
PATCHES = (2, 4, 8)
SCALE = 0.18215  # of latents, about one over their standard deviation


def get_config(setting: str = "XL/2") -> ConfigDict:
    config = latents(setting)
    config.sde = "DDPM(num_steps=1000)"
    config.objective.time_law = "grid_points(num_steps=1000)"
    config.sampling.update({"solver": "dpmpp", "grid": "linspace", "steps": 50})
    if Path(setting).exists():
        process = dit.describe(Path(setting)).process or {}
        for field in ("sde", "parametrization", "c_noise"):
            config[field] = process.get(field, config[field])
        config.objective.weighting = process.get("weighting", "simple")
        num_steps = process.get("num_steps", 1000)
        config.objective.time_law = f"grid_points(num_steps={num_steps})"
        config.sampling.update(process.get("sampling", {}))
    return config


def latents(setting: str) -> ConfigDict:
    """The network and data of a setting such as "XL/2", or of a file or folder; and the training
    that DiT and SiT share."""
    config = base.get_config()
    config.codec = {"name": "reals", "part": "latent", "std": 1 / SCALE, "medium": "maps"}
    config.net = net_fields("dit.DiT", DiT)
    if Path(setting).exists():
        with at(f"--config {setting}"):
            described = dit.describe(Path(setting))
        classes = described.net["num_classes"]
        config.net.update(described.net)
        config.data = {"name": "absent_reals", "shape": described.shape, "num_classes": classes}
    else:
        config.net.update(sized(setting))
        config.data = {"name": "npz_reals", "path": placeholder(str), "part": "latent"}
    config.objective.drop_cond = 0.1
    config.optim.learning_rate = 1e-4
    config.optim.warmup = 1
    config.optim.clip = 0.0
    config.train.steps = 7_000_000
    config.train.batch_size = 256
    config.train.ema_rates = (0.9999,)
    config.sampling.batch_size = 32
    return config


def sized(setting: str) -> dict:
    """Fields of the network of a setting such as "XL/2" or "XL/2-512"."""
    size, _, patch = setting.removesuffix("-512").partition("/")
    if size not in SIZES or patch not in map(str, PATCHES):
        raise ConfigError(
            f"{setting} is no file, no folder and no setting: those are {', '.join(SIZES)} with "
            f"/{' /'.join(map(str, PATCHES))}, such as XL/2, and XL/2-512"
        )
    width, depth, heads = SIZES[size]
    return {
        "patch_size": int(patch),
        "width": width,
        "depth": depth,
        "num_heads": heads,
        "num_classes": 1000,
    }
