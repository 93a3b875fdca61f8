"""The result of mode evaluate as a few numbers, a page of Markdown and a plot.

A result is the content of DIR/evaluate.json. It has the parts that `evaluate.parts` lists.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from score_sde.evaluation import figures, solver_error

LIKELIHOODS = {  # what mode likelihood may tell
    "bits_per_dim": "Bits per dimension",
    "nats": "Log-density, nats,",
}


def headline(result: dict[str, Any]) -> dict[str, Any]:
    """The few numbers that are printed at the end."""
    line = {"step": result["step"]}
    if "loss" in result:
        line["loss"] = result["loss"]["loss"]
    if found := result.get("floor", {}).get("whole"):
        line["training loss above its floor"] = found["above"]
    if found := result.get("likelihood"):
        line |= {key: found[key] for key in LIKELIHOODS.keys() & found.keys()}
    if "metrics" in result:
        for row in result["metrics"]["rows"]:
            steps = f", {row['nfe']:.0f} evaluations" if "nfe" in row else ""
            line[f"frechet, {row['sampler']}{steps}"] = row["frechet"]
    if found := result.get("adherence"):
        line |= {name: found[name] for name in ("guidance", *found["kinds"])}
    if found := result.get("clip_score"):
        line["clip score"] = found["clip_score"]
    for name in ("real", "synthetic", "both"):
        if found := result.get("usefulness"):
            line[f"accuracy, {name}"] = found[name]["value"]
    if found := result.get("reconstruction"):
        line |= {"psnr, dB": found["psnr"], "frechet, reconstructions": found["frechet"]}
    return line | {"seconds": result["seconds"]}


def _adherence(found: dict[str, Any]) -> list[str]:
    """A row of the table for each weight and each kind of prompts."""
    first = f"{found['kinds'][0]}_"
    names = [key.removeprefix(first) for key in found["rows"][0] if key.startswith(first)]
    cells = [
        [f"{row['guidance']:g}", kind.replace("_", " ")]
        + [f"{row[key]:.3g}" for key in (kind, *(f"{kind}_{name}" for name in names))]
        for kind in found["kinds"]
        for row in found["rows"]
    ]
    return [
        "## Adherence",
        "",
        f"Of samples of {found['prompts']} prompts of each kind: the share in which everything is "
        "as asked, and the mean of each number that the world reads.",
        "",
        solver_error.markdown(["guidance", "prompts", "all", *names], cells),
        "",
    ]


def _pm(value: float, error: float | None) -> str:
    return f"{value:.4g}" if error is None else f"{value:.4g} ± {error:.2g}"


def markdown(title: str, result: dict[str, Any]) -> str:
    """The page, with a table for each part that has several numbers."""
    lines = [f"# {title}", ""]
    if loss := result.get("loss"):
        lines += [f"Loss of the test examples: {_pm(loss['loss'], loss['standard_error'])}.", ""]
    if found := result.get("floor", {}).get("whole"):
        above, floor = (
            _pm(found[name], found[f"{name}_standard_error"]) for name in ("above", "floor")
        )
        share = found["above"] / (found["above"] + found["floor"])
        lines += [
            f"Loss of training examples above its floor: {above}, {share:.0%} of the loss. "
            f"The floor, which a network that remembers all of them has: {floor}.",
            "",
        ]
    if found := result.get("likelihood"):
        of = f"{found['num_examples']} examples of the {found['split']} split"
        for key in LIKELIHOODS.keys() & found.keys():
            value = _pm(found[key], found["standard_error"])
            kind = f" ({found['kind']} of the log-likelihood)" if "kind" in found else ""
            lines += [f"{LIKELIHOODS[key]} of {of}: {value}{kind}.", ""]
    if metrics := result.get("metrics"):
        lines += [f"## Samples against {metrics['reference']}, {metrics['features']}", ""]
        skip = {"mean_feature", "kernel_standard_error", "inception_score_std", "num_blank"}
        keys = [key for key in metrics["rows"][-1] if key not in skip]

        def cell(row, key):
            value = row.get(key)
            if value is None or isinstance(value, str):
                return value or ""
            error = row.get(f"{key}_standard_error", row.get(f"{key}_std"))
            return str(value) if isinstance(value, int) else _pm(value, error)

        cells = [[cell(row, key) for key in keys] for row in metrics["rows"]]
        lines += [solver_error.markdown([key.replace("_", " ") for key in keys], cells), ""]
    if copies := result.get("copies"):
        closer, copied = (copies[name] for name in ("closer", "copied"))
        lines += [
            "## Copies",
            "",
            f"Of {copies['num_samples']} samples, a share of "
            f"{_pm(copied['value'], copied['standard_error'])} is less than a third as far from "
            "the nearest training example as from the next; a sample is closer to the training "
            "data than a test example is with probability "
            f"{_pm(closer['value'], closer['standard_error'])} (1/2 without copying).",
            "",
        ]
    lines += _of_pictures(result)
    if by_noise := _by_noise(result):
        lines += ["## By noise level", "", "log-SNR is ln(alpha²/sigma²).", ""]
        for name, found in by_noise.items():
            cells = [
                [f"{log_snr:.2f}", _pm(value, error)]
                for log_snr, value, error in zip(*found.values(), strict=True)
            ]
            lines += [solver_error.markdown(["log-SNR", name.replace("_", " ")], cells), ""]
    return "\n".join(lines)


def _of_pictures(result: dict[str, Any]) -> list[str]:
    """The parts that look at pictures one by one."""
    lines: list[str] = []
    if found := result.get("adherence"):
        lines += _adherence(found)
    if found := result.get("clip_score"):
        lines += [
            "## CLIP score",
            "",
            f"Of {found['num_samples']} samples of {found['num_prompts']} prompts, by "
            f"{found['clip']}: {_pm(found['clip_score'], found['standard_error'])}.",
            "",
        ]
    if found := result.get("usefulness"):
        cells = [
            [name, _pm(*(found[name][key] for key in ("value", "standard_error")))]
            for name in ("real", "synthetic", "both")
        ]
        lines += [
            "## Usefulness",
            "",
            f"The accuracy on {found['num_test']} test images of a classifier that learnt from "
            f"{found['num_train']} training images, from as many samples, or from both; "
            f"{found['seeds']} seeds.",
            "",
            solver_error.markdown(["learnt from", "accuracy"], cells),
            "",
        ]
    if found := result.get("reconstruction"):
        lines += [
            "## Reconstruction",
            "",
            f"Of {found['num_images']} test images: {_pm(found['psnr'], found['standard_error'])} "
            f"dB; Fréchet distance ({found['features']}) {found['frechet']:.4g}.",
            "",
        ]
    return lines


def _by_noise(result: dict[str, Any]) -> dict[str, dict]:
    """The measures at several noise levels."""
    parts = [result.get(part, {}) for part in ("loss", "floor", "field", "flow_map")]
    return {
        name: value
        for part in parts
        for name, value in part.items()
        if isinstance(value, dict) and "log_snr" in value
    }


def plot(path: Path, result: dict[str, Any]) -> None:
    """A PNG file: the Fréchet distance against evaluations, and measures against noise levels."""
    panel = None
    if metrics := result.get("metrics"):
        (data, *rows), curves = metrics["rows"], {}
        for row in rows:
            curves.setdefault(row["sampler"], []).append((row["nfe"], row["frechet"], math.nan))
        panel = figures.Panel(
            f"Frechet distance to {metrics['reference']}",
            [figures.Curve(name, *zip(*points, strict=True)) for name, points in curves.items()],
            data["frechet"],
            floor_label=f"below that of {data['sampler']}",
        )
    figures.report(path, panel, _by_noise(result))
