"""Pictures of maps: the channels side by side, in one scale of grey."""

import numpy as np
from PIL import Image

from score_sde.config import build
from score_sde.media.maps import Maps, grey, maps
from score_sde.media.medium import Medium

SHOWN = np.random.default_rng(0).normal(size=(5, 3, 2, 4)).astype(np.float32)


def test_grey():
    """Channel c of a map is columns 2 c and 2 c + 1; the least number is 0, the greatest 255, and
    a number that is not finite is black."""
    found = grey(SHOWN)
    unit = (SHOWN - SHOWN.min()) / (SHOWN.max() - SHOWN.min())
    for c in range(4):
        truth = 255 * unit[..., c]
        np.testing.assert_allclose(found[:, :, 2 * c : 2 * c + 2, 0], truth, atol=0.5 + 1e-3)
    assert (found.min(), found.max()) == (0, 255)
    holes = SHOWN.copy()
    holes[0, 0, 0] = [np.nan, np.inf, -np.inf, 0]
    np.testing.assert_array_equal(grey(holes)[0, 0, ::2, 0][:3], 0)
    assert not grey(np.full((1, 1, 2), np.nan)).any()
    assert not grey(np.ones((1, 1, 2))).any()


def test_files(tmp_path):
    medium = Maps(width=64)
    assert isinstance(medium, Medium)
    assert build("media", "maps(width=64)") == medium == maps(64)
    medium.save(tmp_path / "one.png", SHOWN[0])
    one = np.asarray(Image.open(tmp_path / "one.png"))
    np.testing.assert_array_equal(one, grey(SHOWN[0])[..., 0])
    medium.sheet(tmp_path / "sheet.png", SHOWN)  # three columns, each 8 wide, enlarged twice
    sheet = np.asarray(Image.open(tmp_path / "sheet.png"))
    large = grey(SHOWN)[..., 0].repeat(2, axis=1).repeat(2, axis=2)
    for i in range(5):
        top, left = 1 + i // 3 * 7, 1 + i % 3 * 17
        np.testing.assert_array_equal(sheet[top : top + 6, left : left + 16], large[i])
    medium.over_time(tmp_path / "over.png", {10: tmp_path / "sheet.png"}, 5, SHOWN.shape[1:])
    first = np.asarray(Image.open(tmp_path / "over.png").convert("L"))[:8, -sheet.shape[1] :]
    np.testing.assert_array_equal(first, sheet[:8])
    medium.rows(tmp_path / "rows.png", SHOWN[None], list("abcde"))
