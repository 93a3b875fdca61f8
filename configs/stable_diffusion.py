r"""Stable Diffusion (1, 2 and XL) from a folder of Hugging Face diffusers.

    python main.py --mode import,sample --source stable-diffusion-v1-5 \
        --config configs/diffusers.py:stable-diffusion-v1-5 --workdir runs/sd \
        --config.sampling.prompts="('a red bicycle',)"

The folder is a downloaded pipeline. `--mode import` makes its U-Net the parameters of the workdir;
the autoencoder and the encoders of text stay in the folder, whose path the config holds. Samples
are drawn as the folder's own scheduler does it, in 50 calls of the network. It names no data set;
to train on, add one with captions.
"""

from pathlib import Path

from ml_collections import ConfigDict

from configs import base
from score_sde.config import at
from score_sde.errors import ConfigError
from score_sde.experiment.base import net_fields
from score_sde.nets.conditional_unet import ConditionalUNet
from score_sde.published import stable_diffusion


def get_config(folder: str | None = None) -> ConfigDict:
    if not folder:
        raise ConfigError("say which folder: --config configs/stable_diffusion.py:FOLDER")
    with at("--config configs/stable_diffusion.py:FOLDER"):
        # the config holds its path, and may be read elsewhere
        pipeline = stable_diffusion.describe(Path(folder).absolute())
    config = base.get_config()
    config.sde = pipeline.sde
    config.parametrization = pipeline.parametrization
    config.c_noise = pipeline.c_noise
    config.net = net_fields("conditional_unet.ConditionalUNet", ConditionalUNet, **pipeline.net)
    config.codec = ConfigDict(
        {"name": "autoencoder", "workdir": pipeline.autoencoder, "tile": 0, "overlap": 8}
    )
    config.conditioner = pipeline.conditioner
    config.data.name = "absent"
    config.data.image_size = pipeline.image_size
    if pipeline.channels != 3:
        config.data.channels = pipeline.channels
    config.objective.time_law = f"grid_points(num_steps={pipeline.num_steps})"
    config.objective.weighting = pipeline.weighting
    config.objective.drop_cond = 0.1  # how often its training left out the caption
    config.train.steps = 100_000  # after the import, which has no step of its own
    config.sampling.update(pipeline.sampling)
    config.sampling.num_samples = config.sampling.batch_size = 4
    return config
