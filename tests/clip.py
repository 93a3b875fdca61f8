"""A tiny CLIP with random weights, as a download of one has it."""

import json
import shutil
import string
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from score_sde.conditioning.clip_vocabulary import BEGIN, END
from tests.golden.make_text import HERE, IDS


def tiny_clip(folder: Path) -> Path:
    """A new folder of both encoders, whose cosines have both signs, and a tokenizer of letters."""
    shutil.copytree(HERE / "clip_both", folder)
    letters = string.ascii_lowercase
    tokens = [*letters, *(c + "</w>" for c in letters), *map(str, range(6)), BEGIN, END]
    assert len(tokens) == IDS
    (folder / "vocab.json").write_text(json.dumps({text: n for n, text in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    arrays = load_file(folder / "model.safetensors")
    arrays["text_projection.weight"] = np.random.default_rng(3).normal(size=(10, 16)).astype("f4")
    save_file(arrays, folder / "model.safetensors")
    return folder
