"""Which samples are kept: filters by copies of training images, by a classifier, by words.

What a config can name (`sampling.filters`) are constructors `(config, experiment, **options) ->
Filter`. What is dropped is counted, and nothing is drawn in its place.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Shaped
from ml_collections import ConfigDict

from score_sde.conditioning.conditioner import unknown
from score_sde.config import build
from score_sde.data import fingerprint
from score_sde.errors import ConfigError
from score_sde.experiment import coding, drawing, requests, samplers, workdirs
from score_sde.experiment.build import Experiment, key_for
from score_sde.experiment.neighbours import neighbours_among
from score_sde.experiment.report.subject import examples
from score_sde.types import PyTree, as_pytree

__all__ = ["classifier", "copies", "words"]  # what a config can name

Asked = Mapping[str, np.ndarray]
"""What each sample was asked for: "labels" int [b] or "prompts" texts [b]."""


class Filter(NamedTuple):
    """Which samples are kept.

    made_of: digests of what it depends on beside its options. about: what it measured. Both JSON.
    prompts: `texts -> keep bool [b]`, before anything is drawn.
    shown: `(shown [b, ...], asked) -> keep bool [b]`.
    """

    made_of: dict[str, Any]
    about: dict[str, Any]
    prompts: Callable[[Sequence[str]], Bool[np.ndarray, " b"]] = lambda texts: np.ones(
        len(texts), bool
    )
    shown: Callable[[Shaped[np.ndarray, "b ..."], Asked], Bool[np.ndarray, " b"]] = (
        lambda shown, asked: np.ones(len(shown), bool)
    )


class Kept(NamedTuple):
    """What is kept of a batch: the samples [k, ...], their numbers int [k], and the raw parts and
    the words that they were asked for, each [k, ...].

    drawn: how many were drawn. dropped: how many of these each filter dropped, the first for
        samples that several would drop.
    nfe, depth: as in `drawing.Batch`.
    """

    shown: np.ndarray
    numbers: np.ndarray
    raw: dict[str, np.ndarray]
    asked: dict[str, np.ndarray]
    drawn: int
    dropped: dict[str, int]
    nfe: float
    depth: float


def build_filters(config: ConfigDict, experiment: Experiment) -> dict[str, Filter]:
    """`sampling.filters`, by what the config calls them.

    Raises:
      ConfigError: one does not fit the model. CheckpointError, DataError: what it needs is not
        there.
    """
    return {
        spec: build("experiment.filters", spec, config, experiment)
        for spec in config.sampling.filters
    }


def allowed(
    config: ConfigDict, experiment: Experiment, filters: Mapping[str, Filter]
) -> tuple[np.ndarray, dict[str, int]]:
    """The numbers of the samples whose prompts no filter refuses, and how many each refuses."""
    n = config.sampling.num_samples
    if not filters:
        return np.arange(n), {}
    keys, numbers = jax.random.split(key_for(config, "sample"), n), jnp.arange(n, dtype=jnp.int32)
    raw = requests.build_request(config, experiment)(keys, numbers)
    told = requests.told(config, experiment.conditioner, raw, range(n))
    texts = told["prompts"].tolist() if "prompts" in told else [""] * n
    keep, refused = _in_order(n, {spec: each.prompts(texts) for spec, each in filters.items()})
    return np.flatnonzero(keep), refused


def kept(
    config: ConfigDict,
    experiment: Experiment,
    params: PyTree,
    filters: Mapping[str, Filter],
    numbers: np.ndarray,
    done: int = 0,
    sampler_of: Callable[..., Callable[..., samplers.Drawn]] = samplers.build_sampler,
) -> Iterator[Kept]:
    """The samples of these numbers that are kept, batch by batch, without the first `done`.

    sampler_of: as `drawing.batches_of` has it.

    Raises:
      ConvergenceError: a sample is not finite. ConfigError.
    """
    if not len(numbers):
        return
    conditioner = experiment.conditioner
    for batch in drawing.batches_of(config, experiment, params, numbers, done, sampler_of):
        mine = numbers[done : done + len(batch.shown)]
        done += len(mine)
        asked = requests.told(config, conditioner, batch.raw, mine.tolist())
        found = {spec: each.shown(batch.shown, asked) for spec, each in filters.items()}
        keep, dropped = _in_order(len(mine), found)
        yield Kept(
            batch.shown[keep],
            mine[keep],
            {name: a[keep] for name, a in batch.raw.items()},
            {name: a[keep] for name, a in asked.items()},
            len(mine),
            dropped,
            batch.nfe,
            batch.depth,
        )


def _in_order(
    n: int, found: Mapping[str, Bool[np.ndarray, " n"]]
) -> tuple[Bool[np.ndarray, " n"], dict[str, int]]:
    """Whether all keep a sample, and how many each is the first to drop."""
    keep, dropped = np.ones(n, bool), {}
    for name, each in found.items():
        dropped[name] = int(np.sum(keep & ~each))
        keep = keep & each
    return keep, dropped


def copies(
    config: ConfigDict, experiment: Experiment, *, rate: float = 0.01, mirrored: bool = False
) -> Filter:
    """Drops samples much nearer to a training image than to any held-out one, by the ratio

        distance to the nearest training image / distance to the nearest held-out image

    in the network's space. The test images are cut in two: every second one is a neighbour, and the
    others measure below which ratio at most the share `rate` of new images is (`threshold`).

    rate: of images that are no copies, how many are dropped. mirrored: looks for copies of mirrored
        training images too; for a network that was trained with data.augment="flip".

    Raises:
      ValueError: there are too few test images, or they are copies. DataError: there are no data.
    """
    codec, data = experiment.codec, experiment.data
    train, test = (
        coding.shown_raw(codec, examples(source)[codec.part]) for source in (data.train, data.test)
    )
    near, other = (
        neighbours_among(experiment, coding.located(codec, shown)) for shown in (train, test[::2])
    )

    def ratio(shown):
        views = [shown, shown[:, :, ::-1]] if mirrored else [shown]
        located = [coding.located(codec, view) for view in views]
        of_train = np.min([near(x).distance for x in located], axis=0)
        of_test = other(located[0]).distance
        with np.errstate(divide="ignore", invalid="ignore"):  # it may be a held-out image itself
            return np.where(of_train == 0, 0, of_train / of_test)

    measured = ratio(test[1::2])
    least = threshold(measured, rate)
    about = {
        "threshold": least,
        "held_out": len(measured),
        "share_of_held_out": float(np.mean(measured < least)),
    }
    made_of = {"train": fingerprint(data.train, codec.part)}
    return Filter(made_of, about, shown=lambda shown, asked: ratio(shown) >= least)


def threshold(ratios: Float[np.ndarray, " n"], rate: float) -> float:
    """The k-th least of n ratios, k = floor(rate (n + 1)). A new one of the same law, in any order
    with these, is below it with a probability of at most k / (n + 1), whatever the law is (Vovk,
    Gammerman & Shafer 2005, conformal prediction).

    Raises:
      ValueError: n is too small for the rate, or the ratio is 0.
    """
    n = len(ratios)
    if not 0 < rate < 1:
        raise ValueError(f"rate={rate} is not between 0 and 1")
    k = math.floor(rate * (n + 1))
    if k < 1:
        raise ValueError(
            f"rate={rate} needs {math.ceil(1 / rate) - 1} held-out images that measure it, and "
            f"every second of the test images makes {n}: take rate={1 / (n + 1):.2g} or more"
        )
    found = float(np.sort(ratios)[k - 1])
    if not found:
        raise ValueError("too many test images are training images too: remove them from one")
    return found


def classifier(
    config: ConfigDict, experiment: Experiment, *, workdir: str, p: float = 0.5
) -> Filter:
    """Keeps samples whose class is the one asked for with a probability above p, by a classifier
    (`objective.name="classification"`) at its lowest noise level. It keeps samples that were drawn
    without a class.

    Raises:
      ConfigError: the workdir is of no classifier of such images and classes. CheckpointError:
        there is none.
    """
    theirs = workdirs.stored_config(Path(workdir), config.mesh)
    same = workdirs.as_json(theirs)["data"] == workdirs.as_json(config)["data"]
    trained = workdirs.restore_as(theirs, Path(workdir), data=experiment.data if same else None)
    other = trained.experiment
    if other.objective.gives != "log_prob":
        raise ConfigError(
            f"sampling.filters: {workdir} was trained with objective.name="
            f"{theirs.objective.name!r}, and this filter needs a classifier"
        )
    for what, ours, found in (
        ("classes", experiment.conditioner.sizes.get("label"), other.conditioner.sizes["label"]),
        ("images of shape", experiment.codec.inner.shape, other.codec.inner.shape),
    ):
        if ours != found:
            raise ConfigError(f"sampling.filters: {workdir} has {what} {found}, this model {ours}")
    guided = requests.guidance_of(config).is_of_labels
    if not (guided or requests.reads_conditions(config, experiment.conditioner)):
        raise ConfigError(
            "sampling.filters: classifier needs samples of classes that are asked for, and this "
            "model has none"
        )
    if not 0 <= p < 1:
        raise ConfigError(f"sampling.filters: p={p} is not a probability below 1")
    sde = other.model.sde

    @jax.jit
    def probability(result, params, x, label):
        t = jnp.full(len(x), sde.t_min, x.dtype)
        x_t = x * sde.alpha(t).reshape(-1, *(1,) * (x.ndim - 1))
        return jnp.exp(result(params, {"label": label})(x_t, t))

    result, params = as_pytree(other.objective.result), trained.params

    def shown(samples, asked):
        x = coding.located(other.codec, samples)
        label = jnp.asarray(asked["labels"], jnp.int32)
        return np.asarray(probability(result, params, x, label)) > p

    return Filter({"classifier": trained.digest}, {"step": trained.step}, shown=shown)


def words(config: ConfigDict, experiment: Experiment, *, refused: Sequence[str]) -> Filter:
    """Refuses prompts that hold one of these words or phrases, whole and in any case, before they
    are drawn. It knows no other spelling and no meaning.

    Raises:
      ConfigError: the model reads no prompts that can be told. ValueError: there are no words.
    """
    conditioner = experiment.conditioner
    if "prompts" not in conditioner.told(unknown(conditioner, 1)):
        raise ConfigError(
            f"sampling.filters: words refuses prompts, and the conditioner {config.conditioner} "
            "reads none that can be told"
        )
    if isinstance(refused, str) or not all(isinstance(a, str) and a.strip() for a in refused):
        raise ValueError(f"refused={refused!r} should be a tuple of words")
    if not refused:
        raise ValueError("refused is empty: name words, such as ('gun',)")
    spaced = (r"\s+".join(map(re.escape, _folded(each).split())) for each in refused)
    found = re.compile(rf"(?<!\w)(?:{'|'.join(spaced)})(?!\w)")

    def keep(texts: Sequence[str]) -> Bool[np.ndarray, " b"]:
        return np.array([found.search(_folded(text)) is None for text in texts], bool)

    return Filter({}, {}, prompts=keep)


def _folded(text: str) -> str:
    """Without case, and letters of one look as one."""
    return unicodedata.normalize("NFKC", text).casefold()
