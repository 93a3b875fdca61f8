"""Reads the arrays of a pickle of EDM or EDM2 without running what is in it.

Such a file holds networks as `torch_utils.persistence` stores them: the source of their class, its
name, and the attributes of the object. Their own code executes the source. This reader takes it for
text. It knows the names that such a file is made of, each as a constructor of this module, and
refuses a file with any other name before anything is called.
"""

# pickle._Unpickler is private, and checkers have not its attributes:
# pyright: reportAttributeAccessIssue=false

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from score_sde.errors import reason
from score_sde.published import torch_file

_MOST_DEPTH, _MOST_PARTS = 20, 20_000  # of a network; a pickle of some bytes can nest far more


class Module:
    """An object of the file: the name of its class, and its attributes."""

    def __init__(self, class_name: str = "", attributes: dict[str, Any] | None = None):
        self.class_name = class_name
        self.attributes = attributes or {}

    def __getitem__(self, name: str) -> Any:
        """An attribute. Raises ValueError if it is missing."""
        if name not in self.attributes:
            raise ValueError(f"its {self.class_name or 'module'} has no {name}")
        return self.attributes[name]

    def part(self, name: str) -> Module:
        """A module within. Raises ValueError if it is missing."""
        found = self._parts("_modules").get(name)
        if not isinstance(found, Module):
            raise ValueError(f"its {self.class_name or 'module'} has no {name}")
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """The parameters and buffers, those of modules within by their paths, with dots between.

        Raises:
            ValueError: one is no array, or there are too many modules.
        """
        found = {}
        for i, (path, name, value) in enumerate(self._walk(())):
            if i > _MOST_PARTS:
                raise ValueError(f"it has more than {_MOST_PARTS:,} parameters and modules")
            if value is not None and not isinstance(value, np.ndarray):
                raise ValueError(f"its {'.'.join((*path, name))} is a {type(value).__name__}")
            if value is not None:
                found[".".join((*path, name))] = value
        return found

    def _walk(self, path: tuple) -> Iterator[tuple[tuple, str, Any]]:
        if len(path) > _MOST_DEPTH:
            raise ValueError("its modules are nested without end")
        yield path, "", None  # so that modules without parameters count too
        for kind in ("_parameters", "_buffers"):
            for name, value in self._parts(kind).items():
                yield path, name, value
        for name, module in self._parts("_modules").items():
            if isinstance(module, Module):
                yield from module._walk((*path, name))
            elif module is not None:
                raise ValueError(f"its {'.'.join((*path, name))} is a {type(module).__name__}")

    def _parts(self, kind: str) -> dict[str, Any]:
        found = self.attributes.get(kind, {})
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise ValueError(f"its {kind} are not named")
        return found


def read(path: str | PathLike) -> dict[str, Any]:
    """What `pickle.dump` wrote of a dictionary: its networks as a `Module`, its tensors as arrays.

    Raises:
        FileNotFoundError, PermissionError: as `open` does.
        ValueError: the file is damaged, or holds names that such a file has not. One line; nothing
            was executed.
    """
    path = Path(path)
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        try:
            content = _Unpickler(file, _no_storage, size).load()
            if not isinstance(content, dict):
                raise ValueError("it holds no dictionary")
            return content
        except torch_file.Refused as error:
            raise ValueError(f"{path} is refused: {error}") from None
        except Exception as error:  # whatever a damaged file makes the parsers raise
            raise ValueError(
                f"{path} is damaged or is no pickle of EDM ({reason(error)})"
            ) from error


def _no_storage(*_: Any) -> Any:
    raise ValueError("it refers to a storage of torch.save")


def _reconstruct(meta: Any) -> Module:
    """Of `persistence`: the attributes; `module_src` is not read."""
    if not isinstance(meta, dict) or meta.get("type") != "class":
        raise ValueError("an object whose class is not stored")
    name, state = meta.get("class_name"), meta.get("state")
    if not isinstance(name, str) or len(name) > 100 or not isinstance(state, dict | None):
        raise ValueError("an object without a name or attributes")
    return Module(name, state)


class _Opaque:
    """A value that is not needed, such as a statistic of the autoencoder."""

    def __init__(self, *_: Any):
        pass


def _opaque(*_: Any) -> _Opaque:
    return _Opaque()


def _encoded(text: Any, encoding: Any) -> bytes:
    """A string of bytes, as protocol 2 writes it."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("a string of bytes in another encoding")
    return text.encode("latin1")


_NUMPY = [
    (f"numpy{core}", name)
    for core in (".core.multiarray", "._core.multiarray", ".core.numeric", "._core.numeric", "")
    for name in ("_reconstruct", "scalar", "ndarray", "dtype", "_frombuffer")
]
_NAMES = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _reconstruct,
    **dict.fromkeys([("dnnlib.util", "EasyDict"), ("dnnlib", "EasyDict")], dict),
    ("torch.nn.modules.container", "ModuleDict"): lambda: Module(),
    **dict.fromkeys(_NUMPY, _opaque),
    ("torch", "device"): _opaque,
    ("_codecs", "encode"): _encoded,
    **dict.fromkeys([("builtins", "set"), ("__builtin__", "set")], _opaque),  # of protocol 2
}


class _Unpickler(torch_file.Unpickler):
    """Knows also the operations and names of objects, whose attributes it sets on a `Module` alone.

    size: of the file, which bounds that of its tensors.
    """

    def _build(self):
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Module):
            if not isinstance(state, dict):
                raise ValueError("a module whose attributes have no names")
            target.attributes = state

    def _add_items(self):
        items = self.pop_mark()
        if not all(isinstance(item, str) for item in items):
            raise ValueError("a set holds more than names")
        self.stack[-1].update(items)

    def _bytearray(self):
        self.stack.append(self.read(int.from_bytes(self.read(8), "little")))

    _more = (
        *(pickle.BINBYTES, pickle.SHORT_BINBYTES, pickle.BINBYTES8, pickle.EMPTY_SET),
        pickle.BINUNICODE8,
    )
    dispatch: ClassVar = {
        **torch_file.Unpickler.dispatch,
        **{code[0]: pickle._Unpickler.dispatch[code[0]] for code in _more},
        pickle.NEWOBJ[0]: torch_file.Unpickler.dispatch[pickle.REDUCE[0]],  # as a call
        pickle.BUILD[0]: _build,
        pickle.ADDITEMS[0]: _add_items,
        pickle.BYTEARRAY8[0]: _bytearray,
    }

    def __init__(self, file, load, size):
        super().__init__(file, load)
        self._left = size

    def find_class(self, module, name):
        if (module, name) == ("torch.storage", "_load_from_bytes"):
            return self._storage
        if (module, name) in _NAMES:
            return _NAMES[module, name]
        return super().find_class(module, name)

    def _storage(self, stream: Any) -> Any:
        """A storage of the older layout of torch.save, in a string of bytes."""
        if not isinstance(stream, bytes):
            raise ValueError("a storage that is no string of bytes")
        self._left -= len(stream)  # a string can be referred to many times
        if self._left < 0:
            raise ValueError("its storages are longer than the file")
        return torch_file.read_sequence(io.BytesIO(stream), len(stream))
