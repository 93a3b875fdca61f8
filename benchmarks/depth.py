"""Time to compile a training step of a DiT by its depth: `python benchmarks/depth.py`.

Blocks are stacked and `jax.lax.scan` goes through them, so that the program is as long at any
depth. The step is that of configs/digits_dit.py, for one device. Of some rounds in turn the fastest
counts; both the time on the clock and that of all processor cores are given. Some 20 s.
"""

import time

import command
import jax
import jax.numpy as jnp

from configs import digits_dit
from score_sde.data import digits
from score_sde.experiment import build
from score_sde.experiment.program import compiled_step, lower
from score_sde.runtime import mesh


def compiled(depth: int, data) -> tuple[float, float, int]:
    """Seconds on the clock, and of the processor, to compile a step; the length of its program."""
    config = digits_dit.get_config()
    config.net.depth = depth
    one = mesh.make(1, jax.devices()[:1])
    experiment = build.build_experiment(config, data)._replace(mesh=one)
    state = build.abstract_state(experiment)
    features, shape = experiment.data.features, (1, config.train.batch_size)
    batch = {name: feature.abstract(*shape) for name, feature in features.items()}
    batch["image"] = jax.ShapeDtypeStruct(batch["image"].shape, jnp.uint8)
    root = jax.eval_shape(lambda: jax.random.key(0))
    jax.clear_caches()
    clock, processor = time.perf_counter(), time.process_time()
    program = lower(compiled_step(config, experiment, 1), root, state, batch)
    program.compile()
    times = time.perf_counter() - clock, time.process_time() - processor
    return *times, len(program.as_text())


def main() -> None:
    """Prints a Markdown table and writes the JSON file."""
    parser = command.parser(__doc__, out="benchmark_depth.json")
    parser.add_argument("--depth", type=int, nargs="+", default=[4, 28])
    parser.add_argument("--rounds", type=int, default=3)
    options = command.parse(parser, depth=[1, 2], rounds=1)
    data, rows = digits(), {}
    for _ in range(options.rounds):
        for depth in options.depth:
            rows.setdefault(depth, []).append(compiled(depth, data))
    print("| depth | seconds | of the processor | characters of the program |\n| - | - | - | - |")
    for depth, found in rows.items():
        clock, processor, length = (min(column) for column in zip(*found, strict=True))
        print(f"| {depth} | {clock:.2f} | {processor:.2f} | {length:,} |")
    command.write(options.out, {"jax": jax.__version__, "rows": rows})


if __name__ == "__main__":
    main()
