"""Reads the arrays of a PyTorch file without PyTorch, and without running what is in it.

A file of `torch.save` is a pickle, which can ask for any function to be called. This reader knows
only the names that tensors and dictionaries are made of, and maps them to code of this module. It
refuses a file with any other name before anything is called. It reads both layouts: the zip archive
of PyTorch 1.6 and later, and the older sequence of pickles.

A pickle can also refer to one object many times. A tuple that holds another tuple twice, 100 deep,
takes 300 bytes in the file, and forever to hash, compare or print. So nested objects of a file are
never hashed, compared or printed here, and a tensor has at most as many numbers as the file has
bytes: the size of the file bounds time and memory.
"""

# pickle._Unpickler is private, and checkers have not its attributes:
# pyright: reportAttributeAccessIssue=false, reportAssignmentType=false

from __future__ import annotations

import collections
import io
import math
import pickle
import sys
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import ml_dtypes
import numpy as np

from score_sde.errors import one_line, reason

_DTYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}
_SMALL = 2**16  # bytes
_MAGIC = 0x1950A86A20F9469CFC6C  # of the older layout


def read(path: str | PathLike) -> Any:
    """The object that `torch.save` wrote, with every tensor as a NumPy array.

    Raises:
      FileNotFoundError, PermissionError: as `open` does.
      ValueError: the file is damaged, or holds anything but tensors, dictionaries, lists and
        numbers. One line; nothing was executed.
    """
    path = Path(path)
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        try:
            if zipfile.is_zipfile(file):
                return _read_zip(file, size)
            file.seek(0)
            return read_sequence(file, size)
        except Refused as error:
            raise ValueError(f"{path} is refused: {error}") from None
        except Exception as error:  # whatever a damaged file makes the parsers raise
            raise ValueError(
                f"{path} is damaged or is no file of torch.save ({reason(error)})"
            ) from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file that holds nothing else, by their names.

    Raises:
      FileNotFoundError, PermissionError, ValueError: as `read`; it holds something else.
    """
    state = read(path)
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and isinstance(value, np.ndarray) for name, value in state.items()
    ):
        raise ValueError(f"{path} holds more than tensors by their names")
    return state


class Refused(Exception):
    """The file asks for more than arrays."""


class _Storage(NamedTuple):
    """The numbers that tensors are views of. The older layout has them after the tensors, so they
    are read later, into the memory that the views share.

    most: how many numbers a view may have. A stride of 0 repeats numbers without a longer file.
    """

    array: np.ndarray
    most: int

    def view(self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
        """A tensor of this storage. Raises ValueError if it reaches beyond the storage."""
        if len(shape) != len(strides) or min((offset, *shape, *strides)) < 0:
            raise ValueError(f"a tensor of shape {shape} has strides {strides}")
        last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
        if math.prod(shape) and (last >= len(self.array) or math.prod(shape) > self.most):
            raise ValueError(f"a tensor of shape {shape} reaches beyond its storage")
        itemsize = self.array.itemsize
        start = self.array[offset:] if math.prod(shape) else self.array[:0]
        return np.lib.stride_tricks.as_strided(
            start, shape, [itemsize * stride for stride in strides], writeable=False
        )


class _Kind(NamedTuple):
    """The class of a storage; only its dtype matters."""

    dtype: np.dtype


# The operations that `torch.save` writes for data, in protocols 2 to 5.
_OPCODES = (
    *(pickle.PROTO, pickle.FRAME, pickle.STOP, pickle.MARK),
    *(pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINFLOAT),
    *(pickle.BININT, pickle.BININT1, pickle.BININT2, pickle.LONG1),
    *(pickle.BINUNICODE, pickle.SHORT_BINUNICODE, pickle.BINSTRING, pickle.SHORT_BINSTRING),
    *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT),
    *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
    *(pickle.BINPUT, pickle.LONG_BINPUT, pickle.MEMOIZE, pickle.BINGET, pickle.LONG_BINGET),
    *(pickle.GLOBAL, pickle.STACK_GLOBAL, pickle.BINPERSID),
)


class _Bounded:
    """A file whose `read` is not asked for more than there is, for which it would find memory
    first."""

    def __init__(self, file):
        self._file, place = file, file.tell()
        self._end, self.readline = file.seek(0, io.SEEK_END), file.readline
        file.seek(place)

    def read(self, size):
        if size > _SMALL and size > self._end - self._file.tell():
            raise EOFError(f"it claims {size:,} bytes, more than follow")
        return self._file.read(size)


class Unpickler(pickle._Unpickler):
    """Knows only the operations above and the names below, and sets the state of no object.

    It derives from Python's unpickler in Python. The one in C allocates as much memory as a damaged
    file asks for.

    load: `(key, dtype, size) -> _Storage`, called for each storage that the pickle refers to.
    """

    def _set_items(self, items):
        for key in items[::2]:
            if not isinstance(key, str | int):
                raise ValueError(f"a {type(key).__name__} is a key of a dictionary")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def _set_item(self):
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def _reduce(self):
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(arguments, tuple):
            raise ValueError(f"the arguments of a call are a {type(arguments).__name__}")
        self.stack.append(function(*arguments))

    dispatch: ClassVar = {
        **{code[0]: pickle._Unpickler.dispatch[code[0]] for code in _OPCODES},
        pickle.SETITEM[0]: _set_item,
        pickle.SETITEMS[0]: lambda self: self._set_items(self.pop_mark()),
        pickle.REDUCE[0]: _reduce,
        pickle.NEWOBJ[0]: _reduce,
        pickle.BUILD[0]: lambda self: self.stack.pop(),
    }

    def __init__(self, file, load):
        super().__init__(_Bounded(file), encoding="utf-8")
        self._load = load

    def find_class(self, module, name):
        if module in ("torch", "torch.storage") and name in _DTYPES:
            return _Kind(np.dtype(_DTYPES[name]))
        try:
            return _NAMES[module, name]
        except KeyError:
            raise Refused(
                f"it names {one_line(f'{module}.{name}')}, and only tensors, dictionaries, lists "
                "and numbers are read; nothing was executed"
            ) from None

    def persistent_load(self, pid):
        if not isinstance(pid, tuple):
            raise ValueError("a storage without a description")
        what, kind, key, _, size, *view = pid
        known = isinstance(what, str) and what == "storage" and isinstance(kind, _Kind)
        if not known or any(part is not None for part in view):
            raise ValueError("a storage of unknown kind")
        if not isinstance(key, str) or len(key) > 100 or not isinstance(size, int):
            raise ValueError("a storage of unknown name or size")
        return self._load(key, kind.dtype, size)


def _rebuild_tensor(storage, offset, shape, strides, *_) -> np.ndarray:
    if not isinstance(offset, int):
        raise ValueError("a tensor whose offset is no number")
    return storage.view(offset, _whole(shape), _whole(strides))


def _whole(numbers=()) -> tuple[int, ...]:
    """A shape or strides; NumPy has at most 64 dimensions."""
    if not isinstance(numbers, tuple | list) or len(numbers) > 64:
        raise ValueError("a shape is no list of at most 64 numbers")
    if not all(isinstance(n, int) for n in numbers):
        raise ValueError("a shape holds more than whole numbers")
    return tuple(numbers)


_NAMES = {
    ("collections", "OrderedDict"): lambda: collections.OrderedDict(),
    ("argparse", "Namespace"): dict,  # what a training was called with; it stays empty
    ("torch", "Size"): _whole,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
}


def _read_zip(file, size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename.partition("/")[2]: info for info in archive.infolist()}
        if sum(info.file_size for info in entries.values()) > size:
            raise Refused("it claims to hold more than its own size")
        order = archive.read(entries["byteorder"]) if "byteorder" in entries else b"little"
        storages = {}

        def load(key, dtype, length):
            if key not in storages:
                array = np.frombuffer(archive.read(entries[f"data/{key}"]), _ordered(dtype, order))
                storages[key] = _Storage(array, size)
            if storages[key].array.dtype.itemsize != dtype.itemsize:
                raise ValueError(f"storage {key} has two dtypes")
            if len(storages[key].array) != length:
                raise ValueError(f"the length of storage {key} is wrong")
            return storages[key]

        return Unpickler(io.BytesIO(archive.read(entries["data.pkl"])), load).load()


def read_sequence(file, size: int) -> Any:
    """The object in a stream of the older layout. size: the bytes that it has, which bound its
    tensors."""
    storages, left = {}, size

    def load(key, dtype, length):
        nonlocal left
        if key not in storages:
            left -= length * dtype.itemsize
            if length < 0 or left < 0:
                raise ValueError(f"storage {key} is longer than the file")
            storages[key] = _Storage(np.empty(length, dtype), size)
        return storages[key]

    def unpickle():
        return Unpickler(file, load).load()

    if unpickle() != _MAGIC:
        raise ValueError("its beginning is that of another kind of file")
    unpickle()  # the version of the protocol
    if not unpickle().get("little_endian", True):
        raise Refused("it was written on a big-endian machine")
    result = unpickle()
    keys = unpickle()
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise ValueError("it does not list its storages by their names")
    for key in keys:
        array = storages[key].array
        if int.from_bytes(file.read(8), "little") != len(array):
            raise ValueError(f"the length of storage {key} is wrong")
        if file.readinto(array.view(np.uint8).data) != array.nbytes:
            raise EOFError("it ends within its numbers")
    return result


def _ordered(dtype: np.dtype, order: bytes) -> np.dtype:
    same = order.decode() == sys.byteorder
    return dtype if same else dtype.newbyteorder()
