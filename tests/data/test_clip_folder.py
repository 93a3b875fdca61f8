"""Folders of clips: every format gives the frames that went in, and a bad file one line."""

import sys

import numpy as np
import pytest
from PIL import Image

from score_sde.config import build
from score_sde.data.clip_folder import read_clip
from score_sde.errors import DataError
from score_sde.media.animation import animation


def clip(frames=4, size=8, seed=0):
    """Few colours, so that the palette of a GIF has them all."""
    colours = np.array([[0, 0, 0], [255, 255, 255], [200, 30, 40]], np.uint8)
    return colours[np.random.default_rng(seed).integers(0, 3, (frames, size, size))]


def save(path, shown, **options):
    first, *others = map(Image.fromarray, shown)
    first.save(path, save_all=True, append_images=others, **options)


def spec(root, frames=4, **options):
    return build(
        "data",
        {"name": "clip_folder", "path": str(root), "frames": frames, "image_size": 8} | options,
    )


def test_animated_pictures_and_arrays_are_read_back(tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
    shown = [clip(seed=i) for i in range(4)]
    save(tmp_path / "cats/a.gif", shown[0], duration=100)
    animation().save(tmp_path / "cats/b.png", shown[1])  # as mode sample writes them
    save(tmp_path / "dogs/c.webp", shown[2], lossless=True, duration=100)
    np.savez_compressed(tmp_path / "dogs/d.npz", video=shown[3])
    (tmp_path / "dogs/notes.txt").write_text("no clip")
    data = spec(tmp_path, test_fraction=0.5)
    assert (data.features["video"].shape, data.features["label"].values) == ((4, 8, 8, 3), 2)
    for i in range(4):
        example = (data.test, data.train)[i % 2][i // 2]
        np.testing.assert_array_equal(example["video"], shown[i])
        assert example["label"] == i // 2


def test_grey_arrays_longer_clips_captions_and_sizes(tmp_path):
    grey = clip(frames=6)[..., 0]
    np.savez(tmp_path / "a.npz", video=grey)
    np.savez(tmp_path / "b.npz", video=grey[::-1, ..., None])
    for name, text in (("a", "forwards"), ("b", "backwards")):
        (tmp_path / f"{name}.txt").write_text(text)
    options = {"channels": 1, "longer": True, "caption_field": ".txt", "memory": True}
    data = spec(tmp_path, test_fraction=0.5, **options)
    np.testing.assert_array_equal(data.test[0]["video"], grey[:4, ..., None])
    np.testing.assert_array_equal(data.train[0]["video"], grey[::-1][:4, ..., None])
    assert data.train[0]["caption"].tolist() == ["backwards"]
    small = read_clip(tmp_path / "a.npz", 6, 4, 1)
    truth = grey.reshape(6, 4, 2, 4, 2).mean((2, 4))
    # Pillow rounds after each axis
    np.testing.assert_allclose(small[..., 0], truth, atol=1.0)


def test_mp4_files_are_read(tmp_path):
    """The codec loses detail, not the brightness of plain frames."""
    imageio = pytest.importorskip("imageio.v3")
    pytest.importorskip("av")
    levels = np.array([30, 90, 150, 210])
    shown = np.broadcast_to(levels[:, None, None, None], (4, 64, 64, 3)).astype(np.uint8)
    imageio.imwrite(tmp_path / "a.mp4", shown, plugin="pyav", codec="libx264", fps=8)
    found = read_clip(tmp_path / "a.mp4", 4, 8)
    np.testing.assert_allclose(found.mean((1, 2, 3)), levels, atol=4)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "a.mp4").write_bytes(b"")
    with pytest.raises(DataError, match=r"needs imageio and av, .* 'score_sde\[video\]'"):
        read_clip(tmp_path / "a.mp4", 4, 8)


def test_bad_files_are_one_line_each(tmp_path):
    save(tmp_path / "short.gif", clip(3), duration=100)
    save(tmp_path / "long.gif", clip(5), duration=100)
    save(tmp_path / "whole.gif", clip(4, size=64), duration=100)
    whole = (tmp_path / "whole.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(whole[: len(whole) * 5 // 8])
    (tmp_path / "text.gif").write_text("no GIF")
    np.savez(tmp_path / "wrong.npz", video=np.zeros((4, 8, 8, 3)))
    np.savez(tmp_path / "none.npz", frames=np.zeros(3, np.uint8))
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    (tmp_path / "objects.npy").rename(tmp_path / "objects.npz")
    for name, line in (
        ("short.gif", "has 3 frames, and clips have 4: remove it, or set data.frames"),
        ("long.gif", "has more than 4 frames: data.longer=True takes the first ones"),
        ("cut.gif", "cut.gif (cannot be read as a clip \\(|has [0-3] frames)"),
        ("text.gif", "cannot identify image file"),
        ("wrong.npz", r"video float64 \[4, 8, 8, 3\]; wanted is `video`, uint8"),
        ("none.npz", r"holds frames uint8 \[3\]; wanted is `video`"),
        ("objects.npz", "cannot be read as an .npz of plain arrays"),
    ):
        with pytest.raises(DataError, match=line) as error:
            read_clip(tmp_path / name, 4, 8)
        assert "\n" not in str(error.value)


def test_bad_folders_are_one_line_each(tmp_path):
    with pytest.raises(DataError, match="holds no clip"):
        spec(tmp_path)
    missing = spec(tmp_path / "none", num_classes=3)  # sampling needs no more
    assert missing.features["label"].values == 3
    with pytest.raises(DataError, match="none is not a folder"):
        len(missing.train)
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", video=clip())
    with pytest.raises(DataError, match="channels must be 1 or 3, got 2"):
        spec(tmp_path, channels=2)
    with pytest.raises(DataError, match="frames must be at least 1, got 0"):
        spec(tmp_path, frames=0)
    (tmp_path / "more").mkdir()
    np.savez(tmp_path / "more/c.npz", video=clip())
    with pytest.raises(DataError, match=r"has class folders, but a\.npz lies beside them"):
        spec(tmp_path)
