"""Training step, sampler, compilation, start-up and memory beside other libraries.

    pip install torch==2.13.0 diffusers==0.42.0
    pip install hackable-diffusion dewml flaxdiff diffusionlab    # Python 3.13
    python benchmarks/frameworks.py --python diffusers=OTHER/bin/python

A DiT and a U-Net, here, in diffusers (PyTorch, eager and compiled) and in the libraries in JAX that
are installed; `sides/` has one file for each, which says what it takes of the library. All sides
have the same shape, batch, number of DDIM steps, dtype, loss, optimiser (a clip, Adam, an average
of the parameters) and cores. Each is a process of its own. --python NAME=FILE names the interpreter
of a side that is in another environment; what is not installed is left out with a line.

- "training step" and "sampler": seconds of a call right after one like it, the median over rounds.
  All sides take turns within a round, and a ratio is the median of the rounds' ratios to ours.
- "preparation": seconds for what comes before the first training step, such as imports, the state
  of the optimiser and the averages.
- "compilation": seconds of the first call, less the median of later ones.
- "start": from the start of the process to its first samples, imports and compilation included;
  "again" is that of a second process, which finds the caches of the first.
- "memory": the most that the process has held (of an accelerator: the most it has allocated),
  after the first samples and after all training steps. Of the processor's it includes the
  libraries.
- "operations": of a forward pass of one example, two for each product and sum of products of
  matrices and convolutions.

On a GPU the same command measures the GPU. About ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import command

NETWORKS = {
    "dit": {
        "shape": (32, 32, 4),
        "patch_size": 2,
        "width": 384,
        "depth": 6,
        "num_heads": 6,
        "num_classes": 10,
        "freq_shift": 1,
        "out_channels": 0,
        "dropout": 0.0,
    },
    "unet": {
        "shape": (32, 32, 3),
        "nf": 64,
        "ch_mult": (1, 2, 2),
        "num_res_blocks": 1,
        "attn_resolutions": (16,),
        "dropout": 0.0,
    },
}
SMALL = {
    "dit": {"shape": (8, 8, 4), "width": 32, "depth": 1, "num_heads": 2},
    "unet": {"shape": (8, 8, 3), "nf": 16, "ch_mult": (1, 2), "attn_resolutions": (4,)},
}
OURS = "score_sde"
RUNS = ("training step", "sampler")


class Recipe(NamedTuple):
    """The module in `sides/`, whether it compiles, if it can choose, and the networks it has."""

    module: str
    compiled: bool = True
    networks: tuple[str, ...] = ("dit", "unet")


SIDES = {
    OURS: Recipe("score_sde_side"),
    "diffusers": Recipe("diffusers_side", compiled=False),
    "diffusers, compiled": Recipe("diffusers_side"),
    "hackable_diffusion": Recipe("hackable_side"),
    "dew": Recipe("dew_side"),
    "flaxdiff": Recipe("flaxdiff_side"),
    "diffusionlab": Recipe("diffusionlab_side", networks=("dit",)),
}


class Failed(Exception):
    """A side that is not there, or that ended."""


class Process:
    """A side that runs. `begun`: when it was started."""

    def __init__(self, name: str, settings: dict[str, Any], python: str, folder: Path):
        recipe = SIDES[name]
        settings = settings | {"compiled": recipe.compiled}
        # where the frameworks keep what they have compiled
        caches = {"JAX_COMPILATION_CACHE_DIR": "jax", "TORCHINDUCTOR_CACHE_DIR": "torch"}
        caches = {variable: str(folder / part) for variable, part in caches.items()}
        caches["JAX_TRACEBACK_FILTERING"] = "off"  # an error ends with its own line
        if settings["clock"] == "processor":  # compilers whose time its process knows
            caches["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        arguments = [python, "-m", f"sides.{recipe.module}", json.dumps(settings)]
        self.log = folder / "log.txt"
        self.begun = time.perf_counter()
        with self.log.open("w") as log:
            self.process: Any = subprocess.Popen(
                arguments,
                cwd=Path(__file__).parent,
                env=os.environ | caches,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        try:
            self.receive()
        except Failed:
            self.end()
            raise

    def receive(self) -> dict[str, Any]:
        """Its next reply.

        Raises:
            Failed: it ended, or its framework is not installed.
        """
        line = self.process.stdout.readline()
        if not line:
            told = self.log.read_text().strip().splitlines()
            errors = [text for text in told if re.match(r"[\w.]*(Error|Exception)\b", text)]
            raise Failed((errors or told or ["it said nothing"])[-1])
        reply = json.loads(line)
        if "missing" in reply:
            raise Failed(reply["missing"])
        return reply

    def ask(self, name: str) -> dict[str, Any]:
        """Has it make a run, or tell facts."""
        print(name, file=self.process.stdin, flush=True)
        return self.receive()

    def end(self) -> None:
        """Waits until it has gone."""
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def started(process: Process, clock: str) -> tuple[dict[str, Any], float]:
    """What the first sampler told, and the time since the process was started."""
    told = process.ask("sampler")
    wall = time.perf_counter() - process.begun
    return told, wall if clock == "seconds" else told["processor_since_start"]


def begin(name: str, settings: dict[str, Any], python: str, folder: Path) -> tuple[Process, dict]:
    """A side after its first call of each run, and what these told."""
    clock = settings["clock"]
    process = Process(name, settings, python, folder)
    try:
        first, found = {}, {}
        first["sampler"], found["start"] = started(process, clock)
        found["memory, sampler"] = _peak(first["sampler"])
        other = Process(name, settings, python, folder)
        _, found["start, again"] = started(other, clock)
        other.end()
        found["preparation"] = process.ask("preparation")[clock]
        first["training step"] = process.ask("training step")
        found |= process.ask("facts")
    except Failed:
        process.end()
        raise
    return process, found | {"first": first}


def _peak(reply: dict[str, Any]) -> int:
    return reply["device_peak"] or reply["peak"]


def measure(settings: dict[str, Any], options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What each side took, by its name."""
    found, processes = {}, {}
    clock = settings["clock"]
    pythons = dict(text.split("=", 1) for text in options.python)
    with tempfile.TemporaryDirectory() as folder:
        for name in options.sides:
            if settings["network"] not in SIDES[name].networks:
                continue
            python = pythons.get(name) or pythons.get(name.split(",")[0]) or sys.executable
            try:
                place = Path(folder, name.replace(", ", "_"))  # compilers split at spaces
                place.mkdir()
                processes[name], found[name] = begin(name, settings, python, place)
            except Failed as error:
                print(f"{name} is left out: {error}", flush=True)
        rounds = []
        for i in range(options.rounds):
            order = list(processes.items())[:: 1 if i % 2 else -1]
            rounds.append({run: {} for run in RUNS})
            for run in RUNS:
                for name, process in order:
                    process.ask(run)
                    rounds[-1][run][name] = reply = process.ask(run)
                    found[name]["memory, training"] = _peak(reply)
        for process in processes.values():
            process.end()
    for name, about in found.items():
        for run in RUNS:
            times = [row[run][name][clock] / row[run][name]["made"] for row in rounds]
            base = OURS if OURS in found else name
            ours = [row[run][base][clock] / row[run][base]["made"] for row in rounds]
            ratios = [a / b for a, b in zip(times, ours, strict=True)]
            about[run] = statistics.median(times)
            about[f"{run}, ratio"] = statistics.median(ratios)
            about[f"{run}, ratios"] = ratios
            later = statistics.median(row[run][name][clock] for row in rounds)
            about[f"compilation, {run}"] = about["first"][run][clock] - later
            about[f"{run}, on the wall"] = statistics.median(
                row[run][name]["seconds"] / row[run][name]["made"] for row in rounds
            )
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """Of Markdown: a column for each side, and after a figure its ratio to ours."""
    names = list(found)
    ours = found.get(OURS, found[names[0]])
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]

    def row(title, cell):
        lines.append(f"| {title} | " + " | ".join(cell(found[name]) for name in names) + " |")

    def compared(key, unit="s", scale=1.0):
        def cell(about):
            ratio = about.get(f"{key}, ratio") or about[key] / ours[key]
            told = "" if about is ours else f" ({ratio:.2f})"
            return f"{about[key] / scale:.2f} {unit}{told}"

        return cell

    row("parameters", lambda about: f"{about['parameters'] / 1e6:.2f}M")
    row("operations", lambda about: f"{about['operations'] / 1e9:.2f}G")
    compilations = (f"compilation, {run}" for run in RUNS)
    for key in (*RUNS, "preparation", *compilations, "start", "start, again"):
        row(key, compared(key))
    for key in ("memory, sampler", "memory, training"):
        row(key, compared(key, "GiB", 2**30))
    return "\n".join(lines)


def main() -> None:
    """Prints Markdown tables and writes the JSON file."""
    parser = command.parser(str(__doc__), out="benchmark_frameworks.json")
    parser.add_argument("--networks", nargs="+", choices=[*NETWORKS], default=[*NETWORKS])
    parser.add_argument("--sides", nargs="+", choices=[*SIDES], default=[*SIDES])
    parser.add_argument("--python", nargs="*", default=[], metavar="SIDE=FILE")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5, help="of the sampler")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument(
        "--processor_time",
        action="store_true",
        help="of the processes, not of a clock on the wall; for a machine that others use, with "
        "`taskset -c 0`, since threads that wait for each other take time too",
    )
    options = command.parse(parser, batch=2, steps=2, rounds=1)

    results = {"machine": platform.machine(), "cores": os.cpu_count(), "batch": options.batch}
    for network in options.networks:
        settings = {"network": network, **NETWORKS[network]}
        settings |= SMALL[network] if options.small else {}
        settings |= {"batch": options.batch, "steps": options.steps, "dtype": options.dtype}
        settings["clock"] = "processor" if options.processor_time else "seconds"
        results[network] = found = measure(settings, options)
        if found:
            print(f"\n{network}, batch {options.batch}, {options.steps} steps of the sampler\n")
            print(table(found), flush=True)
            for name, about in found.items():
                told = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
                print(f"{name}: {told}")
    command.write(options.out, results)


if __name__ == "__main__":
    main()
