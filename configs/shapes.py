r"""Text to image in small: a transformer draws coloured shapes as captions say, in latents of 8x8.

    make demo-text

or, by hand, after configs/shapes_autoencoder.py,

    python main.py --mode encode --config configs/shapes.py --workdir runs/shapes
    python main.py --mode train,evaluate,sample --config configs/shapes.py --workdir runs/shapes \
        --config.data="encoded(path='runs/shapes/encoded')" \
        --config.sampling.prompts="('a large red circle at the top left',)"

The pairs of a colour and a form in `data.shapes.HELD_OUT` are in no training example of this
network; the autoencoder has seen their pictures. Of seed 0, at a weight of 2, all attributes are as
asked in 99.6 % of 256 samples of seen pairs and in 91.8 % of those held out. 500 s of
processor time, and 250 s for the evaluation.
"""

from ml_collections import ConfigDict

from configs import digits
from score_sde.data.shapes_captions import VOCABULARY
from score_sde.experiment.base import net_fields
from score_sde.nets.dit import DiT


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.data = ConfigDict({"name": "shapes", "image_size": 32, "augment": "none"})
    config.codec = "autoencoder(workdir='runs/shapes_autoencoder')"
    words = f"words(names={VOCABULARY}, length=12)"
    config.conditioner = f"text(tokenizer={words!r}, drop_tokens=0.15)"
    config.net = net_fields("dit.DiT", DiT)
    config.net.update(patch_size=2, width=128, depth=4, num_heads=4)
    config.net.update(context="cross", vocabulary=len(VOCABULARY) + 1, text_depth=0)
    config.sde = "Flow"
    config.parametrization = "v"
    config.c_noise = "time(scale=1000.0)"
    config.objective.update(
        time_law="logit_normal(mean=0.8, std=1.2)", weighting="flow", drop_cond=0.1
    )
    config.optim.update(learning_rate=1e-3, warmup=200, schedule="cosine")
    config.train.update(steps=5000, batch_size=64, ema_rates=(0.999,))
    config.sampling.update(solver="ancestral", grid="log_snr", steps=40)
    config.sampling.update(t_min=None, batch_size=128)
    config.sampling.guidance = "classifier_free(weight=2.0)"
    config.evaluate.update(parts=("adherence",), world="shapes")
    return config
