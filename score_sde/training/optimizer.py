"""Learning rates, the optimiser, and what is read off its state."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array


def schedule(name: str, peak: float, warmup: int, steps: int) -> optax.Schedule:
    """The learning rate of step 1, 2, ..., `steps`: rises linearly to `peak` over `warmup` steps,
    and then is "constant" or falls to 0 as a "cosine".

    Raises:
      ValueError: another name.
    """
    if name == "constant":
        rest = optax.constant_schedule(peak)
    elif name == "cosine":
        rest = optax.cosine_decay_schedule(peak, max(steps - warmup, 1))
    else:
        raise ValueError(f"schedule is {name!r}: one of constant, cosine")
    return optax.join_schedules([optax.linear_schedule(0.0, peak, warmup), rest], [warmup])


def adamw(
    rate: optax.Schedule,
    *,
    clip: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> optax.GradientTransformation:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101). The gradient's
    global norm is clipped first; clip 0 for none."""
    adam = optax.adamw(
        lambda count: rate(count + 1),  # the first step has the rate of step 1, not 0
        b1=beta1,
        b2=beta2,
        eps=eps,
        weight_decay=weight_decay,
        # not of biases, norms and the fixed frequencies of Fourier features
        mask=lambda params: jax.tree.map(lambda a: a.ndim > 1, params),
    )
    return optax.chain(optax.clip_by_global_norm(clip) if clip else optax.identity(), adam)


def updates(opt_state: optax.OptState) -> Array:
    """The number of updates that an optimiser's state has made [], which sets its learning rate.
    After an import, or with skipped steps, it is below the step of the parameters."""
    return optax.tree_utils.tree_get_all_with_path(opt_state, "count")[0][1]


def last_rate(rate: optax.Schedule, opt_state: optax.OptState) -> Array:
    """The learning rate of the last update [], on the device, so that nobody waits for it yet."""
    with jax.numpy_dtype_promotion("standard"):  # optax mixes floats and integer counts
        return jnp.asarray(rate(updates(opt_state)))


def recent_gradient_norm(opt_state: optax.OptState, beta2: float) -> tuple[Array, Array]:
    """The root mean square of the clipped gradients' norms over about the last 1 / (1 - beta2)
    updates, and the number of updates so far.

    It is read off Adam's second moments, so it needs no state of its own. In a run whose gradients
    are all clipped it is the clip.
    """
    count = updates(opt_state).astype(jnp.float32)
    weight = 1 - beta2**count  # 0 before the first
    square = optax.tree_utils.tree_sum(optax.tree_utils.tree_get(opt_state, "nu"))
    return jnp.sqrt(square / weight), count
