"""How good a model of the digits is after a fixed time of training: `python benchmarks/quality.py`.

Each row changes one thing of the row above it, or of a named one, and is trained for `--seconds` of
processor time: 360 are three minutes on two cores. Steps are counted out beforehand, from the time
of a few. The table has bits/dim of the 297 test images, by the ODE, and the Frechet distance of
pixels of 1,500 samples to them, where that of the training images is 0.141.

    python benchmarks/quality.py --rows digits edm longer
"""

from __future__ import annotations

import importlib
import tempfile
import time
from pathlib import Path
from typing import Any

import command
from ml_collections import ConfigDict

from score_sde.modes.evaluate import evaluate
from score_sde.modes.train import train

FEW = 60  # steps, whose time is measured after as many others

ROWS: dict[str, tuple[str, dict[str, Any]]] = {  # what is changed: the config, and its fields
    "digits": ("digits", {}),
    "edm": ("digits_edm", {}),
}


def config_of(row: str, steps: int) -> ConfigDict:
    """The config of a row."""
    name, changes = ROWS[row]
    config = importlib.import_module(f"configs.{name}").get_config()
    config.update_from_flattened_dict(changes)
    config.train.update(steps=steps, sample_every=0, checkpoint_every=steps)
    config.evaluate.parts = ("likelihood", "metrics")
    return config


def seconds_of(row: str, steps: int) -> float:
    """Processor time of a training in a workdir that is not kept."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        train(config_of(row, steps), Path(folder))
        return time.process_time() - start


def measured(row: str, seconds: float, samples: int) -> dict[str, Any]:
    """What a row of the table says."""
    each = max((seconds_of(row, 2 * FEW) - seconds_of(row, FEW)) / FEW, 1e-4)
    steps = max(2, round(seconds / each))
    with tempfile.TemporaryDirectory() as folder:
        config, workdir = config_of(row, steps), Path(folder)
        config.evaluate.num_samples = samples
        start, begun = time.time(), time.process_time()
        parameters = train(config, workdir)["parameters"]
        took = time.time() - start, time.process_time() - begun
        found = evaluate(config, workdir)
    last = found["metrics"]["rows"][-1]
    return {
        "parameters": parameters,
        "steps": steps,
        "wall seconds": took[0],
        "processor seconds": took[1],
        "bits/dim": found["likelihood"]["bits_per_dim"],
        "standard error": found["likelihood"]["standard_error"],
        "frechet": last["frechet"],
    }


def main() -> None:
    """Prints the table."""
    parser = command.parser(__doc__, "quality.json")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seconds", type=float, default=360.0, help="processor time of training")
    parser.add_argument("--samples", type=int, default=1500)
    options = command.parse(parser, rows=["digits"], seconds=0.5, samples=100)
    results = {}
    print("| row | parameters | steps | processor time | bits/dim | Frechet distance |")
    print("|---|---|---|---|---|---|")
    for row in options.rows:
        found = results[row] = measured(row, options.seconds, options.samples)
        print(
            f"| {row} | {found['parameters']:,} | {found['steps']:,} "
            f"| {found['processor seconds']:.0f} s "
            f"| {found['bits/dim']:.3f} +- {found['standard error']:.3f} "
            f"| {found['frechet']:.3f} |",
            flush=True,
        )
    command.write(options.out, results)


if __name__ == "__main__":
    main()
