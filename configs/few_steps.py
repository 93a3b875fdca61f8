r"""Few-step models of CIFAR-10 and ImageNet, by the name of a published recipe.

    python main.py --mode train --config configs/few_steps.py:cifar10-ect \
        --config.objective.teacher=TEACHER --workdir runs/ect

TEACHER is a workdir: of `configs/edm.py:cifar10-uncond-vp` for CIFAR-10, of
`configs/edm.py:imagenet64-adm` for ImageNet at 64 pixels. Recipes without a teacher need none.
`mean-flow-*` train on latents of ImageNet as `configs/sit.py` does (--config.data.path).

FID of 50,000 samples is the paper's, at 1 and 2 evaluations. None was measured here.

    recipe                FID           training
    cifar10-cd            3.55  2.93    consistency distillation, 800,000 steps of 512
    cifar10-ct            8.70  5.83    consistency training, 800,000 steps of 512
    cifar10-ict           2.83  2.46    improved consistency training, 400,000 steps of 1,024
    cifar10-ect           3.60  2.11    easy consistency tuning, 200,000 steps of 128
    cifar10-sct           2.85  2.06    continuous-time training, 400,000 steps of 512
    cifar10-scd           3.66  2.52    the same as distillation
    cifar10-mean-flow     2.92          mean flow, 800,000 steps of 1,024
    imagenet64-cd         6.20  4.70    consistency distillation, 600,000 steps of 2,048
    imagenet64-ect        4.05  2.79    easy consistency tuning, 100,000 steps of 128
    imagenet64-scd        2.44  1.66    continuous-time distillation, 400,000 steps of 2,048
    mean-flow-b           6.17          mean flow, 240 epochs, latents of 32x32x4
    mean-flow-m           5.01          the same
    mean-flow-l           3.84          the same
    mean-flow-xl          3.43  2.93    the same

Learning rates, lengths, batches, weights of guidance, FID of iCT and FID on ImageNet are quoted
from memory.
What differs from the papers: no LPIPS network comes with the package, so consistency distillation
and training have the squared error in its place; ECT and sCM on ImageNet start from EDM's network,
where the papers' is EDM2's; images are not augmented.
"""

import functools

from ml_collections import ConfigDict

from configs import base, edm, sit
from score_sde.errors import ConfigError


def get_config(recipe: str = "cifar10-ect") -> ConfigDict:
    if recipe not in RECIPES:
        raise ConfigError(f"{recipe} is no recipe; the recipes are: {', '.join(RECIPES)}")
    return RECIPES[recipe]()


def _few_steps(config: ConfigDict, objective: dict, gamma: float) -> ConfigDict:
    """The objective, and samples in one evaluation."""
    config.objective = ConfigDict(objective)
    config.sampling.guidance = None
    return base.in_few_evaluations(config, f"flow_map(gamma={gamma})", (1, 2))


def _train(config: ConfigDict, *, steps: int, batch: int, rate: float, average: float) -> None:
    config.train.update({"steps": steps, "batch_size": batch, "ema_rates": (average,)})
    config.train.ema_ramp = 0.0
    config.optim.update({"learning_rate": rate, "warmup": 1, "clip": 0.0, "optimizer": "radam"})


def _cifar10(dropout: float) -> ConfigDict:
    return _plain("cifar10-uncond-vp", dropout)


def _imagenet64(dropout: float) -> ConfigDict:
    return _plain("imagenet64-adm", dropout)


def _plain(teacher: str, dropout: float) -> ConfigDict:
    """The network, process and data of a recipe of EDM, without its augmentation."""
    config = edm.get_config(teacher)
    config.data.augment = "none"
    config.net.dropout = dropout
    return config


KARRAS = "karras(rho=7.0)"


def _distillation(config: ConfigDict, levels: int, target: float) -> ConfigDict:
    objective = {
        "name": "consistency_distillation",
        "teacher": "runs/edm",
        "solver": "heun",
        "grid": KARRAS,
        "curriculum": f"fixed(levels={levels}, rate={target})",
        "time_law": KARRAS,
        "distance": "squared",
    }
    return _few_steps(config, objective, 1.0)


def _cifar10_cd() -> ConfigDict:
    config = _distillation(_cifar10(0.0), 18, 0.0)
    _train(config, steps=800_000, batch=512, rate=4e-4, average=0.9999)
    return config


def _imagenet64_cd() -> ConfigDict:
    config = _distillation(_imagenet64(0.0), 40, 0.95)
    _train(config, steps=600_000, batch=2048, rate=8e-6, average=0.999943)
    return config


def _training(
    config: ConfigDict, curriculum: str, law: str, distance: str, power: float
) -> ConfigDict:
    objective = {
        "name": "consistency_training",
        "grid": KARRAS,
        "curriculum": curriculum,
        "time_law": law,
        "distance": distance,
        "gap_power": power,
    }
    return _few_steps(config, objective, 1.0)


LAW = "log_normal(mean=-1.1, std=2.0)"


def _cifar10_ct() -> ConfigDict:
    config = _training(_cifar10(0.0), "progressive(length=800_000)", KARRAS, "squared", 0.0)
    _train(config, steps=800_000, batch=512, rate=4e-4, average=0.9999)
    return config


def _cifar10_ict() -> ConfigDict:
    curriculum, distance = "doubling(length=400_000)", "huber(scale=0.00054)"
    config = _training(_cifar10(0.3), curriculum, LAW, distance, 1.0)
    _train(config, steps=400_000, batch=1024, rate=1e-4, average=0.99993)
    return config


def _ect(config: ConfigDict, q: float, law: str, stages: int, length: int) -> ConfigDict:
    objective = {
        "name": "ect",
        "teacher": "runs/edm",
        "time_law": law,
        "distance": "norm",
        "q": q,
        "stages": stages,
        "stage_length": length,
    }
    return _few_steps(config, objective, 1.0)


def _cifar10_ect() -> ConfigDict:
    config = _ect(_cifar10(0.2), 2.0, LAW, 8, 25_000)
    _train(config, steps=200_000, batch=128, rate=1e-4, average=0.9999)
    return config


def _imagenet64_ect() -> ConfigDict:
    config = _ect(_imagenet64(0.4), 4.0, "log_normal(mean=-0.8, std=1.6)", 4, 25_000)
    _train(config, steps=100_000, batch=128, rate=1e-4, average=0.9999)
    return config


def _scm(config: ConfigDict, teacher: str) -> ConfigDict:
    objective = {
        "name": "scm",
        "teacher": teacher,
        "time_law": "log_normal(mean=-1.0, std=1.4)",
        "warmup": 10_000,
    }
    return _few_steps(config, objective, 1.0)


def _cifar10_scm(teacher: str) -> ConfigDict:
    config = _scm(_cifar10(0.2), teacher)
    _train(config, steps=400_000, batch=512, rate=1e-4, average=0.9999)
    return config


def _imagenet64_scd() -> ConfigDict:
    config = _scm(_imagenet64(0.0), "runs/edm")
    _train(config, steps=400_000, batch=2048, rate=1e-4, average=0.9999)
    return config


def _mean_flow(
    config: ConfigDict, law: str, power: float, constant: float, equal: float
) -> ConfigDict:
    config.sde = "Flow"
    config.parametrization = "flow"
    config.c_noise = "time(scale=1.0)"
    config.net.numbers = ("jump",)
    objective = {
        "name": "mean_flow",
        "time_law": law,
        "distance": f"adaptive(power={power}, constant={constant})",
        "equal": equal,
    }
    _few_steps(config, objective, 0.0)
    config.sampling.grid = "uniform"
    return config


def _cifar10_mean_flow() -> ConfigDict:
    config = _cifar10(0.2)
    _mean_flow(config, "logit_normal(mean=-2.0, std=2.0)", 0.75, 1e-3, 0.25)
    _train(config, steps=800_000, batch=1024, rate=6e-4, average=0.99995)
    config.optim.update({"optimizer": "adam(b2=0.999)", "warmup": 10_000})
    return config


def _latents(width: int, depth: int, heads: int, weight: float, mix: float) -> ConfigDict:
    config = sit.get_config("XL/2")
    config.net.update({"width": width, "depth": depth, "num_heads": heads})
    _mean_flow(config, "logit_normal(mean=-0.4)", 1.0, 1e-2, 0.75)
    config.objective.update({"drop_cond": 0.1, "guidance": weight, "mix": mix})
    _train(config, steps=1_200_000, batch=256, rate=1e-4, average=0.9999)
    config.optim.optimizer = "adam(b2=0.95)"
    return config


RECIPES = {
    "cifar10-cd": _cifar10_cd,
    "cifar10-ct": _cifar10_ct,
    "cifar10-ict": _cifar10_ict,
    "cifar10-ect": _cifar10_ect,
    "cifar10-sct": functools.partial(_cifar10_scm, ""),
    "cifar10-scd": functools.partial(_cifar10_scm, "runs/edm"),
    "cifar10-mean-flow": _cifar10_mean_flow,
    "imagenet64-cd": _imagenet64_cd,
    "imagenet64-ect": _imagenet64_ect,
    "imagenet64-scd": _imagenet64_scd,
    "mean-flow-b": functools.partial(_latents, 768, 12, 12, 2.0, 0.5),
    "mean-flow-m": functools.partial(_latents, 1024, 16, 16, 2.0, 0.5),
    "mean-flow-l": functools.partial(_latents, 1024, 24, 16, 2.5, 0.92),
    "mean-flow-xl": functools.partial(_latents, 1152, 28, 16, 2.5, 0.92),
}
