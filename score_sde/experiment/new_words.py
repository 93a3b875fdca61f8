"""New words of textual inversion, for the frozen text encoders of a conditioner."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from score_sde.conditioning.encoded_text import EncodedText, Joined, text_of, with_text
from score_sde.conditioning.subwords import Subwords
from score_sde.config import at
from score_sde.errors import ConfigError
from score_sde.experiment.build import Experiment
from score_sde.nets.clip_text import CLIPText
from score_sde.published import textual_inversion
from score_sde.published.textual_inversion import NewWord
from score_sde.types import PyTree


def with_files(experiment: Experiment, files: Sequence[str]) -> Experiment:
    """The experiment whose prompts may have the words of these files.

    Raises:
      ConfigError: a file is missing, damaged, or made for other text encoders.
    """
    with at(f"sampling.words={tuple(files)}"):
        try:
            words = [textual_inversion.read(Path(file)) for file in files]
        except OSError as error:
            raise ConfigError(f"{error.filename} cannot be read: {error.strerror}") from error
        text = with_words(text_of(experiment.conditioner), words)
        conditioner = with_text(experiment.conditioner, text)
    # the objective stays, perhaps that of an adapter: its conditioner encodes what it knows alike
    return experiment._replace(conditioner=conditioner)


def with_words(text: EncodedText, words: Sequence[NewWord]) -> EncodedText:
    """The conditioner whose tokenizers and encoders know more words (Gal et al. 2022,
    arXiv:2208.01618): an encoder reads the rows of a word in the place of it. Texts without them
    keep their states. `pooled` is that of the end of the text: by its id, for the largest id is
    that of a new word.

    Raises:
      ValueError: a word has rows for other encoders; a tokenizer has the word already; an encoder
        is none of CLIP.
    """
    if text.cached:
        raise ValueError("the data set holds the features of its captions: name one with text")
    widths = [params["tokens"].shape[1] for params in text.params if "tokens" in params]
    names = [word.name for word in words]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two files have the word {twice[0]!r}")
    for word in words:
        if (made_for := [rows.shape[1] for rows in word.rows]) != widths:
            raise ValueError(
                f"the word {word.name!r} was made for encoders of {made_for} channels, and these "
                f"have {widths}"
            )
    parts = zip(text.modules, text.params, text.tokenizer.tokenizers, strict=True)
    changed = [_encoder(*part, words, i) for i, part in enumerate(parts)]
    modules, params, tokenizers = (tuple(each) for each in zip(*changed, strict=True))
    rows = b"".join(each.tobytes() for word in words for each in word.rows)
    digests = (hashlib.sha256(digest.encode() + rows).hexdigest() for digest in text.encoders)
    return dataclasses.replace(
        text,
        params=params,
        modules=modules,
        encoders=tuple(digests),
        tokenizer=Joined(tokenizers),
    )


def _encoder(
    module: Any, params: PyTree, tokenizer: Any, words: Sequence[NewWord], number: int
) -> tuple[CLIPText, PyTree, Subwords]:
    """The encoder of this number, and its tokenizer, with the rows of the words."""
    if not isinstance(module, CLIPText) or not isinstance(tokenizer, Subwords):
        raise ValueError("only text encoders of CLIP read new words")
    if tokenizer.vocabulary != module.vocabulary:
        raise ValueError("the tokenizer has not as many tokens as its text encoder")
    more = tokenizer.with_words({word.name: len(word.rows[number]) for word in words})
    tokens = [params["tokens"], *(jnp.asarray(word.rows[number]) for word in words)]
    module = module.clone(vocabulary=more.vocabulary, eos=tokenizer.after[0])
    return module, {**params, "tokens": jnp.concatenate(tokens)}, more
