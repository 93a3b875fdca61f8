"""Makes pipelines/: whole pipelines of Stable Diffusion, tiny, with random weights, and what
diffusers draws with them.

    pip install diffusers==0.42.0 torch==2.13.0 transformers==5.24.0
    python tests/golden/make_pipelines.py

A case is a folder of a pipeline as its Hub has it, and beside it CASE.json with the runs and
CASE.npz: the noise `x` [n, h, w, 4] and, of run i, the latents `latents_i` and the images
`images_i`. sd15_inpaint has a U-Net that reads an image too; the rest of its pipeline is that of
sd15. sd15_inpaint.npz also has the images and masks that it was given. So has sd15_instruct, whose
U-Net reads the image that an instruction changes. schedulers.json has, of many schedulers, the
steps at which the network is called, and alpha^2 at the end.
"""

import itertools
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
from make_diffusers import draw
from make_text import BEGIN, CONFIGS, END, learn, letters
from make_text import draw as draw_text

HERE = Path(__file__).parent / "pipelines"
CROSS = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
PLAIN = ("DownBlock2D", "UpBlock2D")
PROMPTS, NEGATIVE = ["a red bicycle", "Two dogs, at night!"], ["blurry", "blurry"]
CALLS, GUIDANCE, IMAGE_GUIDANCE = 10, 5.0, 1.7


def unet(*blocks, **fields):
    down, up = zip(*blocks, strict=True)
    common = {"sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1}
    blocks = {"down_block_types": down, "up_block_types": up[::-1], "norm_num_groups": 4}
    return {**common, **blocks, **fields}


VAE = {
    "block_out_channels": (4, 8, 8),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": 32,
}
CLIP = {"hidden_size": 12, "num_attention_heads": 2, "intermediate_size": 16}
CHAIN = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CHAIN |= {"num_train_timesteps": 1000, "steps_offset": 1, "clip_sample": False}
OLD = {**CHAIN, "set_alpha_to_one": False, "skip_prk_steps": True, "trained_betas": None}
EPS, V = {"prediction_type": "epsilon"}, {"prediction_type": "v_prediction"}
VARIANTS = {"sd21": "fp16"}  # in the names of files
DPM = "DPMSolverMultistepScheduler"
CASES = {
    "sd15": {
        "unet": unet(CROSS, PLAIN, attention_head_dim=4, cross_attention_dim=12),
        "vae": VAE,
        "text": ({**CLIP, "num_hidden_layers": 2, "hidden_act": "quick_gelu", "eos_token_id": 2},),
        "tokenizers": ("sd_1",),
        # as its folder has it, without the prediction and the spacing
        "scheduler": ("PNDMScheduler", OLD),
        "runs": [
            (DPM, {}, True),
            ("DDIMScheduler", {}, True),
            ("EulerDiscreteScheduler", {"timestep_spacing": "leading"}, False),
            ("UniPCMultistepScheduler", {"final_sigmas_type": "zero"}, True),
        ],
    },
    "sd21": {
        "unet": unet(
            CROSS,
            CROSS,
            attention_head_dim=[2, 4],
            cross_attention_dim=16,
            use_linear_projection=True,
            upcast_attention=True,
        ),
        "vae": VAE,
        "text": (
            {
                **CLIP,
                "hidden_size": 16,
                "num_hidden_layers": 2,
                "hidden_act": "gelu",
                "eos_token_id": 2,
            },
        ),
        "tokenizers": ("sd_2",),
        "scheduler": ("DDIMScheduler", {**OLD, **V}),
        "runs": [
            (DPM, {}, True),
            (DPM, {"timestep_spacing": "leading", "final_sigmas_type": "sigma_min"}, False),
            (
                "DDIMScheduler",
                {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True},
                True,
            ),
        ],
    },
    "sdxl": {
        "unet": unet(
            PLAIN,
            CROSS,
            block_out_channels=(8, 12),
            attention_head_dim=[1, 4],
            transformer_layers_per_block=[1, 2],
            cross_attention_dim=12 + 8,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=10 + 6 * 4,
        ),
        "vae": {**VAE, "scaling_factor": 0.13025},
        "text": (
            {**CLIP, "num_hidden_layers": 3, "hidden_act": "quick_gelu", "eos_token_id": 2},
            {
                **CLIP,
                "hidden_size": 8,
                "num_hidden_layers": 3,
                "hidden_act": "gelu",
                "projection_dim": 10,
                "eos_token_id": 2,
            },
        ),
        "tokenizers": ("today", "sd_2"),
        "scheduler": ("EulerDiscreteScheduler", {**OLD, **EPS, "timestep_spacing": "leading"}),
        "runs": [
            ("EulerDiscreteScheduler", {}, False),  # with zeros in the place of a prompt
            (DPM, {"timestep_spacing": "linspace"}, True),
            ("DDIMScheduler", {"set_alpha_to_one": True}, True),
        ],
    },
}


def write_tokenizer(kind, path):
    """As transformers 4 writes it, or as that of today."""
    from transformers import CLIPTokenizer

    path.mkdir(parents=True)
    letter, merges = letters(), learn(40)
    ordered = [letter[b] for b in sorted(letter, key=lambda b: letter[b])]
    tokens = [*ordered, *(c + "</w>" for c in ordered), *map("".join, merges), BEGIN, END]
    (path / "vocab.json").write_text(json.dumps({text: n for n, text in enumerate(tokens)}))
    lines = ["#version: 0.2", *map(" ".join, merges), ""]
    (path / "merges.txt").write_text("\n".join(lines))
    for name, content in CONFIGS["sd_2" if kind == "sd_2" else "sd_1"].items():
        (path / f"{name}.json").write_text(json.dumps(content))
    if kind == "today":
        peer = CLIPTokenizer.from_pretrained(path)
        shutil.rmtree(path)
        peer.save_pretrained(path)
    return len(tokens)


def write_encoder(fields, path, projected, vocabulary, variant):
    """With the names of transformers 4, unless it is projected. In half precision."""
    import torch
    import transformers
    from safetensors.numpy import load_file, save_file

    config = transformers.CLIPTextConfig(
        vocab_size=vocabulary,
        bos_token_id=vocabulary - 2,
        pad_token_id=1,
        **{"projection_dim": fields["hidden_size"], **fields},
    )
    name = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
    net = getattr(transformers, name)(config)
    rng, state = np.random.RandomState(0), net.state_dict()
    for key, value in state.items():
        if value.is_floating_point():
            is_scale = "norm" in key and key.endswith("weight")
            drawn = draw_text(tuple(value.shape), rng, float(is_scale))
            state[key] = torch.tensor(drawn.astype(np.float32))
    net.load_state_dict(state)
    net.half().save_pretrained(path, variant=variant)
    file = next(path.glob("*.safetensors"))
    arrays = load_file(file)
    if not projected:
        short = {key.removeprefix("text_model."): value for key, value in arrays.items()}
        arrays = {f"text_model.{key}": value for key, value in short.items()}
        save_file(arrays, file, {"format": "pt"})
    file.chmod(0o644)


def write_network(kind, fields, path, variant):
    """In half precision, which makes small files."""
    import diffusers
    import torch

    net = getattr(diffusers, kind)(**fields)
    shapes = {key: tuple(value.shape) for key, value in net.state_dict().items()}
    weights = {key: torch.tensor(value) for key, value in draw(shapes).items()}
    net.load_state_dict(weights)
    net.half().save_pretrained(path, variant=variant)
    next(path.glob("*.safetensors")).chmod(0o644)


def write(case, folder):
    """The folder of a pipeline."""
    is_xl, spec = case == "sdxl", CASES[case]
    variant = VARIANTS.get(case)
    folder.mkdir(parents=True)
    write_network("UNet2DConditionModel", spec["unet"], folder / "unet", variant)
    write_network("AutoencoderKL", spec["vae"], folder / "vae", variant)
    index = {
        "_class_name": "StableDiffusionXLPipeline" if is_xl else "StableDiffusionPipeline",
        "_diffusers_version": "0.19.0",
        "scheduler": ["diffusers", spec["scheduler"][0]],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    for i, (kind, fields) in enumerate(zip(spec["tokenizers"], spec["text"], strict=True)):
        suffix = f"_{i + 1}" if i else ""
        size = write_tokenizer(kind, folder / f"tokenizer{suffix}")
        write_encoder(fields, folder / f"text_encoder{suffix}", i == 1, size, variant)
        index[f"tokenizer{suffix}"] = ["transformers", "CLIPTokenizer"]
        encoder = "CLIPTextModelWithProjection" if i else "CLIPTextModel"
        index[f"text_encoder{suffix}"] = ["transformers", encoder]
    if is_xl:
        index["force_zeros_for_empty_prompt"] = True
    else:
        more = ("safety_checker", "feature_extractor")
        index |= {name: [None, None] for name in more}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    name, fields = spec["scheduler"]
    (folder / "scheduler").mkdir()
    content = {"_class_name": name, "_diffusers_version": "0.19.0", **fields}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(content, indent=2))


def run(case, folder):
    """What diffusers draws with the folder's scheduler, and with others of its fields."""
    import diffusers
    import torch

    variant = VARIANTS.get(case)
    pipe = diffusers.DiffusionPipeline.from_pretrained(
        folder, torch_dtype=torch.float32, variant=variant
    )
    pipe.set_progress_bar_config(disable=True)
    own = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    x = np.random.RandomState(0).standard_normal((2, 4, 8, 8)).astype(np.float32)
    runs, arrays = [], {"x": x.transpose(0, 2, 3, 1)}
    wanted = [(own["_class_name"], {}, True), *CASES[case]["runs"]]
    for i, (name, changes, negative) in enumerate(wanted):
        fields = {**own, **changes, "_class_name": name}
        pipe.scheduler = getattr(diffusers, name).from_config(fields)
        given = {
            "prompt": PROMPTS,
            "negative_prompt": NEGATIVE if negative else None,
            "guidance_scale": GUIDANCE,
            "num_inference_steps": CALLS,
            "latents": torch.tensor(x),
        }
        latents = pipe(**given, output_type="latent").images.numpy()
        images = pipe(**given, output_type="np").images
        arrays[f"latents_{i}"] = latents.transpose(0, 2, 3, 1)
        arrays[f"images_{i}"] = (images * 255).round().astype(np.uint8)
        runs.append({"scheduler": fields, "negative": NEGATIVE if negative else []})
        print(case, i, name, changes, np.abs(latents).max(), images.std())
    about = {"prompts": PROMPTS, "guidance": GUIDANCE, "calls": CALLS, "runs": runs}
    (HERE / f"{case}.json").write_text(json.dumps(about, indent=2) + "\n")
    np.savez_compressed(HERE / f"{case}.npz", **arrays)


def beside(folder, name, channels):
    """A pipeline with the parts of sd15 and a U-Net that reads so many channels, and the fields of
    its scheduler."""
    import diffusers
    import torch

    index = json.loads((HERE / "sd15" / "model_index.json").read_text())
    folder.mkdir()
    fields = {**CASES["sd15"]["unet"], "in_channels": channels}
    write_network("UNet2DConditionModel", fields, folder / "unet", None)
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": name}, indent=2))
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary) / "whole"
        shutil.copytree(HERE / "sd15", whole)
        shutil.copytree(folder, whole, dirs_exist_ok=True)
        pipe = getattr(diffusers, name).from_pretrained(whole, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    scheduler = {**OLD, "_class_name": "DDIMScheduler"}
    pipe.scheduler = diffusers.DDIMScheduler.from_config(scheduler)
    return pipe, scheduler


def instruct(folder):
    """A pipeline that edits by instruction, and what it draws."""
    import torch

    pipe, scheduler = beside(folder, "StableDiffusionInstructPix2PixPipeline", 8)
    rng = np.random.RandomState(2)
    x = rng.standard_normal((2, 4, 8, 8)).astype(np.float32)
    images = rng.randint(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    options = {
        "prompt": PROMPTS,
        "negative_prompt": NEGATIVE,
        "guidance_scale": GUIDANCE,
        "image_guidance_scale": IMAGE_GUIDANCE,
        "num_inference_steps": CALLS,
        "latents": torch.tensor(x),
        "image": torch.tensor(images.transpose(0, 3, 1, 2) / 127.5 - 1, dtype=torch.float32),
    }
    latents = pipe(**options, output_type="latent").images.numpy()
    found = (pipe(**options, output_type="np").images * 255).round().astype(np.uint8)
    print("instruct", np.abs(latents).max(), found.std())
    run = {"scheduler": scheduler, "negative": NEGATIVE}
    about = {"prompts": PROMPTS, "guidance": GUIDANCE, "calls": CALLS, "runs": [run]}
    about["image_guidance"] = IMAGE_GUIDANCE
    (HERE / "sd15_instruct.json").write_text(json.dumps(about, indent=2) + "\n")
    np.savez_compressed(
        HERE / "sd15_instruct.npz",
        x=x.transpose(0, 2, 3, 1),
        image=images,
        latents_0=latents.transpose(0, 2, 3, 1),
        images_0=found,
    )


def inpaint(folder):
    """A pipeline for inpainting, and what it draws."""
    import torch

    pipe, scheduler = beside(folder, "StableDiffusionInpaintPipeline", 9)
    rng = np.random.RandomState(1)
    x = rng.standard_normal((2, 4, 8, 8)).astype(np.float32)
    images = rng.randint(0, 256, (2, 32, 32, 3)).astype(np.uint8)
    mask = np.zeros((2, 32, 32, 1), np.uint8)  # 1 where the image is drawn
    mask[0, 5:20, 9:31], mask[1, :, :14] = 1, 1
    given = torch.tensor(images.transpose(0, 3, 1, 2) / 127.5 - 1, dtype=torch.float32)
    drawn = torch.tensor(mask.transpose(0, 3, 1, 2), dtype=torch.float32)
    with torch.no_grad():  # the mean of the posterior; the pipeline alone would draw of it
        known = pipe.vae.encode(given * (drawn < 0.5)).latent_dist.mode()
    options = {
        "prompt": PROMPTS,
        "negative_prompt": NEGATIVE,
        "guidance_scale": GUIDANCE,
        "num_inference_steps": CALLS,
        "latents": torch.tensor(x),
        "image": given,
        "mask_image": drawn,
        "masked_image_latents": known * pipe.vae.config.scaling_factor,
        "height": 32,
        "width": 32,
        "strength": 1.0,
    }
    latents = pipe(**options, output_type="latent").images.numpy()
    found = (pipe(**options, output_type="np").images * 255).round().astype(np.uint8)
    print("inpaint", np.abs(latents).max(), found.std())
    run = {"scheduler": scheduler, "negative": NEGATIVE}
    about = {"prompts": PROMPTS, "guidance": GUIDANCE, "calls": CALLS, "runs": [run]}
    (HERE / "sd15_inpaint.json").write_text(json.dumps(about, indent=2) + "\n")
    np.savez_compressed(
        HERE / "sd15_inpaint.npz",
        x=x.transpose(0, 2, 3, 1),
        image=images,
        mask=mask,
        latents_0=latents.transpose(0, 2, 3, 1),
        images_0=found,
    )


SPACINGS = ({}, *({"timestep_spacing": name} for name in ("leading", "linspace", "trailing")))
ENDS = {  # fields that decide where a class ends
    "DDIMScheduler": ({}, {"set_alpha_to_one": True}),
    "PNDMScheduler": ({}, {"set_alpha_to_one": True}),
    "EulerDiscreteScheduler": ({}, {"final_sigmas_type": "sigma_min"}),
    "EulerAncestralDiscreteScheduler": ({},),
    DPM: ({}, {"final_sigmas_type": "sigma_min"}, {"use_karras_sigmas": True}),
    "UniPCMultistepScheduler": ({}, {"final_sigmas_type": "sigma_min"}),
    "DEISMultistepScheduler": ({},),
    "DDPMScheduler": ({},),
}


def schedulers():
    """Where schedulers of Stable Diffusion's chain call the network, and where they end."""
    import diffusers

    rows = []
    for name, ends in ENDS.items():
        for spacing, end in itertools.product(SPACINGS, ends):
            for offset, calls in ((0, 10), (1, 7), (1, 50)):
                fields = {"steps_offset": offset, **spacing, **end}
                common = {**OLD, **fields}
                if offset == 0 and "set_alpha_to_one" not in end:
                    del common["set_alpha_to_one"]  # to its default
                scheduler = getattr(diffusers, name).from_config(common)
                scheduler.set_timesteps(calls)
                steps = scheduler.timesteps.tolist()
                if name == "PNDMScheduler":  # one comes twice
                    steps = sorted({*steps}, reverse=True)
                last = getattr(scheduler, "final_alpha_cumprod", 1.0)
                if hasattr(scheduler, "sigmas"):
                    last = 1 / (1 + scheduler.sigmas[-1] ** 2)
                removed = [key for key in OLD if key not in common]
                fields |= {"_class_name": name, **dict.fromkeys(removed)}
                row = {"scheduler": fields, "calls": calls}
                rows.append({**row, "steps": steps, "alpha2": float(last)})
    lines = ",\n".join(json.dumps(row) for row in rows)
    content = f'{{"common": {json.dumps(OLD)},\n"rows": [\n{lines}\n]}}\n'
    (HERE / "schedulers.json").write_text(content)


def main() -> None:
    import torch

    torch.set_num_threads(1)
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    schedulers()
    for case in CASES:
        write(case, HERE / case)
        run(case, HERE / case)
        print(case, sum(path.stat().st_size for path in (HERE / case).rglob("*") if path.is_file()))
    inpaint(HERE / "sd15_inpaint")
    instruct(HERE / "sd15_instruct")


if __name__ == "__main__":
    main()
