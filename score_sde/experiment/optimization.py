"""From a config to the optimiser, what is averaged, and which steps are skipped."""

from __future__ import annotations

import optax
from ml_collections import ConfigDict

from score_sde.config import at, build, fields
from score_sde.errors import ConfigError
from score_sde.training import ema, optimizer
from score_sde.training.constraints import constrained
from score_sde.training.state import Unfit, not_finite, spike


def build_optimizer(
    config: ConfigDict,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimiser, and its learning rate by the number of the update, from 1."""
    options, peak = config.optim, config.optim.learning_rate
    left = max(config.train.steps - options.warmup, 1)
    rest = build("training.schedules", options.schedule, peak, left)
    rate = optimizer.warmed_up(rest, peak, options.warmup)
    masks = {"mask", "weight_decay_mask"} & fields(optax, options.optimizer)
    chosen = build(
        optax,
        options.optimizer,
        optimizer.from_one(rate),
        **dict.fromkeys(masks, optimizer.matrices),
    )
    if not isinstance(chosen, optax.GradientTransformation):
        raise ConfigError(f"optim.optimizer={options.optimizer} is no optimiser of optax")
    chosen = constrained(chosen, build("training.constraints", options.constraint))
    return optimizer.clipped(chosen, options.clip, bool(config.train.spike)), rate


def unfit_steps(config: ConfigDict) -> tuple[Unfit, ...]:
    """For which reasons training skips a step.

    Raises:
      ConfigError: train.non_finite or train.spike is none.
    """
    options = config.train
    if options.non_finite not in ("stop", "skip"):
        raise ConfigError(f"train.non_finite is {options.non_finite!r}: one of stop, skip")
    if options.spike and not options.spike > 1:
        raise ConfigError(f"train.spike={options.spike} is no factor above 1, such as 10.0, nor 0")
    reasons: list[Unfit] = [not_finite] if options.non_finite == "skip" else []
    if options.spike:
        reasons.append(spike(options.spike, options.spike_after, optimizer.recent_norm))
    return tuple(reasons)


def build_averages(config: ConfigDict) -> tuple[ema.Average, ...]:
    """What is averaged in training: for each of `train.ema_rates`, then of `train.ema_lengths`.

    Raises:
      ConfigError: the same length twice, or `sampling.ema` is none of them.
    """
    options, wanted = config.train, config.sampling.ema
    rates, lengths = tuple(options.ema_rates), tuple(options.ema_lengths)
    if len(set(lengths)) < len(lengths):
        raise ConfigError(f"train.ema_lengths={lengths} has a length twice")
    if not 0 <= wanted < len(rates) + len(lengths):
        raise ConfigError(
            f"sampling.ema={wanted} is not an index of train.ema_rates={rates}"
            + (f" and then train.ema_lengths={lengths}" if lengths else "")
        )
    with at("train.ema_lengths"):
        powers = [ema.power(length) for length in lengths]
    warmup, ramp = options.ema_warmup, options.ema_ramp
    return *(ema.constant(rate, warmup, ramp) for rate in rates), *powers
