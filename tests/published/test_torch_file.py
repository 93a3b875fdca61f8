"""Files of PyTorch: both layouts give the numbers that were saved, and nothing in them is run."""

import collections
import io
import math
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from score_sde.published import torch_file

GOLDEN = Path(__file__).parent.parent / "golden"
LAYOUTS = ["zip", "sequence"]


def golden(layout):
    return GOLDEN / f"torch_{layout}.pth"


def truth():
    """What make_torch_files.py saved."""
    counting = np.arange(24, dtype=np.float32)
    whole = counting.reshape(2, 3, 4)
    kinds = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
    return {
        "kinds": {k: np.arange(5).astype(k) for k in kinds}
        | {"bfloat16": np.arange(5).astype(ml_dtypes.bfloat16)},
        "whole": whole,
        "transposed": whole.transpose(2, 0, 1),
        "part": counting[5:17:3],
        "repeated": np.stack([counting[:3]] * 2),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "parameter": np.ones(2, np.float32),
        "module": {"weight": np.full((1, 1), 3, np.float32), "bias": np.full(1, 4, np.float32)},
        "rest": [1, 2.5, "text", None, True, (3,), collections.OrderedDict(a=(1, 2))],
    }


def same(a, b):
    if isinstance(a, np.ndarray):
        return (
            isinstance(b, np.ndarray)
            and (a.dtype, a.shape) == (b.dtype, b.shape)
            and a.tobytes() == b.tobytes()
        )
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_was_saved_is_read(layout):
    assert same(truth(), torch_file.read(golden(layout)))


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        torch_file.read(tmp_path / "no.pth")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("keep", [0, 1, 0.5, -1])
def test_a_file_cut_short(layout, keep, tmp_path):
    whole = golden(layout).read_bytes()
    path = tmp_path / "cut.pth"
    path.write_bytes(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(ValueError, match=r"cut\.pth is damaged or is no file of torch\.save"):
        torch_file.read(path)


# Files that want more


class Runs:
    """Pickles to a call of os.mkdir."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def in_zip(content, **entries):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        for name, data in entries.items():
            archive.writestr(f"archive/data/{name}", data)
    return buffer.getvalue()


def in_sequence(content):
    return pickle.dumps(0x1950A86A20F9469CFC6C) + pickle.dumps(1001) + pickle.dumps({}) + content


@pytest.mark.parametrize("wrap", [bytes, in_zip, in_sequence])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_code_is_not_run(wrap, protocol, tmp_path):
    target = tmp_path / "made"
    path = tmp_path / "evil.pth"
    path.write_bytes(wrap(pickle.dumps({"model": Runs(target)}, protocol)))
    with pytest.raises(ValueError, match=r"is refused: it names \w+\.mkdir, .*nothing was exec"):
        torch_file.read(path)
    assert not target.exists()


def test_a_name_that_is_refused_is_a_short_line(tmp_path):
    path = tmp_path / "evil.pth"
    path.write_bytes(in_zip(b"\x80\x02c" + b"os" * 1000 + b"\x1b[2J\nsystem\n."))
    with pytest.raises(ValueError, match=r"is refused: it names (os)+ \.\.\., and only") as error:
        torch_file.read(path)
    message = str(error.value)
    assert message.isprintable()
    assert len(message.replace(str(path), "")) < 400


def tensor(*arguments):
    """The pickle of `torch._utils._rebuild_tensor_v2(storage, *arguments)`, six floats."""
    storage = b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x06tQ"
    parts = [pickle.dumps(a, 2)[2:-1] for a in arguments]
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"".join(parts) + b"tR."


def read_tensor(tmp_path, *arguments, numbers=6):
    path = tmp_path / "one.pth"
    data = struct.pack(f"<{numbers}f", *range(numbers))
    path.write_bytes(in_zip(tensor(*arguments), **{"0": data}))
    return torch_file.read(path)


def test_a_view_by_hand(tmp_path):
    np.testing.assert_array_equal(read_tensor(tmp_path, 1, (2, 2), (1, 3)), [[1, 4], [2, 5]])


@pytest.mark.parametrize(
    ("arguments", "numbers"),
    [
        ((0, (7,), (1,)), 6),
        ((5, (2,), (1,)), 6),
        ((0, (2, 4), (3, 1)), 6),
        ((0, (2,), (-1,)), 6),
        ((-1, (2,), (1,)), 6),
        ((0, (2,), (2**62,)), 6),
        ((0, (2, 2), (1,)), 6),
        ((0, (6,), (1,)), 5),
        ((0, ("a",), (1,)), 6),
    ],
)
def test_a_view_that_reaches_out(arguments, numbers, tmp_path):
    with pytest.raises(ValueError, match="is damaged"):
        read_tensor(tmp_path, *arguments, numbers=numbers)


def test_an_archive_that_swells(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02N.")
        archive.writestr("archive/data/0", bytes(1_000_000))
    with pytest.raises(ValueError, match="claims to hold more than its own size"):
        torch_file.read(path)


# Small files that ask for much time or memory. What they nest is 16 deep here, and not 100, so that
# a reader that obeys them ends too, and fails by what it gives, says or takes.

TWICE = b"K\x01" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(16))  # ((1, 1), (1, 1)), ...
PID = b"(X\x07\0\0\0storagectorch\nFloatStorage\n%bX\x03\0\0\0cpu%btQ"
TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(" + PID + b"%btR"
NAME = b"X\x01\0\0\x000"
WIDE = TENSOR % (NAME, b"K\x06", b"K\0J\0\0\0\x01\x85K\0\x85")  # 2^24 times one
BOMBS = {
    "a key that is nested": b"}" + TWICE + b"Ns",
    "keys that are nested": b"}(" + TWICE + b"Nu",
    "a set": b"\x8f(" + TWICE + b"\x90",
    "an ordered dictionary of nested keys": (
        b"ccollections\nOrderedDict\n(]" + TWICE + b"N\x86atR"
    ),
    "a nested shape": TENSOR % (NAME, b"K\x06", b"K\0(" + TWICE + TWICE + b"t)"),
    "nested strides": TENSOR % (NAME, b"K\x06", b"K\0)(" + TWICE + b"t"),
    "a nested offset": TENSOR % (NAME, b"K\x06", TWICE + b"))"),
    "a storage with a nested name": PID % (TWICE, b"K\x06"),
    "a storage of a nested size": PID % (NAME, TWICE),
    "a storage that is nested": TWICE + b"Q",
    "a tensor of one number many times": WIDE,
    "a shape that is such a tensor": b"ctorch\nSize\n" + WIDE + b"\x85R",
    "bytes that are not there": b"\x96" + struct.pack("<Q", 2**32),
    "a text that is not there": b"X" + struct.pack("<I", 2**32 - 1),
    "a frame that is not there": b"\x95" + struct.pack("<Q", 2**40),
}


@pytest.mark.parametrize("content", BOMBS.values(), ids=BOMBS.keys())
def test_small_files_that_ask_for_much(content, tmp_path):
    path = tmp_path / "bomb.pth"
    path.write_bytes(in_zip(b"\x80\x02" + content + b".", **{"0": bytes(24)}))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError) as error:
            torch_file.read(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    is_short = len(str(error.value)) < 300  # pytest would print all of it
    assert is_short
    assert peak < 10_000_000


def test_storages_that_together_claim_more_than_the_file(tmp_path):
    """Three of 128 bytes each."""
    three = b"".join(PID % (b"X\x01\0\0\0%d" % i, b"K\x20") for i in range(3))
    path = tmp_path / "many.pth"
    path.write_bytes(in_sequence(b"\x80\x02(" + three + b"t." + bytes(100)))
    assert 256 < path.stat().st_size < 384
    with pytest.raises(ValueError, match="storage 2 is longer than the file"):
        torch_file.read(path)


# Random damage: an error of one kind, or, where a checksum guards every number, the same numbers

DAMAGE = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1)
FEW = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def damaged(content, damage):
    content = bytearray(content)
    for where, flip in damage:
        content[math.floor(where * len(content))] ^= flip
    return bytes(content)


def read_bytes(tmp_path, content):
    path = tmp_path / "damaged.pth"
    path.write_bytes(content)
    try:
        return torch_file.read(path)
    except ValueError as error:
        return error


@FEW
@given(DAMAGE)
def test_damage_to_an_archive_is_seen(tmp_path, damage):
    content = damaged(golden("zip").read_bytes(), damage)
    result = read_bytes(tmp_path, content)
    assert isinstance(result, ValueError) or same(truth(), result)


@FEW
@given(DAMAGE)
def test_damage_to_a_sequence_is_an_error_or_another_number(tmp_path, damage):
    read_bytes(tmp_path, damaged(golden("sequence").read_bytes(), damage))


@FEW
@given(DAMAGE)
def test_a_damaged_pickle_in_a_sound_archive(tmp_path, damage):
    with zipfile.ZipFile(golden("zip")) as archive:
        content = {info.filename: archive.read(info) for info in archive.infolist()}
    name = next(name for name in content if name.endswith("data.pkl"))
    content[name] = damaged(content[name], damage)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    read_bytes(tmp_path, buffer.getvalue())
