"""Pipelines of Stable Diffusion (1, 2 and XL) in folders of Hugging Face diffusers: `describe` says
what a folder holds, in the words of a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from score_sde.config import call
from score_sde.nets.checks import fields_of
from score_sde.published import diffusers_unet_config, diffusers_vae
from score_sde.published.diffusers_config import process
from score_sde.published.diffusers_files import files, read_json, refuse, shown
from score_sde.published.diffusers_sampling import own_sampling

_XL = "StableDiffusionXL"
_PIPELINES = tuple(
    f"{family}{task}Pipeline"
    for family in ("StableDiffusion", _XL)
    for task in ("", "Img2Img", "Inpaint", "InstructPix2Pix")
)
_GUIDANCE = {False: 7.5, True: 5.0}  # by whether it is XL: the default of its pipeline


class Pipeline(NamedTuple):
    """What a folder says of a pipeline, in the words of a config.

    net: fields of ConditionalUNet. sde, parametrization, c_noise, weighting, conditioner: specs.
    num_steps: of the chain. autoencoder: its folder. image_size: pixels, and channels: those of an
    image. sampling: fields of a sampler.
    """

    net: dict[str, Any]
    sde: str
    parametrization: str
    c_noise: str
    num_steps: int | None
    weighting: str
    conditioner: str
    autoencoder: str
    image_size: int
    channels: int
    sampling: dict[str, Any]


def is_pipeline(folder: Path) -> bool:
    """Whether a folder holds a U-Net that reads text."""
    path = folder / "unet" / "config.json"
    return path.exists() and read_json(path).get("_class_name") == diffusers_unet_config.CLASS


def describe(folder: Path) -> Pipeline:
    """Reads the JSON files of a pipeline's folder: model_index.json, and those in its subfolders
    unet, vae and scheduler. Those of the encoders and tokenizers are read when they are loaded.

    Raises:
        ValueError: a file is missing or damaged, or asks for what is not supported; one line that
            names the field.
    """
    index = _index(folder)
    is_xl = index["_class_name"].startswith(_XL)
    unet, scheduler = files(folder)
    _, fields, net = diffusers_unet_config.described(folder)
    if not (folder / "vae" / "config.json").exists():
        raise ValueError(f"{folder} has no vae/config.json: give the folder of the whole pipeline")
    vae = diffusers_vae.module_of(folder)
    known = {
        0: "",
        vae.latent_channels: "instruction",
        1 + vae.latent_channels: "inpainting",
    }
    own = fields["out_channels"] == vae.latent_channels
    if net.out_channels or not own or net.cond_channels not in known:
        why = (
            f"the latents have {vae.latent_channels} channels. Beside them a U-Net reads nothing, "
            "as many more (InstructPix2Pix), or for inpainting a mask and as many more"
        )
        refuse(unet, fields, "in_channels", why)
    of_noise = process(scheduler, unet, "positional")
    own = own_sampling(scheduler, of_noise["num_steps"])
    del of_noise["centered"], of_noise["sampling"]
    size = _image_size(folder, unet, vae.factor)
    return Pipeline(
        net=fields_of(net),
        **of_noise,
        conditioner=_conditioner(folder, index, size if is_xl else None, known[net.cond_channels]),
        autoencoder=str(folder / "vae"),
        image_size=size,
        channels=vae.in_channels,
        sampling={**own, "guidance": _guidance(known[net.cond_channels], is_xl)},
    )


def _guidance(around: str, is_xl: bool) -> str:
    """With the weights that are the pipeline's defaults."""
    if around == "instruction":
        return "text_and_image(text=7.5, image=1.5)"
    return f"classifier_free(weight={_GUIDANCE[is_xl]})"


def _index(folder: Path) -> dict[str, Any]:
    """model_index.json."""
    path = folder / "model_index.json"
    if not path.exists():
        raise ValueError(
            f"{folder} has no model_index.json, which says what its parts are: give the folder of "
            "the whole pipeline"
        )
    index = read_json(path)
    if index.get("_class_name") not in _PIPELINES:
        raise ValueError(
            f"{path} is of class {shown(index.get('_class_name'))}; those of U-Nets that read text "
            f"are {', '.join(_PIPELINES)}"
        )
    if index.get("requires_aesthetics_score"):
        why = "a refiner of XL reads another score for the negative prompt, and only one is here"
        refuse(path, index, "requires_aesthetics_score", why)
    return index


def _image_size(folder: Path, unet: Path, factor: int) -> int:
    """The height and width of the images, in pixels."""
    fields = read_json(unet)
    size = fields.get("sample_size")
    if isinstance(size, list) and len(set(map(str, size))) == 1:
        size = size[0]
    if size is None:  # the autoencoder's, which is that of its training
        image = read_json(folder / "vae" / "config.json").get("sample_size")
        size = image // factor if type(image) is int else None
    if type(size) is not int or not 1 <= size <= 100_000:
        refuse(unet, {"sample_size": size}, "sample_size", "it is one number, of rows of latents")
    return size * factor


def _conditioner(folder: Path, index: dict[str, Any], size: int | None, around: str) -> str:
    """The conditioner of the encoders that are there. size: of the images of XL, else None. around:
    the name of one that takes this one and the autoencoder; "" for none."""
    there = [suffix for suffix in ("", "_2") if _has(index, f"text_encoder{suffix}")]
    if not there:
        raise ValueError(f"{folder}/model_index.json names no text_encoder")
    options: dict[str, Any] = {
        "encoders": tuple(str(folder / f"text_encoder{suffix}") for suffix in there),
        "tokenizers": tuple(str(folder / f"tokenizer{suffix}") for suffix in there),
    }
    if size is not None:
        options |= {
            "hidden": -2,
            "pooled": len(there) - 1,
            "sizes": tuple(map(float, (size, size, 0, 0, size, size))),
            "zeros": bool(index.get("force_zeros_for_empty_prompt", True)),
        }
    text = call("encoded_text", options)
    if not around:
        return text
    return call(around, {"text": text, "autoencoder": str(folder / "vae")})


def _has(index: dict[str, Any], part: str) -> bool:
    """Whether the pipeline has a part; one that it may lack is written as two nulls."""
    found = index.get(part)
    return isinstance(found, list) and any(found)
