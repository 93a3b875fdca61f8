"""What a trained model can do: samples, and exact likelihoods."""

from __future__ import annotations

import functools
import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool
from ml_collections import ConfigDict

from score_sde.config import at
from score_sde.errors import ConfigError, ConvergenceError
from score_sde.evaluation import figures
from score_sde.experiment import build as door
from score_sde.experiment import samplers, workdirs
from score_sde.experiment.build import Experiment
from score_sde.experiment.workdirs import restore
from score_sde.runtime import hosts, mesh
from score_sde.runtime.atomic import replacing
from score_sde.runtime.progress import progress
from score_sde.runtime.resumable import Partial
from score_sde.sampling.likelihood import log_likelihood
from score_sde.types import PyTree


def check_finite(config: ConfigDict, finite: Bool[np.ndarray, " n"]) -> None:
    """Raises a ConvergenceError unless all samples of a batch are finite."""
    if failed := int(np.sum(~finite)):
        sampling = config.sampling
        raise ConvergenceError(
            f"{failed} of {len(finite)} samples are not finite (sampling.solver={sampling.solver}, "
            f"sampling.steps={sampling.steps}): take more steps or another solver; if that changes "
            "nothing, the weights or the sde are not finite"
        )


def sample(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Draws `sampling.num_samples` images: DIR/samples.npz (`samples` uint8 [n, h, w, c], 0..255,
    and `labels` [n], -1 where no class was asked for), DIR/samples.png (the first 100) and
    DIR/sample.json (which tells how many there are of each label).

    Raises:
      CheckpointError, ConfigError, DataError. ConvergenceError: a sample is not finite; nothing is
        written.
    """
    experiment, params, step = restore(config, workdir)
    images, labels, work, seconds = draw(config, experiment, params, config.sampling.num_samples)
    with replacing(workdir / "samples.npz") as file:
        np.savez_compressed(file, samples=images, labels=labels)
    figures.image_grid(workdir / "samples.png", images[:100])
    numbers = zip(*np.unique(labels, return_counts=True), strict=True)
    counts = {str(label): int(count) for label, count in numbers}
    result = {
        "step": step,
        "num_samples": len(images),
        **({} if set(counts) == {"-1"} else {"labels": counts}),
        **({"guidance": config.sampling.guidance} if config.sampling.guidance else {}),
        "solver": config.sampling.solver,
        "steps": config.sampling.steps,
        **work,
        "seconds": seconds,
    }
    return workdirs.store(workdir / "sample.json", result)


def likelihood(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    """Bits per dimension of every image of `likelihood.split`, uniformly dequantised:
    DIR/likelihood.json.

    Each image has its own key, so `likelihood.batch_size` changes the result by rounding alone. In
    float32, rounding can decide whether a step of the ODE is refused, and that image then moves
    within the tolerance: up to 4 % of the standard error of 297 digits at rtol 1e-2 has been seen,
    .3 % at 1e-3. The standard error is that of the mean over images; it includes the spread of
    dequantisation and probes.
    """
    door.check_denoises(config)
    experiment, params, step = restore(config, workdir)
    options = config.likelihood
    if options.split not in ("train", "test"):
        raise ConfigError(f"likelihood.split is {options.split!r}: one of train, test")
    source = getattr(experiment.data, options.split)
    root = door.key_for(config, "likelihood")
    ndim = math.prod(experiment.data.image_shape)

    @functools.partial(jax.jit, out_shardings=mesh.whole(experiment.mesh))
    def bits(params, batch):
        keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(root, i)))(batch["number"])
        x = jax.vmap(experiment.pixels.dequantize)(keys[:, 0], batch["image"])
        denoiser = experiment.model.denoiser(params, {"label": batch["label"]})
        out = log_likelihood(
            keys[:, 1],
            experiment.model.sde,
            denoiser,
            x,
            probes=options.probes or None,
            rtol=options.rtol,
            atol=options.atol,
            method=options.method,
        )
        return experiment.pixels.bits_per_dim(out.log_prob, ndim), out.nfe

    begin = time.perf_counter()
    size = door.round_to_devices(options.batch_size, len(source))
    total = len(source) // size * size if options.drop_last else len(source)
    if not total:
        raise ConfigError(f"likelihood.drop_last leaves nothing of {len(source)} images")
    about = workdirs.identity(config) | {"likelihood": workdirs.as_json(config)["likelihood"]}
    place = Partial(workdir, "likelihood", {"step": step, **about})
    stored = place.load() or {"values": np.zeros(0, np.float32), "nfes": np.zeros(0, np.int32)}
    values, nfes = [stored["values"]], [stored["nfes"]]
    done = len(values[0])
    with progress(total, "image", "likelihood", initial=done) as bar:
        for numbers, mask, batch in experiment.batches(source, size):
            if not done <= numbers[0] < total:
                continue
            value, nfe = (np.asarray(a)[mask] for a in bits(params, batch))
            values.append(value)
            nfes.append(nfe)
            bar.update(len(value))
            bar.set_postfix(bits_per_dim=f"{np.mean(np.concatenate(values)):.4f}", refresh=False)
            place.save(values=np.concatenate(values), nfes=np.concatenate(nfes))
    place.remove()
    values, nfes = np.concatenate(values), np.concatenate(nfes)
    converged = np.isfinite(values)
    failed = int(np.sum(~converged))
    result = {
        "step": step,
        "split": options.split,
        "bits_per_dim": float(np.mean(values[converged])),
        "standard_error": float(np.std(values[converged], ddof=1) / np.sqrt(converged.sum())),
        "num_examples": len(values) - failed,
        "num_failed": failed,
        "nfe": float(np.mean(nfes)),
        "seconds": time.perf_counter() - begin,
    }
    workdirs.store(workdir / "likelihood.json", result)
    if failed:
        raise ConvergenceError(
            f"the ODE of {failed} of {len(values)} images did not converge ({workdir}/"
            "likelihood.json has the others): raise likelihood.rtol and likelihood.atol"
        )
    return result


def draw(
    config: ConfigDict, experiment: Experiment, params: PyTree, num_samples: int
) -> tuple[np.ndarray, np.ndarray, dict[str, float], float]:
    """num_samples images as uint8 [n, h, w, c], their labels [n], the mean network evaluations a
    sample (`nfe`) and network calls in a row (`depth`), and the seconds it took, compilation
    included.

    Raises:
      ConvergenceError: a sample is not finite. ConfigError.
    """
    begin = time.perf_counter()
    batch_size = door.round_to_devices(config.sampling.batch_size, num_samples)
    sampler = samplers.build_sampler(config, experiment, batch_size)
    root = door.key_for(config, "sample")
    images, labels, work = [], [], []
    with progress(num_samples, "image", "sampling") as bar:
        for i in range(math.ceil(num_samples / batch_size)):
            with at("sampling"):  # what a solver says of its grid, when it is traced
                out = sampler(params, root, i * batch_size)
            left = num_samples - i * batch_size
            check_finite(config, hosts.gathered(out.finite)[:left])
            images.append(hosts.gathered(out.x))
            labels.append(hosts.gathered(out.label))
            work.append([float(jnp.mean(out.nfe)), float(out.depth)])
            bar.update(min(len(images[-1]), num_samples - bar.n))
    nfe, depth = np.mean(work, axis=0).tolist()
    seconds = time.perf_counter() - begin
    images, labels = (np.concatenate(a)[:num_samples] for a in (images, labels))
    return images, labels, {"nfe": nfe, "depth": depth}, seconds
