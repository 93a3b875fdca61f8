"""All runs of diffusers with tiny pipelines of Stable Diffusion, drawn here."""

import shutil

import jax
import jax.numpy as jnp
import pytest

from configs import diffusers as config_file
from score_sde import sampling
from score_sde.conditioning.conditioner import null
from score_sde.config import build
from score_sde.experiment import requests, samplers, workdirs
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


@pytest.fixture(scope="module")
def inpainting(tmp_path_factory):
    """The folder of a pipeline whose U-Net reads mask and image."""
    folder = tmp_path_factory.mktemp("inpaint") / "whole"
    shutil.copytree(FOLDERS / "sd15", folder)
    shutil.copytree(FOLDERS / "sd15_inpaint", folder, dirs_exist_ok=True)
    return folder


def test_a_network_that_inpaints(inpainting):
    """StableDiffusionInpaintPipeline with the mean of the posterior of the known image: with a
    negative prompt, whose condition has the same image."""
    case, given = about("sd15_inpaint"), arrays(FOLDERS / "sd15_inpaint.npz")
    config = config_file.get_config(str(inpainting))
    of_run = case["runs"][0]
    fields = sampling_of(of_run["scheduler"], case["calls"])
    assert fields["sde"] == config.sde
    config.sampling.update(fields["sampling"])
    config.sampling.prompts, config.sampling.negative = case["prompts"], of_run["negative"]
    config.sampling.guidance = f"classifier_free(weight={case['guidance']})"
    experiment = workdirs.load(config)
    shape = experiment.codec.shape
    params = load(inpainting, experiment.model.net, shape).params
    sde = requests.sampling_sde(config)
    solver, times = build("solvers", config.sampling.solver, sde), requests.build_grid(config)(sde)
    asked = experiment.conditioner.request(tuple(case["prompts"]))
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
    parts = {"image": jnp.asarray(given["image"]), "drawn": jnp.asarray(given["mask"])}
    x = jnp.asarray(given["x"])
    found = Drawn(*jax.device_get(draw(*frozen, experiment.conditioner, params, x, parts)))
    wanted = Drawn(given["latents_0"], given["images_0"], case["calls"])
    latents, images = error(found, wanted)
    assert latents < 1e-5
    assert images <= 1
    assert found.nfe == wanted.nfe
