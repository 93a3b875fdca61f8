"""Where a config of sampling asks for what a network cannot give: errors of one line."""

from __future__ import annotations

from ml_collections import ConfigDict

from score_sde.errors import ConfigError
from score_sde.evaluation import solver_error
from score_sde.experiment.build import Experiment
from score_sde.experiment.requests import guidance_of, reads_conditions
from score_sde.models.guidance import Guidance
from score_sde.types import Grid, Solver


def check_guidance(config: ConfigDict, experiment: Experiment, guidance: Guidance) -> None:
    """Raises a ConfigError of guidance that the network is not made for."""
    tokens = experiment.objective.answers("probabilities")
    if guidance.tokens is not None and guidance.tokens != tokens:
        raise ConfigError(
            f"sampling.guidance={config.sampling.guidance!r} is of "
            + ("real numbers: of tokens take geometric" if tokens else "tokens: take another")
        )
    if guidance.drops and not reads_conditions(config, experiment.conditioner):
        raise ConfigError(
            f"sampling.guidance={config.sampling.guidance!r} needs a network with classes, and "
            "net.num_classes is 0: take classifier or autoguidance, or train one with classes"
        )
    if guidance.drops and not config.sampling.negative and not config.objective.get("drop_cond", 0):
        raise ConfigError(
            f"sampling.guidance={config.sampling.guidance!r} needs a network that has learnt to do "
            "without its condition, and objective.drop_cond is 0: train with 0.1, or set "
            "sampling.negative to what the samples are led away from"
        )
    if unread := set(guidance.numbers) - set(experiment.model.numbers):
        raise ConfigError(
            f"sampling.guidance={config.sampling.guidance!r} needs a network that reads "
            f"{', '.join(unread)}: train one with net.numbers=('guidance',), such as "
            "objective.name='lcm', or take classifier_free"
        )


_WORDS = {
    "moments": "the variance of a step",
    "ends": "the means of both ends",
    "flow_map": "a flow map",
    "denoiser": "a denoiser",
    "probabilities": "probabilities of tokens",
}
_REMEDIES = {
    "moments": "take the variance 'small' or 'large', set sampling.variance='hutchinson', or train "
    "with objective.name='hybrid'",
    "ends": "take ancestral, or train with objective.name='bridge_matching' and objective.second",
    "flow_map": "take another solver, or train a flow map, such as objective.name='mean_flow'",
    "denoiser": "take flow_map, or of tokens unmask",
    "probabilities": "take another solver, or train one of tokens, such as objective.name='masked'",
}


def check_solver(config: ConfigDict, experiment: Experiment, solver: Solver, times: Grid) -> None:
    """Raises a ConfigError of a solver that asks for what the network has not learnt, or that draws
    noise where it must not, and of tokens that are to end with a mean."""
    if solver.asks == "probabilities" and config.sampling.denoise:
        raise ConfigError("tokens have no mean to end with: set sampling.denoise=False")
    asked = solver.asks
    if asked == "tilt":
        _check_tilt(config)
        asked = "denoiser"  # of each law that the guidance combines
    implied = asked == "moments" and config.sampling.variance is not None
    if not (implied or experiment.objective.answers(asked)):
        raise ConfigError(
            f"sampling.solver={config.sampling.solver} asks for {_WORDS[asked]}, which a "
            f"network of objective.name={config.objective.name!r} has not learnt to give: "
            f"{_REMEDIES[asked]}"
        )
    noisy = experiment.objective.noisy
    if asked != "denoiser" or noisy is None:
        return
    if noisy != solver_error.is_stochastic(solver, times):
        raise ConfigError(
            f"sampling.solver={config.sampling.solver} "
            + ("follows the ODE" if noisy else "draws noise")
            + f", and a network of objective.name={config.objective.name!r} is right only for "
            + ("the reverse SDE: take ancestral" if noisy else "the ODE: take ddim or dpmpp")
        )


def _check_tilt(config: ConfigDict) -> None:
    """Raises a ConfigError where a solver with weights has no law to draw from."""
    options = config.sampling
    if guidance_of(config).tilted is None:
        raise ConfigError(
            f"sampling.solver={options.solver} draws from the law that guidance is after, and "
            f"sampling.guidance={options.guidance!r} has none: take classifier_free or "
            "autoguidance with a weight alone, or classifier"
        )
    for field in ("threshold", "variance", "window"):
        if options[field] is not None:
            raise ConfigError(
                f"sampling.{field}={options[field]} changes the law that "
                f"sampling.solver={options.solver} draws from: leave it out"
            )
