r"""Red shapes become blue ones: a flow between two sets of pictures without pairs (image to image).

    python main.py --mode train,sample --config configs/shapes_recoloured.py \
        --workdir runs/recoloured
    python benchmarks/recoloured.py --workdirs runs/recoloured

Nothing says which red picture belongs to which blue one. Optimal transport within each batch pairs
those that are near, so form, size and place stay: after 1,200 steps of 128 a test picture keeps all
three in 82.4 %, and is blue as well in 68.6 %. 16 minutes of processor time
(docs/research/two_ends.md).
"""

from ml_collections import ConfigDict

from configs import digits
from score_sde.experiment.base import net_fields
from score_sde.nets.dit import DiT


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.data = ConfigDict(
        {
            "name": "two_sets",
            "of": ("shapes(colours=('blue',))", "shapes(colours=('red',), seed=1)"),
            "augment": "exact_coupling",
        }
    )
    config.codec.dequantize = False
    config.conditioner = "starts(text='nothing')"
    config.net = net_fields("dit.DiT", DiT)
    config.net.update(patch_size=4, width=96, depth=4, num_heads=4)
    config.sde = "Flow(t_max=1.0)"
    config.parametrization = "v"
    config.c_noise = "time(scale=1000.0)"
    config.objective = ConfigDict(
        {"name": "interpolant", "time_law": "uniform(stratified=True)", "weighting": "flow"}
    )
    config.optim.update(learning_rate=1e-3, schedule="cosine")
    config.train.update(steps=1200, batch_size=128, ema_rates=(0.995,), sample_every=0)
    config.sampling.update(solver="dpmpp", grid="uniform", steps=10, t_min=None)
    config.sampling.update(num_samples=512, batch_size=128)
    config.evaluate.parts = ("loss",)
    return config
