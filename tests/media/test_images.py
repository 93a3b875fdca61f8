"""Pictures of images: every pixel is found again where it belongs."""

import numpy as np
import pytest
from PIL import Image

from score_sde.config import build
from score_sde.media.images import images


def random_images(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def read(path, channels):
    array = np.asarray(Image.open(path))
    return array[..., None] if channels == 1 else array


@pytest.mark.parametrize("channels", [1, 3])
def test_a_file_and_a_sheet_hold_every_pixel(tmp_path, channels):
    """Five images in three columns, enlarged 16 times (48 of 50 pixels a column are 3 * 16)."""
    medium, shown = images(width=192), random_images(5, 2, 3, channels)
    assert build("media", "images(width=192)") == medium
    medium.save(tmp_path / "one.png", shown[0])
    np.testing.assert_array_equal(read(tmp_path / "one.png", channels), shown[0])
    medium.sheet(tmp_path / "sheet.png", shown)
    sheet, scale, gap = read(tmp_path / "sheet.png", channels), 16, 8
    assert sheet.shape == (2 * (2 * scale + gap) + gap, 3 * (3 * scale + gap) + gap, channels)
    for i, image in enumerate(shown):
        top, left = gap + i // 3 * (2 * scale + gap), gap + i % 3 * (3 * scale + gap)
        cell = sheet[top : top + 2 * scale, left : left + 3 * scale]
        np.testing.assert_array_equal(cell[::scale, ::scale], image)
        np.testing.assert_array_equal(
            cell, cell[::scale, ::scale].repeat(scale, 0).repeat(scale, 1)
        )
    assert np.all(sheet[:gap] == 128)


def test_rows_are_in_order_under_their_labels(tmp_path):
    medium, shown = images(cell=16), random_images(3, 2, 8, 8, 3)
    medium.rows(tmp_path / "rows.png", shown, ["seen", "found"])
    picture = read(tmp_path / "rows.png", 3)
    scale, gap, top, width = 2, 4, 20, 48 + 4
    for i in range(3):
        for j in range(2):
            y, x = top + i * (8 * scale + gap), gap + j * width
            cell = picture[y : y + 8 * scale : scale, x : x + 8 * scale : scale]
            np.testing.assert_array_equal(cell, shown[i, j])
    for x in (0, width):  # something is written above each column
        assert np.any(picture[:top, x + gap : x + width] < 128)
