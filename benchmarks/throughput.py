"""Images per second of training and sampling: `python benchmarks/throughput.py [--peers]`.

The whole training step (dequantisation, loss, gradient, clip, Adam, average) and a DDIM sampler of
50 steps, of any config; the default is a DDPM++ of 7.0M parameters at 32x32x1, batch 32. With
--peers the same is timed in PyTorch, in the same rounds and a process of its own: diffusers'
UNet2DModel of equal channels, blocks and attention, eager and compiled (`pip install torch==2.13.0
diffusers==0.42.0`). A time is that of a call right after one like it; ratios are medians over
rounds. Also told: compile times, the peak of memory, and the rate of arithmetic as a part of that
of a large product of matrices. About twenty minutes on two cores with peers.
"""

import ast
import atexit
import contextlib
import functools
import multiprocessing
import platform
import resource
import statistics
import time

import command
import jax
import jax.numpy as jnp
import numpy as np

from configs import base
from score_sde import command_line, sampling, solvers
from score_sde.errors import ReportedError
from score_sde.experiment import build
from score_sde.experiment.program import compiled_step, lower
from score_sde.models.model import num_params
from score_sde.runtime import mesh
from score_sde.sampling import grids


def default():
    """The config of the DDPM++ of 7.0M parameters."""
    config = base.get_config()
    config.data.update(name="absent", image_size=32, channels=1)
    config.net.update(nf=64, ch_mult=(1, 2, 2), num_res_blocks=2, attn_resolutions=(16,))
    config.train.batch_size = 32
    return config


def load(config):
    """The config of FILE or FILE:ARGUMENT, without its data set."""
    try:
        return command_line.ConfigFile().parse(config)
    except ReportedError as error:
        raise SystemExit(f"error: {error}") from error


def change(config, changes) -> None:
    """Sets fields that the config has, each "FIELD=VALUE"."""
    config.lock()
    for field, value in (text.split("=", 1) for text in changes):
        with contextlib.suppress(SyntaxError, ValueError):  # a name needs no quotes
            value = ast.literal_eval(value)
        config.update_from_flattened_dict({field: value})


def seconds(run) -> float:
    """Of one call, to the end."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def again(run) -> float:
    """Seconds of a call after one like it, whose memory and threads it finds."""
    run()
    return seconds(run)


def matmul_rate(dtype) -> float:
    """Operations a second of a product of two matrices in this dtype: the best of ten."""
    n = 2048 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((n, n), dtype)
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(a))
    return 2 * n**3 / min(seconds(lambda: jax.block_until_ready(product(a))) for _ in range(10))


def ours(config, steps) -> tuple[dict, dict]:
    """By name what gives the seconds of a step or call; and facts."""
    experiment = build.build_experiment(config)
    codec, batch = experiment.codec, config.train.batch_size
    shape = codec.shape
    model, sde = experiment.model, experiment.model.sde
    rng = np.random.default_rng(0)
    count = config.train.steps_per_call or 1
    raw = {
        "image": rng.integers(0, codec.feature.values, (count, batch, *shape), dtype=np.uint8),
        "label": np.zeros((count, batch), np.int32),
    }
    raw = jax.device_put(raw, experiment.sharded(axis=1))
    state = build.initial_state(config, experiment)
    facts = {"parameters": num_params(state.params)}
    x = jax.device_put(sde.prior_sample(jax.random.key(1), (batch, *shape)), experiment.sharded())
    times = grids.log_snr(sde, steps)

    @jax.jit
    def forward(params, x):
        return model.denoiser(params)(x, jnp.asarray(0.5))

    @jax.jit
    def sample(params, x):
        solver = solvers.ddim(sde)
        return sampling.sample(jax.random.key(2), solver, model.denoiser(params), x, times).x

    def compiled(name, function, *arguments):
        start = time.perf_counter()
        program = lower(function, *arguments).compile()
        facts[f"{name}, compile seconds"] = time.perf_counter() - start
        return functools.partial(program, *functools.partial(function).args)

    def flops(name, function, *arguments):
        # of the program before it is split over devices; loops count once
        facts[f"{name}, flops"] = lower(function, *arguments).cost_analysis()["flops"]

    whole = config.copy_and_resolve_references()
    whole.train.accumulate = 1
    one = jax.tree.map(lambda a: a[:1], raw)
    flops("training step", compiled_step(whole, experiment, 1), jax.random.key(0), state, one)
    flops("forward", forward, state.params, x)

    # copies: the step donates its state
    params = jax.tree.map(jnp.copy, state.params)
    step = compiled(
        "training step", compiled_step(config, experiment, count), jax.random.key(0), state, raw
    )
    call = compiled("forward", forward, params, x)
    draw = compiled("sampler", sample, params, x)
    held = [state]

    def train():
        held[0], metrics = step(jax.random.key(0), held[0], raw)
        jax.block_until_ready(metrics)

    runs = {
        "training step": lambda: again(train) / count,
        "forward": lambda: again(lambda: jax.block_until_ready(call(params, x))),
        "sampler": lambda: again(lambda: jax.block_until_ready(draw(params, x))),
    }
    return runs, facts


def peers(config) -> tuple[dict, dict]:
    """The same of diffusers' UNet2DModel, eager and compiled."""
    import torch
    from diffusers import UNet2DModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    net, side, channels = config.net, config.data.image_size or 32, config.data.channels or 3
    sizes = [side // 2**i for i in range(len(net.ch_mult))]
    attends = [size in net.attn_resolutions for size in sizes]
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=side,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=[net.nf * mult for mult in net.ch_mult],
        layers_per_block=net.num_res_blocks,
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        downsample_type="resnet",
        upsample_type="resnet",
        norm_num_groups=min(net.nf // 4, 32),
        attention_head_dim=None,
        dropout=net.dropout,
    ).to(device)
    average = [p.detach().clone() for p in unet.parameters()]
    optimizer = torch.optim.Adam(unet.parameters(), lr=1e-4)
    x = torch.randn(config.train.batch_size, channels, side, side, device=device)
    z, t = torch.randn_like(x), torch.full((len(x),), 500.0, device=device)
    half = device == "cuda" and net.dtype == "bfloat16"

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    def variants(name, module):
        def train():
            module.train()
            with torch.autocast(device, torch.bfloat16, enabled=half):
                loss = torch.mean((module(x, t).sample - z) ** 2)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, list(unet.parameters()), 1e-4)
            wait()

        def forward():
            module.eval()
            with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half):
                module(x, t)
            wait()

        return {f"training step, {name}": train, f"forward, {name}": forward}

    runs = variants("PyTorch eager", unet)
    runs |= variants("PyTorch compiled", torch.compile(unet))
    return runs, {"parameters, PyTorch": unet.num_parameters(), "torch": torch.__version__}


def answer(pipe, config) -> None:
    """A process of its own for PyTorch, whose threads and memory are not then between ours: names
    and facts first, then the seconds of each name that is asked for."""
    runs, facts = peers(config)
    pipe.send((list(runs), facts))
    while name := pipe.recv():
        pipe.send(again(runs[name]))


def asked(config) -> tuple[dict, dict]:
    """`peers` in that process, by name what gives the seconds of a call; and facts."""
    processes = multiprocessing.get_context("spawn")
    pipe, other = processes.Pipe()
    processes.Process(target=answer, args=(other, config), daemon=True).start()
    other.close()  # so that nobody waits for an answer where that process has failed
    names, facts = pipe.recv()

    def run(name):
        pipe.send(name)
        return pipe.recv()

    atexit.register(pipe.send, None)
    return {name: functools.partial(run, name) for name in names}, facts


def peak_bytes() -> int:
    """Of this process's memory, or of the device's."""
    stats = jax.local_devices()[0].memory_stats()
    if stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Prints a Markdown table and writes the JSON file."""
    parser = command.parser(__doc__, out="benchmark_throughput.json")
    parser.add_argument("--config", help="FILE or FILE:ARGUMENT, in configs/")
    parser.add_argument(
        "--set", nargs="*", action="extend", default=[], metavar="FIELD=VALUE", dest="changes"
    )
    parser.add_argument("--steps", type=int, default=50, help="of the sampler")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", action="store_true")
    small = command.ROOT / "configs/digits.py"
    options = command.parse(parser, config=small, steps=2, rounds=1)

    config = load(options.config) if options.config else default()
    change(config, options.changes)
    mesh.use_cores(config.train.batch_size // config.train.accumulate)
    runs, facts = ours(config, options.steps)
    facts["peak bytes"] = peak_bytes()
    if options.peers:
        more, about = asked(config)
        runs, facts = runs | more, facts | about
    for run in runs.values():
        run()
    rounds = [{name: run() for name, run in runs.items()} for _ in range(options.rounds)]

    device, batch = jax.devices()[0].device_kind, config.train.batch_size
    rate = matmul_rate(config.net.dtype or "float32")
    facts |= {
        "device": device,
        "devices": jax.device_count(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "batch": batch,
        "matmul, operations a second": rate,
    }
    print(f"{device}, jax {jax.__version__}, {facts['parameters'] / 1e6:.2f}M parameters, ", end="")
    print(f"batch {batch}, matrices {rate / 1e9:.0f} Gflop/s")
    print("| what | seconds | images/s | part of the rate of matrices | time / ours |")
    print("| --- | --- | --- | --- | --- |")
    rows = {}
    for name in runs:
        own = name.split(", ")[0]
        ratios = [row[name] / row[own] for row in rounds]
        median = statistics.median(row[name] for row in rounds)
        operations = facts.get(f"{name}, flops")
        part = operations / median / rate if operations else None
        rows[name] = {"seconds": median, "ratio": statistics.median(ratios), "ratios": ratios}
        rows[name] |= {"images_per_second": batch / median, "part_of_matmul": part}
        cells = [f"{median:.3f}", f"{batch / median:.1f}", f"{part:.0%}" if part else ""]
        print("|", " | ".join([name, *cells, f"{rows[name]['ratio']:.2f}"]), "|", flush=True)
    command.write(options.out, {"about": facts, "rows": rows})


if __name__ == "__main__":
    main()
