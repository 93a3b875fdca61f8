"""A trained model for notebooks and scripts: `score_sde.load(workdir)`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from ml_collections import ConfigDict

from score_sde.codecs.codec import Codec
from score_sde.conditioning.conditioner import Conditioner, Raw, unknown
from score_sde.config import suggest
from score_sde.data import Arrays, Data
from score_sde.errors import ConfigError
from score_sde.experiment import coding, likelihoods, requests, samplers
from score_sde.experiment.compiled_programs import Programs
from score_sde.experiment.workdirs import Trained, changed_fields, restore_as, stored_config
from score_sde.processes import SDE
from score_sde.runtime import hosts
from score_sde.runtime.mesh import round_to_devices
from score_sde.types import Cond, Denoiser, Key, PyTree, as_pytree


class LogLikelihood(NamedTuple):
    """nats [n]; bits_per_dim [n], or None where the codec has none; nfe [n], evaluations of the
    ODE's right side, or of the denoiser; kind: what they are of the model's log-likelihood, as mode
    likelihood has it."""

    nats: Float[np.ndarray, " n"]
    bits_per_dim: Float[np.ndarray, " n"] | None
    nfe: np.ndarray
    kind: str


@dataclasses.dataclass(frozen=True, eq=False)
class Interactive:
    """A trained model. Its config says how it samples, as it does for `--mode sample`.

    process: the SDE, to `sampling.t_min`. codec: between the network's space and what is shown.
    params: the averaged parameters. step: of the training. data: the data set.
    """

    config: ConfigDict
    trained: Trained

    @property
    def process(self) -> SDE:
        """The SDE."""
        return requests.sampling_sde(self.config)

    @property
    def codec(self) -> Codec:
        """Between raw examples, the network's space and what is shown."""
        return self.trained.experiment.codec

    @property
    def data(self) -> Data:
        """The data set that it was trained on."""
        return self.trained.experiment.data

    @property
    def params(self) -> PyTree:
        """The averaged parameters."""
        return self.trained.params

    @property
    def step(self) -> int:
        """The step of training that the parameters are of."""
        return self.trained.step

    def sample(
        self,
        key: Key,
        n: int,
        *,
        labels: Sequence[int] | np.ndarray = (),
        prompts: str | Sequence[str] = (),
        x: Float[Array | np.ndarray, "n ..."] | None = None,
        **sampling: Any,
    ) -> np.ndarray:
        """n samples as `--mode sample` writes them; images as uint8 [n, h, w, c], 0..255.

        labels: classes in turn, -1 for none; any class at random if there are none.
        prompts: a text, or several in turn; captions of test examples if there are none.
        x: the noise to start from [n, *codec.shape], with the standard deviation
            `process.prior_std`; None draws it.
        sampling: fields of `config.sampling`, such as steps=20, solver="dpmpp", grid="log_snr",
            guidance="classifier_free(weight=2.0)".

        Sample i depends on the key and on i, not on n.

        Raises:
          ConfigError: a wrong field or value, or an x of another shape.
          ConvergenceError: a sample is not finite.
        """
        size = round_to_devices(self.config.sampling.batch_size, n)
        if x is not None:
            _check_shape("x", x, self.codec.shape)
        config, sampler = self._sampler(size, _fields(sampling, labels, prompts))
        shown = []
        for first in range(0, n, size):
            noise = None
            if x is not None:
                numbers = jnp.minimum(jnp.arange(first, first + size), n - 1)
                noise = jnp.asarray(x)[numbers]
            drawn = hosts.gathered(sampler(self.params, key, first, noise))
            samplers.check_finite(config, drawn.finite[: n - first])
            shown.append(drawn.shown)
        return np.concatenate(shown)[:n]

    def show(self, x: Float[Array | np.ndarray, "n ..."]) -> np.ndarray:
        """x of the network's space, such as that of `sampling.sample`, as `sample` gives it: images
        as uint8 [n, h, w, c], 0..255."""
        _check_shape("x", x, self.codec.shape)
        return coding.shown(self.codec, x)

    def denoiser(
        self,
        cond: Cond | None = None,
        *,
        labels: Sequence[int] | np.ndarray = (),
        prompts: str | Sequence[str] = (),
        **sampling: Any,
    ) -> Denoiser:
        """`(x_t [b, ...], t [] or [b]) -> E[x_0 | x_t]`, under guidance.

        cond: such as {"label": int [b]}; None for what labels or prompts ask for, which the
            examples of a batch take in turn. Without them nothing is known.
        sampling: fields of `config.sampling`, such as guidance="classifier_free(weight=2.0)".

        It is a pytree of all parameters and conditions. So give it to a compiled function as an
        argument: other prompts then compile nothing, and the program holds no parameters.

        Raises:
          ConfigError: the model does not read what is asked for, or a wrong field or value.
        """
        experiment = self.trained.experiment
        fields = _fields(sampling, labels, prompts)
        config, of_cond = self._denoiser_of(_fields(sampling))
        if any(value for name, value in fields if name in ("labels", "prompts")):
            request = requests.build_request(changed(config, "sampling", dict(fields)), experiment)
        else:
            request = requests.nothing_known(experiment.conditioner)
        return jax.tree_util.Partial(
            _denoise, of_cond, self.params, experiment.conditioner, as_pytree(request), cond
        )

    def log_likelihood(
        self,
        key: Key,
        raw: Any,
        labels: Sequence[int] | np.ndarray | None = None,
        **likelihood: Any,
    ) -> LogLikelihood:
        """log p of raw examples, dequantised, by the probability-flow ODE or `likelihood.bound`.

        raw: [n, ...], as the data set has them; `codec.raw_of(images)` for images 0..255.
        labels: [n]; None where nothing is known.
        likelihood: fields of `config.likelihood`, such as probes=0 for the exact trace.

        Raises:
          ConfigError: a wrong field or value, or examples of another shape.
        """
        _check_shape(self.codec.part, raw, self.codec.feature.shape)
        config, score = self._likelihood(tuple(sorted(likelihood.items())))
        experiment, n = self.trained.experiment, len(raw)
        parts = jax.tree.map(np.asarray, unknown(experiment.conditioner, n))
        if labels is not None:
            experiment.conditioner.check({"label": labels})
            parts = {**parts, "label": np.asarray(labels, np.int32)}
        size = round_to_devices(config.likelihood.batch_size, n)
        found = []
        source = Arrays(**{self.codec.part: np.asarray(raw)}, **parts)
        for _, mask, batch in experiment.batches(source, size):
            out = hosts.gathered(score(self.params, key, batch))
            found.append(jax.tree.map(lambda a, mask=mask: a[mask], out))
        kind = likelihoods.kind(config, experiment)
        whole = jax.tree.map(lambda *a: np.concatenate(a), *found)
        return LogLikelihood(whole.nats, whole.bits_per_dim, whole.nfe, kind)

    @functools.cached_property
    def _denoiser_of(self) -> Callable[..., tuple[ConfigDict, Callable[[PyTree, Cond], Denoiser]]]:
        """`fields of sampling -> config, (params, cond) -> Denoiser`; it remembers as `_sampler`
        does."""

        @functools.lru_cache(maxsize=16)
        def make(fields):
            config = changed(self.config, "sampling", dict(fields))
            return config, samplers.build_denoiser(config, self.trained.experiment)

        return make

    @functools.cached_property
    def _sampler(self) -> Callable[..., tuple[ConfigDict, Callable[..., samplers.Drawn]]]:
        """`(batch size, fields of sampling) -> config, sampler`; it remembers the latest ones.
        Those that differ in what is asked for alone are one program."""
        programs = Programs()

        @functools.lru_cache(maxsize=16)
        def make(size, fields):
            config = changed(self.config, "sampling", dict(fields))
            return config, programs.sampler(config, self.trained.experiment, size)

        return make

    @functools.cached_property
    def _likelihood(self) -> Callable[..., tuple[ConfigDict, Callable[..., likelihoods.Scores]]]:
        """`fields of likelihood -> config, scores`; it remembers as `_sampler` does."""

        @functools.lru_cache(maxsize=16)
        def make(fields):
            config = changed(self.config, "likelihood", dict(fields))
            return config, likelihoods.build_likelihood(config, self.trained.experiment)

        return make


def _fields(
    sampling: Mapping[str, Any],
    labels: Sequence[int] | np.ndarray = (),
    prompts: str | Sequence[str] = (),
) -> tuple[tuple[str, Any], ...]:
    """Fields of `config.sampling` in their order, with those that ask for labels and prompts. A
    text is a tuple of one."""
    asked = {"labels": tuple(int(label) for label in labels), "prompts": prompts}
    fields = {**sampling, **asked}
    for name in {"prompts", "negative"} & fields.keys():
        texts = fields[name]
        fields[name] = (texts,) if isinstance(texts, str) else tuple(texts)
    return tuple(sorted(fields.items()))


def _denoise(
    of_cond: Callable[[PyTree, Cond], Denoiser],
    params: PyTree,
    conditioner: Conditioner,
    request: Callable[[Array, Array], Raw],
    cond: Cond | None,
    x_t: Float[Array, "b ..."],
    t: Float[Array, "..."],
) -> Float[Array, "b ..."]:
    """The denoiser of `Interactive.denoiser`."""
    if cond is None:  # nothing is drawn
        keys = jax.random.split(jax.random.key(0), len(x_t))
        cond = conditioner.encode(request(keys, jnp.arange(len(x_t))))
    return of_cond(params, cond)(x_t, jnp.asarray(t))


def _check_shape(name: str, examples: Any, wanted: tuple[int, ...]) -> None:
    """Raises a ConfigError of examples [n, ...] that are not each of this shape."""
    found = np.shape(examples)[1:]
    if found != wanted:
        ours, theirs = ("x".join(map(str, shape)) or "a number" for shape in (wanted, found))
        raise ConfigError(f"each {name} is {theirs}, and the model's are {ours}")


def load(workdir: str | PathLike, fields: Mapping[str, Any]) -> Interactive:
    """As `score_sde.load`."""
    config = stored_config(Path(workdir))
    for name, value in fields.items():
        part, _, field = name.rpartition(".")
        config = changed(config, part, {field: value})
    changed_fields(config, Path(workdir))  # they are meant; another model is not
    return Interactive(config, restore_as(config, Path(workdir)))


def changed(config: ConfigDict, part: str, fields: Mapping[str, Any]) -> ConfigDict:
    """A copy of the config with these fields of a part; the part "" is the config itself.

    Raises:
      ConfigError: there is no such field, or it has another type.
    """
    config = config.copy_and_resolve_references()
    if part and part not in config:
        raise ConfigError(f"the config has no part {part!r}; {suggest(part, list(config))}")
    target = config[part] if part else config
    for name, value in fields.items():
        if name not in target:
            where = f"{part}.{name}" if part else name
            raise ConfigError(f"the config has no field {where!r}; {suggest(name, list(target))}")
        try:
            target[name] = value
        except TypeError as error:
            raise ConfigError(f"{part}.{name}: {error}") from error
    return config
