"""Samples as a data set: what our loader reads back is what was asked for and what was drawn."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import shapes as shapes_config
from score_sde.config import build
from score_sde.data.shapes_drawing import Look, draw
from score_sde.errors import ConfigError, DataError
from score_sde.evaluation import worlds
from score_sde.experiment import drawing, requests, workdirs
from score_sde.experiment.build import build_experiment
from score_sde.modes import sample as mode
from score_sde.modes.sample import sample
from score_sde.runtime import resumable
from tests.modes.test_guided_modes import put, small
from tests.stored import arrays


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return put(small(), tmp_path_factory.mktemp("made") / "classes")


def asking(folder, **changes):
    labels = {"sampling.labels": (3, 1, 4, 1), "sampling.as_data": str(folder)}
    return small(**{**labels, **changes})


def all_of(folder):
    """The images, labels and captions of all examples, in the order of their files."""
    found = build("data", json.loads((folder / "card.json").read_text())["loader"])
    n = len(found.train) + len(found.test)
    test = set(range(0, n, 10))
    sources = [iter(range(len(s))) for s in (found.train, found.test)]
    examples = [
        (found.test if i in test else found.train)[next(sources[i in test])] for i in range(n)
    ]
    return found, {name: np.stack([e[name] for e in examples]) for name in examples[0]}


def test_the_loader_reads_what_was_drawn(workdir, tmp_path):
    """The bytes of samples.npz, and the labels asked for, although most classes have no image."""
    folder = tmp_path / "new" / "set"
    result = sample(asking(folder), workdir)
    about, found = all_of(folder)
    plain = asking(folder, **{"sampling.as_data": None})
    assert sample(plain, workdir)["num_samples"] == result["num_samples"] == 20
    drawn = arrays(workdir / "samples.npz")
    np.testing.assert_array_equal(found["image"], drawn["samples"])
    np.testing.assert_array_equal(found["label"], [3, 1, 4, 1] * 5)
    np.testing.assert_array_equal(found["label"], drawn["labels"])
    assert about.features["label"].values == 10
    assert result["labels"] == {"1": 10, "3": 5, "4": 5}
    # as the imagefolder of Hugging Face: a line for each image, with its name
    lines = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == sorted(p.name for p in folder.glob("*.png"))
    assert [line["label"] for line in lines] == found["label"].tolist()
    card = json.loads((folder / "card.json").read_text())
    trained = workdirs.restore(asking(folder), workdir)
    assert card["made_by"]["parameters"] == trained.digest
    assert (card["made_by"]["step"], card["made_by"]["seed"], card["num_samples"]) == (7, 0, 20)
    assert card["made_by"]["sampling"]["solver"] == "ddim"
    assert not folder.with_name("set.partial").exists()


def test_another_folder_is_not_touched(workdir, tmp_path):
    """One line; and the same data set asked for again is left as it is."""
    folder = tmp_path / "set"
    sample(asking(folder), workdir)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    again = sample(asking(folder), workdir)
    assert again["num_samples"] == 20
    other = tmp_path / "photos"
    other.mkdir()
    (other / "mine.png").write_bytes(b"mine")
    for config in (asking(folder, seed=1), asking(other)):
        with pytest.raises(
            DataError, match=r"^sampling\.as_data: .* holds something else"
        ) as error:
            sample(config, workdir)
        assert "\n" not in str(error.value)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    assert [path.name for path in other.iterdir()] == ["mine.png"]
    assert not (tmp_path / "photos.partial").exists()


def test_an_interrupted_run_goes_on(workdir, tmp_path, monkeypatch):
    """It draws only what is missing, and every file is that of a run in one go."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    sample(asking(whole), workdir)
    monkeypatch.setattr(resumable, "EVERY", 0.0)
    drawn = []

    batches_of = drawing.batches_of

    def interrupted(*args):
        for batch in batches_of(*args):
            if drawn:
                raise KeyboardInterrupt
            drawn.append(len(batch.shown))
            yield batch

    monkeypatch.setattr(drawing, "batches_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sample(asking(broken), workdir)
    assert not broken.exists()

    def rest(*args):
        for batch in batches_of(*args):
            drawn.append(len(batch.shown))
            yield batch

    monkeypatch.setattr(drawing, "batches_of", rest)
    sample(asking(broken), workdir)
    assert drawn == [16, 4]
    ours, truth = ({p.name: p.read_bytes() for p in f.iterdir()} for f in (broken, whole))
    cards = [json.loads(files.pop("card.json")) for files in (ours, truth)]
    assert ours == truth
    assert cards[0].pop("loader") != cards[1].pop("loader")  # the path is another
    assert cards[0] == cards[1]
    assert not (workdir / "partial").exists()


def of_shapes(folder, **changes):
    config = shapes_config.get_config()
    config.codec = "pixels()"
    config.update_from_flattened_dict(
        {"sampling.as_data": str(folder), "sampling.num_samples": 12, **changes}
    )
    return config


@pytest.fixture
def perfect(monkeypatch):
    """A model that draws what it is asked for, eight pictures at a time, and the tokens of what it
    was asked for; returns the numbers drawn."""
    numbers = []

    def restore(config, workdir):
        return workdirs.Trained(build_experiment(config), {}, 7)

    def batches(config, experiment, params, wanted, done, sampler_of):
        scenes = worlds.shapes().prompts("seen", config.sampling.num_samples).wanted
        for first in range(done, len(wanted), 8):
            chosen = wanted[first : first + 8]
            numbers.extend(chosen.tolist())
            shown = [draw(scenes[i], 32, [Look()] * len(scenes[i]), 0.0) for i in chosen]
            keys = jax.random.split(jax.random.key(0), len(chosen))  # nothing is drawn
            raw = requests.build_request(config, experiment)(keys, jnp.asarray(chosen))
            yield drawing.Batch(np.stack(shown), jax.device_get(raw), 3.0, 3.0)

    monkeypatch.setattr(mode, "restore", restore)
    monkeypatch.setattr(drawing, "batches_of", batches)
    return numbers


def test_captions_are_the_prompts_of_a_world(tmp_path, perfect):
    """Each caption is that which its picture shows, word for word."""
    folder = tmp_path / "set"
    result = sample(of_shapes(folder, **{"sampling.world": "shapes"}), tmp_path)
    texts, wanted, _ = worlds.shapes().prompts("seen", 12)
    about, found = all_of(folder)
    assert found["caption"][:, 0].tolist() == texts
    for image, shapes in zip(found["image"], wanted, strict=True):
        assert all(worlds.shapes().read(image, shapes).values())
    assert sum(result["prompts"].values()) == 12
    assert about.features["caption"].text


def test_prompts_are_written_as_the_user_wrote_them(tmp_path, perfect):
    """Although the tokenizer spells them otherwise."""
    prompts = ("A red, round CIRCLE", "ein Würfel")
    sample(of_shapes(tmp_path / "set", **{"sampling.prompts": prompts}), tmp_path)
    assert all_of(tmp_path / "set")[1]["caption"][:, 0].tolist() == [*prompts] * 6


def test_a_refused_prompt_is_not_drawn(tmp_path, perfect):
    """It is counted, its number stays empty, and the others are as they would be."""
    spec = "words(refused=('gun',))"
    asked = {"sampling.prompts": ("a circle", "a Gun", "a square"), "sampling.filters": (spec,)}
    result = sample(of_shapes(tmp_path / "set", **asked), tmp_path)
    left = [0, 2, 3, 5, 6, 8, 9, 11]
    assert perfect == left
    assert [int(path.stem) for path in sorted((tmp_path / "set").glob("*.png"))] == left
    assert all_of(tmp_path / "set")[1]["caption"][:, 0].tolist() == ["a circle", "a square"] * 4
    assert (result["num_samples"], result["filters"]) == (8, {spec: {"dropped": 4}})


def test_a_mistake_is_one_line(workdir, tmp_path):
    config = asking(tmp_path / "set", **{"sampling.labels": (3, -1)})
    with pytest.raises(ConfigError, match=r"some of sampling\.labels ask for nothing"):
        sample(config, workdir)
    config = asking(tmp_path / "set", **{"sampling.world": "shapes"})
    with pytest.raises(ConfigError, match="of a model that reads text"):
        sample(config, workdir)
    assert not (tmp_path / "set").exists()
