"""How well clouds of a model are told from test clouds: `python benchmarks/solids.py runs/solids`.

The figures of docs/guides/points.md, of `--config configs/solids.py`: the accuracy of the nearest
neighbour by the Chamfer distance between samples and test clouds, of which 1/2 is the best; and
what is read back from each sample. The second column is that of training clouds in the place of
samples, which is what a perfect model would have. It takes a minute on two cores.
"""

import argparse
import json
from pathlib import Path

import jax
import numpy as np

import score_sde
from score_sde.data import solids_reading
from score_sde.data.source import gather
from score_sde.evaluation.metrics.clouds import distinguished


def read(clouds, labels, kinds):
    """The share of clouds whose nearest solid is of the kind asked for, the median distance of
    their points to it, and the mean size of the solids."""
    found = [solids_reading.read(cloud, finest=0.02) for cloud in clouds]
    right = [kinds[label] == solid.kind for label, solid in zip(labels, found, strict=True)]
    sizes = [solid.size for solid in found]
    return {
        "kind": float(np.mean(right)),
        "distance": float(np.median([solid.distance for solid in found])),
        "size_mean": float(np.mean(sizes)),
        "size_std": float(np.std(sizes)),
    }


def main():
    """Prints the figures of samples, and of training clouds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--number", type=int, default=400, help="of clouds in each set")
    arguments = parser.parse_args()
    model = score_sde.load(arguments.workdir)
    test = gather(model.data.test, np.arange(arguments.number))
    kinds = model.config.data.get("kinds", tuple(solids_reading.DISTANCES))
    train = gather(model.data.train, np.arange(arguments.number))
    drawn = model.sample(jax.random.key(0), arguments.number, labels=test["label"])
    for name, clouds in (("samples", drawn), ("training clouds", train["points"])):
        told = distinguished(clouds, test["points"]) | read(clouds, test["label"], kinds)
        print(name, json.dumps({key: round(value, 4) for key, value in told.items()}))


if __name__ == "__main__":
    main()
