r"""JiT (arXiv:2511.13720): a transformer that predicts clean images from patches of raw pixels.

    python main.py --mode train --config configs/jit.py:B/16 --config.data.path=IMAGENET \
        --workdir runs/jit

Settings are B, L and H with /16 for 256 pixels, or /32 for 512. The network predicts x_0, and the
loss is that of the velocity. Published FID of 50,000 guided images of 256 pixels, quoted from
memory as the settings of training are: B 3.66, L 2.36, H 1.86.

The patches pass through few channels, and the blocks after the first third read tokens of the class
too, as in the paper. Its normalisations have a factor for each channel, which adaLN makes
redundant; they have none here.
"""

from ml_collections import ConfigDict

from configs import base
from score_sde.errors import ConfigError
from score_sde.experiment.base import net_fields
from score_sde.nets.dit import DiT

SIZES = {  # width, depth, heads; channels that patches pass through; first block of class tokens
    "B": ((768, 12, 12), 128, 4),
    "L": ((1024, 24, 16), 128, 8),
    "H": ((1280, 32, 16), 256, 10),
}
PIXELS = {"16": 256, "32": 512}  # by the size of a patch


def get_config(setting: str = "B/16") -> ConfigDict:
    size, _, patch = setting.partition("/")
    if size not in SIZES or patch not in PIXELS:
        raise ConfigError(f"{setting} is no setting: those are B, L, H with /16, /32, such as B/16")
    config = base.get_config()
    config.data.name = "folder"
    config.data.image_size = PIXELS[patch]
    config.net = net_fields("dit.DiT", DiT)
    config.net.patch_size = int(patch)
    shape, config.net.embed_width, config.net.class_tokens_from = SIZES[size]
    config.net.width, config.net.depth, config.net.num_heads = shape
    config.net.class_tokens = 32
    config.net.update({"mlp": "swiglu", "norm": "rms", "qk_norm": True})
    config.net.positions = "sines+rope"
    config.net.num_classes = 1000

    config.sde = "Flow"
    config.parametrization = "x0"
    config.c_noise = "reversed_time"
    config.objective.time_law = "logit_normal(mean=0.8, std=0.8)"
    config.objective.weighting = "sd3(mean=0.8, std=0.8)"
    config.objective.drop_cond = 0.1
    config.optim.learning_rate = 2e-4
    config.optim.optimizer = "adamw(b2=0.95, weight_decay=0.0)"
    config.optim.clip = 0.0
    config.train.batch_size = 1024
    config.train.steps = 750_000  # 600 epochs
    config.sampling.solver = "heun"
    config.sampling.steps = 50
    config.sampling.batch_size = 32
    return config
