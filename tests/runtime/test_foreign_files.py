"""JSON, arrays and errors of other libraries: whatever is in a file, a message is a short line."""

import struct
import tracemalloc

import numpy as np
import pytest

from score_sde.errors import ConfigError, DataError, foreign, one_line, reason
from score_sde.runtime import json_file, npz_file


def test_a_name_out_of_a_file_is_a_line_of_printable_letters():
    assert one_line("a\nb\t c\x1b[2J\0d") == "a b c [2J d"
    assert one_line("x" * 1000, 10) == "xxxxxxxxxx ..."
    assert one_line("café") == "café"
    assert reason(MemoryError()) == "MemoryError"
    assert reason(ValueError("a\nb")) == "ValueError: a b"


def test_what_a_library_raises_becomes_one_error():
    class Panic(BaseException):
        """As those of readers that are written in Rust."""

    for error in (RecursionError("deep\nnesting"), Panic("deep nesting"), AssertionError()):
        wanted = pytest.raises(DataError, match=r"^a\.png cannot be read \(\w+")
        with wanted as told, foreign("a.png cannot be read"):
            raise error
        assert "\n" not in str(told.value)
        assert told.value.__cause__ is error
    with pytest.raises(CheckError), foreign("a.png cannot be read", CheckError):
        raise KeyError
    with pytest.raises(ConfigError, match=r"^mine$"), foreign("a.png cannot be read"):
        raise ConfigError("mine")
    for error in (KeyboardInterrupt, SystemExit):
        with pytest.raises(error), foreign("a.png cannot be read"):
            raise error


class CheckError(Exception):
    """Of a caller."""


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\xfa", b"[1]", b"null", b"1", b"[" * 10**5, b'{"a":' * 10**5],
    ids=lambda content: str(content[:8]),
)
def test_damaged_json_is_one_line(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json is damaged, it ") as error:
        json_file.read(path)
    assert len(str(error.value).replace(str(path), "")) < 200
    assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError):
        json_file.read(tmp_path / "none.json")


def npy(header, numbers=b""):
    """A .npy file with this header."""
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(header)) + header + numbers


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x05\x06" + bytes(18),  # an archive, for which `numpy.load` would take it
        b"\x80\x04N.",
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}\n", bytes(8)),
        b"\x93NUMPY\x02\0\xff\xff\xff\xff{'descr': '<f4'",  # a header of 4 GiB
        # NumPy divides by the size of a number, which ends the process
        npy(b"{'descr': '|V0', 'fortran_order': False, 'shape': (1,)}\n"),
        npy(b"{'descr': '<U0', 'fortran_order': False, 'shape': (0,)}\n"),
        npy(b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}\n", bytes(4)),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, -1)}\n", bytes(8)),
        npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n", bytes(8)),
        npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"(" * 500 + b"}\n"),
        npy(b"{'descr': " + b"((*" * 300 + b"}\n"),
        npy(b"{'descr': (1, 1), 'fortran_order': False, 'shape': (-1,)}\n"),
    ],
)
def test_an_array_that_is_none_is_one_line(tmp_path, content):
    path = tmp_path / "a.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.npy is damaged or is no \.npy file") as error:
        npz_file.mapped(path)
    assert len(str(error.value).replace(str(path), "")) < 250
    assert "\n" not in str(error.value)
    assert not isinstance(error.value.__cause__, MemoryError)  # what it claims is not asked for


def test_an_array_is_mapped(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(6).reshape(2, 3))
    found = npz_file.mapped(tmp_path / "a.npy")
    np.testing.assert_array_equal(found, [[0, 1, 2], [3, 4, 5]])
    assert isinstance(found, np.memmap)


def test_names_of_an_archive_are_read_alone(tmp_path):
    np.savez(tmp_path / "a.npz", large=np.zeros(10**6), small=np.zeros(1))
    tracemalloc.start()
    assert npz_file.names(tmp_path / "a.npz") == ["large", "small"]
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()
    (tmp_path / "b.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(ValueError, match=r"b\.npz is damaged or is no \.npz file"):
        npz_file.names(tmp_path / "b.npz")
