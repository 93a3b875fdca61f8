"""Small files that claim to be vast are refused before there is memory for them, and names out of
files stay in their folder."""

import json
import struct
import tracemalloc
import zlib
from contextlib import contextmanager

import numpy as np
import pytest
import soundfile
from PIL import Image

from score_sde.config import build
from score_sde.data.clip_folder import read_clip
from score_sde.data.encoded import as_json, encoded
from score_sde.data.files import open_image
from score_sde.data.sound_files import read_sound
from score_sde.errors import DataError
from score_sde.types import Feature


@contextmanager
def little_memory():
    """Of Python and NumPy; Pillow's own is not counted."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 50_000_000
    finally:
        tracemalloc.stop()


def png(path, width, height):
    """A PNG of some bytes with these numbers of pixels in its head."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def test_pixels_that_a_file_cannot_hold(tmp_path):
    png(tmp_path / "vast.png", 9000, 9000)
    line = r"vast\.png claims 81,000,000 pixels, which its \d+ bytes cannot hold"
    for read in (open_image, lambda path: read_clip(path, 1, 8)):
        with pytest.raises(DataError, match=line):
            read(tmp_path / "vast.png")
    for mode, suffix in (("RGB", "png"), ("1", "png"), ("P", "gif"), ("RGB", "jpg")):
        path = tmp_path / f"{mode}.{suffix}"  # nothing is made smaller than pictures of one colour
        Image.new(mode, (5000, 5000)).save(path)
        assert open_image(path).size == (5000, 5000)


def test_a_frame_that_is_larger_than_those_before(tmp_path):
    """The second image descriptor of a GIF (0x2c, left, top, width, height) claims 9000 x 9000."""
    frames = [Image.new("RGB", (8, 8), name) for name in ("red", "blue")]
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    content = path.read_bytes()
    _, second = (i for i in range(len(content)) if content[i : i + 5] == b"\x2c\0\0\0\0")
    vast = struct.pack("<HH", 9000, 9000)
    path.write_bytes(content[: second + 5] + vast + content[second + 9 :])
    assert read_clip(path, 1, 8, longer=True).shape == (1, 8, 8, 3)
    with pytest.raises(DataError, match=r"a\.gif claims 81,000,000 pixels"):
        read_clip(path, 2, 8)


def test_a_chunk_that_is_longer_than_its_file(tmp_path):
    """The pixels of the second frame of an animated PNG claim 4 GiB."""
    frames = [Image.new("RGB", (8, 8), name) for name in ("red", "blue")]
    path = tmp_path / "a.png"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    content = path.read_bytes()
    at = content.index(b"fdAT") - 4
    path.write_bytes(content[:at] + struct.pack(">I", 2**32 - 2**16) + content[at + 4 :])
    with little_memory():
        assert read_clip(path, 2, 8).shape == (2, 8, 8, 3)


def test_numbers_that_a_sound_does_not_have(tmp_path):
    path = tmp_path / "vast.flac"
    soundfile.write(path, np.zeros((50, 2), np.float32), 8000)
    content = bytearray(path.read_bytes())
    content[21] |= 0x0F  # the upper 4 of 36 bits, after the marker, a head and 13 bytes
    content[22:26] = b"\xff" * 4
    path.write_bytes(content)
    with little_memory(), pytest.raises(DataError, match=r"is cut off|cannot be read as a sound"):
        read_sound(path)


def test_points_that_a_cloud_does_not_have(tmp_path):
    head = "ply\nformat binary_little_endian 1.0\nelement vertex 1000000000000\n"
    fields = "".join(f"property float {axis}\n" for axis in "xyz")
    for name in ("a.ply", "b.ply"):
        (tmp_path / name).write_text(f"{head}{fields}end_header\n")
    with little_memory(), pytest.raises(DataError, match=r"a\.ply is damaged"):
        build("data", f"mesh_folder(path={str(tmp_path)!r})")


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/b", "a\0b", "..", ""])
def test_names_of_parts_stay_in_their_folder(tmp_path, name):
    folder, feature = tmp_path / "encoded", as_json({name: Feature((), 3)})
    (folder / "train").mkdir(parents=True)
    np.save(tmp_path / "outside.npy", np.zeros(2, np.int32))
    about = {"data": "mine", "made_by": {}, "made_of": {}, "features": feature}
    about["number"] = {"train": 2, "test": 2}
    (folder / "encoded.json").write_text(json.dumps(about))
    with pytest.raises(
        DataError, match=r"encoded\.json is damaged.* is no name of a part"
    ) as error:
        encoded(folder)
    assert "\n" not in str(error.value)
