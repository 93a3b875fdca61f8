"""Animated pictures: frame by frame they are the pictures of images."""

import numpy as np
import pytest
from PIL import Image, ImageSequence

from score_sde.config import build
from score_sde.media.animation import animation
from score_sde.media.images import images


def random_clips(*shape):
    clips = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    clips[..., 2, :, :, :] = clips[..., 1, :, :, :]  # two equal frames are two frames
    return clips


def frames_of(path):
    with Image.open(path) as picture:
        return np.stack([np.asarray(f.convert("RGB")) for f in ImageSequence.Iterator(picture)])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_holds_every_number_of_every_frame(tmp_path, channels):
    medium, clip = build("media", "animation(rate=4.0)"), random_clips(5, 6, 8, channels)
    medium.save(tmp_path / "one.png", clip)
    truth = np.broadcast_to(clip, (*clip.shape[:3], 3))
    np.testing.assert_array_equal(frames_of(tmp_path / "one.png"), truth)
    with Image.open(tmp_path / "one.png") as picture:
        assert (picture.is_animated, picture.n_frames) == (True, 5)
        assert (picture.info["duration"], picture.info["loop"]) == (250, 0)


def test_frames_of_sheets_and_rows_are_those_of_images(tmp_path):
    moving, still, clips = animation(width=128), images(width=128), random_clips(2, 3, 4, 8, 8, 3)
    moving.sheet(tmp_path / "sheet.png", clips[0])
    moving.rows(tmp_path / "rows.png", clips, ["a", "b", "c"])
    sheet, rows = frames_of(tmp_path / "sheet.png"), frames_of(tmp_path / "rows.png")
    assert len(sheet) == len(rows) == 4
    for i in range(4):
        still.sheet(tmp_path / "still_sheet.png", clips[0, :, i])
        still.rows(tmp_path / "still_rows.png", clips[:, :, i], ["a", "b", "c"])
        np.testing.assert_array_equal(sheet[i], frames_of(tmp_path / "still_sheet.png")[0])
        np.testing.assert_array_equal(rows[i], frames_of(tmp_path / "still_rows.png")[0])


def test_sheets_over_time_move(tmp_path):
    medium, still, clips = animation(width=64), images(width=64), random_clips(2, 1, 4, 8, 8, 3)
    sheets, stills = {}, {}
    for step, clip in zip((10, 20), clips, strict=True):
        sheets[step] = tmp_path / f"sheet_{step}.png"
        medium.sheet(sheets[step], clip)
    medium.over_time(tmp_path / "time.png", sheets, 1, clips.shape[2:])
    found = frames_of(tmp_path / "time.png")
    for i in range(4):
        for step, clip in zip((10, 20), clips, strict=True):
            stills[step] = tmp_path / f"still_{step}.png"
            still.sheet(stills[step], clip[:, i])
        still.over_time(tmp_path / "still.png", stills, 1, clips.shape[3:])
        np.testing.assert_array_equal(found[i], frames_of(tmp_path / "still.png")[0])


def test_a_rate_is_positive():
    with pytest.raises(ValueError, match=r"rate must be above 0 frames a second, not 0\.0"):
        animation(rate=0.0)
