"""What a sampler costs beside its network calls: `python benchmarks/overhead.py`.

The network is a DDPM++ of 7 million parameters (32x32x1, batch 32). Each row is the median over
rounds of (time of the sampler) / (its evaluations x time of one compiled call), both in the same
round, and the compile times with 10 and with 1,000 steps. About five minutes on two cores.
"""

import statistics
import time

import command
import jax
import jax.numpy as jnp

from score_sde import sampling, solvers
from score_sde.models import parametrization
from score_sde.models.model import Model, num_params
from score_sde.nets.ncsnpp import NCSNpp
from score_sde.processes import VP
from score_sde.sampling import grids

SOLVERS = {
    "ddim": solvers.ddim,
    "dpmpp_sde": solvers.dpmpp_sde,
    "unipc(order=3)": lambda sde: solvers.unipc(sde, order=3),
    "heun": solvers.heun,
}


def seconds(run, *args) -> float:
    """Of one call, to the end."""
    start = time.perf_counter()
    jax.block_until_ready(run(*args))
    return time.perf_counter() - start


def main() -> None:
    """Prints a Markdown table."""
    parser = command.parser(__doc__)
    parser.add_argument("--nf", type=int, default=64, help="channels of the first stage")
    parser.add_argument("--size", type=int, default=32, help="pixels of a side")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--solvers", nargs="+", default=[*SOLVERS], choices=[*SOLVERS])
    options = command.parse(parser, nf=16, size=8, batch=2, steps=1, rounds=1, solvers=["ddim"])

    sde = VP()
    net = NCSNpp(nf=options.nf, ch_mult=(1, 2, 2), num_res_blocks=2, dropout=0.0)
    model = Model(net, sde, parametrization.eps(c_noise=parametrization.time(scale=999.0)))
    x = sde.prior_sample(jax.random.key(1), (options.batch, options.size, options.size, 1))
    params = jax.jit(lambda key: model.init(key, x))(jax.random.key(0, impl="unsafe_rbg"))
    size = num_params(params)

    call = jax.jit(lambda params, x: model.denoiser(params)(x, jnp.asarray(0.5)))
    jax.block_until_ready(call(params, x))
    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {size / 1e6:.1f}M parameters")
    print("| solver | time / network calls | compile, 10 steps | compile, 1,000 steps |")
    print("| --- | --- | --- | --- |")
    for name in options.solvers:

        def sampler(steps, constructor=SOLVERS[name]):
            times = grids.log_snr(sde, steps)
            return jax.jit(
                lambda params, x: sampling.sample(
                    jax.random.key(2), constructor(sde), model.denoiser(params), x, times
                )
            )

        compile_times = []
        for steps in (10, 1000):
            lowered = sampler(steps).lower(params, x)
            start = time.perf_counter()
            lowered.compile()
            compile_times.append(time.perf_counter() - start)
        run = sampler(options.steps)
        nfe = int(run(params, x).nfe)
        ratios = [
            seconds(run, params, x) / sum(seconds(call, params, x) for _ in range(nfe))
            for _ in range(options.rounds)
        ]
        cells = f"{compile_times[0]:.1f} s | {compile_times[1]:.1f} s |"
        print(f"| {name} | {statistics.median(ratios):.3f} | {cells}", flush=True)


if __name__ == "__main__":
    main()
