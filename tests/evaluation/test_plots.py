"""Plots: files that are whole, colours that all readers can tell apart, names beside lines."""

import itertools

import numpy as np
import pytest
from PIL import Image

from score_sde.evaluation import figures, plots

# Machado, Oliveira & Fernandes 2009, severity 1: what is seen of linear RGB
SEEN = {
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "all colours": np.eye(3),
}


def linear(colour):
    """Of a hexadecimal sRGB colour (IEC 61966-2-1)."""
    c = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def lab(rgb):
    """CIELAB of linear RGB, for the white of D65."""
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = np.clip(to_xyz @ rgb, 0, None) / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("kind", SEEN)
def test_colours_can_be_told_apart(kind):
    """A difference of 2.3 is just noticeable (Mahy et al. 1994); here are at least five of them."""
    seen = [lab(np.clip(np.array(SEEN[kind]) @ linear(c), 0, 1)) for c in plots.COLOURS]
    nearest = min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2))
    assert nearest > 5 * 2.3


def test_a_figure_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.png"
    with pytest.raises(ZeroDivisionError), plots.figure(path, 2.0) as ((axes,),):
        axes.plot([0, 1], [0, 1 / 0])
    assert [*tmp_path.iterdir()] == []
    with plots.figure(path, 2.0, (1, 2)) as ((left, right),):
        left.plot([0, 1], [0, 1], lw=5)
        right.plot([0, 1], [1, 0], lw=5)
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    blue = np.round(255 * np.array([0, 0x72 / 255, 0xB2 / 255]))
    place = np.argwhere(np.abs(picture - blue).max(axis=2) < 8)[:, 1] / picture.shape[1]
    assert place.min() < 0.25  # the first colour, in both halves
    assert place.max() > 0.75


@pytest.mark.parametrize(("sign", "scale"), [(1, "log"), (-1, "linear")])
def test_losses_of_any_sign_are_drawn(tmp_path, monkeypatch, sign, scale):
    """An objective need not be above 0, and a logarithmic axis would leave the rest out."""
    from matplotlib.figure import Figure

    drawn, savefig = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda f, *a, **k: (drawn.append(f), savefig(f, *a, **k))
    )
    loss = [0.5, 0.2, 0.1 * sign, 0.3]
    rows = [{"step": i, "loss": v, "loss_by_level/0_log_snr_1": v} for i, v in enumerate(loss)]
    figures.loss_curve(tmp_path / "loss.png", rows)
    figures.loss_by_level(tmp_path / "loss_by_level.png", rows)
    figures.loss_curve(tmp_path / "above.png", rows, 0.05)
    np.testing.assert_array_equal(drawn[2].axes[0].lines[0].get_ydata(), np.array(loss) - 0.05)
    assert drawn.pop().axes[0].get_ylabel() == "loss above its floor, 0.05"
    for figure in drawn:
        (axes,) = figure.axes
        assert (axes.get_yscale(), axes.get_ylabel()) == (scale, "loss")
        np.testing.assert_array_equal(axes.lines[0].get_ydata(), loss)
        low, high = axes.get_ylim()
        assert low < min(loss) < max(loss) < high
    assert len(drawn) == 2


def test_names_stand_beside_their_lines_and_apart(tmp_path):
    ends = {"high": 1.0, "near it": 0.99, "nearer": 0.985, "low": 0.0}
    with plots.figure(tmp_path / "a.png", 2.0) as ((axes,),):
        for end in ends.values():
            axes.plot([0, 1], [0.5, end])
        plots.label_ends(axes, list(ends))
        axes.figure.draw_without_rendering()
        boxes = {text.get_text(): text.get_window_extent() for text in axes.texts}
        lines = dict(zip(ends, axes.get_lines(), strict=True))
        for text in axes.texts:
            assert text.get_color() == lines[text.get_text()].get_color()
        below = sorted(boxes, key=lambda name: boxes[name].y0)
        assert below == ["low", "nearer", "near it", "high"]
        for one, other in itertools.pairwise(below):
            assert boxes[one].y1 <= boxes[other].y0 + 3  # pixels: of letters below the line
