"""What guidance costs: `python benchmarks/guidance.py`.

The time of guided sampling over that of unguided sampling, both in the same round; the median over
rounds. The network is a DDPM++ (16x16x3, batch 64, DDIM), the worse model of autoguidance one of
half its channels, the classifier its way down. Two to four minutes on two cores.
"""

import functools
import statistics
import time

import command
import jax
import jax.numpy as jnp

from score_sde import sampling, solvers
from score_sde.conditioning.conditioner import null
from score_sde.conditioning.labels import Labels, log_prob
from score_sde.models import guidance, parametrization
from score_sde.models.model import Model, num_params
from score_sde.nets.classifier import Classifier
from score_sde.nets.ncsnpp import NCSNpp
from score_sde.processes import VP
from score_sde.sampling import grids
from score_sde.types import Feature

SDE = VP(t_min=1e-3)
CLASSES = 10
FIELDS = {"ch_mult": (1, 2), "num_res_blocks": 2, "attn_resolutions": (8,), "dropout": 0.0}


def made(net, shape, seed):
    """A model of random parameters, and those."""
    x, cond = Feature(shape).abstract(1), {"label": Feature((), CLASSES).abstract(1)}
    model = Model(net, SDE, parametrization.eps(c_noise=parametrization.time(scale=999.0)))
    key = jax.random.key(seed, impl="unsafe_rbg")
    return model, jax.jit(lambda key: model.init(key, x, cond))(key)


def seconds(run, *args) -> float:
    """Of one call, to the end."""
    start = time.perf_counter()
    jax.block_until_ready(run(*args))
    return time.perf_counter() - start


def samplers(options) -> tuple[dict, dict]:
    """By name `(x) -> samples`, compiled, and how many parameters there are."""
    shape = (options.size, options.size, 3)
    label = jnp.arange(options.batch, dtype=jnp.int32) % CLASSES
    cond, times = {"label": label}, grids.log_snr(SDE, options.steps)
    model, params = made(NCSNpp(nf=options.nf, num_classes=CLASSES, **FIELDS), shape, 0)
    worse, worse_params = made(NCSNpp(nf=options.nf // 2, num_classes=CLASSES, **FIELDS), shape, 1)
    judge, judge_params = made(Classifier(nf=options.nf, num_classes=CLASSES, **FIELDS), shape, 2)
    sizes = {
        "network": num_params(params),
        "worse": num_params(worse_params),
        "classifier": num_params(judge_params),
    }
    everything = (params, worse_params, judge_params)

    def unguided(params, worse_params, judge_params):
        return model.denoiser(params, cond)

    def classifier_free(params, worse_params, judge_params):
        of_cond, nothing = functools.partial(model.denoiser, params), null(Labels(CLASSES), cond)
        return guidance.guide(guidance.in_one_batch(of_cond, cond, nothing), 2.0)

    def autoguidance(params, worse_params, judge_params):
        other = worse.denoiser(worse_params, cond)
        return guidance.guide(guidance.of_two(model.denoiser(params, cond), other), 2.0)

    def classifier(params, worse_params, judge_params):
        def of_label(x_t, t):
            return log_prob(judge.network(judge_params, x_t, t), label)

        return guidance.with_classifier(SDE, model.denoiser(params, cond), of_label)

    def whole(denoiser_of):
        @jax.jit
        def run(everything, x):
            denoiser = denoiser_of(*everything)
            return sampling.sample(jax.random.key(0), solvers.ddim(SDE), denoiser, x, times).x

        return functools.partial(run, everything)

    guided = {f.__name__: whole(f) for f in (classifier_free, autoguidance, classifier)}
    return {"unguided": whole(unguided), **guided}, sizes


def main() -> None:
    """Prints a Markdown table and writes the JSON file."""
    parser = command.parser(__doc__, out="benchmark_guidance.json")
    parser.add_argument("--nf", type=int, default=32)
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    options = command.parse(parser, nf=16, size=8, batch=2, steps=2, rounds=1)

    runs, sizes = samplers(options)
    x = SDE.prior_sample(jax.random.key(1), (options.batch, options.size, options.size, 3))
    for run in runs.values():
        jax.block_until_ready(run(x))
    rounds = [{name: seconds(run, x) for name, run in runs.items()} for _ in range(options.rounds)]
    device = f"{jax.devices()[0].device_kind}, jax {jax.__version__}"
    print(f"{device}, {options.steps} steps, parameters {sizes}")
    print("| guidance | seconds | times the unguided (lowest, highest) |")
    print("| --- | --- | --- |")
    rows = {}
    for name in runs:
        ratios = [row[name] / row["unguided"] for row in rounds]
        rows[name] = {
            "seconds": statistics.median(row[name] for row in rounds),
            "ratio": statistics.median(ratios),
            "ratios": ratios,
        }
        spread = f"{rows[name]['ratio']:.2f} ({min(ratios):.2f}, {max(ratios):.2f})"
        print(f"| {name} | {rows[name]['seconds']:.3f} | {spread} |")
    about = {"device": device, "parameters": sizes, **vars(options), "out": str(options.out)}
    command.write(options.out, {"about": about, "rows": rows})


if __name__ == "__main__":
    main()
