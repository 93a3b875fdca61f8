r"""Series of two channels and their forecasts: a transformer on patches of four times.

python main.py --mode train,likelihood,edit --config configs/series.py --workdir runs/series
python benchmarks/forecast.py --workdir runs/series
"""

from ml_collections import ConfigDict

from configs import base
from score_sde.experiment.base import net_fields
from score_sde.nets.dit import DiT


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data = {"name": "series"}
    config.codec = {"name": "reals", "part": "series", "medium": "series"}
    config.net = net_fields("dit.DiT", DiT)
    config.net.update(patch_size=4, width=96, depth=3, num_heads=4)
    config.sde = "Flow"
    config.parametrization = "v"
    config.c_noise = "time(scale=1000.0)"
    config.objective.update(time_law="logit_normal(mean=0.0, std=1.4)", weighting="flow")
    config.optim.update(learning_rate=2e-3, warmup=100, schedule="cosine")
    config.train.update(steps=2000, batch_size=128, ema_rates=(0.998,))
    config.train.update(log_every=100, checkpoint_every=1000, sample_every=1000)
    config.sampling.update(solver="dpmpp", grid="log_snr", steps=20, t_min=1e-3, batch_size=512)
    config.likelihood.update(batch_size=200, rtol=1e-4, atol=1e-4)
    config.evaluate.parts = ("loss", "likelihood")
    config.edit.update(task="forecast(known=0.75)", method="mmps(iterations=8)")
    config.edit.update(num_images=100, completions=39)
    return config
