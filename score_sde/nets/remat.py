"""Which results inside a network's blocks are computed again for the gradient, to save memory."""

from __future__ import annotations

import jax

from score_sde.nets.convolution import products_saveable

POLICIES = {
    "none": None,
    "elementwise": products_saveable,
    "all": jax.checkpoint_policies.nothing_saveable,
}
