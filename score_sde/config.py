"""The door between configs and code: `build` turns a name and options into an object."""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from score_sde.errors import ConfigError


@contextlib.contextmanager
def at(part: str):
    """Turns a ValueError of what a config describes into a ConfigError that names the part."""
    try:
        yield
    except ValueError as error:
        if type(error) is not ValueError:
            raise
        raise ConfigError(f"{part}: {' '.join(str(error).split())}") from error


def check_finite(where: str, value: Any) -> None:
    """Raises a ConfigError of a number that is not finite, anywhere in what a config nests."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            check_finite(f"{where}.{key}" if where else key, inner)
    elif isinstance(value, tuple | list):
        for inner in value:
            check_finite(where, inner)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{where} must be finite, not {value}")


def parse(
    spec: str | Mapping[str, Any], known: Callable[[], list[str]] | None = None
) -> tuple[str, dict[str, Any]]:
    """Splits a spec into name and options.

    A spec is a mapping `{"name": "VP", "beta_max": 20.0}` or its short form, a call with literal
    arguments: `"VP(beta_max=20.0)"`, `"heun"`. Nothing in it is executed.

    known: the right names, for the message about a short form that cannot be read.

    Raises:
      ConfigError: the short form is not a name with literal keyword arguments, or one of them is
        not finite.
    """
    if isinstance(spec, str):
        name, options = _parse_call(spec, known)
    else:
        options = dict(spec)
        if "name" not in options:
            raise ConfigError(f"{options} lacks the field 'name'")
        name = options.pop("name")
    check_finite(name, options)
    return name, options


def call(name: str, options: Mapping[str, Any]) -> str:
    """The short form of a spec, which `parse` reads: `name(key=value, ...)`."""
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in options.items())})"


def _parse_call(spec: str, known: Callable[[], list[str]] | None) -> tuple[str, dict[str, Any]]:
    try:
        tree = ast.parse(spec.strip(), mode="eval").body
        if isinstance(tree, ast.Call) and not tree.args and all(k.arg for k in tree.keywords):
            keywords = {str(k.arg): ast.literal_eval(k.value) for k in tree.keywords}
            return ast.unparse(tree.func), keywords
        if isinstance(tree, ast.Name | ast.Attribute):
            return ast.unparse(tree), {}
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: deep nesting
        pass
    word = spec.partition("(")[0].strip().replace("+", "p")  # dpm++ is dpmpp in code
    hint = f"; {suggest(word, known())}" if known else ""
    raise ConfigError(f"{spec!r} should read name or name(option=value, ...){hint}")


def build(
    package: str | ModuleType, spec: str | Mapping[str, Any], *args: Any, **fixed: Any
) -> Any:
    """Calls what `spec` names in `score_sde.<package>` with args, fixed and the spec's options.

    `build("processes", "VP(beta_max=20.0)")` calls `score_sde.processes.VP(beta_max=20.0)`, and
    `build("nets", {"name": "ncsnpp.NCSNpp", "nf": 64})` imports `score_sde.nets.ncsnpp` first.
    A name without a dot can be that of a file and of what it defines: "pixels" in `codecs` is
    `codecs.pixels.pixels`. There is no registry: whatever is public in the module can be named. The
    package may be a module from elsewhere too, such as `optax`.

    Raises:
      ConfigError: a wrong name (the message lists the right ones) or a wrong option (it names the
        option, the callable and its fields).
    """
    name, options = parse(spec, lambda: names(_whole(package)))
    called, target = _find(package, name)
    fields = inspect.signature(target).parameters
    known = [key for key in list(fields)[len(args) :] if key not in fixed]
    for option in options:
        if option not in known:
            raise ConfigError(f"{called}: {name} has no field {option!r}; {suggest(option, known)}")
    missing = [
        key
        for key in known
        if key not in options and fields[key].default is inspect.Parameter.empty
    ]
    if missing:
        raise ConfigError(f"{called}: {name} needs the field(s) {', '.join(missing)}")
    try:
        return target(*args, **fixed, **options)
    except MemoryError as error:
        raise ConfigError(f"{name}: {options} asks for more memory than there is") from error
    except (ValueError, TypeError) as error:
        # Other subclasses (a DataError, say) tell their own story.
        if type(error) in (ValueError, TypeError):
            raise ConfigError(f"{name}: {error}") from error
        raise


def fields(package: str | ModuleType, spec: str | Mapping[str, Any]) -> set[str]:
    """The names of the parameters of what `build` would call."""
    return set(inspect.signature(_find(package, parse(spec)[0])[1]).parameters)


def _find(package: str | ModuleType, name: str) -> tuple[str, Callable[..., Any]]:
    """What messages call the package, and what `name` is in it."""
    whole = _whole(package)
    called = package if isinstance(package, str) else package.__name__
    *submodule, attribute = name.split(".")
    module = whole
    if submodule or not callable(getattr(whole, attribute, None)):
        module = _submodule(whole, submodule or [attribute])
    if module is None or attribute not in _own(module):
        raise ConfigError(f"{called}: unknown name {name!r}; {suggest(name, names(whole))}")
    return called, getattr(module, attribute)


def _whole(package: str | ModuleType) -> ModuleType:
    return importlib.import_module(f"score_sde.{package}") if isinstance(package, str) else package


def _submodule(package: ModuleType, path: list[str]) -> ModuleType | None:
    name = ".".join([package.__name__, *path])
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name and not name.startswith(f"{error.name}."):
            raise
        return None


def names(module: ModuleType) -> list[str]:
    """All that a module offers to configs. A package offers what its modules offer too, as
    `module.name` or, where both are the same, as `name`; one with an `__all__` only the latter."""
    own = _own(module)
    if not hasattr(module, "__path__") or (own and not hasattr(module, "__all__")):
        return own
    found = set(own)
    for info in pkgutil.iter_modules(module.__path__):
        inner = names(importlib.import_module(f"{module.__name__}.{info.name}"))
        found |= {info.name} & set(inner)
        if not own:
            found |= {f"{info.name}.{name}" for name in inner if name != info.name}
    return sorted(found)


def _own(module: ModuleType) -> list[str]:
    """What a module offers itself: its `__all__`, else the callables that it defines."""
    if hasattr(module, "__all__"):
        return sorted(module.__all__)
    return sorted(
        key
        for key, value in vars(module).items()
        if callable(value)
        and not key.startswith("_")
        and getattr(value, "__module__", "").startswith(module.__name__)
    )


def suggest(wrong: str, right: list[str]) -> str:
    """The end of a message about a wrong name."""
    close = difflib.get_close_matches(wrong, right, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}The known ones are: {', '.join(right)}"
