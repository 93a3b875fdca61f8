r"""EDM (Karras et al. 2022, arXiv:2206.00364), by the name of a recipe or from a published file.

    python main.py --mode train,sample --config configs/edm.py:cifar10-cond-vp --workdir runs/edm
    python main.py --mode import,sample --config configs/edm.py:FILE --source FILE \
        --workdir runs/imported

FILE is a downloaded pickle, such as edm-cifar10-32x32-cond-vp.pkl. Its arrays are read, and the
code in it is not run. It names no data set; to train on, add one.
"""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import base
from score_sde.config import at
from score_sde.errors import ConfigError
from score_sde.nets.edm import DhariwalUNet, SongUNet
from score_sde.published import edm

NETS = {"edm.SongUNet": SongUNet, "edm.DhariwalUNet": DhariwalUNet}


def get_config(what: str = "cifar10-uncond-vp") -> ConfigDict:
    """A recipe of `RECIPES`, or what a published file holds."""
    return RECIPES[what]() if what in RECIPES else of_file(what, NETS, RECIPES)


RECIPES = {}


def fields_of(nets: dict, name: str, **changes) -> ConfigDict:
    """A network's part of a config, with all fields."""
    net = ConfigDict({"name": name})
    for field in dataclasses.fields(nets[name]):
        if field.name not in ("parent", "name"):
            kind = str if field.name == "dtype" else int
            net[field.name] = placeholder(kind) if field.default is None else field.default
    net.update(changes)
    return net


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
    config.net = fields_of(nets, net.pop("name"), **net)
    config.conditioner = "augmented" if config.net.get("augment_dim", 0) else "labels"
    config.data.name = "absent"
    config.data.image_size = description.image_size
    config.data.num_classes = max(description.classes, 1)
    if description.channels != 3:
        config.data.channels = description.channels
    if description.channels not in (1, 3):
        of_latents(config)
    config.train.steps = 100_000  # after the import, which has no step of its own
    heun(config, 18)
    return config


def of_latents(config: ConfigDict) -> None:
    """Real numbers of unit variance times 1/2, such as EDM2 makes of an autoencoder's latents."""
    config.data.num_values = 0
    config.codec = ConfigDict({"name": "reals", "part": "image", "medium": "curves"})


def heun(config: ConfigDict, levels: int) -> None:
    """Samples by Heun's method through so many noise levels, with 2 levels - 1 evaluations."""
    config.sampling.solver = "heun"
    config.sampling.grid = "karras(rho=7.0)"
    config.sampling.steps = levels - 1  # the last of the levels is followed by E[x_0 | x]
    config.sampling.denoise = True
