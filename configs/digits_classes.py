r"""8x8 digits by class: label dropout in training, classifier-free guidance in sampling.

    python main.py --mode train,sample --config configs/digits_classes.py --workdir runs/classes \
        --config.sampling.labels="(0, 1, 2, 3, 4, 5, 6, 7, 8, 9)" \
        --config.sampling.guidance="classifier_free(weight=1.5)"

Of 1,500 samples an SVC fitted to the real digits takes 98.1 % for the class asked for without
guidance (weight 1), 99.9 % at weight 1.5 and all at 2. 79,025 parameters; 3,500 steps, each as long
as one of digits.py.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    config.net.num_classes = 10
    config.objective.drop_cond = 0.1
    config.train.steps = 3500

    config.sampling.solver = "dpmpp"
    config.sampling.grid = "log_snr"
    config.sampling.steps = 20
    return config
