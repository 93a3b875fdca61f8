r"""Series of two channels and their forecasts: a transformer on patches of four times.

python main.py --mode train,likelihood,edit --config configs/series.py --workdir runs/series
python benchmarks/forecast.py --workdir runs/series

Measured, of seed 0: the CRPS of the last 16 of 64 times is 0.495, where the law of the process has
0.486; 81.1 % of the truth is in the middle 80 % of 19 forecasts. The test series have -78.8 +- 0.5
nats, and -78.1 by the law. 160 s of processor time, 93 of them of training.
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
    config.train.update(steps=900, batch_size=128, ema_rates=(0.99,))
    config.train.update(log_every=100, checkpoint_every=300, sample_every=300)
    config.sampling.update(solver="dpmpp", grid="log_snr", steps=20, t_min=1e-3, batch_size=512)
    config.likelihood.update(batch_size=200, rtol=1e-4, atol=1e-4)
    config.evaluate.parts = ("loss", "likelihood")
    config.edit.update(task="forecast(known=0.75)", method="mmps(iterations=4)")
    config.edit.update(num_images=100, completions=19)
    return config
