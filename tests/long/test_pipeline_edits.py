"""Images of a user in a pipeline of Stable Diffusion: inpainted, drawn anew from noise, and what is
refused; and samples that a CLIP scores."""

import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import score_sde
from configs import diffusers as config_file
from score_sde import inverse, modes, sampling, solvers
from score_sde.conditioning import tokenizers
from score_sde.errors import ConfigError
from score_sde.evaluation.metrics.clip_score import clip_score
from score_sde.experiment import edits, samplers, workdirs
from score_sde.inverse import operators
from score_sde.modes import edit, evaluate, likelihood, sample
from score_sde.sampling import grids
from tests.clip import tiny_clip
from tests.pipelines import FOLDERS
from tests.stored import arrays

SOURCE = FOLDERS / "sd15"
INPAINT = FOLDERS / "sd15_inpaint"  # a U-Net that reads mask and image
KEYS = jax.random.split(jax.random.key(0), 3)  # nothing is drawn by them
COLUMNS = 18  # of pixels that are known: of 8 columns of latents, 4 wholly


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """An imported pipeline."""
    path = tmp_path_factory.mktemp("sd")
    modes.function("import")(config(), path, SOURCE)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three images, and a mask, white where pixels are known."""
    path = tmp_path_factory.mktemp("pictures")
    made = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    (path / "images").mkdir()
    for i, image in enumerate(made):
        Image.fromarray(image).save(path / f"images/{i}.png")
    mask = np.zeros((32, 32), np.uint8)
    mask[:, :COLUMNS] = 255
    Image.fromarray(mask).save(path / "mask.png")
    return path, made


def config(**changes):
    return config_of(SOURCE, **changes)


def config_of(source, **changes):
    found = config_file.get_config(str(source))
    found.sampling.update(solver="dpmpp", grid="log_snr", steps=3)
    found.sampling.update(prompts=("a red bicycle",), negative=("blurry",))
    found.edit.update(completions=2)
    found.update_from_flattened_dict(changes)
    return found


def latents(workdir, made):
    """The mean and the standard deviation of the posterior of images, as x has them."""
    codec: Any = score_sde.load(workdir).codec
    moments = np.asarray(codec.posterior(codec.raw_of(made)), np.float64)
    mean, log_var = np.split(moments, 2, axis=-1)
    np.testing.assert_allclose(codec.middle(codec.raw_of(made)), 0.18215 * mean, rtol=1e-5)
    return 0.18215 * mean, 0.18215 * np.exp(0.5 * log_var)


def test_what_a_mask_of_pixels_keeps_of_latents(workdir, pictures):
    """The known latents are those that the encoder's posterior gave for the image, the same in both
    completions bit for bit; the others are drawn."""
    folder, made = pictures
    task = f"inpaint(keep={str(folder / 'mask.png')!r})"
    options = {"edit.images": str(folder / "images"), "edit.method": "replacement"}
    result = edit.edit(config(**{"edit.task": task, **options}), workdir)
    assert result["known_error"] == 0
    found = arrays(workdir / "edit.npz")
    np.testing.assert_array_equal(found["source"], made)
    known, free = found["x"][..., :4, :], found["x"][..., 4:, :]
    np.testing.assert_array_equal(known[:, 0], known[:, 1])
    assert (free[:, 0] != free[:, 1]).all()
    mean, std = (a[:, :, :4] for a in latents(workdir, made))
    z = (known[:, 0] - mean) / std
    assert z.size == 384
    # of N(0, 1): five standard errors of the mean, and of the variance, whose own is 2
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / z.size)
    shown = score_sde.load(workdir).show(found["x"].reshape(-1, 8, 8, 4))
    np.testing.assert_array_equal(found["results"].reshape(shown.shape), shown)
    prompts = json.loads((workdir / "edit.json").read_text())
    assert prompts["num_images"] == 3


def test_a_little_noise_gives_the_image_back(workdir, pictures):
    """image_to_image from a log-SNR l: the result is off by a number times the noise e^(-l/2), in
    latents and in pictures, so that without noise it is the decoded encoding of the image."""
    _, made = pictures
    plain = config()
    experiment = workdirs.restore(plain, workdir)[0]
    model = score_sde.load(workdir)
    x = jnp.asarray(model.codec.locate(made))
    cond = experiment.conditioner.encode(
        experiment.conditioner.request(("a red bicycle",))(KEYS, jnp.arange(3))
    )
    denoiser_of = samplers.build_denoiser(plain, experiment)
    errors, pictures = [], []
    for log_snr in (3.0, 7.0):
        task = f"image_to_image(log_snr={log_snr})"
        plan = edits.build_plan(config(**{"edit.task": task, "edit.completions": 1}), experiment)

        @jax.jit
        def run(denoiser_of, params, cond, x, plan=plan):
            out = plan.run(jax.random.key(0), lambda k: denoiser_of(params, cond), x)
            return out.x[:, 0]

        found = run(denoiser_of, model.params, cond, x)
        errors.append(float(jnp.sqrt(jnp.mean((found - x) ** 2))))
        pictures.append(model.show(found))
    noise = np.exp([-1.5, -3.5])
    # the network's output is at most a few times the noise, and 7.5 times that under guidance
    assert all(errors / noise < 10)
    assert errors[1] < 0.3 * errors[0]  # e^-2 = .135
    wanted = model.show(x).astype(int)
    change = [np.abs(found - wanted).mean() for found in pictures]
    assert change[1] < 0.3 * change[0]


def test_mode_edit_draws_from_an_image_with_noise(workdir, pictures):
    """As a command tells to try next; the folder's own grid has no time to begin at, and that is
    said in one line."""
    folder, _ = pictures
    options = {"edit.images": str(folder / "images"), "edit.task": "image_to_image"}
    result = edit.edit(config(**options, **{"edit.num_images": 1}), workdir)
    assert result["spread"] > 0
    with pytest.raises(ConfigError, match="grid that fits any times, such as log_snr") as caught:
        edit.edit(config(**options, **{"sampling.grid": "leading(offset=1, last=0)"}), workdir)
    assert len(str(caught.value).splitlines()) == 1


def test_a_method_of_the_library(workdir, pictures):
    """The guided denoiser of a notebook, with a measurement of latents: what was known is kept, and
    the denoiser is that of the mode for the same prompts."""
    _, made = pictures
    fields = {"sampling.guidance": "classifier_free(weight=3.0)", "sampling.negative": ("blurry",)}
    model = score_sde.load(workdir, **fields)
    denoiser, sde = model.denoiser(prompts=["a red bicycle", "a dog"]), model.process
    conditioner = model.trained.experiment.conditioner
    cond, other = (
        conditioner.encode(conditioner.request(texts)(KEYS, jnp.arange(3)))
        for texts in (("a red bicycle", "a dog", "a red bicycle"), ("blurry",))
    )
    x, t = jax.random.normal(jax.random.key(0), (3, *model.codec.shape)), jnp.array(0.5)
    result = jax.jit(lambda *args: model.trained.experiment.objective.result(*args[:2])(*args[2:]))
    wanted, unwanted = (result(model.params, c, x, t) for c in (cond, other))
    found = jax.jit(denoiser)(x, t)
    np.testing.assert_allclose(found, unwanted + 3 * (wanted - unwanted), atol=1e-4)

    z = jnp.asarray(model.codec.locate(made))
    operator = operators.mask(model.codec.shape, keep="top")
    seen = inverse.observed(operator, operator.apply(z), noise=0.0)
    method = inverse.replacement(sde, seen)
    times = grids.log_snr(sde, 3)
    solver = method.solver(solvers.ancestral(sde))
    out = jax.jit(
        lambda x: (
            sampling.sample(
                jax.random.key(1), solver, method.denoiser(denoiser), x, times, denoise=True
            ).x
        )
    )(x)
    found = inverse.consistent(seen, out)
    np.testing.assert_array_equal(found[:, :4], z[:, :4])
    assert model.show(found).shape == made.shape


def test_a_clip_scores_samples(workdir, tmp_path):
    """In mode evaluate, without a data set; samples of the prompts, and the score of the metric."""
    clip = tiny_clip(tmp_path / "clip")
    asked = config(**{"sampling.prompts": ("a cat", "a dog"), "sampling.num_samples": 4})
    asked.evaluate.update(parts=("clip_score",), clip=str(clip), num_samples=4)
    headline = evaluate.evaluate(asked, workdir)
    found = json.loads((workdir / "evaluate.json").read_text())["clip_score"]
    assert headline["clip score"] == found["clip_score"]
    sample.sample(asked, workdir)
    images = arrays(workdir / "samples.npz")["samples"]
    score = clip_score(clip, tokenizers.clip(clip, 12))
    each = np.maximum(score(images, ["a cat", "a dog"] * 2), 0)
    assert found["clip_score"] == pytest.approx(each.mean(), rel=1e-5)
    assert found["standard_error"] == pytest.approx(each.std(ddof=1) / 2, rel=1e-5)


def test_there_is_no_likelihood(workdir):
    with pytest.raises(ConfigError, match="a density of latents is none of images") as caught:
        likelihood.likelihood(config(), workdir)
    assert len(str(caught.value).splitlines()) == 1


def test_a_network_that_inpaints(pictures, tmp_path):
    """It is told the mask and the image of the edit; of an edit without a mask, and of samples,
    nothing is known."""
    folder, made = pictures
    source, workdir = tmp_path / "whole", tmp_path / "sd"
    shutil.copytree(SOURCE, source)
    shutil.copytree(INPAINT, source, dirs_exist_ok=True)
    modes.function("import")(config_of(source), workdir, source)
    task = f"inpaint(keep={str(folder / 'mask.png')!r})"
    options = {"edit.images": str(folder / "images"), "edit.method": "replacement"}
    asked = config_of(source, **{"edit.task": task, **options})
    experiment: Any = workdirs.restore(asked, workdir)[0]
    raw, _ = edits.sources(asked, experiment, edits.build_plan(asked, experiment))
    np.testing.assert_array_equal(raw["image"], made)
    assert (raw["drawn"][:, :, :COLUMNS] == 0).all()
    assert (raw["drawn"][:, :, COLUMNS:] == 1).all()
    text = experiment.conditioner.text
    wanted = jax.jit(text.features_of)(jnp.asarray(text.tokenizer(["a red bicycle"] * 3)))
    cond = jax.jit(experiment.conditioner.encode)(raw)
    np.testing.assert_allclose(cond["context"], wanted["context"], atol=1e-5)
    assert np.abs(cond["context"] - text.nothing["context"]).max() > 0.1
    result = edit.edit(asked, workdir)
    assert result["known_error"] == 0
    assert result["spread"] > 0
    drawn = sample.sample(config_of(source, **{"sampling.num_samples": 2}), workdir)
    assert drawn["num_samples"] == 2
    asked = config_of(source, **options, **{"edit.task": "image_to_image", "sampling.prompts": ()})
    raw, _ = edits.sources(asked, experiment, edits.build_plan(asked, experiment))
    cond = jax.jit(experiment.conditioner.encode)(raw)
    blank = experiment.conditioner.encode(experiment.conditioner.request(())(KEYS, jnp.arange(3)))
    np.testing.assert_allclose(cond["image"], blank["image"], atol=1e-5)
