"""Images per second of the input, and what training takes: `python benchmarks/pipeline.py`.

First batches of 128, mirrored at random, from each kind of source, with nothing else running. Then
some steps of the loop of training (iterator, stacking, transfer, the compiled step of a DDPM++ of
7.0M parameters and of `configs/digits.py`): the time until a batch is there, as a part of the
whole. Rates are told by the clock and by the second of processor: where the device is the CPU, or
others use it too, the latter is what compares. --need names another rate to compare with, such as
what an accelerator was measured to take. About four minutes on two cores. --small leaves the DDPM++
out.
"""

import os
import platform
import tempfile
import time
from pathlib import Path

import command
import jax
import numpy as np
from PIL import Image
from throughput import default

from configs import digits
from score_sde import data
from score_sde.config import build
from score_sde.data import Arrays, Data, labelled_images, train_iterator
from score_sde.data.augment import flip
from score_sde.experiment.build import build_experiment, initial_state
from score_sde.experiment.program import compiled_step, stack
from score_sde.runtime import mesh
from score_sde.types import Feature

BATCH = 128


def random_data(images, channels):
    """Images of 32 x 32 pixels in memory."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (images, 32, 32, channels), dtype=np.uint8)
    source = Arrays(image=image, label=np.zeros(images, np.int32))
    return Data("random", source, source, labelled_images(image.shape[1:]))


def sources(folder):
    """By name the sources."""
    rng = np.random.default_rng(0)
    for i in range(2000):
        image = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(image).save(folder / f"{i}.png")
    embedded = data.digits()
    return {
        "digits, in memory, 8x8x1": embedded.train,
        "digits, array_record, 8x8x1": data.tfds("sklearn_digits:1.0.0").train,
        "100,000 images in memory, 32x32x3": random_data(100_000, 3).train,
        "folder of PNG files, 32x32x3": data.folder(folder, image_size=32).train,
    }


IMAGE = Feature((32, 32, 3), 256)


class Clock:
    """Seconds since it was made: of the clock, and of processor in all threads."""

    def __init__(self):
        self._start = time.perf_counter(), time.process_time()

    def read(self):
        """Both."""
        return time.perf_counter() - self._start[0], time.process_time() - self._start[1]


def pipeline_rate(source, seconds):
    """Images per second of a source: of the clock, and of processor."""
    batches = train_iterator(source, batch_size=BATCH, seed=0, augment=flip({"image": IMAGE}))
    for _ in range(20):  # more than are made ahead
        next(batches)
    clock, count = Clock(), 0
    while clock.read()[0] < seconds:
        next(batches)
        count += 1
    return [count * BATCH / passed for passed in clock.read()]


def loop(config, loaded, steps):
    """Of training, images per second of the clock and of processor; the part of the time that
    passes until a batch is there, and the milliseconds of it a step."""
    experiment = build_experiment(config, loaded)
    size = config.train.batch_size
    augment = build("data.augment", config.data.augment, experiment.data.features)
    batches = train_iterator(experiment.data.train, batch_size=size, seed=0, augment=augment)
    step, state = compiled_step(config, experiment, 1), initial_state(config, experiment)
    pending, waited = [], 0.0
    for i in range(steps + 3):
        if i == 3:
            jax.block_until_ready(pending)
            clock, waited = Clock(), 0.0
        start = time.perf_counter()
        batch = stack(batches, 1, experiment.sharded(axis=1))
        waited += time.perf_counter() - start
        state, metrics = step(jax.random.key(0), state, batch)
        pending.append(metrics)
        if len(pending) > 2:  # as the loop of training
            jax.block_until_ready(pending[-3])
    jax.block_until_ready(state)
    passed, processor = clock.read()
    rates = [steps * size / passed, steps * size / processor]
    return rates, waited / passed, 1000 * waited / steps


def main() -> None:
    """Prints Markdown tables and writes the JSON file."""
    parser = command.parser(__doc__, out="benchmark_pipeline.json")
    parser.add_argument("--need", type=float, default=10_000, help="images per second")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each source")
    parser.add_argument("--steps", type=int, default=200, help="of digits; a tenth of the DDPM++")
    options = command.parse(parser, seconds=0.2, steps=5)

    mesh.use_cores(BATCH)  # as main.py
    device = jax.devices()[0].device_kind
    print(f"{device}, {os.cpu_count()} cores, jax {jax.__version__}")
    print(f"| source | images/s | per second of processor | x {options.need:,.0f} images/s |")
    print("| --- | --- | --- | --- |")
    rates = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, source in sources(Path(folder)).items():
            clock, processor = rates[name] = pipeline_rate(source, options.seconds)
            cells = [f"{clock:,.0f}", f"{processor:,.0f}", f"{clock / options.need:.1f}"]
            print("|", " | ".join([name, *cells]), "|", flush=True)

    small = digits.get_config()
    small.train.batch_size = BATCH
    runs = {"configs/digits.py, 8x8x1": (small, None, options.steps)}
    if not options.small:
        large = default(), random_data(1000, 1), max(options.steps // 10, 1)
        runs["DDPM++ of 7.0M, 32x32x1"] = large
    slowest = min(processor for _, processor in rates.values())
    print()
    print(
        "| training | images/s | per second of processor | time until a batch is there | "
        "the slowest source gives |"
    )
    print("| --- | --- | --- | --- | --- |")
    loops = {}
    for name, run in runs.items():
        (clock, processor), part, milliseconds = loops[name] = loop(*run)
        cells = [f"{clock:,.1f}", f"{processor:,.1f}", f"{milliseconds:.2f} ms, {part:.2%} of all"]
        print("|", " | ".join([name, *cells, f"{slowest / processor:,.0f} x"]), "|", flush=True)
    about = {
        "device": device,
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "batch": BATCH,
        "need": options.need,
    }
    command.write(options.out, {"about": about, "sources": rates, "training": loops})


if __name__ == "__main__":
    main()
