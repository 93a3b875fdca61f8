"""The figures that README compares the demo's bits/dim with: `python benchmarks/baselines.py`.

Densities fitted to the dequantised training digits and scored on the dequantised test digits: one
full Gaussian, and Gaussian mixtures with full covariances. Half a minute on two cores.
"""

import command
import jax
import numpy as np
from sklearn.mixture import GaussianMixture

from score_sde.codecs.pixels import Pixels
from score_sde.data import digits, gather


def dequantized(codec, source, draws: int, seed: int) -> np.ndarray:
    """Every image `draws` times, each with fresh noise, [draws n, 64]."""
    images = gather(source, np.arange(len(source)))["image"]
    keys = jax.random.split(jax.random.key(seed), draws)
    noisy = [np.asarray(codec.dequantize(key, images)) for key in keys]
    return np.concatenate(noisy).reshape(draws * len(images), -1).astype(np.float64)


def main() -> None:
    """Prints bits/dim on the test split by number of components."""
    parser = command.parser(__doc__)
    parser.add_argument("--components", nargs="+", type=int, default=[1, 10, 20, 30, 40])
    options = command.parse(parser, components=[1, 2])

    data = digits()
    codec = Pixels(data.features["image"])
    train, test = dequantized(codec, data.train, 8, 0), dequantized(codec, data.test, 8, 1)
    for components in options.components:
        mixture = GaussianMixture(components, reg_covar=1e-3, random_state=0, max_iter=50)
        bits = codec.bits_per_dim(mixture.fit(train).score_samples(test)).mean()
        print(f"{components:3d} Gaussians: {bits:.2f} bits/dim", flush=True)


if __name__ == "__main__":
    main()
