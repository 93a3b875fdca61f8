"""All modes of a model of video, as they are for images."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import score_sde
from configs import moving_shapes
from score_sde.data.moving_shapes import draw, motion, read_clip
from score_sde.errors import DataError
from score_sde.experiment import build, workdirs
from score_sde.media.animation import animation
from score_sde.modes import evaluate, sample
from score_sde.modes.train import train
from tests.modes.test_train import equal, final_state
from tests.stored import arrays

CLIP = (3, 12, 12, 3)


def small(**changes):
    """The smallest network, on clips of 3 frames of 12x12."""
    config = moving_shapes.get_config()
    config.data.update(image_size=12, frames=3, train=16, test=8)
    config.net.update(width=8, depth=1, num_heads=2)
    config.train.update(steps=4, batch_size=8, log_every=2, checkpoint_every=2, sample_every=4)
    config.sampling.update(steps=3, num_samples=8, batch_size=8)
    config.evaluate.update(
        world="moving_shapes(image_size=12)", num_prompts=8, weights=(1.0, 2.0), num_samples=16
    )
    config.evaluate.update(parts=("loss", "metrics", "likelihood", "adherence"))
    config.likelihood.update(batch_size=8, rtol=0.1, atol=0.1)
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    train(small(), workdir)
    return workdir


def test_a_resumed_run_is_the_same_run_bit_for_bit(run, tmp_path):
    train(small(**{"train.steps": 2}), tmp_path)
    train(small(), tmp_path)
    equal(final_state(small(), tmp_path).state, final_state(small(), run).state)


def test_samples_are_clips_that_move(run):
    sample.sample(small(**{"sampling.solver": "pyramid(delay=0.5)"}), run)
    samples = arrays(run / "samples.npz")["samples"]
    assert samples.shape == (8, *CLIP)
    with Image.open(run / "samples.png") as sheet:
        assert sheet.n_frames == CLIP[0]
    model = score_sde.load(run)
    asked = model.sample(model_key(), 2, prompts="a red ring moves up", steps=2)
    assert asked.shape == (2, *CLIP)


def model_key():
    return build.key_for(small(), "sample")


def test_evaluation_and_likelihood(run):
    evaluate.evaluate(small(), run)
    found = json.loads((run / "evaluate.json").read_text())
    assert {"loss", "metrics", "likelihood", "adherence"} <= set(found)
    assert 0 <= found["adherence"]["rows"][0]["clips_velocity"] <= 1
    assert found["metrics"]["rows"][1]["num_images"] == 16
    assert np.isfinite(found["likelihood"]["bits_per_dim"])


def test_frames_that_are_given_stay(run):
    """The first two frames of a clip, in the place of noise: the sampler leaves them."""
    model = score_sde.load(run)
    clip = draw(motion((0, 0, 1)), 12, 3)
    x = np.array(model.codec.middle(clip[None]))
    x[:, 2:] = np.random.default_rng(0).normal(size=x[:, 2:].shape)
    solver = "pyramid(delay=1.0, given=2)"
    found = model.sample(model_key(), 1, x=x, solver=solver, steps=3, denoise=False)
    np.testing.assert_array_equal(found[0, :2], clip[:2])
    assert not np.array_equal(found[0, 2], clip[2])


def test_a_model_of_images_becomes_one_of_video(tmp_path):
    """Before the first step it denoises each frame as the image model does, bit for bit."""
    images = small(**{"train.sample_every": 0, "train.steps": 2})
    images.data = {"name": "shapes", "image_size": 16, "train": 16, "test": 8}
    images.codec = {"name": "pixels"}
    images.objective = {"name": "denoising", "time_law": "uniform", "weighting": "v"}
    images.net = {**images.net.to_dict(), "name": "dit.DiT"}
    images.net.update(context="none", vocabulary=0, numbers=())
    images.conditioner, images.sampling.guidance = "labels", None
    train(images, tmp_path / "images")

    config = small(**{"data.image_size": 16})
    config.net.update(context="none", vocabulary=0, numbers=())
    config.conditioner, config.sampling.guidance, config.objective.drop_cond = "labels", None, 0.0
    config.objective.init = f"image_network(workdir={str(tmp_path / 'images')!r})"
    experiment = build.build_experiment(config, load=workdirs.load_frozen)
    params = build.initial_state(config, experiment).params
    image = score_sde.load(tmp_path / "images")
    x_t = jax.random.normal(jax.random.key(0), (2, 3, 16, 16, 3))
    t, label = jnp.linspace(0.1, 0.9, 6).reshape(2, 3), jnp.zeros(2, jnp.int32)
    ours = jax.jit(experiment.model.denoiser(params, {"label": label}))(x_t, t)
    frames = x_t.reshape(6, 16, 16, 3), t.reshape(6)
    of_image = image.trained.experiment.model.denoiser(
        image.params, {"label": jnp.repeat(label, 3)}
    )
    np.testing.assert_array_equal(ours.reshape(6, 16, 16, 3), jax.jit(of_image)(*frames))


def test_images_become_videos(tmp_path):
    """With the conditioner first_frame, of test clips or of a folder of images."""
    text = moving_shapes.get_config().conditioner
    config = small(**{"train.sample_every": 0, "train.steps": 2})
    config.conditioner = f"first_frame(text={text!r})"
    config.net.cond_channels = 3
    train(config, tmp_path / "run")
    first = draw(motion((0, 0, 1)), 12, 1)[0]
    (tmp_path / "images").mkdir()
    Image.fromarray(first).save(tmp_path / "images/one.png")
    for images in (None, str(tmp_path / "images")):
        config.sampling.images = images
        sample.sample(config, tmp_path / "run")
        assert arrays(tmp_path / "run/samples.npz")["samples"].shape == (8, *CLIP)
    config.evaluate.update(parts=("adherence",))
    config.evaluate.world = "moving_shapes(image_size=12, first_frame=True)"
    evaluate.evaluate(config, tmp_path / "run")


def test_own_clips_are_data(tmp_path):
    """Files of samples are a data set; one of another length stops a run with one line."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for i in range(10):
        animation().save(folder / f"{i}.png", draw(motion((0, 0, i)), 12, 3))
    config = small(**{"train.sample_every": 0, "train.steps": 1})
    config.data = {"name": "clip_folder", "path": str(folder), "frames": 3, "image_size": 12}
    config.conditioner, config.objective.drop_cond = "labels", 0.0
    config.net.update(context="none", vocabulary=0, num_classes=1)
    config.sampling.guidance = None
    train(config, tmp_path / "run")
    experiment = build.build_experiment(config)
    assert read_clip(experiment.data.train[0]["video"]).velocity == motion((0, 0, 1)).velocity
    animation().save(folder / "5.png", draw(motion((0, 0, 5)), 12, 2))
    with pytest.raises(DataError, match=r"5\.png has 2 frames, and clips have 3"):
        train(config, tmp_path / "again")
