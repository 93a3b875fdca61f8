"""The choices that the published models of Song et al. 2021 are made of.

A config file names one of each: a process, an architecture, and whether training is continuous.
Where this code differs from the 2021 one on purpose, docs/coming_from/score_sde_2021.md says so
("What differs").
"""

from ml_collections import ConfigDict

from configs import base


def cifar10(process: str, net: str, *, continuous: bool = True, deep: bool = False) -> ConfigDict:
    """process: "vp", "ve" or "subvp"; net: "ddpm", "ddpmpp" or "ncsnpp"; deep: 8 blocks a stage."""
    config = base.get_config()
    config.data.dataset = "cifar10"
    config.data.memory = True
    config.net.nf = 128
    config.net.ch_mult = (1, 2, 2, 2)
    config.net.attn_resolutions = (16,)
    config.net.dropout = 0.1
    _ARCHITECTURES[net](config.net)
    {"vp": _vp, "ve": _ve, "subvp": _subvp}[process](config, continuous)
    if (process, net, continuous) == ("vp", "ncsnpp", False):
        config.sampling.solver = "reverse_diffusion"
    if deep:
        config.net.num_res_blocks = 8
        config.train.steps = 950_000
    config.sampling.batch_size = 1024
    return config


def ve_large(
    dataset: str, *, image_size: int, sigma_max: float, loader: str = "tfds"
) -> ConfigDict:
    """The VE models of 256 and 1024 pixels: NCSN++ with skip pyramids, 2000 noise levels."""
    config = base.get_config()
    config.data.name = loader
    config.data["dataset" if loader == "tfds" else "path"] = dataset
    if dataset.startswith("lsun"):
        config.data.test_split = "validation"
    if dataset.startswith("celeb_a_hq"):  # has one split only
        config.data.train_split, config.data.test_split = "train[:95%]", "train[95%:]"
    config.data.image_size = image_size
    _ncsnpp(config.net)
    _ve(config, continuous=True, sigma_max=sigma_max, steps=2000)
    config.net.progressive = "output_skip"
    config.net.progressive_input = "input_skip"
    config.net.dropout = 0.0
    config.net.nf = 128
    config.net.ch_mult = (1, 1, 2, 2, 2, 2, 2)
    config.net.num_res_blocks = 2
    config.net.attn_resolutions = (16,)
    config.train.steps = 2_400_000
    config.train.batch_size = 64
    config.train.checkpoint_every = 5000
    config.sampling.solver = "predictor_corrector(snr=0.075)"
    config.sampling.batch_size = 16
    return config


def _ddpm(net: ConfigDict) -> None:
    net.num_res_blocks = 2
    net.resblock = "ddpm"
    net.skip_rescale = False
    net.min_group_size = 1


def _ddpmpp(net: ConfigDict) -> None:
    net.num_res_blocks = 4


def _ncsnpp(net: ConfigDict) -> None:
    net.num_res_blocks = 4
    net.fir = True
    net.progressive_input = "residual"


_ARCHITECTURES = {"ddpm": _ddpm, "ddpmpp": _ddpmpp, "ncsnpp": _ncsnpp}


def _vp(config: ConfigDict, continuous: bool) -> None:
    if continuous:
        config.sampling.t_min = 1e-3
    else:
        config.sde = "DDPM(num_steps=1000)"
        config.objective.time_law = "grid_points(num_steps=1000)"
        config.sampling.solver = 'ancestral(variance="large")'
        config.sampling.steps = 999  # the last of the 1,000 evaluations is the denoising


def _subvp(config: ConfigDict, continuous: bool) -> None:
    config.sde = "SubVP"
    config.sampling.t_min = 1e-3


def _ve(config: ConfigDict, continuous: bool, sigma_max: float = 50.0, steps: int = 1000) -> None:
    config.sde = f"VE(sigma_min=0.01, sigma_max={sigma_max})"
    config.parametrization = "score"
    config.c_noise = "noise_level"
    config.net.embedding = "fourier"
    config.net.scale_by_sigma = True
    config.net.centered = False
    config.codec.centered = False
    config.objective.reduction = "sum"
    config.train.ema_rates = (0.999,)
    config.sampling.solver = "predictor_corrector(snr=0.16)"
    config.sampling.steps = steps
    if not continuous:
        config.sde = f"SMLD(num_steps={steps}, sigma_min=0.01, sigma_max={sigma_max})"
        config.objective.time_law = f"grid_points(num_steps={steps})"
        # The label is an integer here, so the division by sigma is the parametrization's.
        config.parametrization = "score(scaled=True)"
        config.c_noise = f"reversed_label(num_steps={steps})"
        config.net.embedding = "positional"
        config.net.scale_by_sigma = False
        config.sampling.steps = steps - 1
