r"""A folder of Hugging Face diffusers, config and all: nothing is written by hand.

    python main.py --mode import,sample --config configs/diffusers.py:FOLDER --source FOLDER \
        --workdir runs/imported

FOLDER is a downloaded pipeline with a `UNet2DModel`, such as google/ddpm-cifar10-32,
google/ddpm-ema-church-256 or google/ncsnpp-ffhq-256. It names no data set; to train on, or for a
likelihood, add one: --config.data.name=folder --config.data.path=IMAGES. One of Stable Diffusion
is read by configs/stable_diffusion.py.
"""

from pathlib import Path

from ml_collections import ConfigDict

from configs import base, stable_diffusion
from score_sde.config import at
from score_sde.errors import ConfigError
from score_sde.published import diffusers
from score_sde.published.stable_diffusion import is_pipeline


def get_config(folder: str | None = None) -> ConfigDict:
    if not folder:
        raise ConfigError("say which folder: --config configs/diffusers.py:FOLDER")
    with at("--config configs/diffusers.py:FOLDER"):
        if is_pipeline(Path(folder)):
            return stable_diffusion.get_config(folder)
        description = diffusers.describe(Path(folder))
    config = base.get_config()
    config.sde = description.sde
    config.parametrization = description.parametrization
    config.c_noise = description.c_noise
    config.net.update(description.net)
    config.data.name = "absent"
    config.data.image_size = description.image_size
    if description.channels != 3:
        config.data.channels = description.channels
    config.codec.centered = description.centered
    if description.num_steps is not None:
        config.objective.time_law = f"grid_points(num_steps={description.num_steps})"
    config.train.steps = 100_000  # after the import, which has no step of its own
    config.objective.weighting = description.weighting
    config.sampling.update(description.sampling)
    return config
