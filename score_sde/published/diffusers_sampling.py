"""How a scheduler of Hugging Face diffusers samples, in the words of a config.

Most schedulers go from each of N steps of the chain to the next. Multistep solvers take N + 1 steps
and leave out the last. Both then go on to no noise at all, which is `sampling.denoise`, or to the
noise of step 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from score_sde.published.diffusers_files import checked, read_json, refuse

CALLS = 50  # of the network, that pipelines of diffusers make by default
_FEW = 15  # with fewer, its multistep solvers lower the order at the end

Fields = dict[str, Any]

# The fields that are read, with their defaults where classes do not differ in them.
_FIELDS = {
    "steps_offset": 0,
    "set_alpha_to_one": True,
    "final_sigmas_type": "zero",
    "skip_prk_steps": False,
    "variance_type": "fixed_small",
    "algorithm_type": "dpmsolver++",
    "solver_order": 2,
    "solver_type": "",
    "predict_x0": True,
    "lower_order_final": True,
    "euler_at_final": False,
    "rescale_betas_zero_snr": False,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_lu_lambdas": False,
    "use_beta_sigmas": False,
}
_CHOICES = {
    "timestep_spacing": ("leading", "linspace", "trailing"),
    "final_sigmas_type": ("zero", "sigma_min"),
    "solver_order": (1, 2, 3),
}
# Fields that ask for a grid that is spaced in noise.
_IN_NOISE = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "log_snr",
    "use_lu_lambdas": "log_snr",
    "use_beta_sigmas": "beta",
}


def own_sampling(scheduler: Path, num_steps: int, calls: int = CALLS) -> Fields:
    """solver, grid, steps and denoise of a config that do what the scheduler of a folder does with
    num_inference_steps=calls. For a class that has no counterpart here they are DPM-Solver++ on its
    steps.

    num_steps: of the chain.

    Raises:
        ValueError: a field makes no sense. One line.
    """
    content = read_json(scheduler)
    kind = _KINDS.get(content["_class_name"], _MULTISTEP)
    defaults = {**_FIELDS, "timestep_spacing": "linspace", **kind.defaults}
    given = {key: content[key] for key in defaults if content.get(key) is not None}
    fields = checked(scheduler, given, defaults, {})
    for field, values in _CHOICES.items():
        if fields[field] not in values:
            refuse(scheduler, fields, field, f"it is one of {', '.join(map(str, values))}")
    to_step_0, calls = kind.to_step_0(fields), min(calls, num_steps - 1)
    solver = kind.solver(fields, to_step_0, calls)
    finite = not fields["rescale_betas_zero_snr"]
    if not finite and solver.startswith(("pndm", "deis")):
        solver = "dpmpp"  # those need a finite log-SNR at their start
    in_noise = [grid for field, grid in _IN_NOISE.items() if fields[field]]
    if in_noise and finite:  # the last of these noise levels is that of step 0 already
        grid, steps = in_noise[0], calls - 1
    else:
        grid, steps = _grid(kind, fields, calls, to_step_0)
    return {"solver": solver, "grid": grid, "steps": steps, "denoise": not to_step_0}


def _grid(kind: _Kind, fields: Fields, calls: int, to_step_0: bool) -> tuple[str, int]:
    """The grid for so many network calls, and how many steps it has."""
    spacing, options = fields["timestep_spacing"], {}
    if spacing == "linspace" and not kind.whole:
        return "uniform", calls - 1  # the same, but for the rounding to whole steps
    if spacing == "linspace" and to_step_0:  # it ends at step 0
        return spacing, calls if kind.multistep else calls - 1
    if spacing == "leading" and fields["steps_offset"]:
        options["offset"] = fields["steps_offset"]
    if spacing != "trailing" and kind.multistep:
        options["dropped"] = 1
    if to_step_0 and spacing == "leading" and not options:  # it ends there too
        return spacing, calls - 1
    if to_step_0:
        options["last"] = 0
    return _call(spacing, options), calls if to_step_0 else calls - 1


def _dpmpp(fields: Fields, to_step_0: bool, calls: int) -> str:
    options = _order(fields)
    if fields["solver_type"] == "heun":
        options["slope"] = "exact"
    stochastic = fields["algorithm_type"].startswith("sde")
    options |= _ending(fields, to_step_0, calls)
    return _call("dpmpp_sde" if stochastic else "dpmpp", options)


def _deis(fields: Fields, to_step_0: bool, calls: int) -> str:
    options = {"order": fields["solver_order"], "variable": "log_rho"}
    return _call("deis", options | _ending(fields, to_step_0, calls))


def _ending(fields: Fields, to_step_0: bool, calls: int) -> Fields:
    """The order of the last step. Few steps end with orders 2 and 1, and the denoising is a step of
    order 1."""
    few = fields["lower_order_final"] and calls < _FEW
    if to_step_0:
        return {"end_order": 1} if few or fields["euler_at_final"] else {}
    return {"end_order": 2} if few and fields["solver_order"] > 2 else {}


def _unipc(fields: Fields, to_step_0: bool, calls: int) -> str:
    options = _order(fields)
    if fields["solver_type"] == "bh1":
        options["variant"] = "bh1"
    if not fields["predict_x0"]:
        options["prediction"] = "eps"
    if not fields["lower_order_final"]:
        options["end_order"] = None
    elif not to_step_0:
        options["end_order"] = 2  # the step after it, of order 1, is the denoising
    return _call("unipc", options)


def _order(fields: Fields) -> Fields:
    return {} if fields["solver_order"] == 2 else {"order": fields["solver_order"]}


def _pndm(fields: Fields, to_step_0: bool, calls: int) -> str:
    return _call("pndm", {"skip_prk": True} if fields["skip_prk_steps"] else {})


def _ancestral(fields: Fields, to_step_0: bool, calls: int) -> str:
    large = fields["variance_type"].startswith("fixed_large")
    return _call("ancestral", {"variance": "large"} if large else {})


def _named(name: str) -> Callable[[Fields, bool, int], str]:
    return lambda fields, to_step_0, calls: name


def _call(name: str, options: Fields) -> str:
    arguments = ", ".join(f"{key}={value!r}" for key, value in options.items())
    return f"{name}({arguments})" if arguments else name


class _Kind(NamedTuple):
    """What a class of schedulers does.

    solver: `(fields, to_step_0, calls) -> str`, ours. to_step_0: whether it ends with the
    noise of step 0. multistep: whether it leaves out the last of N + 1 steps. whole: whether its
    steps are whole numbers. defaults: of fields.
    """

    solver: Callable[[Fields, bool, int], str]
    to_step_0: Callable[[Fields], bool]
    multistep: bool = False
    whole: bool = True
    defaults: Mapping[str, Any] = MappingProxyType({})


def _never(fields: Fields) -> bool:
    return False


def _by_alpha(fields: Fields) -> bool:
    return not fields["set_alpha_to_one"]


def _by_sigma(fields: Fields) -> bool:
    return fields["final_sigmas_type"] == "sigma_min"


_LEADING = {"timestep_spacing": "leading"}
_MULTISTEP = _Kind(_dpmpp, _by_sigma, multistep=True)
_KINDS = {
    "DDPMScheduler": _Kind(_ancestral, _never, defaults=_LEADING),
    "DDIMScheduler": _Kind(_named("ddim"), _by_alpha, defaults=_LEADING),
    "PNDMScheduler": _Kind(_pndm, _by_alpha, defaults={**_LEADING, "set_alpha_to_one": False}),
    "EulerDiscreteScheduler": _Kind(_named("ddim"), _by_sigma, whole=False),
    "EulerAncestralDiscreteScheduler": _Kind(_named("euler_ancestral"), _never, whole=False),
    "DPMSolverMultistepScheduler": _MULTISTEP,
    "UniPCMultistepScheduler": _Kind(_unipc, _by_sigma, multistep=True),
    "DEISMultistepScheduler": _Kind(_deis, lambda fields: True, multistep=True),
}
