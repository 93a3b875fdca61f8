"""How often a watermark is found after its image was changed: `python benchmarks/watermark.py`.

The table of docs/guides/inverse_and_editing.md: the share of marked images with p < 1e-3, and of
unmarked ones, with the exact binomial interval of 95 %. A change is a way to store an image in 8
bits a channel and to read it again.

Two models are exact, so that no error of a network is in their rows: a mixture in pixels, and one
in the latents of a linear autoencoder, which keeps 4 numbers of each 4x4x3. Trained models are
named by their workdirs:

    python main.py --mode train --config configs/digits_watermark.py --workdir runs/digits
    make demo-text
    python benchmarks/watermark.py --workdirs runs/digits runs/shapes --samples 100

Their samples are drawn by `--solver`, with the guidance of the workdir and without. If they read a
condition, they are inverted under what was asked for, and under nothing, as `detect` inverts files
of pictures. The exact rows take a minute on two cores.
"""

import functools
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import command
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy.stats import binomtest

from score_sde import sampling, solvers
from score_sde.conditioning.conditioner import unknown
from score_sde.editing.watermark import mark, p_values, tree_ring
from score_sde.evaluation import solver_error
from score_sde.experiment import drawing, workdirs
from score_sde.modes import detect
from score_sde.processes import VP
from score_sde.processes.exact import Dataset
from score_sde.sampling import grids
from score_sde.sampling.likelihood import invert

SIZE, PATCH, KEPT = 32, 4, 4  # pixels of an image and of a patch, numbers of a patch's latent


class Images(NamedTuple):
    """Of one model: images uint8 [n, h, w, c] with a key and without, and what reads them.

    p_values: `(which of the two, images) -> [n]`.
    """

    name: str
    both: dict[str, np.ndarray]
    p_values: Callable[[str, np.ndarray], np.ndarray]


# Changes: of a PIL image


def jpeg(image, quality: int):
    """Stored as JPEG."""
    file = io.BytesIO()
    image.save(file, format="jpeg", quality=quality)
    return Image.open(file)


def resized(image, factor: float):
    """Made smaller by this factor, and as large as before."""
    small = tuple(max(1, round(side * factor)) for side in image.size)
    smaller = image.resize(small, Image.Resampling.BOX)
    return smaller.resize(image.size, Image.Resampling.BICUBIC)


def cropped(image, share: float):
    """The middle of the image, and as large as before."""
    width, height = image.size
    left, top = (side * (1 - share) / 2 for side in image.size)
    box = (left, top, width - left, height - top)
    return image.resize(image.size, Image.Resampling.BICUBIC, box=box)


CHANGES = {
    "8 bits": lambda image: image,
    "JPEG, quality 90": lambda image: jpeg(image, 90),
    "JPEG, quality 75": lambda image: jpeg(image, 75),
    "JPEG, quality 50": lambda image: jpeg(image, 50),
    "half the size, and back": lambda image: resized(image, 0.5),
    "cropped to 3/4 of the sides": lambda image: cropped(image, 0.75),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def changed(change: Callable, images: np.ndarray) -> np.ndarray:
    """uint8 [n, h, w, c] to the same."""
    squeezed = images[..., 0] if images.shape[-1] == 1 else images
    return np.stack([np.asarray(change(Image.fromarray(a))) for a in squeezed]).reshape(
        images.shape
    )


# Models


def pictures(n: int) -> np.ndarray:
    """Smooth random pictures in [-0.8, 0.8], [n, SIZE, SIZE, 3]."""
    rng = np.random.default_rng(1)
    walks = np.cumsum(np.cumsum(rng.normal(size=(n, SIZE, SIZE, 3)), axis=1), axis=2)
    return 0.8 * np.tanh(walks / np.std(walks))


def patches(x):
    """[n, SIZE, SIZE, 3] to [n, SIZE/PATCH, SIZE/PATCH, numbers of a patch]."""
    side = SIZE // PATCH
    x = x.reshape(-1, side, PATCH, side, PATCH, 3)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side, side, PATCH * PATCH * 3)


def of_patches(x):
    """The inverse of `patches`."""
    side = SIZE // PATCH
    x = x.reshape(-1, side, side, PATCH, PATCH, 3)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, SIZE, SIZE, 3)


def linear_autoencoder(images: np.ndarray) -> tuple[Callable, Callable]:
    """The encoder and decoder of the first principal axes of the patches of images, which are
    orthonormal. Latents are divided by their standard deviation."""
    flat = patches(images).reshape(-1, PATCH * PATCH * 3)
    _, _, axes = np.linalg.svd(flat, full_matrices=False)
    axes = jnp.asarray(axes[:KEPT], jnp.float32)
    scale = float(np.std(flat @ np.asarray(axes).T))
    return lambda x: patches(x) @ axes.T / scale, lambda z: of_patches(z * scale @ axes)


def exact_model(name: str, encode: Callable, decode: Callable, options) -> Images:
    """Of the mixture of the encodings of 16 pictures, each blurred by 0.1."""
    sde = VP(t_min=1e-3)
    points = encode(jnp.asarray(pictures(16), jnp.float32))
    denoiser = Dataset(points, std=0.1).denoiser(sde)
    solver, times = solvers.dpmpp(sde), grids.log_snr(sde, options.steps)
    ring = tree_ring(points.shape[1:], options.key)
    noise = sde.prior_sample(jax.random.key(0), (2 * options.samples, *points.shape[1:]))
    noise, other = jnp.split(noise, 2)

    @jax.jit
    def drawn(noise):
        x = sampling.sample(jax.random.key(0), solver, denoiser, noise, times, denoise=True).x
        return jnp.clip(jnp.round(255 * (decode(x) + 1) / 2), 0, 255).astype(jnp.uint8)

    @jax.jit
    def latents(images):
        x = encode(2 * images.astype(jnp.float32) / 255 - 1)
        return invert(sde, denoiser, x, rtol=1e-2, atol=1e-2, method="Bosh3")

    both = {"marked": np.asarray(drawn(mark(ring, noise))), "unmarked": np.asarray(drawn(other))}
    return Images(name, both, lambda which, images: p_values(ring, latents(images)))


def trained_models(workdir: Path, options) -> Iterator[Images]:
    """Of a workdir: its samples with the key, and without one; by guidance, and by what they are
    inverted under."""
    stored = workdirs.stored_config(workdir)
    for guidance in dict.fromkeys((stored.sampling.guidance, None)):
        plain = stored.copy_and_resolve_references()
        plain.sampling.update(solver=options.solver, grid="log_snr", steps=options.steps)
        plain.sampling.guidance, plain.watermark.key = guidance, None
        config = plain.copy_and_resolve_references()
        config.watermark.key = options.key
        experiment, params, _ = workdirs.restore_as(config, workdir)
        both, asked = {}, {}
        for which, own in (("marked", config), ("unmarked", plain)):
            both[which], asked[which], *_ = drawing.draw(own, experiment, params, options.samples)
        nothing = unknown(experiment.conditioner, options.samples)
        nothing = {k: np.asarray(v) for k, v in nothing.items()}
        read = detect.reader(config, experiment, params)
        name = f"{workdir}, guidance {guidance or 'none'}"
        for under, raw in (("what was asked", asked), ("nothing", dict.fromkeys(both, nothing))):
            of_raw = functools.partial(_read_under, read, raw)
            yield Images(f"{name}, inverted under {under}", both, of_raw)
            if not nothing:
                break


def _read_under(read, raw, which, images):
    return read(images, raw[which])


# The table


def share(found: np.ndarray) -> str:
    """The share below the bound, with its interval."""
    k, n = int(np.sum(found < detect.BELOW)), len(found)
    low, high = binomtest(k, n).proportion_ci(0.95, "exact")
    return f"{k / n:.1%} ({low:.1%} to {high:.1%})"


def main() -> None:
    """Prints the table and writes all p-values."""
    parser = command.parser(__doc__, out="benchmark_watermark.json")
    parser.add_argument("--workdirs", nargs="*", type=Path, default=[], help="of trained models")
    parser.add_argument("--samples", type=int, default=300, help="marked, and as many unmarked")
    parser.add_argument("--steps", type=int, default=20, help="of the sampler")
    parser.add_argument("--solver", default="dpmpp", help="of trained models")
    parser.add_argument("--key", type=int, default=2023)
    options = command.parse(parser, samples=8, steps=3)

    encode, decode = linear_autoencoder(pictures(64))
    models = [
        exact_model("exact, in pixels", lambda x: x, lambda x: x, options),
        exact_model("exact, in latents", encode, decode, options),
        *(model for workdir in options.workdirs for model in trained_models(workdir, options)),
    ]
    lines, results = [], []
    for model in models:
        for change, function in CHANGES.items():
            found = {
                which: model.p_values(which, changed(function, images))
                for which, images in model.both.items()
            }
            lines.append([model.name, change, *(share(p) for p in found.values())])
            about = {"model": model.name, "change": change}
            results.append(about | {which: p.tolist() for which, p in found.items()})
    header = ["model", "change", f"marked, p < {detect.BELOW:g}", "unmarked"]
    print(f"\n{solver_error.markdown(header, lines)}", flush=True)
    command.write(options.out, results)


if __name__ == "__main__":
    main()
