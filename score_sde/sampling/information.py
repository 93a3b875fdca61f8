r"""Log-densities by the error of a denoiser at all noise levels (the I-MMSE identity).

With s the SNR and mse(x, s) = E|x - D(x_t)|^2 over the noise at one x (Kong et al. 2023,
arXiv:2302.03792, eq. 9), for the exact D

    -ln p(x) = -ln N(x; 0, I) - 1/2 \int_0^oo [(|x|^2 + d s)/(1 + s)^2 - mse(x, s)] ds.

The first term in the brackets is the mse of the denoiser of N(0, I). A process has the SNRs from
s_T to s_0 alone. What is beyond them is put in so that the result stays a lower bound of ln p(x)
for the model that draws x_T from the prior, goes back by any D, and ends with
x = (x_0 + sigma z)/alpha, x_0 its value at t_min:

    -ln p(x) <= KL(q(x_T | x) || prior) + 1/2 \int mse ds, from s_T to s_0, + d/2 ln(2 pi e / s_0).

The last term is what the integral above s_0 gives where the density does not change within the
noise of t_min: there mse is d/s. As s_T -> 0 and s_0 -> oo the bound becomes the identity.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.processes import SDE
from score_sde.sampling.quadrature import FINE, Rule, over_log_snr
from score_sde.sampling.variational import prior_divergence
from score_sde.solvers.exponential import check_ends
from score_sde.types import Denoiser, Keys, each_with, expand, normal, uniform

INWARDS = "move that end of the process a little inwards"


def information(
    key: Keys,
    process: SDE,
    denoiser: Denoiser,
    x: Float[Array, "b ..."],
    *,
    draws: int = 16,
    location: float = 2.0,
    scale: float = 2.0,
) -> Float[Array, " b"]:
    """An unbiased estimate of the lower bound of ln p(x) above, nats.

    key: one, or a typed one for each example.
    draws: log-SNRs, one in each of as many equally likely parts; each costs an evaluation.
    location, scale: of the logistic law of log-SNRs, between the ends of the process. They change
        the spread alone. The integrand falls as e^-|log-SNR|, so a scale above 1 has it bounded.

    Raises:
      ValueError: draws is less than 1, scale is not above 0, or a log-SNR is infinite at an end.
    """
    check_ends(process, "the information bound", INWARDS)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}")
    if not scale > 0:
        raise ValueError(f"scale must be above 0, not {scale}")
    low, high = (jax.nn.sigmoid((end - location) / scale) for end in _ends(process, x.dtype))

    def at(inputs):
        i, keys = inputs
        key_time, key_noise = each_with(keys, jax.random.split, 2)
        u = (i.astype(x.dtype) + uniform(key_time, x.shape[:1], x.dtype)) / draws
        p = low + (high - low) * u
        log_snr = location + scale * (jnp.log(p) - jnp.log1p(-p))
        density = p * (1 - p) / (scale * (high - low))
        nu = normal(key_noise, x.shape, x.dtype)
        return _saved(process, denoiser, x, log_snr, nu) / density

    found = jax.lax.map(at, (jnp.arange(draws), each_with(key, jax.random.split, draws)))
    return _of_normal(process, x) + jnp.mean(found, axis=0)


def by_quadrature(
    process: SDE, denoiser: Denoiser, x: Float[Array, "b d"], rule: Rule = FINE
) -> Float[Array, " b"]:
    """The same bound without chance, for x of one or two dimensions.

    Raises:
      ValueError: x has more dimensions, or a log-SNR is infinite at an end.
    """
    check_ends(process, "the information bound", INWARDS)

    def saved(x, log_snr, nu):
        return _saved(process, denoiser, x, log_snr, nu)

    return _of_normal(process, x) + over_log_snr(process, saved, x, rule)


def _saved(
    process: SDE, denoiser: Denoiser, x: Array, log_snr: Float[Array, " b"], nu: Array
) -> Float[Array, " b"]:
    """s/2 (|x - R|^2 - |x - D|^2), R the denoiser of N(0, I), both of the same noise: the integrand
    in the log-SNR. At both ends D and R become the same, and so do their errors."""
    t = process.t_of_log_snr(log_snr)
    ours = x - denoiser(process.noised(x, nu, t), t)
    # R = sqrt(s) y/(1 + s) of y = sqrt(s) x + nu, and the expectation of its squared error
    share, root = expand(jax.nn.sigmoid(-log_snr), x), expand(jnp.exp(log_snr / 2), x)
    theirs = share * (x - root * nu)
    squares = [jnp.sum(a.reshape(len(a), -1) ** 2, axis=1) for a in (theirs, ours)]
    return jnp.exp(log_snr) * (squares[0] - squares[1]) / 2


def _of_normal(process: SDE, x: Float[Array, "b ..."]) -> Float[Array, " b"]:
    """The bound where mse is that of the denoiser of N(0, I), in closed form."""
    low, high = _ends(process, x.dtype)
    squares, d = jnp.sum(x.reshape(len(x), -1) ** 2, axis=1), x[0].size
    inside = (squares - d) * (jax.nn.sigmoid(-low) - jax.nn.sigmoid(-high)) / 2
    # d/2 ln((1 + s_0)/(1 + s_T)) + d/2 ln(2 pi e / s_0)
    logs = jax.nn.softplus(-high) - jax.nn.softplus(low) + math.log(2 * math.pi) + 1
    return -prior_divergence(process, x) - inside - d / 2 * logs


def _ends(process: SDE, dtype) -> tuple[Array, Array]:
    """The least and the greatest log-SNR."""
    low, high = (process.log_snr(jnp.asarray(t, dtype)) for t in (process.t_max, process.t_min))
    return low, high
