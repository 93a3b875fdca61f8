r"""FFHQ at 1024x1024, VE, NCSN++, continuous training; 105.8M parameters.

    python main.py --mode train --config configs/ve/ffhq_1024_ncsnpp_continuous.py \
        --workdir runs/ffhq

Data: a folder of images, data.path.
Cost: 2,400,000 steps of batch 8.
"""

from ml_collections import ConfigDict

from configs import paper


def get_config() -> ConfigDict:
    config = paper.ve_large("data/ffhq1024", image_size=1024, sigma_max=1348.0, loader="folder")
    config.net.nf = 16
    config.net.ch_mult = (1, 2, 4, 8, 16, 32, 32, 32)
    config.net.num_res_blocks = 1
    config.objective.reduction = "mean"
    config.train.batch_size = 8
    config.train.ema_rates = (0.9999,)
    config.sampling.solver = "predictor_corrector(snr=0.15)"
    config.sampling.batch_size = 8
    return config
