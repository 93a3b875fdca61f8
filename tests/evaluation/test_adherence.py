"""What prompts ask for is read back from pictures: truth by pictures that are drawn as asked."""

import json
import re

import numpy as np
import pytest

from configs import shapes as shapes_config
from score_sde.conditioning.labels import Labels
from score_sde.data.shapes import HELD_OUT
from score_sde.data.shapes_drawing import Look, draw
from score_sde.errors import ConfigError
from score_sde.evaluation import report_page, worlds
from score_sde.experiment import drawing
from score_sde.experiment.build import build_experiment
from score_sde.experiment.report import adherence
from score_sde.experiment.report.subject import Subject
from tests import latents


def picture(wanted):
    return draw(wanted, 32, [Look()] * len(wanted), 0.0)


def test_a_world_asks_for_what_is_held_out_or_not():
    world = worlds.shapes()
    for kind in ("seen", "held_out"):
        texts, wanted, examples = world.prompts(kind, 50)
        assert not examples
        assert len(texts) == len(wanted) == 50
        assert {(s.colour, s.form) in HELD_OUT for shapes in wanted for s in shapes} == {
            kind == "held_out"
        }
        for text, (shape,) in zip(texts, wanted, strict=True):
            assert {shape.colour, shape.form} <= set(
                text.replace(":", " ").replace(",", " ").split()
            )


def test_what_is_drawn_is_read():
    """As asked; and with one attribute changed, which alone is told."""
    world = worlds.shapes()
    wanted = world.prompts("seen", 20).wanted
    changes = {
        "colour": {"red": "blue"},
        "form": {"circle": "triangle"},
        "size": {"small": "large", "large": "small"},
        "place": {"middle": "top left"},
    }
    for shapes in wanted:
        assert all(world.read(picture(shapes), shapes).values())
        for name, others in changes.items():
            value = getattr(shapes[0], name)
            other = others.get(value, next(iter(others)))
            found = world.read(picture([shapes[0]._replace(**{name: other})]), shapes)
            assert {key for key, right in found.items() if not right} == {name, "all"}
        found = world.read(np.full((32, 32, 3), 245, np.uint8), shapes)
        assert not any(found.values())


def subject(tmp_path, **fields):
    config = shapes_config.get_config()
    config.update_from_flattened_dict({"evaluate.num_prompts": 12, **fields})
    experiment = build_experiment(config, load=latents.frozen_in)
    return Subject(config, tmp_path, experiment, {}, 7)


def test_shares_of_samples(tmp_path, monkeypatch):
    """A model that draws all prompts of seen pairs right, and a third of the others; at the weight
    2, and nothing at other weights."""

    def drawn(config, experiment, params, n):
        world = worlds.shapes()
        wanted = [what for kind in world.kinds for what in world.prompts(kind, n // 2).wanted]
        assert config.sampling.prompts == tuple(
            text for kind in world.kinds for text in world.prompts(kind, n // 2).texts
        )
        right = config.sampling.guidance == "classifier_free(weight=2.0)"
        blank = np.full((32, 32, 3), 245, np.uint8)
        images = [
            picture(what) if right and (i < n // 2 or i % 3 == 0) else blank
            for i, what in enumerate(wanted)
        ]
        return np.stack(images), {}, {}, 0.0

    monkeypatch.setattr(drawing, "draw", drawn)
    found = adherence.adherence(subject(tmp_path))
    assert (found["seen"], found["held_out"], found["guidance"]) == (1.0, pytest.approx(1 / 3), 2.0)
    assert [row["seen"] for row in found["rows"]] == [0.0, 1.0, 0.0, 0.0, 0.0]
    assert found["rows"][1]["held_out_colour"] == pytest.approx(1 / 3)
    assert json.loads((tmp_path / "adherence.json").read_text()) == found
    assert (tmp_path / "adherence.png").exists()
    line = report_page.headline({"step": 7, "adherence": found, "seconds": 1.0})
    assert (line["seen"], line["held_out"]) == (1.0, pytest.approx(1 / 3))
    page = report_page.markdown("run", {"step": 7, "adherence": found, "seconds": 1.0})
    assert re.search(r"\| 2 +\| held out +\| 0\.333 +\| 0\.333 ", page)


def test_a_model_without_a_world_or_words(tmp_path):
    with pytest.raises(ConfigError, match=r"^evaluate\.parts: adherence needs a world"):
        adherence.adherence(subject(tmp_path, **{"evaluate.world": None}))
    made = subject(tmp_path)
    made.config.conditioner = "labels"
    made = made._replace(experiment=made.experiment._replace(conditioner=Labels(3)))
    with pytest.raises(ConfigError, match="the conditioner labels reads none"):
        adherence.adherence(made)
