"""What the network of a digits workdir gets wrong, by noise level, and whether it copies.

    python benchmarks/diagnostics.py --workdir runs/digits

The workdir is that of `configs/digits.py`. The exact denoiser is the ideal one of the dequantised
training images, from which a network that generalises has to differ. Two minutes of processor time.
"""

import argparse
import functools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import jax
import jax.numpy as jnp
import numpy as np

from configs import digits
from score_sde import compare, diagnostics, evaluate, exact

LOG_SNR = (-8, -6, -4, -2, 0, 2, 4, 6, 8)


def main() -> None:
    """Prints both tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--images", type=int, default=128, help="of each split, for the field")
    options = parser.parse_args()

    config = digits.get_config()
    experiment, params, step = evaluate.restore(config, options.workdir)
    model, pixels = experiment.model, experiment.pixels
    train, test = (
        np.stack([split[i]["image"] for i in range(len(split))])
        for split in (experiment.data.train, experiment.data.test)
    )
    times = model.sde.t_of_log_snr(jnp.array(LOG_SNR, jnp.float32))
    ideal = exact.dequantized(train, experiment.data.levels).denoiser(model.sde)
    key_images, key_field = jax.random.split(jax.random.key(0))
    splits = [pixels.dequantize(key_images, images[: options.images]) for images in (train, test)]

    @functools.partial(jax.jit, static_argnames=("measure", "probes"))
    def by_level(params, x, measure, **more):
        return measure(key_field, model.sde, model.denoiser(params), x=x, times=times, **more)

    @jax.jit
    def error(params, x):
        denoiser = model.denoiser(params)
        return diagnostics.score_error(key_field, model.sde, denoiser, ideal, x, times)

    columns = {"score error, training": error(params, splits[0])}
    columns["score error, test"] = error(params, splits[1])
    for name, measure in (
        ("asymmetry", diagnostics.jacobian_asymmetry),
        ("Fokker-Planck residual", diagnostics.fokker_planck_residual),
    ):
        columns[name] = by_level(params, splits[1], measure=measure, probes=4)
    lines = [
        [str(level), *(f"{c.value[i]:.3f} ± {c.standard_error[i]:.3f}" for c in columns.values())]
        for i, level in enumerate(LOG_SNR)
    ]
    print(f"{options.workdir}, step {step}\n")
    print(compare.markdown(["log-SNR", *columns], lines), "\n")

    drawn, _, _ = evaluate.draw(config, experiment, params, options.samples)
    # samples come as 0..255, and the levels of a digit are 17 of those
    samples, train, test = (
        np.asarray(images, np.float32) / 255
        for images in (drawn, pixels.to_uint8(train), pixels.to_uint8(test))
    )
    ours, held_out = (diagnostics.nearest(images, train) for images in (samples, test))
    found = diagnostics.memorisation(ours, held_out)
    lines = [
        [
            name,
            f"{np.median(near.distance):.3f}",
            f"{copied.value:.4f} ± {copied.standard_error:.4f}",
        ]
        for name, near, copied in (
            ("samples", ours, found.copied),
            ("test images", held_out, found.copied_held_out),
        )
    ]
    header = ["", "median distance to training", f"nearer than {diagnostics.COPY:.2f} of the next"]
    print(compare.markdown(header, lines))
    value, spread = found.closer
    print(f"\nA sample is closer than a test image with probability {value:.3f} ± {spread:.3f}.")


if __name__ == "__main__":
    main()
