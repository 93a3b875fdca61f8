"""Writes `metrics_peers.npz`: what pytorch-fid, torch and clean-fid make of small inputs.

    pip install torch==2.13.0 torchvision pytorch-fid==0.3.0 clean-fid==0.1.35
    python tests/golden/make_inception.py

Run by hand. The weights of Inception are drawn by `draw` from the names of the arrays, so that
they need not be stored. `--compare N` writes nothing, and prints how far the features of N images
are from pytorch-fid's and the FID between two sets of N by both; `--weights FILE` with the public
weights.

    images     uint8 [3, 32, 32, 3]
    pool       float32 [3, 2048]: pytorch-fid's features
    logits     float32 [3, 1008]: the last layer, with its bias
    small      float32 [7, 9, 3] and its bilinear sizes by torch.nn.functional.interpolate:
    enlarged   [12, 12, 3]
    shrunk     [4, 4, 3]
    cleaned    float32 [23, 23, 3]: every 13th pixel of the first image as clean-fid resizes it
    mean_a, cov_a, mean_b, cov_b, frechet   float64: pytorch-fid's calculate_frechet_distance
    x, y       float32 [40, 6]
    kernel     float64: clean-fid's kernel_distance, which takes all 40 of both
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The array of this name, uniform numbers that keep activations of order one."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    u = np.random.default_rng(seed).random(shape)
    if name.endswith(("running_var", "bn.weight")):
        a = 0.5 + u
    elif len(shape) == 1:
        a = 0.2 * u - 0.1
    else:  # of variance 5/3 / fan-in: the 2 that a ReLU halves, less what the scales above add
        a = (2 * u - 1) * np.sqrt(5 / np.prod(shape[1:]))
    return a.astype(np.float32)


def pictures(seed: int, n: int, size: int = 32, roughness: float = 1.5) -> np.ndarray:
    """Coloured clouds, uint8 [n, size, size, 3]: noise with a spectrum 1 / frequency^roughness."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None]) * size
    amplitude = 1 / np.maximum(frequency, 1) ** roughness
    spectrum = np.fft.rfft2(rng.standard_normal((n, 3, size, size))) * amplitude
    clouds = np.fft.irfft2(spectrum, (size, size)).transpose(0, 2, 3, 1)
    clouds *= 60 / clouds.std(axis=(1, 2, 3), keepdims=True)
    return np.clip(128 + clouds, 0, 255).astype(np.uint8)


def peer(weights: str | None = None):
    """pytorch-fid's network and torchvision's last layer, with the drawn or with given weights."""
    import torch
    from pytorch_fid import inception

    def drawn(*_, **__):
        if weights is not None:
            return torch.load(weights)
        net = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)
        return {
            name: a if a.ndim == 0 else torch.from_numpy(draw(name, tuple(a.shape)))
            for name, a in net.state_dict().items()
        }

    inception.load_state_dict_from_url = drawn
    return inception.InceptionV3([3]).eval(), inception.fid_inception_v3().fc


def features(net, images: np.ndarray) -> np.ndarray:
    """pytorch-fid's features of uint8 images."""
    import torch

    with torch.no_grad():
        batches = np.array_split(images, max(len(images) // 25, 1))
        inputs = (torch.from_numpy(b.transpose(0, 3, 1, 2)).float() / 255 for b in batches)
        return np.concatenate([net(x)[0][:, :, 0, 0].numpy() for x in inputs])


def gaussian(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean and the covariance as pytorch-fid takes them."""
    return x.mean(axis=0, dtype=np.float64), np.cov(x.astype(np.float64), rowvar=False)


def write() -> None:
    """Writes `metrics_peers.npz`."""
    import torch
    from cleanfid.fid import kernel_distance
    from cleanfid.resize import build_resizer
    from pytorch_fid.fid_score import calculate_frechet_distance

    net, last = peer()
    images = pictures(0, 3)
    pool = features(net, images)
    with torch.no_grad():
        logits = last(torch.from_numpy(pool)).numpy()
    rng = np.random.default_rng(1)
    small = rng.uniform(0, 255, (7, 9, 3)).astype(np.float32)

    def resized(size):
        x = torch.from_numpy(small.transpose(2, 0, 1))[None]
        y = torch.nn.functional.interpolate(x, (size, size), mode="bilinear", align_corners=False)
        return y[0].numpy().transpose(1, 2, 0)

    x, y = rng.normal(0, 1, (40, 6)), rng.normal(0.3, 1.2, (40, 6))
    x, y = (a.astype(np.float32).astype(np.float64) for a in (x, y))
    (mean_a, cov_a), (mean_b, cov_b) = gaussian(x), gaussian(y)
    np.savez_compressed(
        Path(__file__).parent / "metrics_peers.npz",
        images=images,
        pool=pool,
        logits=logits,
        small=small,
        enlarged=resized(12),
        shrunk=resized(4),
        cleaned=build_resizer("clean")(images[0])[::13, ::13],
        mean_a=mean_a,
        cov_a=cov_a,
        mean_b=mean_b,
        cov_b=cov_b,
        frechet=calculate_frechet_distance(mean_a, cov_a, mean_b, cov_b),
        x=x.astype(np.float32),
        y=y.astype(np.float32),
        kernel=kernel_distance(x, y, num_subsets=1),
    )


def compare(n: int, weights: str | None) -> None:
    """Prints the distance of our features and FID from the peer's."""
    import tempfile

    import jax
    import torch
    from pytorch_fid.fid_score import calculate_frechet_distance

    from score_sde.evaluation.metrics import features as ours
    from score_sde.evaluation.metrics import summary
    from score_sde.evaluation.metrics.frechet import frechet

    sets = pictures(1, n), pictures(2, n, roughness=1.2)
    net, _ = peer(weights)
    theirs = [features(net, images) for images in sets]
    del net
    with tempfile.TemporaryDirectory() as folder:
        if weights is None:
            from pytorch_fid import inception

            weights = Path(folder) / "drawn.pth"
            torch.save(inception.load_state_dict_from_url(), weights)
        extractor = ours.inception(weights)
    summaries, pools = [], []
    for images in sets:
        s = summary.empty(2048, 1008, capacity=n)
        for i in range(0, n, 25):
            batch = images[i : i + 25]
            f = extractor(jax.numpy.asarray(batch))
            s = summary.update(s, f, np.arange(i, i + len(batch)), np.ones(len(batch), bool))
            pools.append(np.asarray(f.pool))
        summaries.append(s)
    a, b = np.concatenate(pools), np.concatenate(theirs)
    print("features: largest", np.abs(b).max(), "spread", b.std(axis=0).mean())
    print("features: largest difference", np.abs(a - b).max())
    print("FID: ours", frechet(*summaries))
    gaussians = [*gaussian(theirs[0]), *gaussian(theirs[1])]
    print("FID: pytorch-fid", calculate_frechet_distance(*gaussians))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compare", type=int, metavar="N")
    parser.add_argument("--weights", metavar="FILE")
    arguments = parser.parse_args()
    if arguments.compare is None:
        write()
    else:
        compare(arguments.compare, arguments.weights)
