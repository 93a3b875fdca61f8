"""Files as the public code of EDM writes them, made without it and without PyTorch."""

import contextlib
import io
import pickle
import struct
import sys
import types

import numpy as np

SOURCE = "raise SystemExit('the source was executed')"
_KINDS = {"float16": "HalfStorage", "float32": "FloatStorage", "int64": "LongStorage"}


class Call:
    """What a pickle shall call when it is read: the function of this name with these arguments."""

    def __init__(self, name, *arguments):
        self.name, self.arguments = name, arguments

    def __reduce__(self):
        module, _, attribute = self.name.rpartition(".")
        return getattr(sys.modules[module], attribute), self.arguments


class Container:
    """A `torch.nn.ModuleDict`, whose state may hold itself."""

    def __init__(self):
        self.state = {}

    def __reduce__(self):
        return (*Call("torch.nn.modules.container.ModuleDict").__reduce__(), self.state)


@contextlib.contextmanager
def named(*names):
    """Modules with functions of these names, so that pickle writes the names."""
    made = {}
    for name in names:
        module, _, attribute = name.rpartition(".")
        for end in [i for i, letter in enumerate(f"{module}.") if letter == "."]:
            made.setdefault(module[:end], types.ModuleType(module[:end]))
        function = types.FunctionType((lambda *_: None).__code__, {}, attribute)
        function.__module__, function.__qualname__ = module, attribute
        setattr(made[module], attribute, function)
    before = {module: sys.modules.get(module) for module in made}
    sys.modules.update(made)
    try:
        yield
    finally:
        for module, old in before.items():
            if old is None:
                del sys.modules[module]
            else:
                sys.modules[module] = old


def persistent(class_name, state, source=SOURCE):
    """An object that `torch_utils.persistence` stored."""
    meta = {"type": "class", "version": 6, "module_src": source, "class_name": class_name}
    return Call("torch_utils.persistence._reconstruct_persistent_obj", meta | {"state": state})


class _Storages(pickle.Pickler):
    def persistent_id(self, obj):
        return obj if isinstance(obj, tuple) and obj[:1] == ("storage",) else None


def tensor(array):
    """A tensor outside torch.save, whose numbers are a stream of the older layout of it."""
    kind = types.new_class(_KINDS[str(array.dtype)])
    kind.__module__, kind.__qualname__ = "torch", _KINDS[str(array.dtype)]
    stream = io.BytesIO()
    torch = types.ModuleType("torch")
    setattr(torch, kind.__qualname__, kind)
    before = sys.modules.get("torch")
    sys.modules["torch"] = torch
    try:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(part, stream, 2)
        _Storages(stream, 2).dump(("storage", kind, "0", "cpu", array.size, None))
        pickle.dump(["0"], stream, 2)
    finally:
        if before is None:
            del sys.modules["torch"]
        else:
            sys.modules["torch"] = before
    array = np.array(array, order="C")
    stream.write(struct.pack("<q", array.size) + array.tobytes())
    strides = tuple(stride // array.itemsize for stride in array.strides)
    storage = Call("torch.storage._load_from_bytes", stream.getvalue())
    return Call("torch._utils._rebuild_tensor_v2", storage, 0, array.shape, strides, False, {})


def modules(weights):
    """The attributes of modules that hold these weights, whose names have dots between parts."""
    parts, parameters = {}, {}
    for name, array in weights.items():
        head, dot, rest = name.partition(".")
        if dot:
            parts.setdefault(head, {})[rest] = array
        else:
            parameters[name] = tensor(array)
    within = {name: persistent("Part", modules(part)) for name, part in parts.items()}
    return {
        "training": False,
        "_unused": {"name"},
        "_parameters": parameters,
        "_buffers": {},
        "_modules": within,
    }


NAMES = (
    "torch.nn.modules.container.ModuleDict",
    "torch_utils.persistence._reconstruct_persistent_obj",
    "torch.storage._load_from_bytes",
    "torch._utils._rebuild_tensor_v2",
)


def write(path, content, protocol=None):
    """Pickles an object."""
    with named(*NAMES), path.open("wb") as file:
        pickle.dump(content, file, protocol)


def network(kind, inner, options, weights, attributes):
    """The preconditioned network `kind` of a network `inner` with these options and weights."""
    place = "unet" if kind == "Precond" else "model"
    state = modules(weights)
    state["_modules"][place].arguments[0].update(class_name=inner)
    state["_modules"][place].arguments[0]["state"].update(_init_args=(), _init_kwargs=options)
    return persistent(kind, state | attributes)
