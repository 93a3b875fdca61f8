"""Methods that pull every estimate E[x_0 | x_t] towards y by the gradient of the likelihood.

By Bayes and Tweedie, with Cov = Cov[x_0 | x_t],

    E[x_0 | x_t, y] = E[x_0 | x_t] + sigma^2/alpha grad log p(y | x_t)     Cov = sigma^2/alpha J

where J is the Jacobian of the denoiser. The methods approximate p(y | x_t) in different ways.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from score_sde.inverse.method import Method
from score_sde.inverse.observation import Known, Observation, known
from score_sde.processes import SDE
from score_sde.types import Denoiser, Solver, expand

__all__ = ["dps", "mmps", "pigdm"]

Product = Callable[[Array], Array]
"""The product of each example's matrix with its vector: [b, ...] -> [b, ...]."""


def posterior(sde: SDE, denoiser: Denoiser, x_t: Array, t: Array) -> tuple[Array, Product]:
    """E[x_0 | x_t], and the product with Cov[x_0 | x_t].

    The product is by forward differentiation. The true Jacobian is symmetric, as a covariance is.
    That of a network is nearly symmetric, and J v is as good as J^T v. Forward products store no
    activations of the network, and XLA is slow with backward ones in `scan` on a CPU. The Jacobian
    of an example must not depend on the other examples.

    A product costs about an evaluation, which `nfe` does not count. Where alpha is 0, x_t tells
    nothing of x_0 and J nothing of its covariance: there the product is 0.
    """
    mean, product = jax.linearize(lambda x: denoiser(x, t), x_t)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    scale = jnp.where(alpha > 0, sigma**2 / jnp.where(alpha > 0, alpha, 1), 0)
    return mean, lambda v: expand(scale, v) * product(v)


def isotropic(sde: SDE, t: Array, data_std: float) -> Array:
    """The variance of x_0 given x_t for data N(m, data_std^2 I)."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    return data_std**2 * sigma**2 / ((alpha * data_std) ** 2 + sigma**2)


def pull(
    seen: Known, mean: Float[Array, "b ..."], variance: Float[Array, "..."]
) -> tuple[Array, Float[Array, " b"]]:
    """log p(y | x_t) for x_0 | x_t ~ N(mean, variance I): its gradient by the mean, and its value
    without the terms that depend only on t. variance: [] or [b]."""
    away = jnp.where(seen.known, seen.mean - seen.svd.right(mean), 0)
    weighted = away / (seen.std**2 + expand(variance, away))
    return seen.svd.right_t(weighted), -_inner(away, weighted) / 2


def pigdm(sde: SDE, observation: Observation, data_std: float = 1.0) -> Method:
    """Pseudo-inverse guidance (Song et al. 2023, "Pseudoinverse-guided diffusion models", sec. 3):

        p(y | x_t) = N(y; A E[x_0 | x_t], noise^2 I + r_t^2 A A^T)

    with r_t^2 = sigma^2 s^2/(alpha^2 s^2 + sigma^2) and s = `data_std`; the paper has s = 1 on a VE
    process. Changes the denoiser; linear A. It is exact for data N(m, s^2 I). For other data it
    trusts its estimate too much where x_0 given x_t varies more than r_t, and too little where it
    varies less. One product with the Jacobian per evaluation.

    An error e in the Jacobian of a network that predicts the noise is one of e (sigma/alpha)^2 in
    Cov; if the network predicts x_0 or v, it is e sigma^2/alpha. At the end of VP an error of 1 %
    thus becomes 200, or 1.5. r_t^2 takes no account of it, and samples diverge. A network that
    predicts the noise needs a lower t_max, or `mmps`, where Cov is in both the numerator and the
    denominator.

    Raises:
      ValueError: A has no SVD.
    """
    seen = known(observation, "pigdm")

    def change(denoiser):
        def denoise(x_t, t):
            mean, covariance = posterior(sde, denoiser, x_t, t)
            gradient, _ = pull(seen, mean, isotropic(sde, t, data_std))
            return mean + covariance(gradient)

        return denoise

    return Method(denoiser=change)


def mmps(sde: SDE, observation: Observation, iterations: int = 5) -> Method:
    """Moment matching (Rozet et al. 2024, "Learning diffusion priors from observations by
    expectation maximization", sec. 4.2, arXiv:2405.13712):

        E[x_0 | x_t, y] = m + Cov A^T (noise^2 I + A Cov A^T)^-1 (y - A m),   m = E[x_0 | x_t]

    The system is solved by `iterations` steps of conjugate gradients. Changes the denoiser; linear
    A. It is exact for Gaussian data with as many iterations as y has numbers; usually far fewer are
    enough. For other data it approximates p(x_0 | x_t) by a Gaussian. iterations + 1 products with
    the Jacobian per evaluation.

    Raises:
      ValueError: A is not linear, or iterations is less than 1.
    """
    apply, adjoint = observation.operator.apply, observation.operator.adjoint
    if adjoint is None:
        raise ValueError("mmps is for linear operators: take dps for others")
    if iterations < 1:
        raise ValueError(f"mmps needs at least 1 iteration, not {iterations}")

    def change(denoiser):
        def denoise(x_t, t):
            mean, covariance = posterior(sde, denoiser, x_t, t)

            def product(v):
                return observation.noise**2 * v + apply(covariance(adjoint(v)))

            residual = observation.y - apply(mean)
            solved = conjugate_gradients(product, residual, iterations)
            return mean + covariance(adjoint(solved))

        return denoise

    return Method(denoiser=change)


def dps(sde: SDE, observation: Observation, step_size: float = 1.0) -> Method:
    """Diffusion posterior sampling (Chung et al. 2022, "Diffusion posterior sampling for general
    noisy inverse problems", alg. 1, arXiv:2209.14687): after every step of the solver

        x_s <- x_s - step_size grad_{x_t} |y - A(E[x_0 | x_t])|

    The paper takes the gradient of the squared norm and divides by the norm, so step_size is twice
    its constant. Changes the solver; any differentiable A and any solver. The gradient is by
    x/sqrt(alpha^2 + sigma^2), which is the same for all processes, and x itself in the paper.
    step_size needs tuning: a finer grid pulls harder, and the noise of y plays no part. One product
    with the Jacobian per step.
    """

    def change(solver):
        def step(noise, denoiser, x, t, s, state):
            mean, covariance = posterior(sde, denoiser, x, t)

            def remembered(x_t, time):  # a solver begins with this evaluation
                return mean if x_t is x and time is t else denoiser(x_t, time)

            end, state = solver.step(noise, remembered, x, t, s, state)
            found, transposed = jax.vjp(observation.operator.apply, mean)
            residual = observation.y - found
            norm = jnp.sqrt(_inner(residual, residual))
            (gradient,) = transposed(residual / expand(jnp.where(norm > 0, norm, 1), residual))
            alpha, sigma = sde.alpha(t), sde.sigma(t)
            scale = jnp.hypot(alpha, sigma) * jnp.hypot(sde.alpha(s), sde.sigma(s))
            jacobian = alpha / sigma**2 * covariance(gradient)
            return end + step_size * scale * jacobian, state

        return Solver(solver.init, step, solver.nfe)

    return Method(solver=change)


def conjugate_gradients(
    product: Product, b: Float[Array, "b ..."], iterations: int
) -> Float[Array, "b ..."]:
    """Solves M v = b for symmetric positive M, for each example by itself (Hestenes & Stiefel).

    JAX has conjugate gradients for one system. `vmap` over it needs a denoiser of one example, but
    a denoiser may hold conditions [b]; and with the batch as one system, all examples would share
    the lengths of steps. An example stops at a direction without positive curvature, which comes
    from rounding or from a Jacobian that is not symmetric.
    """

    def once(carry, _):
        v, residual, direction, size = carry
        of_direction = product(direction)
        curvature = _inner(direction, of_direction)
        go = curvature > 0
        length = expand(jnp.where(go, size / jnp.where(go, curvature, 1), 0), b)
        v, residual = v + length * direction, residual - length * of_direction
        new = _inner(residual, residual)
        ratio = jnp.where(go & (size > 0), new / jnp.where(size > 0, size, 1), 0)
        return (v, residual, residual + expand(ratio, b) * direction, new), None

    start = (jnp.zeros_like(b), b, b, _inner(b, b))
    return jax.lax.scan(once, start, None, iterations)[0][0]


def _inner(a: Float[Array, "b ..."], b: Float[Array, "b ..."]) -> Float[Array, " b"]:
    return jnp.sum((a * b).reshape(len(a), -1), axis=1)
