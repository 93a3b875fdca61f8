"""What the benchmarks share: the way to `configs`, the command line, the file of results,
small pictures.

Only the standard library is imported at first, so that a benchmark can import this module first.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# `python benchmarks/NAME.py` looks for modules in benchmarks/ alone, and `configs` is not installed
sys.path.insert(0, str(ROOT))


def few_colours(path: Path, count: int) -> None:
    """Gives a PNG so many colours, which make it small."""
    from PIL import Image

    with Image.open(path) as image:
        image.convert("RGB").quantize(count).save(path, optimize=True)


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of the docstring and shows the defaults."""


def parser(doc: str, out: str | None = None) -> argparse.ArgumentParser:
    """A parser that shows the first line of a docstring above the options and the rest below.

    out: the default of --out, a file in runs/.
    """
    first, _, rest = doc.partition("\n")
    made = argparse.ArgumentParser(description=first, epilog=rest, formatter_class=_Help)
    if out:
        made.add_argument("--out", type=Path, default=Path("runs", out), help="file of all results")
    return made


def parse(made: argparse.ArgumentParser, **small: Any) -> argparse.Namespace:
    """The options. With --small those in `small` are the defaults, which show that it runs."""
    made.add_argument("--small", action="store_true", help="run as little as shows that it runs")
    if made.parse_known_args()[0].small:
        if out := made.get_default("out"):  # not over the figures of a whole run
            small["out"] = out.parent / "small" / out.name
        made.set_defaults(**small)
    return made.parse_args()


def without_peers(doc: str, missing: ModuleNotFoundError) -> SystemExit:
    """Ends a benchmark that needs the peers' packages: with its help if that was asked for."""
    parser(doc).parse_known_args()
    return SystemExit(f"error: {missing}; {Path(sys.argv[0]).name} --help says what to install")


def write(path: Path, results: Any) -> None:
    """Writes results as JSON and says where they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"\nAll results are in {path}")
