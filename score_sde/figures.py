"""Pictures that runs leave behind."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from jaxtyping import UInt8


def image_grid(path: Path, images: UInt8[np.ndarray, "n h w c"], width: int = 512) -> None:
    """Writes a nearly square grid of images (0..255) as a PNG, small ones enlarged by a whole
    factor to about `width` pixels in all."""
    from PIL import Image

    n, h, w, c = images.shape
    columns = math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    scale = max(1, width // (columns * (w + 1)))
    gap = max(1, scale // 2)
    large = images.repeat(scale, axis=1).repeat(scale, axis=2)
    cell_h, cell_w = h * scale + gap, w * scale + gap
    canvas = np.full((rows * cell_h + gap, columns * cell_w + gap, c), 128, np.uint8)
    for i, image in enumerate(large):
        top, left = gap + i // columns * cell_h, gap + i % columns * cell_w
        canvas[top : top + h * scale, left : left + w * scale] = image
    Image.fromarray(canvas[..., 0] if c == 1 else canvas).save(path)


def loss_curve(path: Path, rows: list[dict]) -> None:
    """Plots the `loss` of rows of metrics against their `step`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps, losses = (np.array([row[key] for row in rows]) for key in ("step", "loss"))
    figure, axes = plt.subplots(figsize=(7, 4), constrained_layout=True)
    axes.plot(steps, losses, color="0.75", label="logged")
    span = max(1, len(losses) // 20)
    if len(losses) >= 2 * span:
        smooth = np.convolve(losses, np.ones(span) / span, mode="valid")
        axes.plot(steps[span - 1 :], smooth, color="C0", label=f"mean of {span} logged")
        axes.legend()
    axes.set(xlabel="training step", ylabel="loss (weighted squared error)", yscale="log")
    axes.grid(alpha=0.3, which="both")
    figure.savefig(path, dpi=120)
    plt.close(figure)
