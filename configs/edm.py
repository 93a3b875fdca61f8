r"""EDM (Karras et al. 2022, arXiv:2206.00364), by the name of a recipe or from a published file.

    python main.py --mode train,sample --config configs/edm.py:cifar10-cond-vp --workdir runs/edm
    python main.py --mode import,sample --config configs/edm.py:PICKLE --source PICKLE \
        --workdir runs/imported

PICKLE is a downloaded file, such as edm-cifar10-32x32-cond-vp.pkl. Its arrays are read, and the
code in it is not run. It names no data set; to train on, add one. "vp" is the network DDPM++ and
"ve" NCSN++, both on EDM's process; the recipes are those of the paper's config F. FID is the
paper's, by the sampler of the recipe; cost is that which its authors give.

    recipe                              parameters  FID         evaluations  steps    GPUs, days
    cifar10-uncond-vp, cifar10-cond-vp  55.7M       1.97, 1.79  35           390,625  8 V100, 2
    cifar10-uncond-ve, cifar10-cond-ve  56.4M       1.98, 1.79  35           390,625  8 V100, 2
    ffhq-vp, ffhq-ve                    61.8, 62.8M 2.39, 2.53  79           781,250  8 V100, 4
    afhqv2-vp, afhqv2-ve                61.8, 62.8M 1.96, 2.16  79           781,250  8 V100, 4
    imagenet64-adm                      295.9M      1.36        511          610,352  32 A100, 13

CIFAR-10 and ImageNet are read by their TFDS names, ffhq and afhqv2 from the folder data.path.
"""

import functools
import math
from pathlib import Path

from ml_collections import ConfigDict

from configs import base
from score_sde.config import at
from score_sde.errors import ConfigError
from score_sde.experiment.base import net_fields
from score_sde.nets.edm import DhariwalUNet, SongUNet
from score_sde.published import edm

NETS = {"edm.SongUNet": SongUNet, "edm.DhariwalUNet": DhariwalUNet}


def get_config(what: str = "cifar10-uncond-vp") -> ConfigDict:
    """A recipe of `RECIPES`, or what a published file holds."""
    if what not in RECIPES:
        return of_file(what, NETS, RECIPES)
    config = training()
    RECIPES[what](config)
    return config


def training(mean: float = -1.2, std: float = 1.2) -> ConfigDict:
    """EDM's process, preconditioning, law of sigma and weighting; no network."""
    config = base.get_config()
    config.sde = "EDM(t_min=0.002, t_max=80.0)"
    config.parametrization = "edm(sigma_data=0.5)"
    config.c_noise = "quarter_log_sigma"
    config.objective.time_law = f"log_normal(mean={mean}, std={std})"
    config.objective.weighting = f"edm(mean={mean}, std={std}, sigma_data=0.5)"
    config.optim.clip = 0.0
    config.optim.optimizer = "adam"
    config.data.augment = "none"
    config.sampling.batch_size = 512
    return config


def _train(config: ConfigDict, *, images: float, batch: int, rate: float, half_life: float) -> None:
    """images, half_life: of the training and of the average, in millions of images."""
    config.train.batch_size = batch
    config.train.steps = math.ceil(images * 1e6 / batch)
    config.train.ema_rates = (0.5 ** (batch / (half_life * 1e6)),)
    config.train.ema_ramp = 0.05
    config.optim.learning_rate = rate
    config.optim.warmup = round(10e6 / batch)


def _tell_augment(config: ConfigDict, p: float) -> None:
    """Changes examples, and tells the network how."""
    config.data.augment = f"geometric(p={p})"
    config.conditioner = "augmented"
    config.net.augment_dim = 9


_SONG = {
    "vp": {},
    "ve": {
        "embedding_type": "fourier",
        "channel_mult_noise": 2,
        "encoder_type": "residual",
        "resample_filter": (1, 3, 3, 1),
    },
}


def _cifar10(classes: int, net: str, config: ConfigDict) -> None:
    config.data.dataset, config.data.memory = "cifar10", True
    options = {"channel_mult": (2, 2, 2), "dropout": 0.13, "num_classes": classes}
    config.net = net_fields("edm.SongUNet", SongUNet, **options, **_SONG[net])
    _tell_augment(config, 0.12)
    _train(config, images=200, batch=512, rate=1e-3, half_life=0.5)
    heun(config, 18)


def _faces(folder: str, dropout: float, net: str, config: ConfigDict) -> None:
    """FFHQ or AFHQv2 at 64 pixels."""
    config.data.name, config.data.path, config.data.image_size = "folder", folder, 64
    config.data.test_fraction = 0.01  # EDM trains on all images
    config.net = net_fields("edm.SongUNet", SongUNet, dropout=dropout, **_SONG[net])
    _tell_augment(config, 0.15)
    _train(config, images=200, batch=256, rate=2e-4, half_life=0.5)
    heun(config, 40)


def imagenet64(config: ConfigDict) -> None:
    """The data set of 1,000 classes."""
    config.data.dataset, config.data.image_size = "imagenet2012", 64
    config.data.test_split = "validation"


def _imagenet64(config: ConfigDict) -> None:
    imagenet64(config)
    config.net = net_fields("edm.DhariwalUNet", DhariwalUNet, num_classes=1000)
    config.net.dtype = "bfloat16"  # float16 in the paper, with scaled losses
    _train(config, images=2500, batch=4096, rate=1e-4, half_life=50)
    heun(config, 256)
    config.sampling.solver = "edm(s_churn=40.0, s_min=0.05, s_max=50.0, s_noise=1.003)"


RECIPES = {
    **{f"cifar10-uncond-{net}": functools.partial(_cifar10, 0, net) for net in _SONG},
    **{f"cifar10-cond-{net}": functools.partial(_cifar10, 10, net) for net in _SONG},
    **{f"ffhq-{net}": functools.partial(_faces, "data/ffhq64", 0.05, net) for net in _SONG},
    **{f"afhqv2-{net}": functools.partial(_faces, "data/afhqv2", 0.25, net) for net in _SONG},
    "imagenet64-adm": _imagenet64,
}


def of_file(what: str, nets: dict, recipes: dict) -> ConfigDict:
    """The network of a published file, with a sampler of 35 evaluations."""
    if not Path(what).is_file():
        raise ConfigError(
            f"{what} is neither a file nor a recipe; the recipes are: {', '.join(recipes)}"
        )
    with at(f"--config configs/...:{what}"):
        description = edm.describe(Path(what))
    net = dict(description.net)
    if net["name"] not in nets:
        raise ConfigError(
            f"{what} holds a network of {net['name']}, and here are {', '.join(nets)}"
        )
    config = base.get_config()
    config.sde = description.sde
    config.parametrization = description.parametrization
    config.c_noise = description.c_noise
    name = net.pop("name")
    config.net = net_fields(name, nets[name], **net)
    numbers = config.net.get("augment_dim", 0)
    config.conditioner = f"augmented(numbers={numbers})" if numbers else "labels"
    config.data.name = "absent"
    config.data.image_size = description.image_size
    config.data.num_classes = max(description.classes, 1)
    if description.channels != 3:
        config.data.channels = description.channels
    if description.channels not in (1, 3):
        of_reals(config, description.image_size, description.channels, description.classes)
    config.train.steps = 100_000  # after the import, which has no step of its own
    heun(config, 18)
    return config


def of_reals(config: ConfigDict, size: int, channels: int, classes: int) -> None:
    """Data of real numbers that are not pixels, such as latents. Their shape alone is known."""
    shape = (size, size, channels)
    config.data = {"name": "absent_reals", "shape": shape, "num_classes": max(classes, 1)}
    config.codec = {"name": "reals", "part": "latent", "medium": "maps"}


def heun(config: ConfigDict, levels: int) -> None:
    """Samples by Heun's method through so many noise levels, with 2 levels - 1 evaluations."""
    config.sampling.solver = "heun"
    config.sampling.grid = "karras(rho=7.0)"
    config.sampling.steps = levels - 1  # the last of the levels is followed by E[x_0 | x]
    config.sampling.denoise = True
