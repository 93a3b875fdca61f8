r"""Tones of a quarter of a second by their captions: a transformer on their cosines.

    python main.py --mode train,evaluate,sample --config configs/tones.py --workdir runs/tones \
        --config.sampling.prompts="('a bright tone at C4, fading',)"

Of seed 0, 99.6 % of 256 samples have the pitch that was asked for, within 20 cents; 77 % have the
timbre, 95 % the envelope, 73 % all three. 890 s of processor time with the evaluation.
"""

from ml_collections import ConfigDict

from configs import base
from score_sde.data.tones import LOUDNESS, VOCABULARY
from score_sde.experiment.base import net_fields
from score_sde.nets.dit import DiT


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data = ConfigDict({"name": "tones", "augment": "none"})
    config.codec = {"name": "waveform", "rate": 4000, "std": LOUDNESS, "cosines": True}
    words = f"words(names={VOCABULARY}, length=8)"
    config.conditioner = f"text(tokenizer={words!r})"
    config.net = net_fields("dit.DiT", DiT)
    config.net.update(patch_size=32, width=128, depth=3, num_heads=4)
    config.net.update(context="cross", vocabulary=len(VOCABULARY) + 1, text_depth=0)
    config.sde = "Flow"
    config.parametrization = "v"
    config.c_noise = "time(scale=1000.0)"
    config.objective.update(time_law="logit_normal(mean=0.8, std=1.2)", weighting="flow")
    config.objective.drop_cond = 0.1
    config.optim.update(learning_rate=2e-3, warmup=200, schedule="cosine")
    config.train.update(steps=5000, batch_size=64, ema_rates=(0.999,))
    config.train.update(log_every=100, checkpoint_every=2000, sample_every=1000)
    config.sampling.update(solver="dpmpp", grid="log_snr", steps=20, t_min=1e-3, batch_size=128)
    config.evaluate.update(parts=("loss", "adherence"), world="tones", weights=(1.0,))
    return config
