"""What a training step and a sampler would take on TPUs: `python benchmarks/accelerators.py`.

No TPU is needed: `pip install "score_sde[aot]"` brings its compiler, which compiles the real
programs for a `--topology` such as v5e:4x4, v5p:2x2x1 or v6e:2x2 with the shardings of training.
Nothing runs: every figure is read from a compiled program. One of training a network of 60M
parameters takes about ten minutes of processor time.

- memory: the arrays that go in, those that come out beside what takes the place of an argument, and
  those in between, in GiB of a device's memory. Where they do not fit, XLA says what they would
  take.
- FLOP: of convolutions and products of matrices, in all passes through loops such as those of a
  sampler.
- XLA's count: its FLOP and bytes. They count the body of a loop once, and arrays in the core's own
  memory (VMEM) like those in the device's.
- memory traffic: bytes that instructions read from the device's memory (HBM) or write to it, with
  the padding of arrays to tiles, by what the instructions compute.
- the time of the roofline: the longer of FLOP at the peak of bfloat16, and memory traffic at the
  peak of bandwidth. A bound, and no forecast.
- collectives: how many, and the bytes of the whole arrays on a device.

Peaks are those that Google publishes for a chip (cloud.google.com/tpu/docs, v5e, v5p and v6e).
"""

import importlib.util
import os
import time
from typing import Any, NamedTuple

import command

# libtpu looks for the machine's TPUs, unless told that there are none
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-1")

import jax
from jax.experimental import topologies
from throughput import change, default, load

from score_sde.data import absent_reals
from score_sde.data.source import labelled_images
from score_sde.errors import DataError
from score_sde.experiment import build, samplers
from score_sde.experiment.program import lowered_step
from score_sde.models.model import num_params
from score_sde.runtime.compiled import Program


class Chip(NamedTuple):
    """flops: the peak of bfloat16, a second. bandwidth: bytes a second. memory: bytes."""

    flops: float
    bandwidth: float
    memory: float


CHIPS = {
    "v5e": Chip(197e12, 819e9, 16e9),
    "v5p": Chip(459e12, 2765e9, 95e9),
    "v6e": Chip(918e12, 1640e9, 32e9),
}


def experiment_of(config, devices, shape) -> build.Experiment:
    """What the config describes, on these devices; a data set that is not here has examples of this
    shape, or that which the config tells."""
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


def lowered_sampler(config, experiment) -> jax.stages.Lowered:
    """The sampler of `sampling.batch_size` samples; parameters lie as in training."""
    draw = samplers.build_sampler(config, experiment, config.sampling.batch_size)
    params = build.abstract_state(experiment).params
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.jit(draw).lower(params, key)


def topology(name: str) -> topologies.TopologyDescription:
    """Chips that are not there. Ends the benchmark where there is none of this name."""
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name)
    except jax.errors.JaxRuntimeError as error:
        raise SystemExit(f"error: --topology {name}: {str(error).splitlines()[0]}") from None


PROGRAMS = {"step": lowered_step, "sampler": lowered_sampler}


def figures(lowered: jax.stages.Lowered, chip: Chip) -> dict[str, Any]:
    """What is read from the compiled program, of one device."""
    start = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return {"does not fit": str(error).splitlines()[0]}
    seconds = time.perf_counter() - start
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    program = Program(compiled.as_text())
    traffic = program.traffic()
    moved = sum(each.bytes for each in traffic.values())
    return {
        "arguments": memory.argument_size_in_bytes,
        "outputs": memory.output_size_in_bytes - memory.alias_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "flops": program.flops(),
        "XLA's flops": cost["flops"],
        "XLA's bytes": cost["bytes accessed"],
        "memory traffic": moved,
        "traffic by kind": {kind: each._asdict() for kind, each in traffic.items()},
        "collectives": {k: each._asdict() for k, each in program.collectives().items()},
        "products": program.products(),
        "seconds of arithmetic": program.flops() / chip.flops,
        "seconds of memory traffic": moved / chip.bandwidth,
        "compile seconds": seconds,
    }


def tell(name: str, found: dict[str, Any], chip: Chip) -> None:
    """Prints the figures of a program."""
    print(f"\n{name}")
    if "does not fit" in found:
        print(f"  does not fit: {found['does not fit']}")
        return
    parts = {part: found[part] / 2**30 for part in ("arguments", "outputs", "temporaries")}
    arithmetic, memory = found["seconds of arithmetic"], found["seconds of memory traffic"]
    peak, intensity = chip.flops / chip.bandwidth, found["flops"] / max(found["memory traffic"], 1)
    xla = "XLA's "
    lines = {
        "memory, GiB": f"{sum(parts.values()):.2f} of {chip.memory / 2**30:.1f}: "
        + ", ".join(f"{part} {size:.2f}" for part, size in parts.items()),
        "FLOP": f"{found['flops'] / 1e9:,.1f}e9",
        "XLA's count": f"FLOP {found[xla + 'flops'] / 1e9:,.1f}e9, "
        f"{found[xla + 'bytes'] / 1e9:,.2f} GB",
        "memory traffic": f"{found['memory traffic'] / 1e9:,.2f} GB: "
        + _moved(found["traffic by kind"]),
        "FLOP a byte": f"{intensity:.0f} of memory traffic; where the roofline bends {peak:.0f}",
        "roofline": f"{max(arithmetic, memory) * 1e3:.2f} ms: arithmetic {arithmetic * 1e3:.2f}, "
        f"memory {memory * 1e3:.2f}",
        "collectives": _moved(found["collectives"]) or "none",
        "products": ", ".join(f"{n} {kind}" for kind, n in found["products"].items()),
        "compiled in": f"{found['compile seconds']:.0f} s",
    }
    for what, value in lines.items():
        print(f"  {what:15} {value}", flush=True)


def _moved(kinds: dict[str, dict[str, int]]) -> str:
    each = (f"{of['count']} {kind} {of['bytes'] / 1e6:,.1f} MB" for kind, of in kinds.items())
    return ", ".join(each)


def main() -> None:
    """Prints the figures and writes the JSON file."""
    parser = command.parser(__doc__, out="benchmark_accelerators.json")
    parser.add_argument("--config", help="FILE or FILE:ARGUMENT, in configs/")
    parser.add_argument(
        "--shape", nargs="+", type=int, help="of an example, where the data set is not here"
    )
    parser.add_argument(
        "--set", nargs="*", action="extend", default=[], metavar="FIELD=VALUE", dest="changes"
    )
    parser.add_argument("--topology", default="v5e:4x4", help="chip and arrangement")
    parser.add_argument("--programs", nargs="+", choices=PROGRAMS, default=list(PROGRAMS))
    tiny = ["net.nf=16", "net.num_res_blocks=1", "net.ch_mult=(1,)", "train.batch_size=8"]
    options = command.parse(
        parser,
        config=command.ROOT / "configs/digits.py",
        topology="v5e:2x2",
        changes=[*tiny, "mesh.fsdp=2", "sampling.batch_size=8"],
    )
    chip = CHIPS.get(options.topology.split(":")[0])
    if chip is None:
        raise SystemExit(f"error: --topology {options.topology} is none of {', '.join(CHIPS)}")
    if importlib.util.find_spec("libtpu") is None:
        print("libtpu, the compiler for TPUs, is not installed: pip install 'score_sde[aot]'")
        raise SystemExit(not options.small)

    config = load(options.config) if options.config else default()
    change(config, options.changes)
    there = topology(options.topology)
    experiment = experiment_of(config, there.devices, options.shape)
    about = {
        "topology": options.topology,
        "device": there.devices[0].device_kind,
        "mesh": dict(experiment.mesh.shape),
        "changes": options.changes,
        "parameters": num_params(build.abstract_state(experiment).params),
        "batch": config.train.batch_size,
        "samples": config.sampling.batch_size,
        "dtype": config.net.dtype or "float32",
        "jax": jax.__version__,
    }
    print("Compiled, not run:", ", ".join(f"{name} {value}" for name, value in about.items()))
    rows = {}
    for name in options.programs:
        rows[name] = figures(PROGRAMS[name](config, experiment), chip)
        tell(f"{name}, on one device", rows[name], chip)
    command.write(options.out, {"about": about, "rows": rows})


if __name__ == "__main__":
    main()
