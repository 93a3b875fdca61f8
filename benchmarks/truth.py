"""The figures of README's "Proven against truth", measured: `python benchmarks/truth.py`.

Prints a Markdown table: the order of each deterministic solver against an exact score, and the
worst error of log-likelihoods against closed form. Float64, about two minutes on two cores.
"""

from functools import partial

import command
import jax
import jax.numpy as jnp
import numpy as np

from score_sde import compare, grids, sampling, solvers
from score_sde.exact import Gaussian, three_gaussians
from score_sde.likelihood import log_likelihood
from score_sde.sde import EDM, VE, VP, SubVP


def correlated_gaussian() -> Gaussian:
    """In four dimensions."""
    root = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4))) / 2
    return Gaussian(jnp.zeros(4), root @ root.T + 0.1 * jnp.eye(4))


DETERMINISTIC = {  # name: (constructor, claimed order)
    "`ddim`": (solvers.ddim, 1),
    "`dpmpp(order=2)`": (solvers.dpmpp, 2),
    "`dpmpp(order=3)`": (partial(solvers.dpmpp, order=3), 3),
    "`dpmpp(order=4)`": (partial(solvers.dpmpp, order=4), 4),
    "`deis(order=3, variable='t')`": (solvers.deis, 3),
    "`deis(order=3, variable='rho')`": (partial(solvers.deis, variable="rho"), 3),
    "`deis(order=3, variable='log_rho')`": (partial(solvers.deis, variable="log_rho"), 3),
    "`lms(order=4)`, `ipndm(order=4)`": (solvers.lms, 4),
    "`unipc(order=1)`": (partial(solvers.unipc, order=1, end_order=None), 2),
    "`unipc(order=2)`": (partial(solvers.unipc, order=2, end_order=None), 3),
    "`unipc(order=3)`": (partial(solvers.unipc, order=3, end_order=None), 4),
    "`unipc(order=4)`": (partial(solvers.unipc, order=4, end_order=None), 5),
    "`sa_solver(tau=0.0)`": (partial(solvers.sa_solver, tau=0.0), 4),
    "`heun`": (solvers.heun, 2),
    "`dpm2`": (solvers.dpm2, 2),
    "`dpm_solver(order=3)`": (solvers.dpm_solver, 3),
    "`dpmpp_singlestep(order=2)`": (solvers.dpmpp_singlestep, 2),
    "`dpmpp_singlestep(order=3)`": (partial(solvers.dpmpp_singlestep, order=3), 3),
    "`pndm` (its own start)": (solvers.pndm, 2),
}


def orders(sde, steps: int) -> dict[str, float]:
    """Slopes of the RMS error at t_min between `steps` and 2 `steps` steps, uniform log-SNR grid.

    The states at the first nine times are exact, except for PNDM, which has a start of its own.
    """
    denoiser = three_gaussians().denoiser(sde)
    x = sde.prior_sample(jax.random.key(0), (64, 2))
    key = jax.random.key(1)  # nothing is drawn
    tight = solvers.probability_flow(sde, rtol=1e-12, atol=1e-12, method="Dopri8")
    errors = []
    for n in (steps, 2 * steps):
        times = grids.log_snr(sde, n)
        few = jnp.concatenate([times[:9], times[-1:]])
        path = sampling.sample(key, tight, denoiser, x, few, trajectory=True).trajectory

        def end(name, times=times, path=path):
            solver = DETERMINISTIC[name][0](sde)
            if "own start" not in name:
                solver = solvers.exact_start(solver, path[:-1])
            return jax.jit(lambda x: sampling.sample(key, solver, denoiser, x, times).x)(x)

        errors.append([float(compare.rms_error(end(k), path[-1]).value) for k in DETERMINISTIC])
    slopes = np.log2(np.array(errors[0]) / np.array(errors[1]))
    return dict(zip(DETERMINISTIC, slopes.tolist(), strict=True))


def likelihood_error(distribution, sde) -> float:
    """The largest error of log p in nats over 64 samples, exact trace, tolerances 1e-5."""
    x = distribution.sample(jax.random.key(2), 64)
    denoiser = distribution.denoiser(sde)
    out = jax.jit(lambda x: log_likelihood(jax.random.key(3), sde, denoiser, x))(x)
    truth = distribution.log_prob(sde, x, jnp.asarray(sde.t_min))
    return float(jnp.max(jnp.abs(out.log_prob - truth)))


def main() -> None:
    """Prints the table."""
    parser = command.parser(__doc__)
    parser.add_argument("--steps", type=int, default=320, help="the least; the other is twice this")
    options = command.parse(parser, steps=20)
    jax.config.update("jax_enable_x64", True)

    def row(*cells):
        print("|", " | ".join(cells), "|", flush=True)

    processes = (EDM(t_min=0.1, t_max=10.0), VP(t_min=0.01))
    edm, vp = (orders(process, options.steps) for process in processes)
    row("order of", "claimed", "measured, EDM", "measured, VP")
    row(*["---"] * 4)
    for name, (_, claimed) in DETERMINISTIC.items():
        row(name, str(claimed), f"{edm[name]:.2f}", f"{vp[name]:.2f}")
    print()
    row("what", "process", "measured", "truth")
    row(*["---"] * 4)
    for name, distribution in (
        ("correlated Gaussian, 4-D", correlated_gaussian()),
        ("mixture, 2-D", three_gaussians()),
    ):
        for sde in (VP(), SubVP(), VE(), EDM()):
            error = likelihood_error(distribution, sde)
            row(f"worst error of log p, {name}", type(sde).__name__, f"{error:.4f} nats", "0")


if __name__ == "__main__":
    main()
