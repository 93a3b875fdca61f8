"""Makes adapters/: LoRA files of all kinds over the U-Nets of pipelines/, and what they give.

    pip install diffusers==0.42.0 torch==2.13.0 transformers==5.24.0 peft==0.21.2
    python tests/golden/make_adapters.py

CASE.safetensors is a file as its program writes it, of random numbers. outputs.npz has the inputs
of a U-Net, `x_BASE` and so on; its output without an adapter, `BASE`; that with each file, `CASE`;
and `sd15_two`, with the first two files at once, of the weights 0.7 and -0.4.

text/ has files with layers of text encoders, and text/outputs.npz what the encoders then give of
PROMPTS: `CASE` the states that the U-Net reads, `CASE_pooled` the vector of XL, and so on.
"""

import json
import shutil
import zlib
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent / "adapters"
PIPELINES = Path(__file__).parent / "pipelines"
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
MORE = ["ff.net.0.proj", "ff.net.2", "proj_in", "proj_out", "conv1", "conv2", "conv_shortcut"]
MORE += ["time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv", "conv_in", "conv_out"]
MORE += ["time_embedding.linear_1", "time_embedding.linear_2"]
CONFIGS = {  # of peft
    "sd15_attention": {"r": 4, "lora_alpha": 4, "target_modules": ATTENTION},
    "sd15_mixed": {
        "r": 3,
        "lora_alpha": 5,
        "target_modules": ATTENTION + MORE,
        "rank_pattern": {"conv1": 2, "to_q": 6, "down_blocks.*to_k": 1},
        "alpha_pattern": {"conv1": 1, "to_q": 12, "ff.net.2": 7},
    },
    "sd15_rslora": {"r": 4, "lora_alpha": 6, "target_modules": ATTENTION, "use_rslora": True},
    "sd15_dora": {
        "r": 2,
        "lora_alpha": 3,
        "target_modules": [*ATTENTION, "conv1", "proj_in"],
        "use_dora": True,
    },
    "sdxl_mixed": {
        "r": 3,
        "lora_alpha": 2,
        "target_modules": [*ATTENTION, *MORE, "add_embedding.linear_1", "add_embedding.linear_2"],
        "rank_pattern": {"conv2": 2, "to_v": 5},
        "alpha_pattern": {"to_v": 9},
    },
}
# What sd-scripts trains of XL has the names of the original code.
ORIGINAL = {
    "sdxl": (
        ("conv_in", "input_blocks.0.0"),
        ("conv_out", "out.2"),
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("add_embedding.linear_1", "label_emb.0.0"),
        ("add_embedding.linear_2", "label_emb.0.2"),
        ("down_blocks.0.resnets.0", "input_blocks.1.0"),
        ("down_blocks.0.downsamplers.0.conv", "input_blocks.2.0.op"),
        ("down_blocks.1.resnets.0", "input_blocks.3.0"),
        ("down_blocks.1.attentions.0", "input_blocks.3.1"),
        ("mid_block.resnets.0", "middle_block.0"),
        ("mid_block.attentions.0", "middle_block.1"),
        ("mid_block.resnets.1", "middle_block.2"),
        ("up_blocks.0.resnets.0", "output_blocks.0.0"),
        ("up_blocks.0.attentions.0", "output_blocks.0.1"),
        ("up_blocks.0.resnets.1", "output_blocks.1.0"),
        ("up_blocks.0.attentions.1", "output_blocks.1.1"),
        ("up_blocks.0.upsamplers.0.conv", "output_blocks.1.2.conv"),
        ("up_blocks.1.resnets.0", "output_blocks.2.0"),
        ("up_blocks.1.resnets.1", "output_blocks.3.0"),
        (".conv1", ".in_layers.2"),
        (".time_emb_proj", ".emb_layers.1"),
        (".conv2", ".out_layers.3"),
        (".conv_shortcut", ".skip_connection"),
    ),
    "sd15": (),
}

PROMPTS = ["a red bicycle", "the cat's blue hat!", ""]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]
TEXT_CONFIGS = {  # of peft; ranks and alphas differ between the blocks of one encoder
    "sd15_mixed": {
        "r": 3,
        "lora_alpha": 5,
        "target_modules": TEXT,
        "rank_pattern": {"fc1": 2, "layers.1.self_attn.q_proj": 1},
        "alpha_pattern": {"layers.0.self_attn.k_proj": 9},
    },
    "sd15_plain": {"r": 2, "lora_alpha": 2, "target_modules": ["q_proj", "v_proj"]},
    "sd15_dora": {"r": 2, "lora_alpha": 3, "target_modules": TEXT, "use_dora": True},
    "sdxl_mixed": {"r": 2, "lora_alpha": 4, "target_modules": TEXT, "alpha_pattern": {"fc2": 1}},
}


def normal(name, shape):
    return np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)


def inputs(base):
    """x, the number of a step, the context, and what XL reads more."""
    context = {"sd15": 12, "sdxl": 20}[base]
    shapes = {"x": (2, 4, 8, 8), "context": (2, 5, context)}
    if base == "sdxl":
        shapes["vector"] = (2, 10)
    found = {name: normal(name, shape).astype(np.float32) for name, shape in shapes.items()}
    if base == "sdxl":
        found["sizes"] = np.array([[32, 32, 0, 0, 32, 32], [16, 64, 4, 8, 32, 32]], np.float32)
    return found | {"noise": np.array([17.0, 803.0], np.float32)}


def called(unet, base):
    import torch

    given = {name: torch.tensor(value) for name, value in inputs(base).items()}
    added = {}
    if base == "sdxl":
        added = {"text_embeds": given["vector"], "time_ids": given["sizes"]}
    with torch.no_grad():
        out = unet(given["x"], given["noise"], given["context"], added_cond_kwargs=added).sample
    return out.numpy().transpose(0, 2, 3, 1)


def pipeline(base):
    import diffusers
    import torch

    return diffusers.DiffusionPipeline.from_pretrained(PIPELINES / base, torch_dtype=torch.float32)


def fill(unet, case):
    """Random numbers in the place of the adapter's first ones."""
    import torch

    for name, value in unet.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            drawn = normal(case + name, tuple(value.shape))
            drawn = drawn / np.sqrt(np.prod(value.shape[1:])) * (0.5 if "lora_A" in name else 1)
            value.data = torch.tensor(drawn.astype(np.float32))
        elif "lora_magnitude_vector" in name:
            drawn = 1 + 0.2 * normal(case + name, tuple(value.shape))
            value.data = value.data * torch.tensor(drawn.astype(np.float32))


def kohya(arrays, alphas, base):
    """The names of sd-scripts, with an alpha for each layer and the norms of LyCORIS."""
    found = {}
    for name, value in arrays.items():
        layer, _, leaf = name.removeprefix("unet.").partition(".lora_")
        kept = layer
        for theirs, original in ORIGINAL[base]:
            is_start = not theirs.startswith(".")
            if is_start and (layer == theirs or layer.startswith(f"{theirs}.")):
                layer = original + layer[len(theirs) :]
            elif not is_start and layer.endswith(theirs):
                layer = layer[: -len(theirs)] + original
        flat = "lora_unet_" + layer.replace(".", "_")
        if leaf.startswith("magnitude"):
            found[f"{flat}.dora_scale"] = value.reshape(-1, *(1,) * (arrays_ndim(arrays, kept) - 1))
            continue
        half = {"A": "lora_down", "B": "lora_up"}[leaf[0]]
        found[f"{flat}.{half}.weight"] = value
        found[f"{flat}.alpha"] = np.array(alphas[kept], np.float32)
    return found


def arrays_ndim(arrays, layer):
    return arrays[f"unet.{layer}.lora_A.weight"].ndim


def old(arrays):
    """The names of diffusers 0.15 (attention's processors) and of its training script's LoRA."""
    found = {}
    for i, (name, value) in enumerate(sorted(arrays.items())):
        head, _, leaf = name.partition(".lora_")
        half = {"A": "down", "B": "up"}[leaf[0]]
        block, _, layer = head.replace(".to_out.0", ".to_out").rpartition(".")
        if "attn1" in name:
            found[f"{block}.processor.{layer}_lora.{half}.weight"] = value
        else:
            found[f"{head}.lora.{half}.weight"] = value
        del i
    return found


def make(case, fields, outputs):
    import peft
    from safetensors.numpy import load_file, save_file

    base = case.partition("_")[0]
    pipe = pipeline(base)
    config = peft.LoraConfig(init_lora_weights=False, **fields)
    pipe.unet.add_adapter(config)
    fill(pipe.unet, case)
    out = outputs[case] = called(pipe.unet, base)
    layers = {
        name: module.scaling["default"] * module.r["default"]
        for name, module in pipe.unet.named_modules()
        if hasattr(module, "lora_A") and module.r
    }
    state = peft.get_peft_model_state_dict(pipe.unet)
    more = {}
    if case != "sd15_attention":  # a file without an alpha, which is then the rank
        more["unet_lora_adapter_metadata"] = pipe.unet.peft_config["default"].to_dict()
        for key, value in more["unet_lora_adapter_metadata"].items():
            if isinstance(value, set):
                more["unet_lora_adapter_metadata"][key] = sorted(value)
    folder = HERE / case
    pipe.save_lora_weights(folder, unet_lora_layers=state, **more)
    file = HERE / f"{case}.safetensors"
    (folder / "pytorch_lora_weights.safetensors").rename(file)
    folder.rmdir()
    arrays = load_file(file)
    if case != "sd15_rslora":
        name = f"{case}_kohya.safetensors"
        save_file(kohya(arrays, layers, base), HERE / name, {"ss_network_dim": "4"})
    if case == "sd15_attention":
        save_file(old(arrays), HERE / "sd15_old.safetensors")
    if case == "sd15_mixed":  # what peft itself writes: a folder, whose config has alpha
        folder.with_name("sd15_peft").mkdir()
        target = folder.with_name("sd15_peft")
        renamed = {k.replace("unet.", "base_model.model.", 1): v for k, v in arrays.items()}
        save_file(renamed, target / "adapter_model.safetensors", {"format": "pt"})
        content = pipe.unet.peft_config["default"].to_dict()
        content = {k: sorted(v) if isinstance(v, set) else v for k, v in content.items()}
        (target / "adapter_config.json").write_text(json.dumps(content, indent=1, default=str))
    # what diffusers reads of the file, and of its other names, is the same
    checked = [file] + ([] if "rslora" in case else [HERE / f"{case}_kohya.safetensors"])
    for path in checked:
        other = pipeline(base)
        if "dora" in case and "kohya" in path.name:
            continue  # it leaves out the norms
        other.load_lora_weights(path.parent, weight_name=path.name)
        error = np.abs(called(other.unet, base) - out).max()
        print(path.name, path.stat().st_size, error, np.abs(out - outputs[base]).max())


def encoders(pipe):
    """The text encoders of a pipeline, by name, with their tokenizers."""
    found = {"text_encoder": (pipe.text_encoder, pipe.tokenizer)}
    if hasattr(pipe, "text_encoder_2"):
        found["text_encoder_2"] = (pipe.text_encoder_2, pipe.tokenizer_2)
    return found


def states(pipe, prompts=PROMPTS):
    """What a U-Net reads of prompts: the states of their tokens, and the vector of XL."""
    import torch

    context, pooled = [], None
    for encoder, tokenizer in encoders(pipe).values():
        options = {"padding": "max_length", "max_length": 77, "truncation": True}
        ids = tokenizer(prompts, return_tensors="pt", **options).input_ids
        with torch.no_grad():
            out = encoder(ids, output_hidden_states=True)
        is_xl = len(encoders(pipe)) > 1
        context.append((out.hidden_states[-2] if is_xl else out.last_hidden_state).numpy())
        pooled = out[0].numpy() if is_xl else None
    return np.concatenate(context, axis=-1), pooled


def kohya_text(arrays, alphas, base):
    """The names of sd-scripts for layers of text encoders."""
    numbers = {"text_encoder": "" if base == "sd15" else "1", "text_encoder_2": "2"}
    found = {}
    for name, value in arrays.items():
        layer, _, leaf = name.partition(".lora_")
        network, _, inner = layer.partition(".")
        flat = f"lora_te{numbers[network]}_{inner.replace('.', '_')}"
        if leaf.startswith("magnitude"):
            found[f"{flat}.dora_scale"] = value.reshape(-1, 1)
            continue
        half = {"A": "lora_down", "B": "lora_up"}[leaf[0]]
        found[f"{flat}.{half}.weight"] = value
        found[f"{flat}.alpha"] = np.array(alphas[layer], np.float32)
    return found


def changed(case, fields):
    """The pipeline with random adapters in the U-Net and the encoders, and all these networks."""
    import peft

    pipe = pipeline(case.partition("_")[0])
    parts = {"unet": pipe.unet, **{name: e for name, (e, _) in encoders(pipe).items()}}
    for name, network in parts.items():
        options = {"r": 1, "target_modules": ["attn2.to_v"]} if name == "unet" else fields
        config = peft.LoraConfig(init_lora_weights=False, **options)
        if name == "unet":
            network.add_adapter(config)
        else:  # transformers' own method wants another version of peft
            peft.inject_adapter_in_model(config, network)
            network.peft_config = {"default": config}
        fill(network, case + name)
    return pipe, parts


def make_text(case, fields, outputs):
    import peft
    from safetensors.numpy import load_file, save_file

    base, folder = case.partition("_")[0], HERE / "text"
    pipe, parts = changed(case, fields)
    layers, heads, alphas = {}, {}, {}
    for name, network in parts.items():
        state = peft.get_peft_model_state_dict(network)
        # files have a level that this version of transformers lacks
        add = "" if name == "unet" or next(iter(state)).startswith("text_model.") else "text_model."
        layers[f"{name}_lora_layers"] = {add + key: value for key, value in state.items()}
        told = network.peft_config["default"].to_dict()
        heads[f"{name}_lora_adapter_metadata"] = {
            k: sorted(v) if isinstance(v, set) else v for k, v in told.items()
        }
        for path, module in network.named_modules():
            if hasattr(module, "lora_A") and module.r:
                scale = module.scaling["default"] * module.r["default"]
                alphas[f"{name}.{add}{path}"] = scale
    outputs[case], pooled = states(pipe)
    if pooled is not None:
        outputs[f"{case}_pooled"] = pooled
    pipe.save_lora_weights(folder / case, **layers, **heads)
    file = folder / f"{case}.safetensors"
    (folder / case / "pytorch_lora_weights.safetensors").rename(file)
    (folder / case).rmdir()
    arrays = load_file(file)
    text = {k: v for k, v in arrays.items() if not k.startswith("unet.")}
    of_unet = {k: v for k, v in arrays.items() if k.startswith("unet.")}
    unet_alphas = {k.removeprefix("unet."): v for k, v in alphas.items()}
    flat = kohya(of_unet, unet_alphas, base) | kohya_text(text, alphas, base)
    save_file(flat, folder / f"{case}_kohya.safetensors")
    change = np.abs(outputs[case] - outputs[base]).max()
    print(case, sorted(arrays)[0], file.stat().st_size, change, np.abs(outputs[base]).max())


def two_at_once(cases, weights):
    """States with several changes of the encoder, each times its weight."""
    import torch

    pipe = pipeline("sd15")
    layers = dict(pipe.text_encoder.named_modules())
    for case, weight in zip(cases, weights, strict=True):
        other = changed(case, TEXT_CONFIGS[case])[0].text_encoder
        for path, module in other.named_modules():
            if hasattr(module, "lora_A") and module.r:
                with torch.no_grad():
                    layers[path].weight += weight * module.get_delta_weight("default")
    return states(pipe)[0]


def main_text() -> None:
    (HERE / "text").mkdir()
    outputs = {}
    for base in ("sd15", "sdxl"):
        outputs[base], pooled = states(pipeline(base))
        if pooled is not None:
            outputs[f"{base}_pooled"] = pooled
    for case, fields in TEXT_CONFIGS.items():
        make_text(case, fields, outputs)
    outputs["sd15_two"] = two_at_once(("sd15_mixed", "sd15_plain"), (0.7, -0.4))
    np.savez_compressed(HERE / "text" / "outputs.npz", **outputs)


def main() -> None:
    import torch

    torch.set_num_threads(1)
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    outputs = {}
    for base in ("sd15", "sdxl"):
        outputs |= {f"{name}_{base}": value for name, value in inputs(base).items()}
        outputs[base] = called(pipeline(base).unet, base)
    for case, fields in CONFIGS.items():
        make(case, fields, outputs)
    pipe, names = pipeline("sd15"), ("sd15_attention", "sd15_mixed")
    for name in names:
        pipe.load_lora_weights(HERE, weight_name=f"{name}.safetensors", adapter_name=name)
    pipe.set_adapters(list(names), [0.7, -0.4])
    outputs["sd15_two"] = called(pipe.unet, "sd15")
    np.savez_compressed(HERE / "outputs.npz", **outputs)
    main_text()


if __name__ == "__main__":
    main()
