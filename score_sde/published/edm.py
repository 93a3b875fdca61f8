"""Pickles of EDM and EDM2: `describe` tells what a file holds, and `load` reads its weights."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import numpy as np

from score_sde.nets.edm import DhariwalUNet, SongUNet
from score_sde.nets.edm2 import EDM2UNet
from score_sde.published.edm_pickle import Module, read
from score_sde.published.matching import (
    Imported,
    Name,
    fit,
    from_torch,
    parameter_shapes,
    require_same,
)

_NETS = {"SongUNet": SongUNet, "DhariwalUNet": DhariwalUNet, "UNet": EDM2UNet}
# Options of their constructors whose names or values differ from our fields, or that we have not.
_RENAMED = {"label_dim": "num_classes"}
_OF_IMAGES = ("img_resolution", "img_channels", "in_channels", "out_channels")
_OUR_OWN = ("dtype", "remat", "parent", "name")  # fields without a counterpart there
_MOST_LEVELS, _MOST_BLOCKS = 20, 100
_LARGEST = 100_000  # no option of a network is larger


class Description(NamedTuple):
    """What a file says of its model, in the words of a config.

    net: fields of the network, with its name. sde, parametrization, c_noise: specs. image_size:
    pixels. classes: 0 for a network without labels. t_min, t_max: the range of sigma to sample.
    """

    net: dict[str, Any]
    sde: str
    parametrization: str
    c_noise: str
    image_size: int
    channels: int
    classes: int


def describe(path: Path) -> Description:
    """What network a file holds, and the coefficients around it.

    Raises:
        FileNotFoundError, PermissionError: as `open` does. ValueError: the file is damaged, would
            need code to be executed, or holds another network. One line.
    """
    return _describe(path, _network_of(path))


def load(path: Path, net: nn.Module, shape: tuple[int, ...]) -> Imported:
    """The averaged weights of a file, the only ones that it has; it tells no step.

    Raises:
        ValueError: as `describe`; `net` is not the network of the file; the weights do not fit.
    """
    outer = _network_of(path)
    description = _describe(path, outer)
    fields = {key: value for key, value in description.net.items() if key != "name"}
    expected = _NETS[_inner(path, outer)[1].class_name](**fields)
    if type(net) is not type(expected):
        raise ValueError(
            f"{path} holds a {type(expected).__name__}, and net is a {type(net).__name__}"
        )
    require_same(path, net, expected, "edm2" if isinstance(net, EDM2UNet) else "edm")
    given = _arrays(path, outer)
    names, arrays = {}, {}
    for theirs, value in given.items():
        ours = _our_name(theirs, description.image_size)
        names[ours], arrays[theirs] = theirs, from_torch(value)
    if outer.class_name == "iDDPMPrecond":  # the other half predicts the variance
        for theirs in arrays:
            if re.search(r"(out|aux)_conv\.\w+$", theirs):
                arrays[theirs] = arrays[theirs][..., : description.channels]
    kind = "EDM2" if isinstance(net, EDM2UNet) else "EDM"
    params = fit(path, parameter_shapes(net, shape), names, arrays)
    return Imported(f"{kind}, {outer.class_name}", path, params, None, 0)


def _network_of(path: Path) -> Module:
    """The averaged network of a file."""
    found = read(path).get("ema")
    if not isinstance(found, Module):
        raise ValueError(f"{path} holds no network under the name ema")
    return found


def _inner(path: Path, outer: Module) -> tuple[str, Module]:
    """The network within its preconditioning, and its name there."""
    for name in ("model", "unet"):
        if name in outer.attributes.get("_modules", {}):
            inner = outer.part(name)
            if inner.class_name in _NETS:
                return name, inner
            raise ValueError(f"{path} holds a network of class {inner.class_name}, not one of EDM")
    raise ValueError(f"{path} holds a {outer.class_name}, not a network of EDM")


def _describe(path: Path, outer: Module) -> Description:
    if outer.class_name not in _PRECONDITIONINGS:
        raise ValueError(
            f"{path} holds a {outer.class_name}: known are {', '.join(_PRECONDITIONINGS)}"
        )
    try:
        inner = _inner(path, outer)[1]
        sde, parametrization, c_noise = _PRECONDITIONINGS[outer.class_name](outer)
        net = {"name": _MODULES[inner.class_name], **_fields(inner)}
        if inner.class_name == "UNet":
            net["logvar_channels"] = _numbers(outer.part("logvar_fourier"), "freqs")
        sizes = [_whole(outer[key]) for key in ("img_resolution", "img_channels", "label_dim")]
        _NETS[inner.class_name](**{key: value for key, value in net.items() if key != "name"})
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} describes no network of EDM: {error}") from error
    return Description(net, sde, parametrization, c_noise, *sizes)


_MODULES = {
    "SongUNet": "edm.SongUNet",
    "DhariwalUNet": "edm.DhariwalUNet",
    "UNet": "edm2.EDM2UNet",
}


def _fields(inner: Module) -> dict[str, Any]:
    """The fields of our network from the options of their constructor."""
    options = inner["_init_kwargs"]
    if not isinstance(options, dict) or inner.attributes.get("_init_args"):
        raise ValueError("the options of its network are not named")
    known = _NETS[inner.class_name].__dataclass_fields__
    fields = {}
    for option, value in options.items():
        if option in _OF_IMAGES or option == "label_dropout":
            continue
        field = _RENAMED.get(option, option)
        if field not in known or field in _OUR_OWN:
            raise ValueError(f"its network has the option {option!r}, which is not known here")
        fields[field] = _plain(option, value, known[field].default)
    return fields


def _plain(option: str, value: Any, like: Any) -> Any:
    """A small number, a word or a tuple of whole numbers, of the type of our default."""
    if not _is_like(value, like):
        raise ValueError(f"its option {option} should be like {like!r}")
    entries = tuple(value) if isinstance(value, list | tuple) else (value,)
    if any(isinstance(entry, int | float) and not abs(entry) <= _LARGEST for entry in entries):
        raise ValueError(f"its option {option} is above {_LARGEST:,}")
    most = _MOST_BLOCKS if option == "num_blocks" else _LARGEST
    if len(entries) > _MOST_LEVELS or (isinstance(value, int) and value > most):
        raise ValueError(f"its option {option} asks for too many blocks")
    return entries if isinstance(like, tuple) else value


def _is_like(value: Any, like: Any) -> bool:
    if isinstance(like, tuple):
        return isinstance(value, list | tuple) and all(type(entry) is int for entry in value)
    if isinstance(like, float):  # such as clip_act, for which None is no limit
        return value is None or type(value) in (int, float)
    if like is None:
        return value is None or type(value) is int
    return type(value) is type(like)


def _numbers(module: Module, buffer: str) -> int:
    """How many numbers a buffer holds."""
    array = module.arrays().get(buffer)
    if array is None or array.ndim != 1:
        raise ValueError(f"its {buffer} are not a list of numbers")
    return len(array)


def _whole(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value <= _LARGEST:
        raise ValueError("a size of its images is no whole number")
    return value


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("a constant of its preconditioning is no number")
    return float(value)


# `the preconditioned network -> (sde, parametrization, c_noise)` as specs (Karras et al. 2022, tab.
# 1). With x_t = alpha (x_0 + s z), a variance preserving process scales the input by 1/sqrt(s^2+1).


def _edm(outer: Module) -> tuple[str, str, str]:
    sigma_data = _number(outer["sigma_data"])
    low, high = (outer.attributes.get(key) for key in ("sigma_min", "sigma_max"))
    low = 0.002 if not low else _number(low)  # the file allows every sigma, a sampler does not
    high = 80.0 if high in (None, math.inf) else _number(high)
    return (
        f"EDM(t_min={low}, t_max={high})",
        f"edm(sigma_data={sigma_data})",
        "quarter_log_sigma",
    )


def _vp(outer: Module) -> tuple[str, str, str]:
    low, rise, first = (_number(outer[key]) for key in ("beta_min", "beta_d", "epsilon_t"))
    scale = _number(outer["M"]) - 1
    return f"VP(beta_min={low}, beta_max={low + rise}, t_min={first})", "eps", f"time({scale=})"


def _ve(outer: Module) -> tuple[str, str, str]:
    low, high = (_number(outer[key]) for key in ("sigma_min", "sigma_max"))
    return f"EDM(t_min={low}, t_max={high})", "score(scaled=True)", "log_half_sigma"


def _iddpm(outer: Module) -> tuple[str, str, str]:
    steps = _whole(outer["M"])
    if [_number(outer[key]) for key in ("C_1", "C_2")] != [0.001, 0.008]:
        raise ValueError("its C_1 and C_2 are not 0.001 and 0.008")
    sde = f'DDPM(num_steps={steps}, schedule="cosine")'
    return sde, "eps", f"nearest_step(num_steps={steps})"


_PRECONDITIONINGS = {
    "EDMPrecond": _edm,
    "VPPrecond": _vp,
    "VEPrecond": _ve,
    "iDDPMPrecond": _iddpm,
    "Precond": _edm,  # of EDM2
}


def _arrays(path: Path, outer: Module) -> dict[str, np.ndarray]:
    """The parameters by their names, without buffers that are not learnt."""
    try:
        given = outer.arrays()
    except ValueError as error:
        raise ValueError(f"{path} does not fit the network: {error}") from error
    return {
        name: value
        for name, value in given.items()
        if not name.endswith("resample_filter") and name != "u"
    }


_LEAVES = {"freqs": "kernel", "weight": "kernel"}


def _our_name(theirs: str, size: int) -> Name:
    """Our name of a parameter: a level in the place of its resolution, and other words for leaves.

    size: of the images at level 0.
    """
    *modules, leaf = theirs.removeprefix("model.").removeprefix("unet.").split(".")
    if modules[:1] in (["enc"], ["dec"]) and len(modules) > 1:
        found = re.fullmatch(r"(\d{1,6})x\d{1,6}_(\w+)", modules[1])
        if found is None or not int(found[1]):
            return tuple(theirs.split("."))  # left over
        level = round(math.log2(size / int(found[1])))
        modules[:2] = [f"{modules[0]}_{level}_{found[2]}"]
    if leaf == "weight" and modules and "norm" in modules[-1]:
        return (*modules, "scale")
    return (*modules, _LEAVES.get(leaf, leaf))
