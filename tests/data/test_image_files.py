"""Folders of images and .npz files: what is read is what was written, and one clear line per
mistake."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hypothesis import given
from PIL import Image

import score_sde.data as data
from score_sde.data import train_iterator
from score_sde.data.source import in_memory, labelled_images
from score_sde.errors import DataError
from score_sde.types import Feature
from tests.published.test_torch_file import DAMAGE, FEW, damaged


def write(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def test_folder_gives_back_the_pngs_it_was_written(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (12, 5, 5, 3), dtype=np.uint8)
    for i, image in enumerate(images):
        write(tmp_path / ("ab"[i // 6]) / "deeper" / f"{i:02d}.png", image)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / ".hidden").mkdir()
    write(tmp_path / ".hidden" / "x.png", images[0])
    pictures = data.folder(tmp_path, image_size=5, test_fraction=0.25)
    assert pictures.features == labelled_images((5, 5, 3), 256, 2)
    test = [0, 4, 8]
    train = [i for i in range(12) if i not in test]
    for source, indices in ((pictures.train, train), (pictures.test, test)):
        arrays = in_memory(source)
        np.testing.assert_array_equal(arrays.parts["image"], images[indices])
        np.testing.assert_array_equal(arrays.parts["label"], [i // 6 for i in indices])


def test_folder_of_many_formats_without_classes(tmp_path):
    for i, suffix in enumerate(("png", "jpg", "JPEG", "webp", "bmp")):
        write(tmp_path / f"{i}.{suffix}", np.full((9, 7 + i, 3), 40 * i + 20, np.uint8))
    pictures = data.folder(tmp_path, image_size=4, channels=1, test_fraction=0.5, memory=True)
    assert pictures.features["label"].values == 1
    assert pictures.features["image"].shape == (4, 4, 1)
    values = np.concatenate([pictures.test.parts["image"], pictures.train.parts["image"]])
    expected = np.array([0, 2, 4, 1, 3]) * 40 + 20
    assert np.abs(values.astype(int) - expected[:, None, None, None]).max() <= 2  # lossy formats
    assert not pictures.train.parts["label"].any()


def test_folder_errors(tmp_path):
    with pytest.raises(DataError, match=r"nowhere is not a folder"):
        len(data.folder(tmp_path / "nowhere", image_size=4).train)
    with pytest.raises(DataError, match=r"holds no image \(\.png, \.jpg"):
        data.folder(tmp_path, image_size=4)
    image = np.zeros((4, 4, 3), np.uint8)
    write(tmp_path / "0.png", image)
    with pytest.raises(DataError, match="need at least 2 images, got 1"):
        data.folder(tmp_path, image_size=4)
    write(tmp_path / "2.png", np.zeros((4, 4), np.uint16))
    (tmp_path / "1.png").write_bytes(b"not an image")
    pictures = data.folder(tmp_path, image_size=4, test_fraction=0.5)
    with pytest.raises(DataError, match=r"1\.png cannot be read as an image"):
        next(train_iterator(pictures.train, batch_size=2, seed=0))
    with pytest.raises(DataError, match=r"2\.png has more than 8 bits a channel"):
        pictures.test[1]
    with pytest.raises(DataError, match=r"test_fraction must be in \(0, 0\.5\], got 1"):
        data.folder(tmp_path, image_size=4, test_fraction=1.0)
    with pytest.raises(DataError, match="channels must be 1 or 3, got 4"):
        data.folder(tmp_path, image_size=4, channels=4)
    with pytest.raises(DataError, match="image_size must be at least 1, got 0"):
        data.folder(tmp_path, image_size=0)
    write(tmp_path / "class" / "3.png", image)
    with pytest.raises(DataError, match=r"has class folders, but 0\.png lies beside them"):
        data.folder(tmp_path, image_size=4)


def test_npz_round_trips(tmp_path):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 16, (9, 4, 6), dtype=np.uint8)
    label = np.arange(9) % 3
    np.savez(tmp_path / "one.npz", image=image, label=label)
    one = data.npz(tmp_path / "one.npz", test_fraction=0.33, num_values=16)
    assert one.name == "one"
    assert one.features == labelled_images((4, 6, 1), 16, 3)
    np.testing.assert_array_equal(one.test.parts["image"][..., 0], image[::3])
    np.testing.assert_array_equal(one.train.parts["image"][..., 0], np.delete(image, [0, 3, 6], 0))
    np.testing.assert_array_equal(one.train.parts["label"], np.delete(label, [0, 3, 6]))

    rgb = rng.integers(0, 256, (9, 4, 4, 3), dtype=np.uint8)
    np.savez(
        tmp_path / "two.npz",
        train_images=rgb[:6],
        test_images=rgb[6:],
        train_labels=label[:6, None].astype(np.uint8),
        test_labels=label[6:],
    )
    two = data.npz(tmp_path / "two.npz")
    assert two.features == labelled_images((4, 4, 3), 256, 3)
    np.testing.assert_array_equal(two.train.parts["image"], rgb[:6])
    np.testing.assert_array_equal(two.train.parts["label"], label[:6])
    np.testing.assert_array_equal(two.test.parts["image"], rgb[6:])

    np.savez(tmp_path / "three.npz", image=rgb)
    assert data.npz(tmp_path / "three.npz").features["label"].values == 1


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"images": np.zeros((4, 2, 2), np.uint8)},
        {"train_images": np.zeros((4, 2, 2), np.uint8)},
        {"image": np.zeros((4, 2, 2), np.float32)},
        {"image": np.zeros((4, 2), np.uint8)},
        {"image": np.zeros((), np.uint8)},
        {"image": np.zeros((0, 2, 2), np.uint8)},
        {"image": np.zeros((4, 2, 2), np.uint8), "label": np.zeros(3, int)},
        {"image": np.zeros((4, 2, 2), np.uint8), "label": np.zeros(4)},
        {
            "train_images": np.zeros((4, 2, 2), np.uint8),
            "test_images": np.zeros((4, 3, 3), np.uint8),
        },
    ],
)
def test_npz_says_what_is_there_and_what_is_wanted(tmp_path, arrays):
    np.savez(tmp_path / "x.npz", **arrays)
    there = ", ".join(f"{k} {v.dtype} {list(v.shape)}" for k, v in arrays.items()) or "nothing"
    with pytest.raises(DataError) as error:
        data.npz(tmp_path / "x.npz")
    message = str(error.value)
    assert message.startswith(
        f"{tmp_path / 'x.npz'} holds {there}; wanted are `image` (and `label`)"
    )
    assert "\n" not in message


def test_npz_of_reals_round_trips(tmp_path):
    latent = np.random.default_rng(0).normal(size=(9, 4, 4, 2)).astype(np.float16)
    label = np.arange(9) % 3
    np.savez(tmp_path / "one.npz", latent=latent, label=label)
    one = data.npz_reals(tmp_path / "one.npz", test_fraction=0.33)
    assert one.features == {"latent": Feature((4, 4, 2)), "label": Feature((), 3)}
    np.testing.assert_array_equal(one.test.parts["latent"], latent[::3])
    np.testing.assert_array_equal(one.train.parts["latent"], np.delete(latent, [0, 3, 6], 0))
    np.testing.assert_array_equal(one.train.parts["label"], np.delete(label, [0, 3, 6]))
    points = latent[:, 0].astype(float)
    np.savez(tmp_path / "two.npz", train_points=points[:6], test_points=points[6:])
    two = data.npz_reals(tmp_path / "two.npz", part="points")
    assert two.features == {"points": Feature((4, 2)), "label": Feature((), 1)}
    np.testing.assert_array_equal(two.test.parts["points"], points[6:])
    none = data.absent_reals(shape=(4, 4, 2), num_classes=3)
    assert none.features == one.features
    with pytest.raises(DataError, match="names no data set"):
        len(none.train)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds nothing; wanted are `latent`"),
        ({"latent": np.zeros((4, 2), int)}, r"holds latent int64 \[4, 2\]; wanted are"),
        ({"latent": np.zeros(4)}, "wanted are"),
        ({"latent": np.zeros((0, 2))}, "wanted are"),
        ({"train_latent": np.zeros((4, 2))}, "wanted are"),
        ({"train_latent": np.zeros((4, 2)), "test_latent": np.zeros((4, 3))}, "wanted are"),
        ({"latent": np.zeros((4, 2)), "label": np.zeros(3, int)}, "wanted are"),
        ({"latent": np.zeros((4, 2)), "label": np.full(4, -1)}, "label runs from -1 to -1"),
        ({"latent": np.full((4, 2), np.inf)}, "latent has numbers that are not finite"),
    ],
)
def test_npz_of_reals_errors(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message) as error:
        data.npz_reals(tmp_path / "x.npz")
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"shape must be positive numbers, got \(4, 0\)"):
        data.absent_reals(shape=(4, 0))


def test_npz_errors(tmp_path):
    with pytest.raises(DataError, match=r"x\.npz does not exist"):
        data.npz(tmp_path / "x.npz")
    (tmp_path / "junk.npz").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"junk\.npz cannot be read as an \.npz of plain arrays"):
        data.npz(tmp_path / "junk.npz")
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"array\.npy cannot be read as an \.npz of plain arrays"):
        data.npz(tmp_path / "array.npy")
    np.savez(tmp_path / "pickle.npz", image=np.array([{}], object))
    with pytest.raises(DataError, match=r"pickle\.npz cannot be read as an \.npz of plain arrays"):
        data.npz(tmp_path / "pickle.npz")
    np.savez(tmp_path / "deep.npz", image=np.full((4, 2, 2), 20, np.uint8))
    with pytest.raises(DataError, match="image reaches 20, but num_values is 17"):
        data.npz(tmp_path / "deep.npz", num_values=17)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.array([0, 1, 2, -1]), "label runs from -1 to 2"),
        (np.array([0, 1, 2, 2**32]), "label runs from 0 to 4294967296"),
        (np.array([0, 1, 2, 2**64 - 1], np.uint64), "label runs from 0 to 18446744073709551615"),
        (np.array([0, 1, 2, 2**31 - 1]), "at most 2147483646"),
    ],
)
def test_npz_labels_that_no_int32_holds(tmp_path, label, message):
    np.savez(tmp_path / "x.npz", image=np.zeros((4, 2, 2), np.uint8), label=label)
    with pytest.raises(DataError, match=message):
        data.npz(tmp_path / "x.npz", test_fraction=0.5)


def zipped(path, compression=zipfile.ZIP_STORED, **members):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def npy(shape, content=b"", dtype="|u1"):
    """What a file .npy holds whose header says so."""
    buffer = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    return buffer.getvalue() + content


FOREIGN = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello"),
    "folder": lambda path: path.mkdir(),
    "text in a zip": lambda path: zipped(path, **{"readme.txt": "hello"}),
    "text for an array": lambda path: zipped(path, **{"image.npy": "hello"}),
    "nothing for an array": lambda path: zipped(path, **{"image.npy": ""}),
    "10^12 images": lambda path: zipped(path, **{"image.npy": npy((10**12, 8, 8))}),
    "40 GB of images": lambda path: zipped(path, **{"image.npy": npy((10**10, 2, 2))}),
    "a negative size": lambda path: zipped(path, **{"image.npy": npy((-2, -2, 1), bytes(4))}),
    "Python objects": lambda path: np.savez(path, image=np.array([{}], object)),
    "a version to come": lambda path: zipped(
        path, **{"image.npy": b"\x93NUMPY\x07\x00" + bytes(99)}
    ),
}


@pytest.mark.parametrize("read", [data.npz, lambda path: data.read_images(path, (8, 8, 1))])
@pytest.mark.parametrize("make", FOREIGN.values(), ids=FOREIGN.keys())
def test_foreign_npz_files_are_one_line(tmp_path, make, read):
    path = tmp_path / "x.npz"
    make(path)
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value).startswith(f"{path} ")
    assert len(str(error.value).splitlines()) == 1


def test_an_npz_that_swells_is_not_unpacked(tmp_path):
    """8 GiB of zeros in 2 kB: a header that says so, and a member of as many bytes."""
    size, path = 2**33, tmp_path / "bomb.npz"
    zipped(path, **{"image.npy": npy((size // 4, 2, 2))})
    content = path.read_bytes()
    directory = content.rfind(b"PK\x01\x02")
    claims = struct.pack("<HHQQ", 1, 16, size, 200)  # ZIP64: unpacked and packed size
    entry = bytearray(content[directory : content.rfind(b"PK\x05\x06")])
    entry[20:28] = b"\xff" * 8
    entry[30:32] = struct.pack("<H", len(claims))
    end = bytearray(content[content.rfind(b"PK\x05\x06") :])
    end[12:16] = struct.pack("<I", len(entry) + len(claims))
    path.write_bytes(content[:directory] + bytes(entry) + claims + bytes(end))
    with pytest.raises(DataError, match=r"bomb\.npz .* claims to unpack to 8 GiB"):
        data.npz(path)


@FEW
@given(DAMAGE)
def test_damage_to_an_npz_is_a_line_or_other_numbers(tmp_path, damage):
    path = tmp_path / "x.npz"
    np.savez(path, image=np.zeros((4, 2, 2), np.uint8), label=np.arange(4))
    path.write_bytes(damaged(path.read_bytes(), damage))
    with contextlib.suppress(DataError):
        data.npz(path, test_fraction=0.5)


def test_class_folders_that_are_links(tmp_path):
    """A link is a class as a folder is; also one to a class that is there already."""
    for i in range(4):
        write(tmp_path / "real" / f"{i}.png", np.full((2, 2), i, np.uint8))
    root = tmp_path / "root"
    write(root / "a" / "4.png", np.full((2, 2), 4, np.uint8))
    (root / "b").symlink_to(tmp_path / "real", target_is_directory=True)
    (root / "c").symlink_to("a", target_is_directory=True)
    (root / "gone").symlink_to(tmp_path / "nowhere", target_is_directory=True)
    pictures = data.folder(root, image_size=2, channels=1, test_fraction=0.5, memory=True)
    assert pictures.features["label"].values == 3
    found = [
        (int(image.max()), int(label))
        for source in (pictures.test, pictures.train)
        for image, label in zip(source.parts["image"], source.parts["label"], strict=True)
    ]
    assert sorted(found) == [(0, 1), (1, 1), (2, 1), (3, 1), (4, 0), (4, 2)]
    (root / "a" / "up").symlink_to(root, target_is_directory=True)
    with pytest.raises(DataError, match=r"/up is a link to .*root, which it lies in: remove it"):
        data.folder(root, image_size=2)


def test_images_of_equal_stems_have_names_of_their_own(tmp_path):
    for name in ("a.png", "a.bmp", "b.png", "b.PNG"):
        write(tmp_path / name, np.zeros((4, 4), np.uint8))
    images, names = data.read_images(tmp_path, (4, 4, 1))
    assert names == ["a.bmp", "a.png", "b.PNG", "b.png"]
    assert len(images) == 4


def png(pixels):
    """A PNG of 16 bits a channel, which Pillow cannot write in colour."""
    height, width, channels = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 3: 2, 4: 6}[channels], 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_of_16_bits_are_refused_in_grey_and_in_colour(tmp_path, channels):
    (tmp_path / "deep.png").write_bytes(png(np.full((4, 4, channels), 40_000)))
    with pytest.raises(DataError, match=r"deep\.png has more than 8 bits a channel: convert it"):
        data.read_images(tmp_path / "deep.png", (4, 4, 3))


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_damaged_images_are_one_line_or_an_image(tmp_path, suffix):
    """Every file cut short, and one byte in seven flipped, in turn."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    path = tmp_path / f"x.{suffix}"
    write(path, pixels)
    whole = path.read_bytes()
    cuts = [whole[:n] for n in range(0, len(whole), 1 + len(whole) // 40)]
    flips = [whole[:n] + bytes([whole[n] ^ 255]) + whole[n + 1 :] for n in range(0, len(whole), 7)]
    for content in cuts + flips:
        path.write_bytes(content)
        with contextlib.suppress(DataError):
            data.read_images(path, (4, 4, 3))


def test_loaders_are_found_by_their_names():
    for name in ("digits", "tfds", "folder", "npz"):
        assert callable(getattr(data, name))
