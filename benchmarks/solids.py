"""Compares clouds of a model with test clouds: `python benchmarks/solids.py`.

It makes the figures of docs/guides/points.md: of training clouds, as an ideal model would draw, and
of models of configs/solids.py by their workdirs.

    python main.py --mode train --config configs/solids.py --workdir runs/solids
    python benchmarks/solids.py --workdirs runs/solids

The accuracy of the nearest neighbour by the Chamfer distance is 1/2 at best; the other numbers are
read back from each cloud. Half a minute on two cores.
"""

import json
from pathlib import Path

import command
import jax
import numpy as np

import score_sde
from score_sde.config import build
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


def main() -> None:
    """Prints a line for the training clouds and for each model."""
    parser = command.parser(__doc__)
    parser.add_argument("--workdirs", nargs="*", type=Path, default=[], help="of trained models")
    parser.add_argument("--number", type=int, default=400, help="of clouds in each set")
    options = command.parse(parser, number=20)

    data, kinds = build("data", "solids"), tuple(solids_reading.DISTANCES)
    numbers = np.arange(options.number)
    test = gather(data.test, numbers)
    sets = {"training clouds": gather(data.train, numbers)["points"]}
    for workdir in options.workdirs:
        model = score_sde.load(workdir)
        key = jax.random.key(0)
        sets[str(workdir)] = model.sample(key, options.number, labels=test["label"])
    for name, clouds in sets.items():
        told = distinguished(clouds, test["points"]) | read(clouds, test["label"], kinds)
        print(name, json.dumps({key: round(value, 4) for key, value in told.items()}))


if __name__ == "__main__":
    main()
