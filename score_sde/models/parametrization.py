"""What a network predicts: the coefficients of `D(x, t) = c_skip x + c_out F(c_in x, c_noise)`.

The functions named for a prediction (`eps`, `x0`, `v`, `score`, `flow`, `edm`) make a
`Parametrization`; the functions at the end say which number tells the network the noise level.
All hold for any affine Gaussian process, variance preserving or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from score_sde.models.token_parametrization import posterior as posterior
from score_sde.models.token_parametrization import without_itself as without_itself
from score_sde.processes import SDE, Time
from score_sde.types import expand

__all__ = [
    "consistency",
    "edm",
    "eps",
    "flow",
    "flow_to_data",
    "log_half_sigma",
    "log_snr",
    "nearest_step",
    "noise_level",
    "posterior",
    "quarter_log_sigma",
    "reversed_label",
    "reversed_time",
    "score",
    "time",
    "v",
    "without_itself",
    "x0",
]  # what a config can name

Conditioning = Callable[[SDE, Time], Time]
"""`(sde, t) -> c_noise`, the number the network sees for the noise level."""


class Parametrization(NamedTuple):
    """The coefficients, functions of `(alpha, sigma)` of the shape of t.

    scales: `-> (c_skip, c_out, c_in)`.
    target: `-> (a, b)`, what F should be, `a x_0 + b z`. It follows from the scales,
        `a = (1 - c_skip alpha) / c_out` and `b = -c_skip sigma / c_out`, but those differences
        cancel where sigma is small, so it is stated in closed form.
    c_noise: `(sde, t) -> c_noise`.
    """

    scales: Callable[[Time, Time], tuple[Time, Time, Time]]
    target: Callable[[Time, Time], tuple[Time, Time]]
    c_noise: Conditioning

    def network_input(self, sde: SDE, x_t: Array, t: Time) -> Array:
        """c_in x, what the network reads."""
        _, _, c_in = self.scales(sde.alpha(t), sde.sigma(t))
        return expand(c_in, x_t) * x_t

    def value(self, sde: SDE, x_t: Array, t: Time, output: Array) -> Array:
        """D of the network's output F, its first channels."""
        c_skip, c_out, _ = self.scales(sde.alpha(t), sde.sigma(t))
        return expand(c_skip, x_t) * x_t + expand(c_out, x_t) * output[..., : x_t.shape[-1]]

    def check_values(self, values: int | None) -> None:
        """Raises a ValueError where x is of tokens, of so many values; None are real numbers."""
        if values is not None:
            raise ValueError(
                f"it is of real numbers, and x is of tokens: set sde='Masking' and "
                f"parametrization='without_itself(values={values})'"
            )

    def check(self, sde: SDE) -> None:
        """Raises a ValueError where a coefficient is infinite at an end of the process, so that a
        network can neither be trained nor asked there, and of a process of tokens."""
        if sde.discrete:
            raise ValueError(
                f"it is of real numbers, and sde is {sde}: set "
                "parametrization='without_itself(values=...)'"
            )
        for t in sde.t_min, sde.t_max:
            with jax.ensure_compile_time_eval():
                time = jnp.asarray(t, float)
                scales = self.scales(sde.alpha(time), sde.sigma(time))
                c_noise = self.c_noise(sde, time)
            for what, number, instead in (
                ("c_skip", scales[0], "let the network predict v, x0, flow or edm"),
                ("c_out", scales[1], "let the network predict v, x0, flow or edm"),
                ("c_noise", c_noise, "set c_noise to time or noise_level"),
            ):
                if not np.isfinite(number):
                    raise ValueError(f"{what} is {float(number)} at t={t} of {sde}: {instead}")


def eps(c_noise: Conditioning) -> Parametrization:
    """F predicts the noise z (Ho et al. 2020)."""
    return Parametrization(
        lambda a, s: (1 / a, -s / a, jnp.ones_like(a)),
        lambda a, s: (jnp.zeros_like(a), jnp.ones_like(a)),
        c_noise,
    )


def x0(c_noise: Conditioning) -> Parametrization:
    """F predicts the data x_0."""
    return Parametrization(
        lambda a, s: (jnp.zeros_like(a), jnp.ones_like(a), jnp.ones_like(a)),
        lambda a, s: (jnp.ones_like(a), jnp.zeros_like(a)),
        c_noise,
    )


def v(c_noise: Conditioning) -> Parametrization:
    """F predicts `alpha z - sigma x_0` (Salimans & Ho 2022, arXiv:2202.00512)."""

    def scales(alpha, sigma):
        power = alpha**2 + sigma**2
        return alpha / power, -sigma / power, jnp.ones_like(alpha)

    return Parametrization(scales, lambda a, s: (-s, a), c_noise)


def score(c_noise: Conditioning, scaled: bool = False) -> Parametrization:
    """F predicts the score, or, `scaled`, the score times sigma (Song et al. 2021)."""
    if scaled:
        return Parametrization(
            lambda a, s: (1 / a, s / a, jnp.ones_like(a)),
            lambda a, s: (jnp.zeros_like(a), -jnp.ones_like(a)),
            c_noise,
        )
    return Parametrization(
        lambda a, s: (1 / a, s**2 / a, jnp.ones_like(a)),
        lambda a, s: (jnp.zeros_like(a), -1 / s),
        c_noise,
    )


def flow(c_noise: Conditioning) -> Parametrization:
    """F predicts `z - x_0`, the velocity of the rectified flow (Lipman et al. 2022)."""
    return Parametrization(
        lambda a, s: (1 / (a + s), -s / (a + s), jnp.ones_like(a)),
        lambda a, s: (-jnp.ones_like(a), jnp.ones_like(a)),
        c_noise,
    )


def flow_to_data(c_noise: Conditioning) -> Parametrization:
    """F predicts `x_0 - z`, the same velocity in the direction from noise to data (SiT,
    arXiv:2401.08740)."""
    return Parametrization(
        lambda a, s: (1 / (a + s), s / (a + s), jnp.ones_like(a)),
        lambda a, s: (jnp.ones_like(a), -jnp.ones_like(a)),
        c_noise,
    )


def edm(c_noise: Conditioning, sigma_data: float = 0.5) -> Parametrization:
    """Unit variance of input and target for data of std sigma_data (Karras et al. 2022, tab. 1)."""

    def std(alpha, sigma):  # of x_t
        return jnp.sqrt(sigma**2 + (alpha * sigma_data) ** 2)

    def scales(alpha, sigma):
        root = std(alpha, sigma)
        return alpha * sigma_data**2 / root**2, sigma * sigma_data / root, 1 / root

    def target(alpha, sigma):
        root = std(alpha, sigma)
        return sigma / (root * sigma_data), -alpha * sigma_data / root

    return Parametrization(scales, target, c_noise)


def consistency(
    c_noise: Conditioning, sigma_data: float = 0.5, t_min: float = 0.002
) -> Parametrization:
    """The consistency function f = c_skip x + c_out F of Song et al. 2023 (arXiv:2303.01469, app.
    C), the jump to the least noise e. With s = sigma/alpha and s_d = sigma_data, of x/alpha,

        c_skip = s_d^2/((s - e)^2 + s_d^2),    c_out = s_d (s - e)/sqrt(s^2 + s_d^2)

    Since f = (e/s) x + (1 - e/s) D, D has

        c_skip = (s_d^2 - e (s - e))/((s - e)^2 + s_d^2),    c_out = s_d s/sqrt(s^2 + s_d^2)

    t_min: e, sigma/alpha at the t_min of the process; with 0 it is `edm`.
    """

    def parts(alpha, sigma):
        above, scaled = sigma - t_min * alpha, alpha * sigma_data
        square = above**2 + scaled**2
        return above, square, (scaled * sigma_data - t_min * above) / square

    def scales(alpha, sigma):
        _, _, c_skip = parts(alpha, sigma)
        root = jnp.sqrt(sigma**2 + (alpha * sigma_data) ** 2)
        return c_skip, sigma * sigma_data / root, 1 / root

    def target(alpha, sigma):
        above, square, c_skip = parts(alpha, sigma)
        root = jnp.sqrt(sigma**2 + (alpha * sigma_data) ** 2) / sigma_data
        return above / square * root, -c_skip * root

    return Parametrization(scales, target, c_noise)


def time(scale: float = 999.0) -> Conditioning:
    """`scale t`: with 999, the label of the continuous VP networks of Song et al. 2021."""
    return lambda sde, t: scale * t


def reversed_time(scale: float = 1.0) -> Conditioning:
    """`scale (1 - t)`: the time of a flow that runs from noise at 0 to data at 1."""
    return lambda sde, t: scale * (1 - t)


def reversed_label(num_steps: int = 1000) -> Conditioning:
    """`round((1 - t)(num_steps - 1))`, the label of the discrete VE networks: 0 is most noise."""
    return lambda sde, t: jnp.round((1 - t) * (num_steps - 1))


def noise_level() -> Conditioning:
    """sigma(t), whose logarithm the Fourier features of the continuous VE networks take."""
    return lambda sde, t: sde.sigma(t)


def quarter_log_sigma(scale: float = 1.0) -> Conditioning:
    """`scale ln(sigma/alpha) / 4` (Karras et al. 2022). Scale 1000 is that of the models of Song et
    al. 2023 (arXiv:2303.01469) with ADM's network."""
    return lambda sde, t: -scale * sde.log_snr(t) / 8


def log_half_sigma() -> Conditioning:
    """`ln(sigma/(2 alpha))`, as EDM tells its VE networks (Karras et al. 2022, tab. 1)."""
    return lambda sde, t: -sde.log_snr(t) / 2 - math.log(2)


def nearest_step(num_steps: int = 1000) -> Conditioning:
    """The number of the step of a chain whose sigma/alpha is nearest, 0 the least noise: as EDM
    tells the networks of iDDPM (Karras et al. 2022, tab. 1, where M - 1 - j is the number)."""

    def nearest(sde, t):
        steps = jnp.linspace(0, 1, num_steps, dtype=t.dtype)
        levels = jnp.exp(-sde.log_snr(steps) / 2)
        middles = (levels[1:] + levels[:-1]) / 2
        return jnp.searchsorted(middles, jnp.exp(-sde.log_snr(t) / 2)).astype(t.dtype)

    return nearest


def log_snr(scale: float = 1.0) -> Conditioning:
    """`scale ln(alpha^2/sigma^2)`: the same number for equal noise on any process."""
    return lambda sde, t: scale * sde.log_snr(t)
