r"""8x8 digits, a classifier of noisy images, to guide a model of the same process.

    python main.py --mode train,evaluate --config configs/digits_classifier.py \
        --workdir runs/classifier
    python main.py --mode sample --config configs/digits.py --workdir runs/digits \
        --config.sampling.guidance='classifier(workdir="runs/classifier", scale=1.0)'
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
    config = digits.get_config()
    time_law = config.objective.time_law
    config.objective = ConfigDict({"name": "classification", "time_law": time_law})
    config.net = ConfigDict(
        {
            "name": "classifier.Classifier",
            "num_classes": 10,
            "nf": 16,
            "ch_mult": (1, 2),
            "num_res_blocks": 1,
            "attn_resolutions": (4,),
            "dropout": 0.1,
        }
    )
    config.train.steps = 1000
    config.train.sample_every = 0
    config.evaluate.parts = ("loss",)
    return config
