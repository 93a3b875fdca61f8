"""Which results inside a network's blocks are computed again for the gradient, to save memory."""

from __future__ import annotations

import flax.linen as nn
import jax

from score_sde.nets.convolution import products_saveable

POLICIES = {
    "none": None,
    "elementwise": products_saveable,
    "all": jax.checkpoint_policies.nothing_saveable,
}


def saving_memory(block: type[nn.Module], remat: str) -> type[nn.Module]:
    """The class of blocks `(x, embedding, train)`, under the policy `remat`."""
    policy = POLICIES[remat]
    if policy is None:
        return block
    # argument 3, `train`, must stay a Python value
    return nn.remat(block, static_argnums=(3,), policy=policy)
