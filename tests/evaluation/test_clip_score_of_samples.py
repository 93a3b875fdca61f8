"""The part clip_score of mode evaluate: samples of a model that reads prompts, seen by a CLIP."""

import json
import shutil
import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from configs import shapes
from score_sde import published
from score_sde.conditioning import tokenizers
from score_sde.conditioning.labels import Labels
from score_sde.errors import ConfigError, DataError
from score_sde.evaluation import report_page
from score_sde.evaluation.metrics.clip_score import prepared
from score_sde.experiment import build, drawing
from score_sde.experiment.report import clip_score
from score_sde.experiment.report.subject import Subject
from score_sde.published.text_encoders import clip_modules
from tests.clip import tiny_clip
from tests.golden.make_text import IDS


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return tiny_clip(tmp_path_factory.mktemp("clip") / "tiny")


def config_of(clip, **fields):
    config = shapes.get_config()
    config.codec = "pixels"
    config.data.image_size = 16
    config.net.update(patch_size=8, width=16, depth=1, num_heads=2)
    config.sampling.update(steps=2, batch_size=8, prompts=("a cat", "a dog"))
    config.evaluate.update(parts=("clip_score",), num_samples=12, clip=clip and str(clip))
    config.update_from_flattened_dict(fields)
    return config


IMAGES = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)


def batches(config, experiment, params, num_samples, done=0):
    """In the place of `drawing.batches`: these images."""
    for first in range(done, num_samples, 8):
        yield drawing.Batch(IMAGES[first : first + 8], {}, 2.0, 2.0)


@pytest.fixture(scope="module")
def experiment():
    return build.build_experiment(config_of(""))


@pytest.fixture(autouse=True)
def _draw(monkeypatch):
    monkeypatch.setattr(drawing, "batches", batches)


def subject(config, experiment, workdir):
    return Subject(config, workdir, experiment, {}, 3)


def cosines(clip, images, texts):
    """By each encoder on its own, and NumPy."""
    text, vision = clip_modules(clip)
    ids = jnp.asarray(tokenizers.clip(clip, 12)(texts))
    found: list[np.ndarray] = []
    for net, x in ((text, ids), (vision, prepared(jnp.asarray(images), vision.size))):
        states: Any = net.apply({"params": published.load(clip, net).params}, x)
        found.append(np.asarray(states.pooled, np.float64))
    of_text, of_image = found
    lengths = np.linalg.norm(of_text, axis=1) * np.linalg.norm(of_image, axis=1)
    return np.sum(of_text * of_image, axis=1) / lengths


@pytest.mark.parametrize("prompts", [("a cat", "a dog"), ()])
def test_the_score_is_that_of_the_formula(prompts, clip, experiment, tmp_path):
    """Prompts in turn; or captions of test examples, the first of each."""
    config = config_of(clip, **{"sampling.prompts": prompts})
    texts = list(prompts) * 6
    if not prompts:
        captions = build.load_data(config).test
        words = experiment.conditioner.tokenizer
        texts = words.texts(words([str(captions[i]["caption"][0]) for i in range(12)]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* were cut")  # a letter is a token of this CLIP
        found = clip_score.clip_score(subject(config, experiment, tmp_path))
        each = 100 * cosines(clip, IMAGES, texts)
    assert each.min() < -1 < 1 < each.max()
    each = np.maximum(each, 0)
    # 100 times the rounding of float32 in sums of 24 numbers
    assert found["clip_score"] == pytest.approx(np.mean(each), abs=1e-3)
    assert found["standard_error"] == pytest.approx(each.std(ddof=1) / np.sqrt(12), rel=1e-3)
    assert (found["num_samples"], found["num_prompts"]) == (12, len(set(texts)))
    page = report_page.markdown("run", {"clip_score": found})
    assert f"of {len(set(texts))} prompts, by tiny: {found['clip_score']:.4g} ±" in page
    headline = report_page.headline({"step": 3, "clip_score": found, "seconds": 1.0})
    assert headline["clip score"] == found["clip_score"]


def test_an_interrupted_part_goes_on(clip, experiment, tmp_path, monkeypatch):
    """The batches before are not drawn again; the result is the same."""
    config = config_of(clip)
    whole = clip_score.clip_score(subject(config, experiment, tmp_path))
    monkeypatch.setattr("score_sde.runtime.resumable.EVERY", 0.0)
    firsts = []

    def stopped(*arguments):
        yield next(batches(*arguments))
        raise KeyboardInterrupt

    def watched(config, experiment, params, n, done):
        firsts.append(done)
        return batches(config, experiment, params, n, done)

    monkeypatch.setattr(drawing, "batches", stopped)
    with pytest.raises(KeyboardInterrupt):
        clip_score.clip_score(subject(config, experiment, tmp_path))
    monkeypatch.setattr(drawing, "batches", watched)
    assert clip_score.clip_score(subject(config, experiment, tmp_path)) == whole
    assert firsts == [8]
    assert not (tmp_path / "partial").exists()


def changed(clip, tmp_path, name, content):
    folder = tmp_path / "changed"
    shutil.copytree(clip, folder)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "evaluate.clip: .* has no config.json"),
        ("config.json", '{"architectures": ["CLIPTextModel"]}', "evaluate.clip: .*not CLIPModel"),
        ("model.safetensors", None, "evaluate.clip: .* has no weights: none of model.safetensors"),
        ("model.safetensors", "PK", "evaluate.clip: .* is a pickle and no .safetensors file"),
        ("vocab.json", None, "has no vocab.json: a tokenizer of CLIP is vocab.json and merges"),
    ],
)
def test_folders_that_are_no_clip(name, content, message, clip, experiment, tmp_path):
    folder = changed(clip, tmp_path, name, content)
    refused(message, config_of(folder), experiment, tmp_path)


def test_a_tokenizer_of_another_vocabulary(clip, experiment, tmp_path):
    tokens = {**json.loads((clip / "vocab.json").read_text()), "more": IDS}
    folder = changed(clip, tmp_path, "vocab.json", json.dumps(tokens))
    refused(
        "gives ids up to 60, and the encoder knows 60 tokens", config_of(folder), experiment, folder
    )


def test_what_else_is_refused(clip, experiment, tmp_path):
    refused("clip_score needs a CLIP: set evaluate.clip", config_of(None), experiment, tmp_path)
    refused("'nowhere' is no folder: give a folder", config_of("nowhere"), experiment, tmp_path)
    labels = experiment._replace(conditioner=Labels(3))
    config = config_of(clip, conditioner="labels")
    refused("asks by prompts, and the conditioner labels reads", config, labels, tmp_path)
    without = build.load_data(config_of(clip, data={"name": "absent", "image_size": 16}))
    absent = experiment._replace(data=without)
    config = config_of(clip, **{"sampling.prompts": ()})
    refused("the test examples have no captions that can be read: set", config, absent, tmp_path)


def refused(message, config, experiment, workdir):
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        clip_score.clip_score(subject(config, experiment, workdir))
    assert len(str(caught.value).splitlines()) == 1
