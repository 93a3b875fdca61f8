"""Images per second of training and sampling: `python benchmarks/throughput.py [--peers]`.

The whole training step (dequantisation, loss, gradient, clip, Adam, average) and a DDIM sampler of
50 steps, of any config; the default is a DDPM++ of 7.0M parameters at 32x32x1, batch 32. With
--peers the same is timed in PyTorch, in the same rounds and a process of its own, eager and
compiled (`pip install torch==2.13.0 diffusers==0.42.0`): of NCSNpp diffusers' UNet2DModel, of DiT
its DiTTransformer2DModel, of EDM's DDPM++ a network written for this (`peer_networks/`). A time is
that of a call right after one like it; ratios are medians over rounds. Also told: compile times,
the peak of memory, and the rate of arithmetic (with the zeros of paddings) as a part of that of a
large product of matrices. About twenty minutes on two cores with peers.
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
from score_sde.data import absent_reals
from score_sde.data.source import labelled_images
from score_sde.errors import DataError, ReportedError
from score_sde.experiment import build
from score_sde.experiment.program import compiled_step, lower
from score_sde.models.model import num_params
from score_sde.runtime import mesh
from score_sde.runtime.compiled import Program
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
        return command_line.ConfigFile().parse(str(config))
    except ReportedError as error:
        raise SystemExit(f"error: {error}") from error


def change(config, changes) -> None:
    """Sets fields that the config has, each "FIELD=VALUE"."""
    config.lock()
    for field, value in (text.split("=", 1) for text in changes):
        with contextlib.suppress(SyntaxError, ValueError):  # a name needs no quotes
            value = ast.literal_eval(value)
        config.update_from_flattened_dict({field: value})


def config_options(parser) -> None:
    """Adds --config, --set and --shape, which say what is measured."""
    parser.add_argument("--config", help="FILE or FILE:ARGUMENT, in configs/")
    parser.add_argument(
        "--shape", nargs="+", type=int, help="of an example, where the data set is not here"
    )
    parser.add_argument(
        "--set", nargs="*", action="extend", default=[], metavar="FIELD=VALUE", dest="changes"
    )


def experiment_of(config, shape=None, devices=None) -> build.Experiment:
    """What the config describes, on these devices or all; a data set that is not here has examples
    of this shape, or that which the config tells."""
    try:
        data = build.load_data(config)
    except DataError:
        size, channels = config.data.get("image_size") or 32, config.data.get("channels") or 3
        shape = tuple(shape or (size, size, channels))
        classes = config.net.get("num_classes", 0) or 1
        part = config.codec.get("part")
        data = absent_reals(shape=shape, part=part or "image", num_classes=classes)
        if part is None:
            data = data._replace(features=labelled_images(shape, classes=classes))
    return build.build_experiment(config, data, devices)


def seconds(run, clock) -> float:
    """Of one call, to the end."""
    start = clock()
    run()
    return clock() - start


def again(run, clock) -> float:
    """Seconds of a call after one like it, whose memory and threads it finds."""
    run()
    return seconds(run, clock)


def matmul_rate(dtype, clock) -> float:
    """Operations a second of a product of two matrices in this dtype: the best of ten."""
    n = 2048 if jax.default_backend() == "cpu" else 8192
    a = jnp.ones((n, n), dtype)
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(a))
    times = [seconds(lambda: jax.block_until_ready(product(a)), clock) for _ in range(10)]
    return 2 * n**3 / min(times)


def examples(experiment, *batch) -> dict:
    """Raw examples, at random."""
    rng = np.random.default_rng(0)
    features = {**experiment.data.features, **experiment.conditioner.features}

    def draw(feature):
        like = feature.abstract(*batch)
        values = rng.random(like.shape) * (feature.values or 1)
        return values.astype(like.dtype)

    return {name: draw(feature) for name, feature in features.items()}


def ours(config, experiment, steps, clock) -> tuple[dict, dict]:
    """By name what gives the seconds of a step or call; and facts."""
    codec, batch = experiment.codec, config.train.batch_size
    shape = codec.shape
    model, sde = experiment.model, experiment.model.sde
    count = config.train.steps_per_call or 1
    raw = jax.device_put(examples(experiment, count, batch), experiment.sharded(axis=1))
    state = build.initial_state(config, experiment)
    facts = {"parameters": num_params(state.params)}
    x = jax.device_put(sde.prior_sample(jax.random.key(1), (batch, *shape)), experiment.sharded())
    cond = experiment.conditioner.encode(jax.tree.map(lambda a: a[0], raw))
    times = grids.log_snr(sde, steps)

    @jax.jit
    def forward(params, x, cond):
        return model.denoiser(params, cond)(x, jnp.asarray(0.5))

    @jax.jit
    def sample(params, x, cond):
        denoiser = model.denoiser(params, cond)
        return sampling.sample(jax.random.key(2), solvers.ddim(sde), denoiser, x, times).x

    def compiled(name, function, *arguments, steps=1):
        start = time.perf_counter()
        program = lower(function, *arguments).compile()
        facts[f"{name}, compile seconds"] = time.perf_counter() - start
        flops = Program(program.as_text()).flops() * jax.device_count() / steps
        facts[f"{name}, flops"] = flops
        return functools.partial(program, *functools.partial(function).args)

    # copies: the step donates its state
    params = jax.tree.map(jnp.copy, state.params)
    train_step = compiled_step(config, experiment, count)
    step = compiled("training step", train_step, jax.random.key(0), state, raw, steps=count)
    call = compiled("forward", forward, params, x, cond)
    draw = compiled("sampler", sample, params, x, cond)
    held = [state]

    def train():
        held[0], metrics = step(jax.random.key(0), held[0], raw)
        jax.block_until_ready(metrics)

    runs = {
        "training step": lambda: again(train, clock) / count,
        "forward": lambda: again(lambda: jax.block_until_ready(call(params, x, cond)), clock),
        "sampler": lambda: again(lambda: jax.block_until_ready(draw(params, x, cond)), clock),
    }
    return runs, facts


def peers(net, shape, batch) -> tuple[dict, dict]:
    """The same of the network's peer in PyTorch, eager and compiled."""
    import torch
    from peer_networks import PEERS

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    peer = PEERS[type(net)](net, shape).to(device)
    parameters = list(peer.parameters())
    average = [p.detach().clone() for p in parameters]
    optimizer = torch.optim.Adam(parameters, lr=1e-4)
    side, other, channels = shape
    x = torch.randn(batch, channels, side, other, device=device)
    z, noise = torch.randn_like(x), torch.full((batch,), 0.5, device=device)
    label = torch.zeros(batch, dtype=torch.int64, device=device)
    half = device == "cuda" and net.dtype == "bfloat16"

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    def variants(name, module):
        def train():
            module.train()
            with torch.autocast(device, torch.bfloat16, enabled=half):
                loss = torch.mean((module(x, noise, label) - z) ** 2)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(average, parameters, 1e-4)
            wait()

        def forward():
            module.eval()
            with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half):
                module(x, noise, label)
            wait()

        return {f"training step, {name}": train, f"forward, {name}": forward}

    runs = variants("PyTorch eager", peer)
    runs |= variants("PyTorch compiled", torch.compile(peer))
    count = sum(p.numel() for p in parameters)
    return runs, {"parameters, PyTorch": count, "torch": torch.__version__}


def answer(pipe, clock, *described) -> None:
    """A process of its own for PyTorch, whose threads and memory are not then between ours: names
    and facts first, then the seconds of each name that is asked for."""
    runs, facts = peers(*described)
    pipe.send((list(runs), facts))
    while name := pipe.recv():
        pipe.send(again(runs[name], clock))


def asked(clock, *described) -> tuple[dict, dict]:
    """`peers` in that process, by name what gives the seconds of a call; and facts."""
    processes = multiprocessing.get_context("spawn")
    pipe, other = processes.Pipe()
    processes.Process(target=answer, args=(other, clock, *described), daemon=True).start()
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
    config_options(parser)
    parser.add_argument("--steps", type=int, default=50, help="of the sampler")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument(
        "--processor_time",
        action="store_true",
        help="of a process, not of a clock on the wall; for a machine that others use, with "
        "`taskset -c 0`, since threads that wait for each other take time too",
    )
    small = command.ROOT / "configs/digits.py"
    options = command.parse(parser, config=small, steps=2, rounds=1)

    clock = time.process_time if options.processor_time else time.perf_counter
    config = load(options.config) if options.config else default()
    change(config, options.changes)
    mesh.use_cores(config.train.batch_size // config.train.accumulate)
    experiment = experiment_of(config, options.shape)
    runs, facts = ours(config, experiment, options.steps, clock)
    facts["peak bytes"] = peak_bytes()
    if options.peers:
        net, shape = experiment.model.net, experiment.codec.shape
        more, about = asked(clock, net, shape, config.train.batch_size)
        runs, facts = runs | more, facts | about
    for run in runs.values():
        run()
    rounds = [{name: run() for name, run in runs.items()} for _ in range(options.rounds)]

    device, batch = jax.devices()[0].device_kind, config.train.batch_size
    rate = matmul_rate(config.net.dtype or "float32", clock)
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
    if options.peers:
        print(f"PyTorch's {facts['parameters, PyTorch'] / 1e6:.2f}M, ", end="")
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
