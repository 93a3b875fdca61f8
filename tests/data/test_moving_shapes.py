"""Moving shapes: what a clip shows is read back from it."""

import numpy as np
import pytest
from scipy import ndimage

from score_sde.config import build
from score_sde.data.moving_shapes import (
    VELOCITIES,
    VOCABULARY,
    Motion,
    Reading,
    draw,
    motion,
    parse_caption,
    read_clip,
)
from score_sde.data.shapes_drawing import COLOURS, FORMS
from score_sde.errors import DataError

CLIPS = 60


def right(found, shown):
    return found == Reading([shown.colour] * 8, [shown.form] * 8, shown.velocity)


def test_examples_say_what_they_show():
    data = build("data", "moving_shapes(train=200, test=20, speeds=(1, 2))")
    assert (len(data.train), len(data.test)) == (200, 20)
    seen = set()
    for i in range(CLIPS):
        example = data.train[i]
        assert example["video"].shape == data.features["video"].shape == (8, 16, 16, 3)
        colour, form, velocity = parse_caption(str(example["caption"][0]))
        assert example["label"] == list(VELOCITIES).index(velocity)
        assert right(read_clip(example["video"]), Motion(colour, form, (0, 0), velocity))
        assert {*str(example["caption"][0]).split()} <= {*VOCABULARY}
        seen |= {colour, form, velocity}
    assert {*COLOURS, *FORMS} <= seen
    np.testing.assert_array_equal(data.train[5]["video"], data.train[5]["video"])
    assert not np.array_equal(data.train[5]["video"], data.test[5]["video"])


def test_each_frame_is_the_one_before_moved_by_the_velocity():
    """By the centre of mass, where the shape does not cross a side."""
    shown = Motion("blue", "triangle", (0.3, 0.35), "down right")
    clip = draw(shown, 32, 6)
    places = np.array([ndimage.center_of_mass(255.0 - f.mean(2) - 10) for f in clip])
    # the background of 245 weighs nothing; 32 pixels a side
    np.testing.assert_allclose(np.diff(places, axis=0), 2.0, atol=1e-6)
    slow = draw(shown._replace(velocity="down right slowly"), 32, 6)
    np.testing.assert_array_equal(slow[[0, 2, 4]], clip[:3])
    back = np.roll(clip[0], (16 * 2, 16 * 2), (0, 1))
    np.testing.assert_array_equal(back, clip[0])  # a torus
    long = draw(shown._replace(velocity="left"), 16, 9)
    np.testing.assert_array_equal(long[8], long[0])  # 16 pixels on


def test_noise_and_wrong_frames_are_told():
    rng = np.random.default_rng(0)
    for i in range(CLIPS):
        shown = motion((1, 2, i), speeds=(1, 2))
        clip = draw(shown, 16, 8)
        noisy = np.clip(clip + rng.normal(0, 15, clip.shape), 0, 255).astype(np.uint8)
        assert right(read_clip(noisy), shown)
    shown = Motion("red", "square", (0.5, 0.5), "up")
    clip = draw(shown, 16, 8)
    other = draw(shown._replace(colour="blue"), 16, 8)
    flickers = np.where((np.arange(8) == 3)[:, None, None, None], other, clip)
    found = read_clip(flickers)
    assert (found.colours[3], found.velocity) == ("blue", "up")
    assert found.flicker == pytest.approx(2 / 7)  # to blue, and back
    smeared = np.where((np.arange(8) == 7)[:, None, None, None], 245, clip).astype(np.uint8)
    found = read_clip(smeared)  # nothing is there
    assert (found.colours[-1], found.forms[-1]) == (None, None)
    assert found.flicker == pytest.approx(1 / 7)
    assert read_clip(clip[::-1]).velocity == "down"
    assert read_clip(clip[[0, 0, 0, 0]]).velocity is None  # it stands
    assert read_clip(clip[[0, 3, 1, 2]]).velocity is None
    assert read_clip(rng.integers(0, 256, clip.shape, dtype=np.uint8)).velocity is None


def test_wrong_options_are_named():
    for spec, line in (
        ("image_size=7", "image_size must be at least 8, got 7"),
        ("frames=1", "frames must be at least 2, train and test at least 1, got 1, 20000, 1000"),
        ("colours=('pink',)", r"colours are of red, .*, not \('pink',\)"),
        ("grid=3", "grid=3 must divide image_size=16"),
        ("speeds=(3,)", r"speeds are of 1, 2, not \(3,\)"),
        ("forms=()", r"forms are of circle, .*, not \(\)"),
    ):
        with pytest.raises(DataError, match=line):
            build("data", f"moving_shapes({spec})")
    with pytest.raises(ValueError, match="'a red circle' is no caption of a moving shape, such as"):
        parse_caption("a red circle")
    with pytest.raises(ValueError, match=r"a clip is \[frames, side, side, 3\], not \[8, 16, 16\]"):
        read_clip(np.zeros((8, 16, 16), np.uint8))
