r"""ADM (Dhariwal & Nichol 2021, arXiv:2105.05233): a published file, or the recipe to train one.

    python main.py --mode import,sample --config configs/adm.py:64x64_diffusion.pt \
        --source 64x64_diffusion.pt --workdir runs/adm
    python main.py --mode train --config configs/adm.py:imagenet64 --workdir runs/adm64

A file is one of guided-diffusion's, or one that its code wrote, a U-Net or a classifier. Its shapes
say what the network is, and the published ones are known by them; of others the fields
net.head_dim, net.num_heads, net.num_heads_up, net.attention_order, data.image_size and sde may have
to be set (`score_sde.published.adm.describe`). An unconditional model that a classifier is to guide
needs the field `data.num_classes=1000`. Guidance, with the paper's scale:

    python main.py --mode sample --config configs/adm.py:64x64_diffusion.pt --workdir runs/adm \
        --config.sampling.guidance='classifier(workdir="runs/classifier", scale=1.0)'

Files of OpenAI's consistency_models, such as cd_imagenet64_l2.pt, are imported in the same way and
known by their attention. One whose name begins with "edm" is taken for a denoiser, the others
(cd_*, ct_*) for consistency models, which sample in one step, or in more with noise between
(sampling.steps).

Recipes, with the paper's FID (50,000 samples of 250 steps, table 5; guided but for 64 pixels) and
its training, which nobody has run with this package:

- imagenet64: 295.9M parameters, 540,000 steps of 2048, FID 2.07
- imagenet128: 421.5M parameters, 4,360,000 steps of 256, FID 2.97 with scale 0.5
- imagenet256: 553.8M parameters, 1,980,000 steps of 256, FID 4.59 with scale 1.0
- imagenet512: 559.0M parameters, 1,940,000 steps of 256, FID 7.72 with scale 4.0
- imagenet256_uncond: as imagenet256 without classes; guided by scale 10.0
- classifier64, classifier128, classifier256, classifier512

The cost of imagenet512 with its classifier was 1,914 V100-days (table 10). The lengths, batches and
rates of training were not checked against the paper's tables 11 and 12; those of classifier128 are
in the readme of the public code. Labels of the whole chain, 0..999, reach the network at every
spacing.
"""

from pathlib import Path

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import base, edm
from score_sde.config import at
from score_sde.errors import ConfigError
from score_sde.experiment.base import net_fields
from score_sde.nets.adm import ADM, ADMClassifier
from score_sde.published import adm

MULTIPLES = {
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}


def get_config(what: str | None = None) -> ConfigDict:
    """The recipe of a name, or the config of a file."""
    if what in RECIPES:
        return RECIPES[what]()
    if not what or not Path(what).is_file():
        raise ConfigError(
            f"say which file, or which recipe: --config configs/adm.py:{what or 'FILE'} is neither "
            f"a file nor one of {', '.join(RECIPES)}"
        )
    with at("--config configs/adm.py:FILE"):
        description = adm.describe(Path(what))
    if description.in_edm:
        of_file = _edm if Path(what).name.startswith("edm") else _consistency
        config = of_file(description.net, description.sde)
    else:
        config = _of_net(description.net, description.sde, description.learns_variance)
    classes = description.net["num_classes"]
    config.data = {
        "name": "absent",
        "image_size": description.image_size,
        "channels": description.channels,
        "num_classes": max(classes, 1),
        "augment": "flip",
    }
    if description.channels not in (1, 3):
        edm.of_reals(config, description.image_size, description.channels, classes)
        config.sampling.threshold = None
    config.train.steps = 100_000  # after the import, which has no step of its own
    return config


def _of_net(net: dict, sde: str, learns_variance: bool) -> ConfigDict:
    """What all networks of ADM share: the chain, its labels, the objective and the sampler."""
    config = base.get_config()
    cls = ADMClassifier if net["name"] == "adm.ADMClassifier" else ADM
    config.net = net_fields(cls=cls, **net)
    config.sde = sde
    config.codec.truncate = True
    objective = {"time_law": "grid_points(num_steps=1000)"}
    if cls is ADMClassifier:
        objective["name"] = "classification"
        config.evaluate.parts = ("loss",)
        config.train.sample_every = 0
    else:
        objective |= {"name": "denoising", "weighting": "simple", "drop_cond": 0.0}
        config.sampling.solver = 'ancestral(variance="large")'
        config.sampling.grid = 'respaced(name="250")'
        config.sampling.steps = 249  # the last of the 250 evaluations is the denoising
        config.sampling.threshold = "static"
    if learns_variance:
        objective |= {"name": "hybrid", "bound_weight": 1e-3}
        config.sampling.solver = 'ancestral(variance="learned")'
    config.objective = ConfigDict(objective)
    return config


def _edm(net: dict, sde: str) -> ConfigDict:
    """A denoiser of consistency_models, and EDM's sampler with 40 points."""
    config = _of_net(net, sde, False)
    config.parametrization = "edm(sigma_data=0.5)"
    config.c_noise = "quarter_log_sigma(scale=1000.0)"
    config.objective.time_law = "log_normal(mean=-1.2, std=1.2)"
    config.objective.weighting = "edm(mean=-1.2, std=1.2, sigma_data=0.5)"
    config.sampling.update(solver="heun", grid="karras(rho=7.0)", steps=39)
    return config


def _consistency(net: dict, sde: str) -> ConfigDict:
    """A consistency model; to train it on, set objective.teacher to the workdir of a denoiser."""
    config = _edm(net, sde)
    config.parametrization = "consistency(sigma_data=0.5, t_min=0.002)"
    config.objective = ConfigDict(
        {
            "name": "consistency_distillation",
            "teacher": placeholder(str),
            "solver": "heun",
            "grid": "karras(rho=7.0)",
            "curriculum": "fixed(levels=40, rate=0.95)",
            "time_law": "karras(rho=7.0)",
            "distance": "squared",
        }
    )
    config.sampling.update(solver="flow_map(gamma=1.0)", steps=1, denoise=False)
    config.evaluate.parts = ("metrics",)
    return config


def _of_imagenet(size: int, net: dict, *, steps: int, batch: int, rate: float) -> ConfigDict:
    shared = {
        "ch_mult": MULTIPLES[size],
        "attn_rates": tuple(size // height for height in (32, 16, 8)),
    }
    schedule = ', schedule="cosine"' if size == 64 else ""
    learns = net["name"] == "adm.ADM"
    config = _of_net(shared | net, f"DDPM(num_steps=1000{schedule})", learns)
    config.data.update(dataset="imagenet2012", image_size=size, test_split="validation")
    config.optim.update(learning_rate=rate, warmup=0, clip=0.0)
    config.train.update(steps=steps, batch_size=batch)
    return config


def _unet(size: int, **fields) -> ConfigDict:
    """A U-Net; `fields` of the network override those of 256 and 512 pixels."""
    steps = {64: 540_000, 128: 4_360_000, 256: 1_980_000, 512: 1_940_000}[size]
    net = {"name": "adm.ADM", "nf": 256, "num_res_blocks": 2, "num_classes": 1000}
    net |= {"learn_variance": True, **fields}
    batch, rate = (2048, 3e-4) if size == 64 else (256, 1e-4)
    return _of_imagenet(size, net, steps=steps, batch=batch, rate=rate)


def _classifier(size: int) -> ConfigDict:
    depth = 4 if size == 64 else 2
    net = {"name": "adm.ADMClassifier", "nf": 128, "num_res_blocks": depth, "num_classes": 1000}
    steps = 500_000 if size == 256 else 300_000
    batch, rate = (1024, 6e-4) if size == 64 else (256, 3e-4)
    config = _of_imagenet(size, net, steps=steps, batch=batch, rate=rate)
    config.optim.schedule = "linear"
    config.optim.optimizer = f"adamw(weight_decay={0.2 if size == 64 else 0.05})"
    return config


RECIPES = {
    "imagenet64": lambda: _unet(64, nf=192, num_res_blocks=3, attention_order="new", dropout=0.1),
    "imagenet128": lambda: _unet(128, head_dim=0, num_heads=4),
    "imagenet256": lambda: _unet(256),
    "imagenet256_uncond": lambda: _unet(256, num_classes=0),
    "imagenet512": lambda: _unet(512),
    "classifier64": lambda: _classifier(64),
    "classifier128": lambda: _classifier(128),
    "classifier256": lambda: _classifier(256),
    "classifier512": lambda: _classifier(512),
}
