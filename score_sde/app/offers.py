"""What a page offers of a model: the controls that it can have, and what they say at first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from score_sde import solvers
from score_sde.app import asking
from score_sde.config import build, names
from score_sde.errors import ReportedError
from score_sde.experiment import requests
from score_sde.experiment.build import Experiment
from score_sde.experiment.sampling_checks import check_guidance, check_solver
from score_sde.media.images import Images
from score_sde.models import guidance
from score_sde.sampling import grids

# of tokens, or of what needs more than a name; each is still to be had by its name
_RARE = {"bridge", "multistep", "shark", "sra1", "pyramid", "feynman_kac", "lms", "pseudo_linear"}


class Offers(NamedTuple):
    """field: of `config.sampling`, which asks for conditions; "" if the network reads none. names:
    of the classes, if they are known. guidances, solvers, grids: what fits this model by a name
    alone, the config's own first. image: the shape of images that edits take, or None. latents:
    whether two examples can be mixed on the ODE. sound: whether a sample can be heard.
    """

    field: str
    names: tuple[str, ...]
    guidances: tuple[str, ...]
    solvers: tuple[str, ...]
    grids: tuple[str, ...]
    image: tuple[int, ...] | None
    latents: bool
    sound: bool


def offers(config: ConfigDict, experiment: Experiment) -> Offers:
    """Of the model of a config. Nothing is compiled."""
    sde, conditioner = requests.sampling_sde(config), experiment.conditioner
    options = config.sampling
    times = requests.build_grid(config)(sde)

    def fitting_solver(name: str) -> None:
        check_solver(config, experiment, build("solvers", name, sde), times)

    def fitting_guidance(name: str) -> None:
        check_guidance(config, experiment, build("models.guidance", name, sde, times))

    def fitting_grid(name: str) -> None:
        build("sampling.grids", name, sde, options.steps)

    reads = requests.reads_conditions(config, conditioner)
    label = experiment.data.features.get("label")
    inner, denoises = experiment.codec.inner, experiment.objective.answers("denoiser")
    own = asking.kind_of(options.guidance)[0]
    pictures = isinstance(experiment.medium, Images) and len(inner.shape) == 3
    return Offers(
        conditioner.field if reads and conditioner.sizes else "",
        label.names if label is not None else (),
        _fitting(own, names(guidance), fitting_guidance),
        _fitting(options.solver, [n for n in names(solvers) if n not in _RARE], fitting_solver),
        _fitting(options.grid, names(grids), fitting_grid),
        tuple(inner.shape) if pictures and denoises else None,
        denoises and _holds(experiment.check_reals),
        experiment.medium.suffix == ".wav",
    )


def _holds(check: Callable[[], None]) -> bool:
    try:
        check()
    except ReportedError:
        return False
    return True


def _fitting(own: str, known: list[str], check: Any) -> tuple[str, ...]:
    """The names that a check finds nothing wrong with, behind the config's own."""
    found = [own]
    for name in known:
        try:
            check(name)
        except (ReportedError, ValueError):
            continue
        found += [name] * (name != own)
    return tuple(found)
