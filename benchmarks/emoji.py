"""Emoji from their names: `python benchmarks/emoji.py --workdir runs/emoji`.

After `configs/emoji_text.py` is trained. Names that training had, and names that it never had. A
sample is found if no other emoji of the font is nearer to it in pixels than the one asked for; the
table has the share that is found, and the share with it among the ten nearest. `--picture FILE`
draws emoji of the font above what the model makes of their names.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import command
import jax
import matplotlib.pyplot as plt
import numpy as np

import score_sde
from score_sde.config import build
from score_sde.data import gather

SHOWN = (  # in training, then not
    (
        *("hot beverage", "slice of pizza", "red apple", "cat face"),
        *("sunflower", "violin", "automobile", "smiling face with sunglasses"),
    ),
    (
        *("frowning face with open mouth", "smiling face with horns", "clock face five oclock"),
        *("large yellow square", "black heart", "panda face", "banana", "cup with straw"),
    ),
)


def ranks(samples: np.ndarray, font: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """How many emoji of the font are nearer to each sample than the one asked for."""
    flat = [a.reshape(len(a), -1).astype(np.float64) for a in (samples, font)]
    square = np.sum(flat[0] ** 2, 1)[:, None] - 2 * flat[0] @ flat[1].T + np.sum(flat[1] ** 2, 1)
    return np.sum(square < square[np.arange(len(asked)), asked][:, None], axis=1)


def draw(path: Path, rows: list[tuple[str, Sequence[str], np.ndarray]]) -> None:
    """A row of pictures for each title, with the names over them."""
    count = len(rows[0][1])
    figure, axes = plt.subplots(len(rows), count, figsize=(1.15 * count, 1.42 * len(rows)))
    for line, (title, names, images) in zip(axes, rows, strict=True):
        for axis, name, image in zip(line, names, images, strict=True):
            axis.imshow(image, interpolation="nearest")
            axis.set(xticks=[], yticks=[])
            axis.set_title(textwrap.fill(name, 15), fontsize=7)
        line[0].set_ylabel(title, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    command.few_colours(path, 96)


def main() -> None:
    """Prints the table."""
    parser = command.parser(__doc__)
    parser.add_argument("--workdir", type=Path, default=Path("runs/emoji"))
    parser.add_argument("--names", type=int, default=128, help="of each kind")
    parser.add_argument("--guidance", default="classifier_free(weight=3.0)")
    parser.add_argument("--picture", type=Path, help="where to draw it")
    parser.add_argument("--data", default="emoji(image_size=32)", help="images with captions")
    # without a model, and without the font
    options = command.parse(parser, workdir=None, names=8, data="shapes(train=32, test=8)")
    data = build("data", options.data)
    parts = {"seen": data.train, "not seen": data.test}
    whole = {kind: gather(of, np.arange(len(of))) for kind, of in parts.items()}
    font = np.concatenate([of["image"] for of in whole.values()])
    model = None if options.workdir is None else score_sde.load(options.workdir)

    def made(key: int, names: Sequence[str], truth: np.ndarray) -> np.ndarray:
        if model is None:  # the emoji themselves: each is found
            return truth
        return model.sample(
            jax.random.key(key), len(names), prompts=names, guidance=options.guidance
        )

    print("| names | found | among the ten nearest |\n|---|---|---|")
    pictures, start = [], 0
    for kind, of, shown in zip(whole, whole.values(), SHOWN, strict=True):
        names = [str(captions[0]) for captions in of["caption"]]
        every = np.linspace(0, len(names) - 1, min(options.names, len(names))).astype(int)
        samples = made(0, [names[i] for i in every], of["image"][every])
        found = ranks(samples, font, start + every)
        print(f"| {kind} | {np.mean(found == 0):.1%} | {np.mean(found < 10):.1%} |")
        start += len(names)
        if options.picture:
            shown = shown if {*shown} <= {*names} else names[: len(shown)]
            truth = of["image"][[names.index(name) for name in shown]]
            pictures += [("font", shown, truth), (kind, shown, made(1, shown, truth))]
    if options.picture:
        draw(options.picture, pictures)


if __name__ == "__main__":
    main()
