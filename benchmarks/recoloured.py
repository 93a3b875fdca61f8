"""What stays when red shapes become blue: `python benchmarks/recoloured.py --workdirs DIR ...`.

Of models of `configs/shapes_recoloured.py`, after mode `sample`. Each sample begins at a test
picture of a red shape, in turn. The table says in how many samples the shape is blue, and its form,
its size, its place and all of them are those of that picture. `--picture FILE` draws pictures above
what each model makes of them.
"""

from __future__ import annotations

from pathlib import Path

import command
import numpy as np
from PIL import Image

from score_sde.config import build
from score_sde.data.files import read_arrays
from score_sde.data.shapes_reading import read_attributes
from score_sde.experiment import workdirs
from score_sde.experiment.build import load_data

KEPT = ("form", "size", "place")


def table(found: dict[str, np.ndarray], sources: np.ndarray) -> None:
    """Prints the shares of each model."""
    print("| model | blue | " + " | ".join(KEPT) + " | all |\n" + "|---" * 6 + "|")
    for name, samples in found.items():
        rows = []
        for sample, source in zip(samples, sources, strict=True):
            (was,) = read_attributes(source)
            now = read_attributes(sample)
            one = len(now) == 1
            each = [one and now[0].colour == "blue"]
            each += [one and getattr(now[0], kept) == getattr(was, kept) for kept in KEPT]
            rows.append([*each, all(each)])
        print(f"| {name} | " + " | ".join(f"{100 * a:.1f} %" for a in np.mean(rows, axis=0)) + " |")


def main() -> None:
    """The table of workdirs."""
    parser = command.parser(__doc__)
    parser.add_argument("--workdirs", type=Path, nargs="*", default=[Path("runs/recoloured")])
    parser.add_argument("--picture", type=Path, help="where to draw it")
    options = command.parse(parser, workdirs=[])
    test = build("data", {"name": "shapes", "colours": ("red",), "seed": 1}).test
    if not options.workdirs:  # the pictures themselves: nothing is blue, and all else stays
        sources = np.stack([test[i]["image"] for i in range(8)])
        table({"as they were": sources}, sources)
        return
    found = {str(w): read_arrays(w / "samples.npz")["samples"] for w in options.workdirs}
    n = min(len(samples) for samples in found.values())
    theirs = load_data(workdirs.stored_config(options.workdirs[0])).test
    sources = np.stack([theirs[i]["source"] for i in range(n)])
    table({name: samples[:n] for name, samples in found.items()}, sources)
    if options.picture:
        rows = np.stack([sources[:12], *(samples[:12] for samples in found.values())])
        whole = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
        Image.fromarray(whole).resize((whole.shape[1] * 2, whole.shape[0] * 2), 0).save(
            options.picture, optimize=True
        )


if __name__ == "__main__":
    main()
