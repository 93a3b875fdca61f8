"""From what a page's controls say to the fields of a config, and to the command with them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from score_sde.config import call, fields, parse
from score_sde.errors import ConfigError
from score_sde.experiment.interactive import changed
from score_sde.experiment.numbers import check_numbers
from score_sde.experiment.sample_files import SHOWN

Fields = dict[str, Any]
"""Values of fields of a config by their dotted names, such as {"sampling.steps": 20}."""

MOST = {"sampling.num_samples": SHOWN, "sampling.steps": 4000, "edit.completions": 16}
"""What a page does at once. The command line has no such limits."""

REFERENCE = "probability_flow(rtol=0.0001, atol=0.0001, method='Dopri8')"


def conditions(field: str, text: str) -> tuple[Any, ...]:
    """What is asked for in a text: prompts, a line each, or labels with spaces or commas between.

    field: that of the model's conditioner, "labels" or "prompts".

    Raises:
      ConfigError: a label is no whole number.
    """
    if field == "prompts":
        return tuple(line.strip() for line in text.splitlines() if line.strip())
    words = re.split(r"[\s,;]+", text.strip().strip("()"))
    wrong = [word for word in words if word and not re.fullmatch(r"-?\d{1,18}", word)]
    if wrong:
        raise ConfigError(
            f"sampling.labels: {wrong[0]!r} is no whole number: labels are numbers of classes, "
            "with spaces or commas between"
        )
    return tuple(int(word) for word in words if word)


def interval(text: str) -> tuple[float, float] | None:
    """Two ends of log-SNR with a space or comma between; None of an empty text.

    Raises:
      ConfigError: it is something else.
    """
    words = re.split(r"[\s,;]+", text.strip().strip("()"))
    if words == [""]:
        return None
    try:
        low, high = map(float, words)
    except ValueError:
        raise ConfigError(
            f"sampling.guidance: an interval is two numbers, such as -2 4, not {text!r:.40}"
        ) from None
    return low, high


def guidance(kind: str, weight: Any, ends: tuple[float, float] | None) -> str:
    """`sampling.guidance` of this kind, with the weight and the interval of log-SNR if it takes
    them. A kind with a bracket is a whole spec, which stays as it is.

    Raises:
      ConfigError: there is no such kind.
    """
    if "(" in kind:
        return kind
    known = fields("models.guidance", kind)
    options: dict[str, Any] = {}
    for name in ("weight", "strength"):
        if name in known and weight is not None:
            options[name] = number("the weight of guidance", weight)
    if ends is not None and "interval" in known:
        options["interval"] = ends
    return call(kind, options) if options else kind


def number(name: str, value: Any) -> float:
    """A number of a control. Raises a ConfigError of anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name} must be a number, not {value!r:.40}")
    return float(value)


def whole(name: str, value: Any) -> int:
    """A whole number of a control. Raises a ConfigError of anything else."""
    if not (found := number(name, value)).is_integer():  # nor infinite, nor NaN
        raise ConfigError(f"{name} must be a whole number, not {value}")
    return int(found)


def drawing(
    field: str,
    *,
    wanted: str,
    unwanted: str,
    guidance: str,
    solver: str,
    grid: str,
    steps: Any,
    samples: Any,
    seed: Any,
    files: bool,
) -> Fields:
    """The fields of `config` for samples.

    field: that of the conditioner. files: whether each sample is a file too.

    Raises:
      ConfigError: a number is none.
    """
    n = whole("sampling.num_samples", samples)
    asked: Fields = {
        f"sampling.{field}": conditions(field, wanted),
        "sampling.negative": conditions(field, unwanted),
        "sampling.guidance": guidance,
        "sampling.solver": solver.strip(),
        "sampling.grid": grid.strip(),
        "sampling.steps": whole("sampling.steps", steps),
        "sampling.num_samples": n,
        "seed": whole("seed", seed),
    }
    return asked | ({"sampling.files": n} if files else {})


def referred(asked: Fields) -> Fields:
    """The fields for a fine solution of the probability-flow ODE from the same noise, under the
    same guidance."""
    fine = {"sampling.solver": REFERENCE, "sampling.grid": "uniform", "sampling.steps": 1}
    return {**asked, **fine, "sampling.denoise": True}


def config_of(config: ConfigDict, asked: Mapping[str, Any]) -> ConfigDict:
    """The config with these fields.

    Raises:
      ConfigError: there is no such field, a value has another type or is where it may not be, or is
        too much for a page (MOST).
    """
    for name, value in asked.items():
        part, _, field = name.rpartition(".")
        config = changed(config, part, {field: value})
    check_numbers(config)
    for name in MOST.keys() & asked.keys():
        if asked[name] > MOST[name]:
            raise ConfigError(f"{name} is at most {MOST[name]} on this page, not {asked[name]}")
    return config


def command(again: Sequence[str], mode: str, config: ConfigDict, asked: Mapping[str, Any]) -> str:
    """The command line that does the same. Fields that have these values already are left out.

    again: the command of the model: the program, its config and its workdir.
    """
    own = {f"--config.{name}" for name in asked}
    words = [word for word in again if word.partition("=")[0] not in own]
    given = {word.partition("=")[0] for word in again} & own
    for name, value in asked.items():
        part, _, field = name.rpartition(".")
        if (config[part] if part else config)[field] != value or f"--config.{name}" in given:
            words.append(f"--config.{name}={value}")
    first = next(i for i, word in enumerate(words) if word.startswith("--"))
    return shlex.join([*words[:first], "--mode", mode, *words[first:]])


def kind_of(spec: str | None) -> tuple[str, float | None, tuple[float, float] | None]:
    """The kind of guidance of a spec, its weight and its interval: what `guidance` made it of. A
    spec with more options is a kind itself."""
    name, options = parse(spec or "unguided")
    weight = options.pop("weight", options.pop("strength", None))
    interval = options.pop("interval", None)
    if options or not isinstance(weight, int | float | None):
        return str(spec), None, None
    return name, weight, interval
