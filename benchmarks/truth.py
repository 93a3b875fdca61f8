"""The figures of docs/results/orders.md and likelihoods.md, measured: `python benchmarks/truth.py`.

Prints two Markdown tables: the order of each deterministic solver against an exact score, of the
method and with the first steps that its options give it; and the worst error of log-likelihoods
against closed form. Float64, about four minutes on two cores.
"""

import command
import jax
import jax.numpy as jnp
import numpy as np

from score_sde import sampling, solvers
from score_sde.config import build
from score_sde.evaluation import solver_error
from score_sde.processes import EDM, VE, VP, SubVP
from score_sde.processes.exact import Gaussian, three_gaussians
from score_sde.sampling import grids
from score_sde.sampling.likelihood import log_likelihood


def correlated_gaussian() -> Gaussian:
    """In four dimensions."""
    root = jnp.asarray(np.random.default_rng(0).normal(size=(4, 4))) / 2
    return Gaussian(jnp.zeros(4), root @ root.T + 0.1 * jnp.eye(4))


SOLVERS = {  # as a config names them: the order of the method
    "ddim": 1,
    "dpmpp": 2,
    "dpmpp(order=3)": 3,
    "dpmpp(order=3, start_order=3)": 3,
    "dpmpp(order=4, start_order=3)": 4,
    "deis": 3,
    "deis(start_order=3)": 3,
    "deis(variable='rho', start_order=3)": 3,
    "deis(variable='log_rho', start_order=3)": 3,
    "lms": 4,
    "lms(start_order=3)": 4,
    "ipndm": 4,
    "unipc(order=1, end_order=None)": 2,
    "unipc": 3,
    "unipc(end_order=None)": 3,
    "unipc(order=3)": 4,
    "unipc(order=3, end_order=None)": 4,
    "unipc(order=3, start_order=3, end_order=None)": 4,
    "unipc(order=4, start_order=3, end_order=None)": 5,
    "sa_solver(tau=0.0)": 4,
    "sa_solver(tau=0.0, start_order=3)": 4,
    "heun": 2,
    "dpm2": 2,
    "dpm_solver": 3,
    "dpmpp_singlestep": 2,
    "dpmpp_singlestep(order=3)": 3,
    "pndm": 2,
}
EXACT = 9  # how many first states the column "exact start" is given
# Where the prior is wide the denoiser hardly changes at first, and errors of the start are hidden:
# orders from a solver's own start are measured from among the components.
STARTING_AMONG_THE_DATA = EDM(t_min=0.1, t_max=1.0)


def orders(sde, steps: int, *, exact_start: bool) -> dict[str, float]:
    """Slopes of the RMS error at t_min from `steps` to twice as many, on a uniform log-SNR grid."""
    denoiser = three_gaussians().denoiser(sde)
    x = sde.prior_sample(jax.random.key(0), (64, 2))
    key = jax.random.key(1)  # nothing is drawn
    tight = solvers.probability_flow(sde, rtol=1e-12, atol=1e-12, method="Dopri8")
    errors = []
    for n in (steps, 2 * steps):
        times = grids.log_snr(sde, n)
        few = jnp.concatenate([times[:EXACT], times[-1:]])
        path = sampling.sample(key, tight, denoiser, x, few, trajectory=True).trajectory

        def end(spec, times=times, path=path):
            solver = build("solvers", spec, sde)
            if exact_start and spec != "pndm":  # which starts by steps of its own kind
                solver = solvers.exact_start(solver, path[:-1])
            return jax.jit(lambda x: sampling.sample(key, solver, denoiser, x, times).x)(x)

        errors.append(
            [float(solver_error.rms_error(end(spec), path[-1]).value) for spec in SOLVERS]
        )
    slopes = np.log2(np.array(errors[0]) / np.array(errors[1]))
    return dict(zip(SOLVERS, slopes.tolist(), strict=True))


def likelihood_error(distribution, sde) -> float:
    """The largest error of log p in nats over 64 samples, exact trace, tolerances 1e-5."""
    x = distribution.sample(jax.random.key(2), 64)
    denoiser = distribution.denoiser(sde)
    out = jax.jit(lambda x: log_likelihood(jax.random.key(3), sde, denoiser, x))(x)
    truth = distribution.log_prob(sde, x, jnp.asarray(sde.t_min))
    return float(jnp.max(jnp.abs(out.log_prob - truth)))


def main() -> None:
    """Prints the tables."""
    parser = command.parser(__doc__)
    parser.add_argument("--steps", type=int, default=320, help="the least; the other is twice this")
    options = command.parse(parser, steps=20)
    jax.config.update("jax_enable_x64", True)

    def row(*cells):
        print("|", " | ".join(cells), "|", flush=True)

    edm = orders(EDM(t_min=0.1, t_max=10.0), options.steps, exact_start=True)
    vp = orders(VP(t_min=0.01), options.steps, exact_start=True)
    own = orders(STARTING_AMONG_THE_DATA, options.steps, exact_start=False)
    row("solver", "order of the method", "exact start, EDM", "exact start, VP", "own start")
    row(*["---"] * 5)
    for spec, order in SOLVERS.items():
        row(f"`{spec}`", str(order), *(f"{found[spec]:.2f}" for found in (edm, vp, own)))
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
