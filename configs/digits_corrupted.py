r"""8x8 digits with 40 % of their pixels missing: a model that never sees a whole image.

    python main.py --mode restore --config configs/digits_corrupted.py \
        --workdir runs/digits_corrupted --config.restore.gaussian=20
    python main.py --mode train --config configs/digits_corrupted.py \
        --workdir runs/digits_corrupted \
        --config.data="encoded(path='runs/digits_corrupted/restored')"

The first command completes the images by a Gaussian that is fitted to the known pixels. A round
draws them anew by the network, and trains on:

    python main.py --mode restore --config configs/digits_corrupted.py \
        --workdir runs/digits_corrupted
    python main.py --mode train --config configs/digits_corrupted.py \
        --workdir runs/digits_corrupted --config.train.steps=1500 \
        --config.data="encoded(path='runs/digits_corrupted/restored')"

`python benchmarks/corrupted.py --missing 0.4` does all rounds.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.data = {"name": "corrupted", "of": ("digits()",), "missing": 0.4, "augment": "none"}

    # where there is much noise, an error of a predicted noise is a large one of the estimate, and
    # of the covariance that mmps takes from it
    config.parametrization = "v"

    config.optim.schedule = "constant"  # rounds follow
    config.optim.learning_rate = 2e-3
    config.train.steps = 1000
    config.train.checkpoint_every = 500

    config.sampling.solver = "dpmpp_sde"
    config.sampling.grid = "log_snr"
    config.sampling.steps = 20
    config.sampling.batch_size = 250
    return config
