"""All runs of diffusers with tiny pipelines of Stable Diffusion, drawn here."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from configs import diffusers as config_file
from score_sde import sampling
from score_sde.conditioning.conditioner import null
from score_sde.config import build
from score_sde.experiment import requests, samplers, workdirs
from score_sde.modes.import_ import import_
from score_sde.modes.sample import sample
from score_sde.published import load
from tests.pipelines import (
    CASES,
    FOLDERS,
    Drawn,
    about,
    error,
    golden,
    run,
    sampling_of,
)
from tests.stored import arrays

RUNS = [(case, number) for case in CASES for number in range(len(about(case)["runs"]))]


@pytest.mark.parametrize(("case", "number"), RUNS)
def test_runs(case, number):
    """PNDM starts with a step of Heun's method, which is one call more. A zero terminal SNR is 0
    there for DDIM."""
    found, wanted = run(case, number), golden(case, number)
    latents, images = error(found, wanted)
    assert latents < 1e-4
    assert images <= 1
    name = about(case)["runs"][number]["scheduler"]["_class_name"]
    assert found.nfe == wanted.nfe + (name == "PNDMScheduler")


def whole(case, tmp_path):
    """The folder of a pipeline whose U-Net reads an image; the rest is that of sd15."""
    folder = tmp_path / "whole"
    shutil.copytree(FOLDERS / "sd15", folder)
    shutil.copytree(FOLDERS / case, folder, dirs_exist_ok=True)
    return folder


def compared(case, folder, guidance, parts):
    """The errors of latents and images, and both numbers of evaluations, of a run of diffusers with
    a negative prompt, whose condition has the same image.

    parts: of what was given, by the names of raw parts.
    """
    told, given = about(case), arrays(FOLDERS / f"{case}.npz")
    config = config_file.get_config(str(folder))
    of_run = told["runs"][0]
    fields = sampling_of(of_run["scheduler"], told["calls"])
    assert fields["sde"] == config.sde
    config.sampling.update(fields["sampling"])
    config.sampling.prompts, config.sampling.negative = told["prompts"], of_run["negative"]
    config.sampling.guidance = guidance(told)
    experiment = workdirs.load(config)
    shape = experiment.codec.shape
    params = load(folder, experiment.model.net, shape).params
    sde = requests.sampling_sde(config)
    solver, times = build("solvers", config.sampling.solver, sde), requests.build_grid(config)(sde)
    asked = experiment.conditioner.request(tuple(told["prompts"]))
    unwanted = experiment.conditioner.request(tuple(of_run["negative"]))
    two = (jax.random.split(jax.random.key(0), 2), jnp.arange(2))

    @jax.jit
    def draw(denoiser_of, codec, conditioner, params, x, parts):
        cond = conditioner.encode({**asked(*two), **parts})
        other = null(conditioner, cond, unwanted(*two))
        out = sampling.sample(
            jax.random.key(0),
            solver,
            denoiser_of(params, cond, other),
            x,
            times,
            denoise=config.sampling.denoise,
        )
        return out.x, codec.show(codec.decode(out.x)), out.nfe

    frozen = (samplers.build_denoiser(config, experiment), experiment.codec)
    parts = {ours: jnp.asarray(given[theirs]) for ours, theirs in parts.items()}
    x = jnp.asarray(given["x"])
    found = Drawn(*jax.device_get(draw(*frozen, experiment.conditioner, params, x, parts)))
    wanted = Drawn(given["latents_0"], given["images_0"], told["calls"])
    return error(found, wanted), (found.nfe, wanted.nfe)


def test_a_network_that_inpaints(tmp_path):
    """StableDiffusionInpaintPipeline with the mean of the posterior of the known image."""
    (latents, images), (nfe, theirs) = compared(
        "sd15_inpaint",
        whole("sd15_inpaint", tmp_path),
        lambda told: f"classifier_free(weight={told['guidance']})",
        {"image": "image", "drawn": "mask"},
    )
    assert latents < 1e-5
    assert images <= 1
    assert nfe == theirs


def test_a_network_that_edits_by_instruction(tmp_path):
    """StableDiffusionInstructPix2PixPipeline, with a weight for the text and one for the image."""
    (latents, images), (nfe, theirs) = compared(
        "sd15_instruct",
        whole("sd15_instruct", tmp_path),
        lambda told: f"text_and_image(text={told['guidance']}, image={told['image_guidance']})",
        {"source": "image"},
    )
    assert latents < 1e-4
    assert images <= 1
    assert nfe == theirs


def test_it_edits_images_of_a_user(tmp_path):
    """From the folder to samples: each image in turn. With weights of 0 it goes by neither the text
    nor the image."""
    folder = whole("sd15_instruct", tmp_path)
    config = config_file.get_config(str(folder))
    config.train.ema_rates = (0.9,)
    config.sampling.update(num_samples=2, batch_size=2, steps=2, prompts=("make it red",))
    size = config.data.image_size
    for i, value in enumerate((0, 255)):
        (tmp_path / "pictures").mkdir(exist_ok=True)
        image = Image.fromarray(np.full((size, size, 3), value, np.uint8))
        image.save(tmp_path / f"pictures/{i}.png")
    workdir = tmp_path / "run"
    import_(config, workdir, folder)

    def drawn(**changes):
        changed = config.copy_and_resolve_references()
        changed.sampling.update(changes)
        sample(changed, workdir)
        return arrays(workdir / "samples.npz")["samples"]

    black, white = (str(tmp_path / f"pictures/{i}.png") for i in (0, 1))
    in_turn = drawn(images=str(tmp_path / "pictures"))
    np.testing.assert_array_equal(in_turn[0], drawn(images=black)[0])
    np.testing.assert_array_equal(in_turn[1], drawn(images=white)[1])
    assert np.any(drawn(images=black)[1] != in_turn[1])
    neither = "text_and_image(text=0.0, image=0.0)"
    of_black, of_white = (drawn(images=i, guidance=neither).astype(int) for i in (black, white))
    # what is added and taken away leaves its rounding, which can move a value to the next one
    assert np.max(np.abs(of_black - of_white)) <= 1
    assert np.mean(of_black != of_white) < 1e-3
