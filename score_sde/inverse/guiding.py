"""Methods that pull every estimate E[x_0 | x_t] towards y by the likelihood's gradient.

By Bayes and Tweedie, with Cov = Cov[x_0 | x_t],

    E[x_0 | x_t, y] = E[x_0 | x_t] + sigma^2/alpha grad log p(y | x_t)     Cov = sigma^2/alpha J

where J is the denoiser's Jacobian. The methods differ in what they take for p(y | x_t).
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
"""A matrix for each example, as what it makes of a vector: [b, ...] -> [b, ...]."""


def posterior(sde: SDE, denoiser: Denoiser, x_t: Array, t: Array) -> tuple[Array, Product]:
    """E[x_0 | x_t], and the product with Cov[x_0 | x_t].

    The product is by forward differentiation. The Jacobian of the true denoiser is symmetric, as a
    covariance is; that of a network is nearly so, and J v serves as well as J^T v, of which neither
    is the true one. Forward products keep nothing of the network's inside, and XLA runs the
    backward ones slowly within `scan` on a CPU. An example's Jacobian must not depend on others.

    A product costs about an evaluation, which no count of them shows. Where alpha is 0, x_t says
    nothing of x_0 and J nothing of its covariance: the product is 0 there.
    """
    mean, product = jax.linearize(lambda x: denoiser(x, t), x_t)
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    scale = jnp.where(alpha > 0, sigma**2 / jnp.where(alpha > 0, alpha, 1), 0)
    return mean, lambda v: expand(scale, v) * product(v)


def isotropic(sde: SDE, t: Array, data_std: float) -> Array:
    """Cov[x_0 | x_t] of data N(m, data_std^2 I), a variance for each t."""
    alpha, sigma = sde.alpha(t), sde.sigma(t)
    return data_std**2 * sigma**2 / ((alpha * data_std) ** 2 + sigma**2)


def pull(
    seen: Known, mean: Float[Array, "b ..."], variance: Float[Array, "..."]
) -> tuple[Array, Float[Array, " b"]]:
    """For x_0 | x_t ~ N(mean, variance I): the gradient by the mean of log p(y | x_t), and its
    value but for what depends on t alone. `variance` is [] or [b]."""
    away = jnp.where(seen.known, seen.mean - seen.svd.right(mean), 0)
    weighted = away / (seen.std**2 + expand(variance, away))
    return seen.svd.right_t(weighted), -_inner(away, weighted) / 2


def pigdm(sde: SDE, observation: Observation, data_std: float = 1.0) -> Method:
    """Pseudo-inverse guidance (Song et al. 2023, "Pseudoinverse-guided diffusion models", sec. 3):

        p(y | x_t) = N(y; A E[x_0 | x_t], noise^2 I + r_t^2 A A^T)

    with r_t^2 = sigma^2 s^2/(alpha^2 s^2 + sigma^2), s = `data_std`, of which the paper's is that
    of s = 1 on a VE process. Changes the denoiser; linear A. Exact for data N(m, s^2 I); else too
    sure of itself where the data varies more than r_t, and not enough where less. One product with
    the Jacobian an evaluation.

    Where a network predicts the noise, an error e of its Jacobian is one of e (sigma/alpha)^2 in
    Cov, and of x_0 or v, e sigma^2/alpha: at the end of VP 1 % is 200, or 1.5. Of the former r_t^2
    does not know, and samples run away: such a network wants a lower t_max, or `mmps`, which has
    the same Cov on both sides of its quotient.

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

    the system by `iterations` steps of conjugate gradients. Changes the denoiser; linear A. Exact
    for Gaussian data, with as many iterations as y has numbers or, as a rule, far fewer; for other
    data as good as a Gaussian is for p(x_0 | x_t). iterations + 1 products with the Jacobian an
    evaluation.

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

    which is the paper's step on the squared norm, divided by the norm, 2 times its constant.
    Changes the solver; any A that can be differentiated, and any solver. The gradient is taken in
    x/sqrt(alpha^2 + sigma^2), in which all processes are one: in the paper's, x itself. To be
    tuned: the steps do not shrink with the grid's, so that more of them pull harder, and the noise
    does not enter. One product with the Jacobian a step.
    """

    def change(solver):
        def step(noise, denoiser, x, t, s, state):
            mean, covariance = posterior(sde, denoiser, x, t)

            def remembered(x_t, time):  # the solver begins with the same evaluation
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

    JAX has it for one system. Under `vmap` that would take a denoiser of one example, which cannot
    be had of one that has closed over conditions [b]; and the batch as one system would have steps
    of one length for all. An example stops where a direction has no positive curvature, by rounding
    or since a network's Jacobian is not symmetric.
    """

    def once(carry, _):
        v, residual, direction, size = carry
        image = product(direction)
        curvature = _inner(direction, image)
        go = curvature > 0
        length = expand(jnp.where(go, size / jnp.where(go, curvature, 1), 0), b)
        v, residual = v + length * direction, residual - length * image
        new = _inner(residual, residual)
        ratio = jnp.where(go & (size > 0), new / jnp.where(size > 0, size, 1), 0)
        return (v, residual, residual + expand(ratio, b) * direction, new), None

    start = (jnp.zeros_like(b), b, b, _inner(b, b))
    return jax.lax.scan(once, start, None, iterations)[0][0]


def _inner(a: Float[Array, "b ..."], b: Float[Array, "b ..."]) -> Float[Array, " b"]:
    return jnp.sum((a * b).reshape(len(a), -1), axis=1)
