"""The steps of a sampler of few steps, at the quantiles of a law of t."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from score_sde.processes import SDE, Time
from score_sde.training.time_law import TimeLaw


def step_times(
    law: TimeLaw, sde: SDE, index: Float[Array, " b"], count: Float[Array, "..."]
) -> tuple[Time, Time, Time]:
    """Where step `index` of `count`, whole numbers, begins, has its middle, and ends. Step 0 ends
    at t_min, step count - 1 begins at t_max; the middles are ends of steps of twice the count."""

    def quantile(part):
        return jnp.clip(law.quantile(sde, (index + part) / count), sde.t_min, sde.t_max)

    return quantile(1.0), quantile(0.5), quantile(0.0)


def check_spans(law: TimeLaw, sde: SDE) -> None:
    """Raises a ValueError unless the law's quantiles 0 and 1 are the ends of the process, so that
    a sampler can take the steps."""
    with jax.ensure_compile_time_eval():
        found = np.asarray(law.quantile(sde, jnp.array([0.0, 1.0])), float)
    ends = np.array([sde.t_min, sde.t_max])
    if not np.allclose(found, ends, rtol=1e-3, atol=1e-6 * (sde.t_max - sde.t_min)):
        raise ValueError(
            f"the quantiles of this time_law go from {found[0]:g} to {found[1]:g}, and steps must "
            f"go from t_min={sde.t_min:g} to t_max={sde.t_max:g}: take uniform or log_snr_uniform"
        )
