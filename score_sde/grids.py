"""Grids of times: `(sde, n, **options) -> n + 1 decreasing times from t_max to t_min`."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.sde import SDE
from score_sde.types import Grid

__all__ = ["karras", "log_snr", "uniform"]  # what a config can name


def uniform(sde: SDE, n: int) -> Grid:
    """n + 1 times from t_max to t_min, equally spaced in t. With n = num_steps - 1 these are the
    times of a discrete process."""
    return jnp.linspace(sde.t_max, sde.t_min, n + 1)


def log_snr(sde: SDE, n: int) -> Grid:
    """n + 1 times equally spaced in log-SNR (Lu et al. 2022, arXiv:2206.00927)."""
    ends = sde.log_snr(_ends(sde))
    return _between_ends(sde, sde.t_of_log_snr(jnp.linspace(ends[0], ends[1], n + 1)))


def karras(sde: SDE, n: int, rho: float = 7.0) -> Grid:
    """n + 1 times equally spaced in (sigma/alpha)^(1/rho) (Karras et al. 2022, eq. 5)."""
    ends = jnp.exp(-sde.log_snr(_ends(sde)) / (2 * rho))
    roots = jnp.linspace(ends[0], ends[1], n + 1)
    return _between_ends(sde, sde.t_of_log_snr(-2 * rho * jnp.log(roots)))


def _ends(sde: SDE) -> Float[Array, "2"]:
    return jnp.asarray([sde.t_max, sde.t_min], float)


def _between_ends(sde: SDE, times: Grid) -> Grid:
    """Puts the exact ends in the place of rounded ones."""
    return times.at[jnp.array([0, -1])].set(_ends(sde))
