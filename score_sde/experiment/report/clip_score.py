"""How well samples show what their prompts say, by a CLIP that the user has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from score_sde.conditioning import tokenizers
from score_sde.config import at
from score_sde.errors import ConfigError
from score_sde.evaluation import solver_error
from score_sde.evaluation.metrics import clip_score as metric
from score_sde.experiment import drawing, requests
from score_sde.experiment.build import Experiment, key_for
from score_sde.experiment.report.subject import Subject
from score_sde.published.text_encoders import clip_modules

SUCH = "a folder with a CLIPModel and its tokenizer, such as that of openai/clip-vit-large-patch14"


def clip_score(subject: Subject) -> dict[str, Any]:
    """The mean of 100 max(cos, 0) over `evaluate.num_samples` samples, the cosine between CLIP's
    features of the sample and of its prompt (Hessel et al. 2021, arXiv:2104.08718, with 100 in the
    place of 2.5), and its standard error. Prompts are those of `sampling.prompts` in turn; without
    them the captions of test examples, as their tokens spell them.

    Raises:
      ConfigError: `evaluate.clip` is no such folder; the model reads no prompts, or nothing says
        what to draw; samples are no images. ConvergenceError: a sample is not finite.
    """
    config, experiment = subject.config, subject.experiment
    score = _score(config)
    texts = _texts(config, experiment)
    n = config.evaluate.num_samples
    place = subject.partial("clip_score", evaluate={"num_samples": n, "clip": config.evaluate.clip})
    stored = place.load()
    scores = stored["scores"].tolist() if stored else []
    rest = drawing.batches(config, experiment, subject.params, n, len(scores))
    for batch in rest:
        if batch.shown.dtype != np.uint8:
            raise ConfigError("evaluate.parts: clip_score is of images, 8 bits a number")
        asked = texts[len(scores) : len(scores) + len(batch.shown)]
        with at("evaluate.clip"):
            scores += np.maximum(score(batch.shown, asked), 0).tolist()
        place.save(scores=np.array(scores))
    place.remove()
    mean = solver_error.mean(scores)
    return {
        "num_samples": n,
        "num_prompts": len(set(texts)),
        "clip": Path(config.evaluate.clip).name,
        "clip_score": mean.value,
        "standard_error": mean.standard_error,
    }


def _score(config: ConfigDict) -> metric.Score:
    """That of the folder `evaluate.clip`."""
    if not config.evaluate.clip:
        raise ConfigError(f"evaluate.parts: clip_score needs a CLIP: set evaluate.clip to {SUCH}")
    folder = Path(config.evaluate.clip)
    if not folder.is_dir():
        raise ConfigError(f"evaluate.clip={config.evaluate.clip!r} is no folder: give {SUCH}")
    with at("evaluate.clip"):
        text, _ = clip_modules(folder)
        tokenizer = tokenizers.clip(folder, text.positions)
        tokenizers.check_vocabulary(tokenizer, text.vocabulary)
        return metric.clip_score(folder, tokenizer)


def _texts(config: ConfigDict, experiment: Experiment) -> list[str]:
    """What each sample is asked for, in words."""
    conditioner, n = experiment.conditioner, config.evaluate.num_samples
    if conditioner.field != "prompts":
        raise ConfigError(
            "evaluate.parts: clip_score asks by prompts, and the conditioner "
            f"{config.conditioner} reads none"
        )
    numbers = jnp.arange(n, dtype=jnp.int32)
    request = requests.build_request(config, experiment)
    if asked := config.sampling.prompts:
        return [asked[i % len(asked)] for i in range(n)]
    raw = request(jax.random.split(key_for(config, "sample"), n), numbers)
    found = conditioner.told(raw).get("prompts", ())
    if not any(found):
        raise ConfigError(
            "evaluate.parts: clip_score needs prompts, and the test examples have no captions that "
            "can be read: set sampling.prompts=('a red bicycle',)"
        )
    return [str(text) for text in found]
