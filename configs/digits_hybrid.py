r"""8x8 digits with a learned variance: the chain of DDPM in 1,000 steps, and few of them to sample.

    python main.py --mode train,sample --config configs/digits_hybrid.py --workdir runs/hybrid

The network, a small ADM, has v beside the prediction, which says of each number the variance of a
step. docs/research/posterior_covariance.md compares it with the variances of an analytic posterior.
"""

from ml_collections import ConfigDict

from configs import digits_ddpm
from score_sde.experiment.base import net_fields
from score_sde.nets.adm import ADM


def get_config() -> ConfigDict:
    config = digits_ddpm.get_config()
    config.net = net_fields(
        "adm.ADM",
        ADM,
        nf=16,
        ch_mult=(1, 1),
        num_res_blocks=1,
        attn_rates=(2,),
        head_dim=16,
        learn_variance=True,
    )
    config.codec.dequantize = False  # the last step of the chain is to a value of a pixel
    config.objective = ConfigDict(
        {
            "name": "hybrid",
            "time_law": config.objective.time_law,
            "weighting": "simple",
            "bound_weight": 1e-3,
            "values": 17,  # of a pixel
            "drop_cond": 0.0,
        }
    )

    config.sampling.solver = "ancestral(variance='learned')"
    config.sampling.grid = "log_snr"
    config.sampling.steps = 25
    return config
