r"""EDM2 (Karras et al. 2023, arXiv:2312.02696), by the name of a recipe or from a published file.

    python main.py --mode train,sample --config configs/edm2.py:img64-s --workdir runs/edm2
    python main.py --mode import,sample --config configs/edm2.py:PICKLE --source PICKLE \
        --workdir runs/imported

PICKLE is a downloaded file, such as edm2-img64-s-1073741-0.075.pkl. Its arrays are read, and the
code in it is not run. FID is the paper's without guidance, with the average of the length after @,
by 63 evaluations. ImageNet at 64 pixels, or the latents of its images of 512 pixels.

    recipe      parameters  FID         steps of 2,048 images
    img512-xs   124.7M      3.53@0.135  1,048,576
    img512-s    280.2M      2.56@0.130  1,048,576
    img512-m    497.8M      2.25@0.100  1,048,576
    img512-l    777.5M      2.06@0.085  917,504
    img512-xl   1119.3M     1.96@0.085  655,360
    img512-xxl  1523.2M     1.91@0.070  458,752
    img64-xs    124.7M                  524,288
    img64-s     280.2M      1.58@0.075  524,288
    img64-m     497.8M      1.43@0.060  1,048,576
    img64-l     777.5M      1.33@0.040  524,288
    img64-xl    1119.3M     1.33@0.040  327,680

Latents z [n, 64, 64, 4] of the autoencoder sd-vae-ft-mse, with images in [0, 1] as its input, are
read from the folder data.path (`data.latents`) as (z - mean) / (2 std), with the mean (5.81, 3.25,
0.12, -2.15) and the std (4.17, 4.62, 3.71, 3.28) of each channel. Samples are latents too.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from configs import edm
from score_sde.experiment.base import net_fields
from score_sde.nets.edm2 import EDM2UNet

NETS = {"edm2.EDM2UNet": EDM2UNet}
BATCH = 2048


class Recipe(NamedTuple):
    """channels: the width. rate: learning rate. dropout: of the blocks. steps: in units of 2^10
    steps. length: of the average to sample with, or None for the first stored one."""

    channels: int
    rate: float
    dropout: float
    steps: int
    length: float | None


RECIPES = {
    "img512-xs": Recipe(128, 0.0120, 0.0, 1024, 0.135),
    "img512-s": Recipe(192, 0.0100, 0.0, 1024, 0.130),
    "img512-m": Recipe(256, 0.0090, 0.1, 1024, 0.100),
    "img512-l": Recipe(320, 0.0080, 0.1, 896, 0.085),
    "img512-xl": Recipe(384, 0.0070, 0.1, 640, 0.085),
    "img512-xxl": Recipe(448, 0.0065, 0.1, 448, 0.070),
    "img64-xs": Recipe(128, 0.0120, 0.0, 512, None),
    "img64-s": Recipe(192, 0.0100, 0.0, 512, 0.075),
    "img64-m": Recipe(256, 0.0090, 0.1, 1024, 0.060),
    "img64-l": Recipe(320, 0.0080, 0.1, 512, 0.040),
    "img64-xl": Recipe(384, 0.0070, 0.1, 320, 0.040),
}


def get_config(what: str = "img64-s") -> ConfigDict:
    """A recipe of `RECIPES`, or what a published file holds."""
    if what not in RECIPES:
        return edm.of_file(what, NETS, RECIPES)
    recipe, latent = RECIPES[what], what.startswith("img512")
    mean, std, reference = (-0.4, 1.0, 70_000) if latent else (-0.8, 1.6, 35_000)
    config = edm.training(mean, std)
    laws = {field: config.objective[field] for field in ("time_law", "weighting", "drop_cond")}
    config.objective = ConfigDict({"name": "uncertainty", **laws})
    options = {"model_channels": recipe.channels, "dropout": recipe.dropout, "num_classes": 1000}
    config.net = net_fields("edm2.EDM2UNet", EDM2UNet, **options)
    config.net.dtype = "bfloat16"  # float16 in the paper
    (_latents if latent else edm.imagenet64)(config)

    warmup = round(10e6 / BATCH)
    config.optim.learning_rate = recipe.rate
    config.optim.warmup = warmup
    config.optim.schedule = f"inverse_sqrt(reference={reference}, before={warmup})"
    config.optim.optimizer = "adam(b1=0.9, b2=0.99)"
    config.optim.constraint = "unit_rms"
    config.train.batch_size = BATCH
    config.train.steps = recipe.steps * 2**10
    config.train.ema_rates = ()
    config.train.ema_lengths = (0.05, 0.1)
    config.train.ema_every = 4096  # 8 Mi images
    config.train.ema_dtype = "float16"
    config.sampling.ema_length = recipe.length
    edm.heun(config, 32)
    return config


def _latents(config: ConfigDict) -> None:
    config.data.name, config.data.path = "latents", "data/imagenet512_latents"
    config.codec = ConfigDict({"name": "reals", "part": "latent", "medium": "maps"})
