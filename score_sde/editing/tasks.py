"""Edits of images by name: `score_sde.editing.tasks.NAME(tools, **options) -> Edit`.

inpaint, outpaint, colourise, super_resolution, deblur and forecast are inverse problems: they
complete what is known. image_to_image samples from an image with noise. interpolate and mix work on
latents of the probability-flow ODE.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from score_sde import sampling
from score_sde.data import read_mask
from score_sde.inverse import (
    Method,
    Observation,
    Operator,
    consistent,
    fourier,
    observe,
    operators,
    pseudo_inverse,
)
from score_sde.models.thresholding import static
from score_sde.processes import SDE
from score_sde.sampling import likelihood
from score_sde.solvers import probability_flow
from score_sde.types import Grid, Solver

__all__ = [  # what a config can name
    "colourise",
    "deblur",
    "forecast",
    "image_to_image",
    "inpaint",
    "interpolate",
    "mix",
    "outpaint",
    "super_resolution",
]


class Tools(NamedTuple):
    """What an edit samples with.

    grid: the times of a process. method: for an observation. noise: the standard deviation of an
    observation's noise, in the units of x. completions: results of an image. particles: of a
    particle filter for each result, 1 for other methods. denoise: whether sampling ends with
    E[x_0 | x]. bounds: of the data; estimates given an observation are clipped to them.
    image_shape: that of images, if x are latents of them; masks are of images.
    """

    shape: tuple[int, ...]
    sde: SDE
    solver: Solver
    grid: Callable[[SDE], Grid]
    method: Callable[[Observation], Method]
    noise: float = 0.0
    completions: int = 1
    particles: int = 1
    denoise: bool = True
    bounds: tuple[float, float] = (-math.inf, math.inf)
    image_shape: tuple[int, ...] | None = None


class Edited(NamedTuple):
    """x: k results of each image. nfe: evaluations of the network a result, without those of
    inversion; [] or, where they differ, one for each start. seen: what the edit was shown, by name.
    errors: by name."""

    x: Float[Array, "n k ..."]
    nfe: Int[Array, "..."]
    seen: dict[str, Float[Array, "n ..."]]
    errors: dict[str, Float[Array, "n k"]]


class Edit(NamedTuple):
    """sources: how many images [n, ...] `run` takes. labels: of the k results.

    run: `(key, denoisers, *sources) -> Edited`, pure; `denoisers(k)` is the denoiser of a batch
        that holds each image k times, one after the other.
    parts: raw parts of each image, for conditioners that read them: "drawn" uint8 [h, w, 1], 1
        where the image is drawn and 0 where it is known.
    """

    sources: int
    labels: tuple[str, ...]
    run: Callable[..., Edited]
    parts: Mapping[str, np.ndarray] = MappingProxyType({})


# Inverse problems


def inpaint(tools: Tools, keep: str = "left", fraction: float = 0.5, seed: int = 0) -> Edit:
    """Fills in unknown pixels. keep, fraction, seed: as for `operators.mask`; or keep is an image
    file, a name with a dot, that is white where pixels are known.

    Of latents those are known whose pixels all are: the square of an image that a latent stands
    for.

    Raises:
      ValueError: no such part, or no latent is known. DataError: the file is no image of the right
        size.
    """
    return _masked(tools, keep, fraction, seed)


def outpaint(tools: Tools, fraction: float = 0.5) -> Edit:
    """Continues the middle of an image, a box with `fraction` of its sides, to all sides."""
    return _masked(tools, "centre", fraction, 0)


def _masked(tools: Tools, keep: str, fraction: float, seed: int) -> Edit:
    """What is known of x: pixels, or latents whose pixels are all known."""
    shape = tools.image_shape or tools.shape
    known = read_mask(keep, shape) if "." in keep else operators.region(shape, keep, fraction, seed)
    drawn = 1 - known[..., None].astype(np.uint8)
    height, width, _ = fourier.image_shape(tools.shape)
    known = known.reshape(height, len(known) // height, width, -1).all(axis=(1, 3))
    if tools.image_shape and not known.any():
        raise ValueError(
            f"keep={keep!r} keeps no latent: each stands for a square of "
            f"{shape[0] // height}x{shape[1] // width} pixels, and none is kept whole"
        )
    edit = _completed(tools, operators.mask(tools.shape, keep=known))
    return edit._replace(parts={"drawn": drawn})


def _check_pixels(tools: Tools, task: str) -> None:
    """Raises a ValueError for latents, of which a linear operator on pixels is not linear."""
    if tools.image_shape:
        raise ValueError(
            f"{task} is linear in pixels, and x are latents: take inpaint, outpaint or "
            "image_to_image, or a model whose codec is pixels"
        )


def colourise(tools: Tools) -> Edit:
    """Adds colours to the mean of the channels.

    Raises:
      ValueError: images have one channel, or x are latents.
    """
    _check_pixels(tools, "colourise")
    if tools.shape[-1] == 1:
        raise ValueError("images of one channel have no colours")
    return _completed(tools, operators.grey(tools.shape))


def super_resolution(tools: Tools, factor: int = 2) -> Edit:
    """Adds detail to means over factor x factor pixels.

    Raises:
      ValueError: the factor does not divide the image's sides, or x are latents.
    """
    _check_pixels(tools, "super_resolution")
    return _completed(tools, operators.block_average(tools.shape, factor))


def deblur(tools: Tools, std: float = 1.0) -> Edit:
    """Sharpens images that a Gaussian of this standard deviation (pixels) has blurred.

    Raises:
      ValueError: std is not positive, or x are latents.
    """
    _check_pixels(tools, "deblur")
    return _completed(tools, operators.gaussian_blur(tools.shape, std))


def forecast(tools: Tools, known: float = 0.5) -> Edit:
    """Continues a series [t, ...], such as a sound, after the first `known` of its times.

    Raises:
      ValueError: that is none or all of them, or x are latents.
    """
    _check_pixels(tools, "forecast")
    length, *rest = tools.shape
    if not 0 < (first := round(known * length)) < length:
        raise ValueError(f"known must be a share that leaves some of {length} times, not {known}")
    keep = (np.arange(length) < first).reshape(-1, *[1] * len(rest))
    return _completed(tools, operators.mask(tools.shape, keep=np.broadcast_to(keep, tools.shape)))


def _completed(tools: Tools, operator: Operator) -> Edit:
    """Samples of x_0 given what the operator shows of an image.

    Without noise the results have exactly what is known. errors: `misfit`, the root of the mean
    square of A(x) - y as the method left it, and `known_error`, the largest |A(x) - y| at the end.
    """

    def run(key, denoisers, x):
        key_noise, key_start, key_solver = jax.random.split(key, 3)
        once = observe(key_noise, operator, x, tools.noise)
        k, p = tools.completions, tools.particles
        each = once._replace(y=jnp.repeat(once.y, k, axis=0))
        method = tools.method(each)
        out = sampling.sample(
            key_solver,
            method.solver(tools.solver),
            static(*tools.bounds)(method.denoiser(denoisers(k * p))),
            tools.sde.prior_sample(key_start, (len(x) * k * p, *x.shape[1:]), x.dtype),
            tools.grid(tools.sde),
            denoise=tools.denoise,
        )
        found = out.x[::p]  # one particle of each result
        exact = operator.svd is not None and not tools.noise
        results = consistent(each, found) if exact else found

        def distance(x, norm):
            error = (operator.apply(x) - each.y).reshape(len(x), -1)
            return norm(error).reshape(-1, k)

        errors = {
            "misfit": distance(found, lambda e: jnp.sqrt(jnp.mean(e**2, axis=1))),
            "known_error": distance(results, lambda e: jnp.max(jnp.abs(e), axis=1)),
        }
        shown = once.y if operator.y_shape == operator.shape else pseudo_inverse(operator)(once.y)
        return Edited(_of_each(results, k), p * out.nfe, {"observed": shown}, errors)

    return Edit(1, _numbers(tools.completions), run)


# From an intermediate time


def image_to_image(tools: Tools, log_snr: float = 0.0) -> Edit:
    """Adds noise up to the time of this log-SNR, ln(alpha^2/sigma^2), and samples from there on
    (SDEdit, Meng et al. 2021, arXiv:2108.01073). A lower log-SNR changes more.

    Raises:
      ValueError: the log-SNR is not between those of the process's ends, or the grid cannot begin
        there, such as a grid of a discrete chain's steps.
    """
    sde = tools.sde
    with jax.ensure_compile_time_eval():  # numbers, also where a program is being traced
        low, high = (float(sde.log_snr(jnp.asarray(t))) for t in (sde.t_max, sde.t_min))
        t_max = float(sde.t_of_log_snr(jnp.asarray(log_snr, float)))
    if not low < log_snr < high:
        raise ValueError(f"log_snr must be between {low:.3g} and {high:.3g}, not {log_snr}")
    grid = tools.grid(dataclasses.replace(sde, t_max=t_max))

    def run(key, denoisers, x):
        key_start, key_solver = jax.random.split(key)
        k, t = tools.completions, grid[0].astype(x.dtype)
        sources = jnp.repeat(x, k, axis=0)
        start = sde.perturb(key_start, sources, t)
        out = sampling.sample(
            key_solver, tools.solver, denoisers(k), start, grid, denoise=tools.denoise
        )
        return Edited(_of_each(out.x, k), out.nfe, {"noisy": start[::k]}, {})

    return Edit(1, _numbers(tools.completions), run, _whole(tools))


# Latents of the probability-flow ODE


def interpolate(tools: Tools, points: int = 7, tolerance: float = 1e-5) -> Edit:
    """From an image to the next, by points on the great circle between their latents
    (`likelihood.interpolate`); the first and the last are the two images, inverted and generated.

    Raises:
      ValueError: fewer than two points.
    """
    if points < 2:
        raise ValueError(f"an interpolation has at least 2 points, not {points}")
    weights = np.linspace(0, 1, points)

    def between(a, b):
        return likelihood.interpolate(a, b, jnp.asarray(weights, a.dtype))

    return by_latents(tools, between, tuple(f"{w:.2g}" for w in weights), tolerance)


def mix(
    tools: Tools, cutoffs: tuple[float, ...] = (1.0, 2.0, 3.0), tolerance: float = 1e-5
) -> Edit:
    """The low frequencies of one image's latent with the high ones of the next image's, divided at
    a cutoff (cycles an image); a result for each cutoff."""
    fourier.image_shape(tools.shape)

    def mixed(a, b):
        return jnp.stack([mixture(a, b, cutoff) for cutoff in cutoffs])

    return by_latents(tools, mixed, tuple(f"up to {c:g}" for c in cutoffs), tolerance)


def mixture(
    a: Float[Array, "b h w c"], b: Float[Array, "b h w c"], cutoff: float
) -> Float[Array, "b h w c"]:
    """P a + (1 - P) b, P the projection on frequencies up to the cutoff.

    P is orthogonal, so P P^T + (1 - P)(1 - P)^T = 1: of two independent latents N(0, s^2 I) the
    mixture is N(0, s^2 I) again.
    """
    return b + fourier.low_pass(a - b, cutoff)


def by_latents(
    tools: Tools,
    combine: Callable[[Array, Array], Array],
    labels: tuple[str, ...],
    tolerance: float,
) -> Edit:
    """Inverts two images to latents a, b [n, ...], and generates from `combine(a, b)` [k, n, ...].

    A row has the condition of its first image.

    Raises:
      ValueError: there are no results, or the tolerance is not positive.
    """
    sde, k = tools.sde, len(labels)
    if not (k and tolerance > 0):
        raise ValueError("an edit of latents needs at least one result, and a positive tolerance")
    ode = probability_flow(sde, rtol=tolerance, atol=tolerance)

    def run(key, denoisers, a, b):
        both = jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])
        latents = likelihood.invert(sde, denoisers(2), both, rtol=tolerance, atol=tolerance)
        points = jnp.swapaxes(combine(latents[::2], latents[1::2]), 0, 1)
        times = jnp.asarray([sde.t_max, sde.t_min], a.dtype)
        start = points.reshape(-1, *a.shape[1:])
        out = sampling.sample(key, ode, denoisers(k), start, times, denoise=tools.denoise)
        return Edited(_of_each(out.x, k), out.nfe, {"next": b}, {})

    return Edit(2, labels, run, _whole(tools))


def _whole(tools: Tools) -> dict[str, np.ndarray]:
    """`Edit.parts` where all of an image is drawn."""
    return {"drawn": np.ones((*(tools.image_shape or tools.shape)[:-1], 1), np.uint8)}


def _of_each(x: Array, k: int) -> Array:
    return x.reshape(-1, k, *x.shape[1:])


def _numbers(k: int) -> tuple[str, ...]:
    return tuple(str(i + 1) for i in range(k))
