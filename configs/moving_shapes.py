r"""Video in small: coloured shapes that move as captions say, 8 frames of 8x8.

    python main.py --mode train,evaluate,sample --config configs/moving_shapes.py \
        --workdir runs/moving_shapes

A transformer with attention over space and over time, and a noise level for each frame (diffusion
forcing).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import digits
from score_sde.data.moving_shapes import VOCABULARY
from score_sde.experiment.base import net_fields
from score_sde.nets.video import VideoDiT


def get_config() -> ConfigDict:
    config = digits.get_config()
    forms = ("square", "triangle", "ring")
    config.data = ConfigDict({"name": "moving_shapes", "image_size": 8, "forms": forms, "grid": 2})
    config.codec = {"name": "frames"}
    words = f"words(names={VOCABULARY}, length=8)"
    config.conditioner = f"text(tokenizer={words!r})"
    config.net = net_fields("video.VideoDiT", VideoDiT, numbers=("frame",))
    config.net.update(patch_size=2, width=128, depth=4, num_heads=4, positions="sines+rope")
    config.net.update(context="cross", vocabulary=len(VOCABULARY) + 1, text_depth=0)
    config.sde = "Flow"
    config.parametrization = "v"
    config.c_noise = "time(scale=1000.0)"
    config.objective = ConfigDict(
        {
            "name": "diffusion_forcing",
            "time_law": "logit_normal(mean=0.8, std=1.2)",
            "weighting": "flow",
            "drop_cond": 0.1,
            "together": 0.5,
            "given": 0.25,
            "init": placeholder(str),  # score_sde.training.starts, such as an image network
        }
    )
    config.optim.update(learning_rate=1.5e-3, warmup=100, schedule="cosine")
    config.train.update(steps=2500, batch_size=16, ema_rates=(0.998,))
    config.sampling.update(solver="ddim", grid="uniform", steps=20, t_min=None, batch_size=64)
    config.sampling.update(num_samples=64, guidance="classifier_free(weight=1.5)")
    config.evaluate.update(
        parts=("adherence",), world=f"moving_shapes(forms={forms})", num_prompts=256
    )
    config.evaluate.weights = (1.0, 1.5)
    config.likelihood.batch_size = 100
    return config
