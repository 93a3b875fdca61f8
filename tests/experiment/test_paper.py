"""The configs of the paper hold what its repository has (yang-song/score_sde, configs/), by hand.

Left out is what nothing here depends on, and where this code differs on purpose ("What differs" in
docs/coming_from/score_sde_2021.md).
"""

import functools

import pytest

from configs import base
from score_sde.config import build
from score_sde.experiment import requests
from score_sde.processes import DDPM, SMLD, VE, VP, SubVP
from tests.experiment.test_configs import FILES, ROOT, load, name

# default_cifar10_configs.py, and what all of the files have
CIFAR10 = {
    "optim.learning_rate": 2e-4,
    "optim.optimizer": "adamw(weight_decay=0.0)",  # optax's defaults are .9, .999, 1e-8
    "optim.warmup": 5000,
    "optim.clip": 1.0,
    "optim.schedule": "constant",
    "train.batch_size": 128,
    "train.steps": 1_300_000,
    "train.ema_warmup": False,
    "train.accumulate": 1,
    "objective.name": "denoising",
    "objective.weighting": "simple",
    "objective.drop_cond": 0.0,
    "data.augment": "flip",
    "codec.dequantize": False,
    "data.dataset": "cifar10",
    "data.image_size": None,
    "sampling.denoise": True,
    "sampling.grid": "uniform",
    "sampling.ema": 0,
    "likelihood.rtol": 1e-5,
    "likelihood.atol": 1e-5,
    "likelihood.probes": 1,
    "likelihood.method": "Dopri5",
    "net.name": "ncsnpp.NCSNpp",
    "net.nf": 128,
    "net.ch_mult": (1, 2, 2, 2),
    "net.attn_resolutions": (16,),
    "net.dropout": 0.1,
    "net.init_scale": 0.0,
    "net.norm_eps": 1e-6,
    "net.fourier_scale": 16.0,
    "net.fir_kernel": (1, 3, 3, 1),
    "net.resamp_with_conv": True,
    "net.down_padding": (0, 1),
    "net.progressive": "none",
    "net.progressive_combine": "sum",
    "net.head_dim": 0,
    "net.freq_shift": 1,
    "net.input_fourier": (),
    "net.max_groups": 32,
    "net.attn_each_up_block": False,
    "net.num_classes": 0,
    "net.cond_features": 0,
    "net.cond_channels": 0,
    "net.dtype": None,
}
NETS = {
    "ddpm": {
        "net.num_res_blocks": 2,
        "net.resblock": "ddpm",
        "net.fir": False,
        "net.skip_rescale": False,
        "net.progressive_input": "none",
        "net.min_group_size": 1,
    },
    "ddpmpp": {
        "net.num_res_blocks": 4,
        "net.resblock": "biggan",
        "net.fir": False,
        "net.skip_rescale": True,
        "net.progressive_input": "none",
        "net.min_group_size": 4,
    },
    "ncsnpp": {
        "net.num_res_blocks": 4,
        "net.resblock": "biggan",
        "net.fir": True,
        "net.skip_rescale": True,
        "net.progressive_input": "residual",
        "net.min_group_size": 4,
    },
}
DEEP = {"net.num_res_blocks": 8, "train.steps": 950_000}
# VP and sub-VP: the mean over dimensions, data in [-1, 1], no corrector
PRESERVING = {
    "objective.reduction": "mean",
    "codec.centered": True,
    "net.centered": True,
    "net.embedding": "positional",
    "net.scale_by_sigma": False,
    "train.ema_rates": (0.9999,),
    "parametrization": "eps",
    "c_noise": "time(scale=999.0)",
}
CONTINUOUS = {
    "objective.time_law": "uniform",
    "sampling.solver": "euler_maruyama",
    "sampling.steps": 1000,
}
CHAIN = {  # the last of the 1,000 evaluations is the denoising
    "objective.time_law": "grid_points(num_steps=1000)",
    "sampling.steps": 999,
}
# VE: half the sum over dimensions, data in [0, 1], Langevin corrections
EXPLODING = {
    "objective.reduction": "sum",
    "codec.centered": False,
    "net.centered": False,
    "train.ema_rates": (0.999,),
    "sampling.solver": "predictor_corrector(snr=0.16)",
}
VE_CONTINUOUS = {
    **EXPLODING,
    "net.embedding": "fourier",
    "net.scale_by_sigma": True,
    "parametrization": "score",
    "c_noise": "noise_level",
    "objective.time_law": "uniform",
    "sampling.steps": 1000,
}
VE_CHAIN = {
    **EXPLODING,
    "net.embedding": "positional",
    "net.scale_by_sigma": False,
    "parametrization": "score(scaled=True)",
    "c_noise": "reversed_label(num_steps=1000)",
    "objective.time_law": "grid_points(num_steps=1000)",
    "sampling.steps": 999,
}
LARGE = {  # default_lsun_configs.py
    **NETS["ncsnpp"],
    **VE_CONTINUOUS,
    "net.ch_mult": (1, 1, 2, 2, 2, 2, 2),
    "net.num_res_blocks": 2,
    "net.dropout": 0.0,
    "net.progressive": "output_skip",
    "net.progressive_input": "input_skip",
    "data.image_size": 256,
    "train.batch_size": 64,
    "train.steps": 2_400_000,
    "sampling.solver": "predictor_corrector(snr=0.075)",
    "sampling.steps": 2000,
}
FOLDER = {"data.name": "folder", "data.dataset": None}
VP_SDE, SUBVP_SDE = (sde(beta_min=0.1, beta_max=20.0, t_min=1e-3) for sde in (VP, SubVP))
VP_CHAIN = DDPM(num_steps=1000, beta_min=0.1, beta_max=20.0, t_min=0.0)
VE_SDE = VE(sigma_min=0.01, sigma_max=50.0, t_min=1e-5)
SMLD_SDE = SMLD(num_steps=1000, sigma_min=0.01, sigma_max=50.0, t_min=0.0)

# The process as far as it is sampled to, and what differs from CIFAR10.
TABLE = {
    "vp/cifar10_ddpm": (
        VP_CHAIN,
        NETS["ddpm"] | PRESERVING | CHAIN | {"sampling.solver": 'ancestral(variance="large")'},
    ),
    "vp/cifar10_ddpmpp": (
        VP_CHAIN,
        NETS["ddpmpp"] | PRESERVING | CHAIN | {"sampling.solver": 'ancestral(variance="large")'},
    ),
    "vp/cifar10_ncsnpp": (
        VP_CHAIN,
        NETS["ncsnpp"] | PRESERVING | CHAIN | {"sampling.solver": "reverse_diffusion"},
    ),
    "vp/cifar10_ddpm_continuous": (VP_SDE, NETS["ddpm"] | PRESERVING | CONTINUOUS),
    "vp/cifar10_ddpmpp_continuous": (VP_SDE, NETS["ddpmpp"] | PRESERVING | CONTINUOUS),
    "vp/cifar10_ddpmpp_deep_continuous": (
        VP_SDE,
        NETS["ddpmpp"] | PRESERVING | CONTINUOUS | DEEP,
    ),
    "vp/cifar10_ncsnpp_continuous": (VP_SDE, NETS["ncsnpp"] | PRESERVING | CONTINUOUS),
    "vp/cifar10_ncsnpp_deep_continuous": (
        VP_SDE,
        NETS["ncsnpp"] | PRESERVING | CONTINUOUS | DEEP,
    ),
    "subvp/cifar10_ddpm_continuous": (SUBVP_SDE, NETS["ddpm"] | PRESERVING | CONTINUOUS),
    "subvp/cifar10_ddpmpp_continuous": (SUBVP_SDE, NETS["ddpmpp"] | PRESERVING | CONTINUOUS),
    "subvp/cifar10_ddpmpp_deep_continuous": (
        SUBVP_SDE,
        NETS["ddpmpp"] | PRESERVING | CONTINUOUS | DEEP,
    ),
    "subvp/cifar10_ncsnpp_continuous": (SUBVP_SDE, NETS["ncsnpp"] | PRESERVING | CONTINUOUS),
    "subvp/cifar10_ncsnpp_deep_continuous": (
        SUBVP_SDE,
        NETS["ncsnpp"] | PRESERVING | CONTINUOUS | DEEP,
    ),
    "ve/cifar10_ddpm": (SMLD_SDE, NETS["ddpm"] | VE_CHAIN),
    "ve/cifar10_ncsnpp": (SMLD_SDE, NETS["ncsnpp"] | VE_CHAIN),
    "ve/cifar10_ncsnpp_continuous": (VE_SDE, NETS["ncsnpp"] | VE_CONTINUOUS),
    "ve/cifar10_ncsnpp_deep_continuous": (VE_SDE, NETS["ncsnpp"] | VE_CONTINUOUS | DEEP),
    "ve/bedroom_ncsnpp_continuous": (
        VE(sigma_min=0.01, sigma_max=378.0, t_min=1e-5),
        LARGE | {"data.dataset": "lsun/bedroom"},
    ),
    "ve/church_ncsnpp_continuous": (
        VE(sigma_min=0.01, sigma_max=380.0, t_min=1e-5),
        LARGE | {"data.dataset": "lsun/church_outdoor"},
    ),
    "ve/celebahq_256_ncsnpp_continuous": (
        VE(sigma_min=0.01, sigma_max=348.0, t_min=1e-5),
        LARGE | {"data.dataset": "celeb_a_hq/256"},
    ),
    "ve/ffhq_256_ncsnpp_continuous": (
        VE(sigma_min=0.01, sigma_max=348.0, t_min=1e-5),
        LARGE | FOLDER,
    ),
    "ve/ffhq_1024_ncsnpp_continuous": (
        VE(sigma_min=0.01, sigma_max=1348.0, t_min=1e-5),
        LARGE
        | FOLDER
        | {
            "data.image_size": 1024,
            "net.nf": 16,
            "net.ch_mult": (1, 2, 4, 8, 16, 32, 32, 32),
            "net.num_res_blocks": 1,
            "objective.reduction": "mean",
            "train.batch_size": 8,
            "train.ema_rates": (0.9999,),
            "sampling.solver": "predictor_corrector(snr=0.15)",
        },
    ),
}


@pytest.mark.parametrize("key", TABLE)
def test_hyperparameters_are_the_papers(key):
    sde, differences = TABLE[key]
    config = load(ROOT / f"{key}.py").get_config()
    truth = CIFAR10 | differences
    found = {field: functools.reduce(getattr, field.split("."), config) for field in truth}
    assert found == truth
    assert requests.sampling_sde(config) == sde
    # training goes to 1e-5, sampling of VP and sub-VP to 1e-3
    assert build("processes", config.sde).t_min == (0.0 if "num_steps" in config.sde else 1e-5)


def test_every_file_is_in_the_table():
    of_the_paper = {name(path).removesuffix(".py") for path in FILES if path.parent != ROOT}
    assert of_the_paper == set(TABLE)


def test_every_field_of_a_network_is_in_the_table():
    """So that a new one is thought of; remat changes no numbers, and the paper has no flow maps."""
    fields = {f"net.{field}" for field in base.get_config().net}
    known = {field for _, changes in TABLE.values() for field in CIFAR10 | changes}
    assert fields - known == {"net.remat", "net.numbers"}
