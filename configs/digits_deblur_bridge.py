r"""8x8 digits from blurred digits: a Brownian bridge, told where it began (image to image).

    python main.py --mode train,sample --config configs/digits_deblur_bridge.py \
        --workdir runs/bridge

Of seed 0, the root of the mean square error on the test images in units of x, with 20 steps: 0.251,
and 0.199 of the mean of 8 results; with sampling.solver="bridge(eta=0.0)" and 5 steps 0.236 and
0.197. A diffusion model of this network has 0.291 and 0.218 by mmps. 104,212 parameters; training
takes 30 s of processor time (docs/research/two_ends.md).
"""

from ml_collections import ConfigDict

from configs import digits_dit


def get_config() -> ConfigDict:
    config = digits_dit.get_config()
    config.data = {
        "name": "observed",
        "of": ("digits()",),
        "operator": "gaussian_blur(std=1.0)",
        "noise": 0.05,
        "augment": "none",
    }
    config.codec.dequantize = False
    config.conditioner = "starts(text='nothing', given=True)"
    config.net.update(cond_channels=1, width=48, depth=2)

    config.sde = "two_ends.Brownian(variance=0.1)"
    config.parametrization = "eps"
    config.c_noise = "time(scale=1000.0)"
    config.objective = {
        "name": "bridge_matching",
        "time_law": "uniform(stratified=True)",
        "weighting": "simple",
        "second": "told",
    }
    config.train.update(steps=1500, batch_size=64)

    config.sampling.solver = "ancestral"
    config.sampling.grid = "uniform"
    config.sampling.steps = 20
    config.sampling.t_min = None
    config.sampling.num_samples = 297  # one from each test image
    config.sampling.batch_size = 297
    config.evaluate.parts = ("loss",)
    return config
