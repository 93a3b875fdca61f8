"""What worlds read from pictures that are drawn as asked, and from pictures with one fault."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import shapes_edits, shapes_lora, shapes_outline
from score_sde.conditioning.words import words
from score_sde.config import build
from score_sde.data import shapes
from score_sde.data.moving_shapes import draw as draw_clip
from score_sde.data.moving_shapes import parse_caption as parse_caption_of_clip
from score_sde.data.shapes import parse_caption, read_attributes
from score_sde.data.shapes_captions import VOCABULARY
from score_sde.data.shapes_drawing import COLOURS, NEW_COLOURS, Look, draw
from score_sde.errors import ConfigError, DataError
from score_sde.evaluation import worlds
from score_sde.evaluation.outlines import overlap
from score_sde.experiment import drawing, requests
from score_sde.experiment.build import build_experiment
from score_sde.experiment.report import adherence
from score_sde.experiment.report.subject import Subject
from tests import latents
from tests.documents import ROOT

EVERY = {
    "shapes": worlds.shapes,
    "new colour": worlds.new_colour,
    "outline": worlds.shapes_outline,
    "edits": worlds.shape_edits,
}


def picture(asked, i):
    """A picture of what the prompt of this number asks for."""
    if asked.examples and "image" in asked.examples[i]:
        return asked.examples[i]["image"]
    return draw(asked.wanted[i], 32)


@pytest.mark.parametrize("name", EVERY)
def test_pictures_of_what_is_asked_for_are_right(name):
    world = EVERY[name]()
    for kind in world.kinds:
        asked = world.prompts(kind, 20)
        for i in range(20):
            assert set(world.read(picture(asked, i), asked.wanted[i]).values()) == {1}


def test_clips_that_show_what_is_asked_for_are_right_and_others_are_not():
    world = build("evaluation.worlds", "moving_shapes")
    texts, scenes, examples = world.prompts("clips", 12)
    assert examples == []
    begun = build("evaluation.worlds", "moving_shapes(first_frame=True)").prompts("clips", 12)
    right = {"velocity": True, "colour": True, "form": True, "all": True, "flicker": 0}
    for text, scene, example in zip(texts, scenes, begun.examples, strict=True):
        clip = draw_clip(scene, 16, 8)
        assert world.read(clip, scene) == right
        assert parse_caption_of_clip(text) == (scene.colour, scene.form, scene.velocity)
        np.testing.assert_array_equal(example["video"], clip[0])
        back = world.read(clip[::-1], scene)
        assert back == {**right, "velocity": False, "all": False}
        other = "red" if scene.colour != "red" else "blue"
        changed = draw_clip(scene._replace(colour=other), 16, 8)
        clip[5] = changed[5]
        flickers = {**right, "colour": False, "all": False, "flicker": pytest.approx(2 / 7)}
        assert world.read(clip, scene) == flickers


# Outlines


def test_the_overlap_of_two_squares():
    """4x4 squares that are shifted by 1 pixel have 12 of 20 pixels in common. With a tolerance of
    one pixel they agree; 2 pixels apart, each has 12 of its 16 pixels near the other."""
    image = np.zeros((12, 12), bool)
    image[2:6, 2:6] = True
    one, two = (np.roll(image, by, axis=1) for by in (1, 2))
    assert overlap(image, image) == 1
    assert overlap(image, one) == pytest.approx(12 / 20)
    assert overlap(image, one, reach=1) == 1
    assert overlap(image, two, reach=1) == pytest.approx(12 / 20)  # f = 3/4
    assert overlap(image, np.roll(image, 6, axis=0)) == 0
    assert overlap(image & False, image & False) == 1
    assert overlap(image, image & False, reach=1) == 0


def test_an_outline_that_is_not_followed_scores_less():
    """Outlines at another place at most touch; the look alone changes a little of the strict number
    and nothing with a tolerance of one pixel."""
    world = worlds.shapes_outline()
    asked = world.prompts("placed", 24)
    ious = []
    for text, wanted in zip(asked.texts, asked.wanted, strict=True):
        (named,) = parse_caption(text)
        (shape,), _ = wanted
        assert (named.size, named.place) == (None, None)
        assert named[:2] == shape[:2]
        other = "top" if shape.place != "top" else "bottom"
        found = world.read(draw([shape._replace(place=other)], 32), wanted)
        assert found["iou"] <= found["iou_1px"] < 0.2
        assert not found["place"]
        plain = world.read(draw([shape], 32), wanted)
        assert plain["iou_1px"] == 1
        ious.append(plain["iou"])
        strong = world.read(draw([shape], 32, [Look((1, 1), 1)]), wanted)
        assert strong["iou"] < 1
    assert 0.8 < np.mean(ious) < 0.95  # as the docstring says, and below 1


# Edits


def test_no_change_and_a_change_too_many_are_faults():
    """The image as it was lacks the asked attribute alone; one more change is no success."""
    world = worlds.shape_edits()
    for kind in world.kinds:
        asked = world.prompts(kind, 12)
        for example, wanted in zip(asked.examples, asked.wanted, strict=True):
            found = world.read(example["source"], wanted)
            assert {name for name, right in found.items() if not right} == {kind, "all"}
            other = wanted[0]._replace(colour="red" if wanted[0].colour != "red" else "blue")
            found = world.read(draw([other, *wanted[1:]], 32), wanted)
            assert not found["all"]
            assert found["place"]


# A new colour


@pytest.mark.parametrize("colour", NEW_COLOURS)
def test_a_new_colour_is_read_where_the_world_says_so(colour):
    """All clean images; without its name it is no colour. The six are read as before."""
    data = shapes(colours=(colour,), train=100)
    for i in range(100):
        example = data.train[i]
        (named,) = parse_caption(str(example["caption"][0]))
        assert named.colour == colour
        assert example["label"] == -1
        assert read_attributes(example["image"], (*COLOURS, colour)) == [named]
    assert read_attributes(draw([named], 32)) == [named._replace(colour=None)]
    world, plain = worlds.new_colour(colour), worlds.shapes()
    assert world.prompts("seen", 30) == plain.prompts("seen", 30)
    assert {s.colour for (s,) in world.prompts("new", 30).wanted} == {colour}
    for wanted in world.prompts("seen", 30).wanted:
        assert read_attributes(draw(wanted, 32), (*COLOURS, colour)) == wanted


def test_forms_of_prompts():
    world = worlds.new_colour(forms=("circle",))
    for kind in world.kinds:
        assert {s.form for (s,) in world.prompts(kind, 20).wanted} == {"circle"}
    for options, message in (
        ({"colours": ("pink",)}, "there is no colour 'pink'"),
        ({"forms": ("star",)}, "there is no form 'star'"),
        ({"forms": ()}, "no pair"),
    ):
        with pytest.raises(DataError, match=message):
            shapes(**options)


def test_a_new_colour_is_the_unknown_word_of_the_base():
    """Its number is that whose row docs/guides/adapters.md learns."""
    tokens = words(names=VOCABULARY, length=3)(["a red circle", *NEW_COLOURS])
    assert tokens.max(1).tolist()[1:] == [28] * len(NEW_COLOURS)
    assert tokens[0].max() < 28
    assert "numbers=(28,)" in (ROOT / "docs/guides/adapters.md").read_text()


# What a model is given


def experiment_of(module, **fields):
    config = module.get_config()
    latents.seen_beside(config, 12)  # those of `latents.frozen_in`
    config.update_from_flattened_dict({"evaluate.weights": (2.0,), **fields})
    return config, build_experiment(config, load=latents.frozen_in)


@pytest.mark.parametrize(
    ("module", "part"), [(shapes_outline, "outline"), (shapes_edits, "source"), (shapes_lora, None)]
)
def test_each_prompt_comes_with_its_image(module, part, tmp_path, monkeypatch):
    """The raw parts of each sample, as the sampler asks for them."""
    config, experiment = experiment_of(module, **{"evaluate.num_prompts": 5})
    world = build("evaluation.worlds", config.evaluate.world)
    asked = [world.prompts(kind, 5) for kind in world.kinds]

    def drawn(config, experiment, params, n):
        numbers = jnp.arange(n)
        raw = requests.build_request(config, experiment)(None, numbers)
        told = requests.told(config, experiment.conditioner, jax.device_get(raw), range(n))
        assert told["prompts"].tolist() == [text for of in asked for text in of.texts]
        if part == "outline":
            truth = [outline for of in asked for _, outline in of.wanted]
            np.testing.assert_array_equal(raw["outline"][..., 0], np.stack(truth))
        elif part is not None:
            truth = [example[part] for of in asked for example in of.examples]
            np.testing.assert_array_equal(raw[part], np.stack(truth))
        return np.stack([picture(of, i) for of in asked for i in range(5)]), {}, {}, 0.0

    monkeypatch.setattr(drawing, "draw", drawn)
    found = adherence.adherence(Subject(config, tmp_path, experiment, {}, 7))
    assert {kind: found[kind] for kind in world.kinds} == dict.fromkeys(world.kinds, 1.0)


def test_mode_sample_takes_the_images_of_its_world():
    fields = {"sampling.world": "shapes_outline", "sampling.num_samples": 3}
    config, experiment = experiment_of(shapes_outline, **fields)
    raw = requests.build_request(config, experiment)(None, jnp.arange(3))
    wanted = worlds.shapes_outline().prompts("seen", 3).wanted
    np.testing.assert_array_equal(raw["outline"][..., 0], np.stack([o for _, o in wanted]))


def test_more_images_than_a_conditioner_takes(tmp_path):
    config, experiment = experiment_of(shapes_edits, **{"evaluate.num_prompts": 257})
    with pytest.raises(ConfigError, match=r"^evaluate\.num_prompts=257: at most 256 prompts"):
        adherence.adherence(Subject(config, tmp_path, experiment, {}, 7))
