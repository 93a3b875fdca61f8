"""The figures of README's "Proven against truth", measured: `python benchmarks/truth.py`.

Prints a Markdown table: the order of each deterministic solver against an exact score, and the
worst error of log-likelihoods against closed form. Float64, about a minute on two cores.
"""

import jax
import jax.numpy as jnp
import numpy as np

from score_sde import grids, sampling, solvers
from score_sde.exact import Gaussian, Mixture
from score_sde.likelihood import log_likelihood
from score_sde.sde import EDM, VE, VP, SubVP


def mixture() -> Mixture:
    """Three correlated components in two dimensions, centred as data scaled to [-1, 1] is."""
    weights = jnp.array([0.5, 0.3, 0.2])
    means = jnp.array([[1.5, 0.0], [-1.0, 1.0], [0.0, -1.5]])
    covs = [[[0.3, 0.1], [0.1, 0.2]], [[0.1, 0.0], [0.0, 0.4]], [[0.2, -0.1], [-0.1, 0.2]]]
    return Mixture(weights, means - weights @ means, jnp.array(covs))


def correlated_gaussian() -> Gaussian:
    """In four dimensions."""
    root = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4))) / 2
    return Gaussian(jnp.zeros(4), root @ root.T + 0.1 * jnp.eye(4))


def order(constructor, sde) -> float:
    """The slope of the RMS error at t_min between 128 and 256 steps, uniform log-SNR grid."""
    denoiser = mixture().denoiser(sde)
    x = sde.prior_sample(jax.random.key(0), (64, 2))

    def end(solver, times):
        return jax.jit(lambda x: sampling.sample(jax.random.key(1), solver, denoiser, x, times).x)(
            x
        )

    tight = solvers.probability_flow(sde, rtol=1e-11, atol=1e-11, method="Dopri8")
    truth = end(tight, grids.uniform(sde, 1))
    errors = [
        float(jnp.sqrt(jnp.mean((end(constructor(sde), grids.log_snr(sde, n)) - truth) ** 2)))
        for n in (128, 256)
    ]
    return float(np.log2(errors[0] / errors[1]))


def likelihood_error(distribution, sde) -> float:
    """The largest error of log p in nats over 64 samples, exact trace, tolerances 1e-5."""
    x = distribution.sample(jax.random.key(2), 64)
    denoiser = distribution.denoiser(sde)
    out = jax.jit(lambda x: log_likelihood(jax.random.key(3), sde, denoiser, x))(x)
    truth = distribution.log_prob(sde, x, jnp.asarray(sde.t_min))
    return float(jnp.max(jnp.abs(out.log_prob - truth)))


def main() -> None:
    """Prints the table."""
    jax.config.update("jax_enable_x64", True)

    def row(*cells):
        print("|", " | ".join(cells), "|", flush=True)

    row("what", "process", "measured", "truth")
    row("---", "---", "---", "---")
    for name, constructor, claimed in (
        ("DDIM", solvers.ddim, 1),
        ("DPM-Solver++(2M)", solvers.dpmpp, 2),
        ("Heun", solvers.heun, 2),
    ):
        for sde in (EDM(t_min=0.02, t_max=20.0), VP(t_min=1e-3)):
            slope = order(constructor, sde)
            row(f"order of {name}", type(sde).__name__, f"{slope:.2f}", str(claimed))
    for name, distribution in (
        ("correlated Gaussian, 4-D", correlated_gaussian()),
        ("mixture, 2-D", mixture()),
    ):
        for sde in (VP(), SubVP(), VE(), EDM()):
            error = likelihood_error(distribution, sde)
            row(f"worst error of log p, {name}", type(sde).__name__, f"{error:.4f} nats", "0")


if __name__ == "__main__":
    main()
