"""What a network of tokens predicts: probabilities D of the values, from its output F [b, l, v].

The network reads one-hot vectors; a mask is a vector of zeros.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from score_sde.processes import Discrete, Time
from score_sde.types import real_dtype


class TokenParametrization(NamedTuple):
    """values: v, how many a token has.
    c_noise: `(process, t) -> c_noise`, the number that the network sees for the noise level.
    by_evidence: whether softmax(F) is the law of a token given the others, without its own x_t.
    """

    values: int
    c_noise: Callable[[Discrete, Time], Time]
    by_evidence: bool

    def network_input(self, process: Discrete, x_t: Int[Array, "b l"], t: Time) -> Array:
        """One-hot vectors, float32 [b, l, v]."""
        return jax.nn.one_hot(x_t, self.values, dtype=jnp.float32)

    def value(
        self, process: Discrete, x_t: Int[Array, "b l"], t: Time, output: Float[Array, "b l _"]
    ) -> Float[Array, "b l v"]:
        """D."""
        if output.shape[-1] != self.values:
            raise ValueError(
                f"the network gives {output.shape[-1]} numbers for each token, and there are "
                f"{self.values} values: set net.out_channels={self.values}"
            )
        logits = output.astype(real_dtype(output))
        if self.by_evidence:  # added to logits it cannot underflow
            logits = logits + jnp.log(process.evidence(x_t, t, self.values).astype(logits.dtype))
        return jax.nn.softmax(logits, axis=-1)

    def check_values(self, values: int | None) -> None:
        """Raises a ValueError unless x is of tokens of so many values; None are real numbers."""
        if values is None:
            raise ValueError(
                "it is of tokens, and x is of real numbers: set codec='tokens' or 'image_tokens'"
            )
        if values != self.values:
            raise ValueError(f"it has {self.values} values, and the tokens {values}: set {values=}")

    def check(self, process: Discrete) -> None:
        """Raises a ValueError if the process is not of tokens, or of other values, if known tokens
        would change, or if c_noise is infinite at an end."""
        if not process.discrete:
            raise ValueError(f"it is of tokens, and sde is {process}: set sde='Masking'")
        process.check_values(self.values)
        if process.absorbing and not self.by_evidence:
            raise ValueError(
                "with masks it would redraw known tokens: set "
                f"parametrization='without_itself(values={self.values})'"
            )
        for t in process.t_min, process.t_max:
            with jax.ensure_compile_time_eval():
                c_noise = self.c_noise(process, jnp.asarray(t, float))
            if not np.isfinite(c_noise):
                raise ValueError(f"c_noise is {float(c_noise)} at t={t}: set c_noise='time'")


def without_itself(c_noise: Callable[[Discrete, Time], Time], values: int) -> TokenParametrization:
    """softmax(F) is the law of each token given the other tokens of x_t, and its own x_t is joined
    by Bayes' rule: D_k = F_k q(x_t | x_0 = k) / sum.

    Of masks it is the substitution of Sahoo et al. 2024 (arXiv:2406.07524, sec. 3.2.3): known
    tokens are copied. Of `Uniform` it is what the network of Schiff et al. 2024 (arXiv:2412.10193)
    is at the minimum of its loss.
    """
    return TokenParametrization(values, c_noise, True)


def posterior(c_noise: Callable[[Discrete, Time], Time], values: int) -> TokenParametrization:
    """softmax(F) is D itself, the law of each token given all of x_t. For `Uniform`."""
    return TokenParametrization(values, c_noise, False)
