r"""8x8 digits as 64 tokens of 17 values, by masked diffusion.

    python main.py --mode train,sample,likelihood,evaluate --config configs/digits_tokens.py \
        --workdir runs/digits_tokens

Of seed 0, after 2,500 steps of 128: 1.725 +- 0.014 bits of a pixel at most, where the exact
likelihood of the Gaussian model of digits.py is 1.97. The Frechet distance of pixels of 1,500
samples by first_hitting to the test images is .187, where that of the training images is .141.
380 s of processor time of training. A U-Net knows which tokens are neighbours; a transformer had
2.01 after 2,000 steps.
"""

from ml_collections import ConfigDict

from configs import digits
from score_sde.experiment.base import net_fields
from score_sde.nets.dit import DiT
from score_sde.nets.token_grid import TokenNCSNpp

VALUES = 17


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.codec = "image_tokens"
    config = as_tokens(config, VALUES)
    config.net = net_fields("token_grid.TokenNCSNpp", TokenNCSNpp)
    config.net.update(nf=32, ch_mult=(1, 1), num_res_blocks=1, attn_resolutions=(4,), dropout=0.1)
    config.train.steps = 2500
    return config


def as_tokens(config: ConfigDict, values: int) -> ConfigDict:
    """The config with masked diffusion of tokens of so many values, and a transformer."""
    config.sde = "Masking"
    config.parametrization = f"without_itself(values={values})"
    config.c_noise = "time(scale=0.0)"  # what is masked says how much is
    config.net = net_fields("dit.DiT", DiT)
    config.net.update(
        patch_size=1, width=64, depth=4, num_heads=4, dropout=0.1, out_channels=values
    )
    config.objective = ConfigDict(
        {"name": "masked", "time_law": "uniform(stratified=True)", "drop_cond": 0.0}
    )
    config.optim.learning_rate = 2e-3
    config.sampling.update(solver="unmask", grid="uniform", steps=64, t_min=None, denoise=False)
    config.likelihood.bound = "elbo(draws=1)"
    return config
