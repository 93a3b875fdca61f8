r"""8x8 digits, continuous VP, sampled by the probability-flow ODE with adaptive steps.

    python main.py --mode train,sample,likelihood,evaluate --config configs/digits.py \
        --workdir runs/digits

This is `make demo`.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.data.name = "digits"
    config.data.augment = "none"
    config.codec.dequantize = True

    config.net.nf = 16
    config.net.ch_mult = (1, 1)
    config.net.num_res_blocks = 1
    config.net.attn_resolutions = (4,)
    config.net.dropout = 0.0

    config.objective.time_law = "uniform(stratified=True)"

    config.optim.learning_rate = 3e-3
    config.optim.warmup = 100
    config.optim.schedule = "cosine"

    config.train.steps = 2000
    config.train.log_every = 50
    config.train.checkpoint_every = 500
    config.train.sample_every = 1000
    config.train.ema_rates = (0.999,)
    config.train.ema_warmup = True

    config.sampling.solver = "probability_flow(rtol=1e-3, atol=1e-3)"
    config.sampling.steps = 1  # the solver chooses its own within
    config.sampling.t_min = 1e-3
    config.sampling.num_samples = 100
    config.sampling.batch_size = 500

    config.evaluate.num_samples = 1500  # as many as training images
    config.evaluate.split = "test"

    config.likelihood.batch_size = 297
    config.likelihood.rtol = 1e-4
    config.likelihood.atol = 1e-4
    return config
