"""Figures of trainings, solvers and reports, as PNG files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from score_sde.evaluation import plots
from score_sde.evaluation.plots import COLOURS, MARKERS


def loss_curve(path: Path, rows: list[dict], floor: float = 0.0) -> None:
    """Plots the `loss` of rows of metrics, less its floor, against their `step`."""
    steps, losses = (np.array([row[key] for row in rows]) for key in ("step", "loss"))
    losses = losses - floor
    with plots.figure(path, 3.2) as ((axes,),):
        axes.plot(steps, losses, color="0.75", label="logged")
        span = max(1, len(losses) // 20)
        if len(losses) >= 2 * span:
            smooth = np.convolve(losses, np.ones(span) / span, mode="valid")
            axes.plot(steps[span - 1 :], smooth, label=f"mean of {span} logged")
            axes.legend()
        _over_steps(axes)
        if floor:
            axes.set_ylabel(f"loss above its floor, {floor:.3g}")


def loss_by_level(path: Path, rows: list[dict]) -> None:
    """Plots the metrics `loss_by_level/NAME` of rows against their `step`, if there are any."""
    names = sorted({key for row in rows for key in row if key.startswith("loss_by_level/")})
    if not names:
        return
    with plots.figure(path, 3.2) as ((axes,),):
        for name, colour in zip(names, COLOURS, strict=False):
            found = [(row["step"], row[name]) for row in rows if name in row]
            label = name.split("log_snr_")[-1].replace("_", " ")
            axes.plot(*zip(*found, strict=True), color=colour, label=label)
        _over_steps(axes)
        axes.legend(title="log-SNR, ln(alpha²/sigma²)", loc="center left", bbox_to_anchor=(1, 0.5))


def _over_steps(axes) -> None:
    """Labels the axes; losses that are all above 0 get a logarithmic one."""
    from matplotlib.ticker import StrMethodFormatter

    positive = not any(np.any(np.asarray(line.get_ydata()) <= 0) for line in axes.lines)
    scale = "log" if positive else "linear"
    axes.set(xlabel="training step", ylabel="loss", yscale=scale)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


class Curve(NamedTuple):
    """Errors of one method against network evaluations; a standard error of NaN is unknown."""

    label: str
    nfe: Sequence[float]
    error: Sequence[float]
    standard_error: Sequence[float]


class Panel(NamedTuple):
    """Curves by one measure. floor: errors below it tell nothing. floor_label: what it is. slopes:
    the orders of convergence that have a guide."""

    ylabel: str
    curves: Sequence[Curve]
    floor: float = 0.0
    slopes: Sequence[int] = ()
    floor_label: str = "below the noise of the measure"


def error_curves(path: Path, panels: Sequence[Panel]) -> None:
    """Plots errors against evaluations, both logarithmic, in panels below one another.

    Bars are standard errors. The legend lists the curves by their last error, the largest first.
    The guides (dashed) start below the curves.
    """
    if not panels:
        return
    with plots.figure(path, 3.4 * len(panels), (len(panels), 1)) as column:
        for axes, panel in zip(column[:, 0], panels, strict=True):
            error_panel(axes, panel)


def error_panel(axes, panel: Panel) -> None:
    """Draws one panel of `error_curves` on matplotlib's axes."""
    from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

    points = np.array(
        [pair for curve in panel.curves for pair in zip(curve.nfe, curve.error, strict=True)]
    )
    points = points[np.isfinite(points[:, 1]) & (points[:, 1] > 0)]
    if not len(points):
        return
    (left, bottom), (right, top) = points.min(axis=0), points.max(axis=0)
    margin = max((right / left) ** 0.04, 1.05)
    axes.set(xscale="log", yscale="log", xlim=(left / margin, right * margin))
    axes.set(ylim=(bottom / 2, top * 1.6), ylabel=panel.ylabel)
    axes.set(xlabel="network evaluations per sample (NFE)")

    by_end = sorted(range(len(panel.curves)), key=lambda i: -panel.curves[i].error[-1])
    for i in by_end:
        curve, colour = panel.curves[i], COLOURS[i % len(COLOURS)]
        error, bar = np.array(curve.error), np.nan_to_num(np.array(curve.standard_error))
        dashes = ("-", (0, (5, 1.5)), (0, (1, 1)))[i // len(COLOURS) % 3]
        marker = MARKERS[i % len(MARKERS)]
        axes.plot(curve.nfe, error, dashes, color=colour, marker=marker, label=curve.label)
        bars = [np.minimum(bar, 0.9 * error), bar]
        axes.errorbar(curve.nfe, error, bars, fmt="none", ecolor=colour, elinewidth=0.8)
    if panel.floor > bottom / 2:
        axes.axhspan(0, panel.floor, color="0.92", zorder=0, label=panel.floor_label)
    below = points[points[:, 0] == left, 1].min() / 2
    for slope in panel.slopes if below > bottom else ():
        # to the right edge of the panel, or to its bottom
        end = min(right, left * (2 * below / bottom) ** (1 / slope))
        y = below * (np.array([left, end]) / left) ** -float(slope)
        axes.plot([left, end], y, "--", color="0.6", linewidth=0.7, zorder=1)
        at = 0.8  # of the way
        axes.text(
            left ** (1 - at) * end**at,
            y[0] ** (1 - at) * y[1] ** at,
            f"slope {slope}",
            color=plots.GREY,
            fontsize=7,
            ha="center",
            va="center",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
            zorder=1,
        )
    within = (1, 1.5, 2, 3, 4, 5, 7) if right < 30 * left else (1, 2, 5)  # what there is room for
    ticks = [m * 10**k for k in range(6) for m in within]
    ticks = [tick for tick in ticks if left <= tick <= right and tick == int(tick)]
    axes.xaxis.set(major_locator=FixedLocator(ticks), minor_locator=NullLocator())
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def report(
    path: Path, panel: Panel | None, by_noise: dict[str, dict[str, Sequence[float]]]
) -> None:
    """Plots a metric of samples against evaluations, and measures against noise levels, each with
    its `log_snr`, `value` and `standard_error`."""
    count = max((panel is not None) + bool(by_noise), 1)
    with plots.figure(path, 3.4 * count, (count, 1)) as column:
        rest = list(column[:, 0])
        if panel is not None:
            error_panel(rest.pop(0), panel)
        if by_noise:
            axes = rest.pop(0)
            for name, found in by_noise.items():
                x, y, bar = (np.array(values, float) for values in found.values())
                axes.errorbar(x, y, bar, fmt="o-", elinewidth=0.8, label=name.replace("_", " "))
            axes.set(xlabel="log-SNR, ln(alpha²/sigma²)", ylabel="relative error", yscale="log")
            axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
        for axes in rest:
            axes.set_axis_off()


def p_histogram(path: Path, groups: dict[str, np.ndarray], threshold: float) -> None:
    """Plots a histogram of log10 p for the p-values of each group, and a line at the threshold."""
    logs = {name: np.log10(np.maximum(p, 1e-300)) for name, p in groups.items()}
    least = math.floor(min(-4.0, *(log.min() for log in logs.values())))
    edges = np.linspace(least, 0, min(-least * 2, 60) + 1)
    with plots.figure(path, 2.8) as ((axes,),):
        for colour, (name, log) in zip(COLOURS, logs.items(), strict=False):
            share = np.full(len(log), 1 / len(log))
            axes.hist(log, list(edges), weights=share, alpha=0.6, color=colour, label=name)
        axes.axvline(math.log10(threshold), color=plots.GREY, linestyle="--", linewidth=0.8)
        axes.set(xlabel="log₁₀ p", ylabel="share of images", xlim=(least, 0))
        axes.legend()
