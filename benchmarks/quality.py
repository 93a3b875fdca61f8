"""How good a model of the digits is after three minutes: `python benchmarks/quality.py`.

Each row is trained for so many steps as take some 360 s of processor time on a fast core. The table
has bits/dim of the 297 test images, a bound for tokens, and the Frechet distance of pixels of 7,500
samples to them. That of the 1,500 training images is 0.141. The distance exceeds its limit by a
constant over the number of samples: of 1,500 that are drawn of the training images it is 0.160. An
hour of processor time in all.
"""

from __future__ import annotations

import importlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import command
from ml_collections import ConfigDict

from score_sde.experiment.base import net_fields
from score_sde.modes.evaluate import evaluate
from score_sde.modes.train import train
from score_sde.nets.dit import DiT

TRANSFORMER = net_fields("dit.DiT", DiT)
TRANSFORMER.update(patch_size=2, width=64, depth=4, num_heads=2)
ROWS: dict[str, tuple[str, int, dict[str, Any]]] = {  # the config, steps, and what is changed
    "VP, noise prediction": ("digits", 5500, {}),
    "EDM": ("digits_edm", 5000, {}),
    "EDM, Fourier features of the input": ("digits_edm", 5000, {"net.input_fourier": (2.0, 3.0)}),
    "EDM, transformer": ("digits_edm", 6000, {"net": TRANSFORMER, "optim.learning_rate": 2e-3}),
    "tokens": ("digits_tokens", 2500, {"sampling.solver": "first_hitting"}),
}


def config_of(row: str, most: int | None = None) -> ConfigDict:
    """The config of a row. most: steps, if it is to be short."""
    name, steps, changes = ROWS[row]
    config = importlib.import_module(f"configs.{name}").get_config()
    for field, value in changes.items():
        *inner, last = field.split(".")
        part = config
        for each in inner:
            part = part[each]
        part[last] = value
    steps = min(steps, most or steps)
    config.train.update(steps=steps, sample_every=0, checkpoint_every=steps)
    config.evaluate.parts = ("likelihood", "metrics")
    config.likelihood.update(rtol=1e-3, atol=1e-3)
    return config


def main() -> None:
    """Prints the table."""
    parser = command.parser(__doc__, "quality.json")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--steps", type=int, help="of each row, if not its own")
    parser.add_argument("--samples", type=int, default=7500)
    options = command.parse(parser, rows=["EDM, transformer"], steps=2, samples=100)
    results = {}
    print("| model | parameters | steps | processor time | bits/dim | Frechet distance |")
    print("|---|---|---|---|---|---|")
    for row in options.rows:
        config = config_of(row, options.steps)
        config.evaluate.num_samples = options.samples
        with tempfile.TemporaryDirectory() as folder:
            begun = time.process_time()
            trained = train(config, Path(folder))
            took = time.process_time() - begun
            evaluate(config, Path(folder))
            found = json.loads(Path(folder, "evaluate.json").read_text())
        bits, sampled = found["likelihood"], found["metrics"]["rows"][-1]
        results[row] = {"training": trained, "seconds": took, **found}
        print(
            f"| {row} | {trained['parameters']:,} | {trained['step']:,} | {took:.0f} s "
            f"| {bits['bits_per_dim']:.3f} +- {bits['standard_error']:.3f} "
            f"| {sampled['frechet']:.3f} |",
            flush=True,
        )
    command.write(options.out, results)


if __name__ == "__main__":
    main()
