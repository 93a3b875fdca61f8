"""Whether the numbers of a config are where they may be."""

from __future__ import annotations

import math
import operator

from ml_collections import ConfigDict

from score_sde.config import check_finite
from score_sde.errors import ConfigError

# The least and the greatest value of numbers that nothing else looks at.
_RANGES = {
    "seed": (0, 2**32 - 1),  # a key holds 32 bits
    "sampling.steps": (1, 10**6),
    **dict.fromkeys(
        (
            *("train.batch_size", "train.log_every", "train.checkpoint_every"),
            *("sampling.num_samples", "sampling.batch_size", "likelihood.batch_size"),
            *("watermark.batch_size", "encode.batch_size"),
        ),
        (1, math.inf),
    ),
    **dict.fromkeys(
        (
            *("train.steps_per_call", "train.sample_every", "train.spike_after"),
            *("train.max_skipped", "optim.learning_rate", "optim.warmup", "optim.clip"),
            *("sampling.t_min", "evaluate.reservoir", "watermark.decoder_steps"),
        ),
        (0, math.inf),
    ),
}
_POSITIVE = (
    *("sampling.tolerance", "likelihood.rtol", "likelihood.atol"),
    "solvers.reference_tolerance",
)


def check_numbers(config: ConfigDict) -> None:
    """Whether every number of a config is finite and where it may be.

    Raises:
      ConfigError: one is not.
    """
    check_finite("", config.to_dict())
    for name, (least, most) in _RANGES.items():
        value = operator.attrgetter(name)(config)
        if value is not None and not least <= value <= most:
            wanted = f"at least {least}" if most == math.inf else f"from {least} to {most}"
            raise ConfigError(f"{name} must be {wanted}, not {value}")
    for name in _POSITIVE:
        if not (value := operator.attrgetter(name)(config)) > 0:
            raise ConfigError(f"{name} must be above 0, not {value}")
