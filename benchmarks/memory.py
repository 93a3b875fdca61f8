"""Memory of a training step by the size of `mesh.fsdp`: `python benchmarks/memory.py`.

What each of eight devices holds while a step of batch 128 at 32x32x3 is made, for the DDPM++ of
61.8M parameters and for one of four times its channels, 988M. No accelerator is needed and no array
is made: the steps are compiled for eight simulated devices, and XLA is asked what they would take.

The state (parameters, optimiser, averages) is exact on every backend: it follows from the shapes.
"while it computes" is what XLA's CPU backend plans for activations, gradients and gathered
parameters; a GPU or a TPU fuses, orders and pads otherwise, so that its figure differs. With
net.remat the CPU backend finds the repeated computation and undoes it: nothing is saved there. What
it saves shows in "kept", what the network keeps from its forward to its backward pass, which is the
same on every backend. Another network: --config FILE; other fields: --set net.remat=all. About two
minutes of processor time a row.
"""

import math
import os
import time

os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",  # of machine code, which is not run
    ]
)

import command
import jax
import jax.numpy as jnp
from throughput import change, load

from configs.vp import cifar10_ddpmpp_continuous
from score_sde.data import absent
from score_sde.experiment import build
from score_sde.experiment.program import compiled_step, lower
from score_sde.models.model import num_params


def wide():
    """The config of the network of 988M parameters."""
    config = cifar10_ddpmpp_continuous.get_config()
    config.net.nf = 4 * config.net.nf
    return config


def held(tree) -> int:
    """Bytes of the abstract arrays of a tree on one device."""
    return sum(
        math.prod(a.sharding.shard_shape(a.shape)) * a.dtype.itemsize for a in jax.tree.leaves(tree)
    )


def kept(config, experiment, params) -> int:
    """Bytes of the arrays of a batch that the network keeps, on one device, from its forward to its
    backward pass."""
    examples = config.train.batch_size // (jax.device_count() * config.train.accumulate)
    x = jax.ShapeDtypeStruct((examples, *experiment.codec.shape), jnp.float32)

    def backward(params, x):
        def output(params):
            return experiment.model.network(params, x, jnp.array(0.5), key=jax.random.key(0))

        return jax.vjp(output, params)[1]

    found = jax.tree.leaves(jax.eval_shape(backward, params, x))
    return sum(a.size * a.dtype.itemsize for a in found if a.shape[:1] == (examples,))


def measured(config) -> dict:
    """Bytes on a device, by what they are of, and the seconds of compiling."""
    data = absent(image_size=config.data.image_size or 32, channels=config.data.channels or 3)
    experiment = build.build_experiment(config, data)
    state = build.abstract_state(experiment)
    shape, place = (1, config.train.batch_size), experiment.sharded(axis=1)
    batch = {
        "image": jax.ShapeDtypeStruct((*shape, *experiment.codec.shape), jnp.uint8, sharding=place),
        "label": jax.ShapeDtypeStruct(shape, jnp.int32, sharding=place),
    }
    start = time.perf_counter()
    root = jax.eval_shape(lambda: jax.random.key(0))
    memory = lower(compiled_step(config, experiment, 1), root, state, batch).compile()
    memory = memory.memory_analysis()
    if memory.alias_size_in_bytes != held(state):
        raise RuntimeError(f"XLA holds {memory.alias_size_in_bytes} bytes, not {held(state)}")
    return {
        "parameters": num_params(state.params),
        "fsdp": config.mesh.fsdp,
        "batch": config.train.batch_size,
        "accumulate": config.train.accumulate,
        "remat": config.net.remat,
        "params": held(state.params),
        "optimiser": held(state.opt_state),
        "averages": held(state.ema),
        "kept": kept(config, experiment, state.params),
        "while it computes": memory.temp_size_in_bytes,
        "total": memory.argument_size_in_bytes + memory.temp_size_in_bytes,
        "compile seconds": time.perf_counter() - start,
    }


def main() -> None:
    """Prints a Markdown table and writes the JSON file."""
    parser = command.parser(__doc__, out="benchmark_memory.json")
    parser.add_argument("--config", help="FILE or FILE:ARGUMENT, in configs/")
    parser.add_argument(
        "--set", nargs="*", action="extend", default=[], metavar="FIELD=VALUE", dest="changes"
    )
    parser.add_argument("--fsdp", type=int, nargs="+", default=[1, 2, 4, 8])
    options = command.parse(parser, config=command.ROOT / "configs/digits.py", fsdp=[8])

    makers = [cifar10_ddpmpp_continuous.get_config, wide]
    if options.config:
        makers = [lambda: load(options.config)]
    columns = ("params", "optimiser", "averages", "kept", "while it computes", "total")
    print(f"GiB on each of {jax.device_count()} devices, jax {jax.__version__}", *options.changes)
    print("| parameters | fsdp |", " | ".join(columns), "|")
    print("| --- " * (len(columns) + 2) + "|", flush=True)
    rows = []
    for make in makers:
        for fsdp in options.fsdp:
            config = make()
            change(config, [f"mesh.fsdp={fsdp}", *options.changes])
            rows.append(row := measured(config))
            cells = [f"{row['parameters'] / 1e6:,.1f}M", f"{fsdp}"]
            cells += [f"{row[column] / 2**30:.2f}" for column in columns]
            print("|", " | ".join(cells), "|", flush=True)
    command.write(options.out, {"jax": jax.__version__, "rows": rows})


if __name__ == "__main__":
    main()
