r"""CIFAR-10 and its like: colours for grey images, by the VE model; 62.8M parameters.

    python main.py --mode edit --config configs/cifar10_colourise.py --workdir runs/ve \
        --config.edit.images=PICTURES

On the workdir of configs/ve/cifar10_ncsnpp_continuous.py, trained or imported. PICTURES is a folder
of 32x32 images (others: `--config.edit.resize=True`); without it, test images of the data set.
"""

from ml_collections import ConfigDict

from configs.ve import cifar10_ncsnpp_continuous


def get_config() -> ConfigDict:
    config = cifar10_ncsnpp_continuous.get_config()
    config.edit.task = "colourise"
    config.sampling.solver = "dpmpp_sde"
    config.sampling.grid = "log_snr"
    config.sampling.steps = 100
    config.sampling.batch_size = 32
    return config
