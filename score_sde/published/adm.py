"""Files of OpenAI's guided-diffusion and consistency_models: `describe` tells what network a file
holds, as far as its shapes tell, and `load` reads it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from score_sde.nets.adm import ADM, ADMClassifier
from score_sde.published import torch_file
from score_sde.published.matching import (
    Imported,
    Name,
    fit,
    from_torch,
    parameter_shapes,
    swap_halves,
)

Shapes = dict[str, tuple[int, ...]]


def load(path: Path, net: ADM | ADMClassifier, shape: tuple[int, ...]) -> Imported:
    """A file `*.pt` of a U-Net or a classifier: one set of weights, and no step.

    Raises:
        ValueError: the file is damaged or would need code to be executed; or its weights do not fit
            `net`.
    """
    given = _read(path)
    shapes = parameter_shapes(net, shape)
    names, arrays = {}, dict(given)
    for ours in flatten_dict(shapes):
        theirs = names[ours] = _their_name(ours, net)
        if theirs in given:
            arrays[theirs] = _layout(ours, given[theirs])
    kind = "classifier" if "positions" in shapes else "U-Net"
    params = fit(path, shapes, names, arrays)
    return Imported(f"guided-diffusion, {kind}", path, params, None, 0)


def _read(path: Path) -> dict[str, np.ndarray]:
    state = torch_file.read_arrays(path)
    if not {"input_blocks.0.0.weight", "time_embed.0.weight"} <= state.keys():
        raise ValueError(f"{path} is no network of guided-diffusion: it has no input_blocks")
    return state


# Their name of what there is once, and of the layers of a block.
_MODULES = {
    "embed_0": "time_embed.0",
    "embed_1": "time_embed.2",
    "embed_label": "label_emb",
    "conv_in": "input_blocks.0.0",
    "mid_0": "middle_block.0",
    "mid_attn": "middle_block.1",
    "mid_1": "middle_block.2",
    "out_norm": "out.0",
    "out_conv": "out.2",
    "pool_qkv": "out.2.qkv_proj",
    "pool_out": "out.2.c_proj",
}
_INNER = {
    "norm_0": "in_layers.0",
    "conv_0": "in_layers.2",
    "dense": "emb_layers.1",
    "norm_1": "out_layers.0",
    "conv_1": "out_layers.3",
    "shortcut": "skip_connection",
    "norm": "norm",
    "qkv": "qkv",
    "out": "proj_out",
}


def _their_name(ours: Name, net: ADM | ADMClassifier) -> str:
    """The name in a file of a parameter of ours."""
    if ours == ("positions",):
        return "out.2.positional_embedding"
    module, *layers, leaf = ours
    # a layer between blocks that halves, or doubles, the image
    alone = {"conv": "op" if module.startswith("down") else "conv"}
    inner = [(_INNER | alone)[layer] for layer in layers]
    head = _MODULES.get(module) or _place(module, net)
    return ".".join((head, *inner, "bias" if leaf == "bias" else "weight"))


def _place(module: str, net: ADM | ADMClassifier) -> str:
    """Where a block of a stage is. They count the blocks of all stages in one list; an entry holds
    a residual block, its attention, and on the way up what resamples."""
    way, number, kind = module.split("_", 2)
    blocks, stage = net.num_res_blocks, int(number)
    is_attention = kind.endswith("_attn")
    within = blocks if kind == "resample" else int(kind.removesuffix("_attn"))
    if way == "down":
        return f"input_blocks.{1 + stage * (blocks + 1) + within}.{int(is_attention)}"
    entry = (len(net.ch_mult) - 1 - stage) * (blocks + 1) + within
    if kind == "resample":
        return f"output_blocks.{entry}.{1 + (2**stage in net.attn_rates)}"
    return f"output_blocks.{entry}.{int(is_attention)}"


def _layout(ours: Name, value: np.ndarray) -> np.ndarray:
    """`from_torch`, also of dense layers over pixels, [out, in, 1], or in consistency_models
    [out, in, 1, 1]. Their features of the noise are [cos, sin]."""
    if ours[-1] == "embedding":
        return value
    if value.shape[2:] == (1,) or ({"qkv", "out"} & {*ours} and value.shape[2:] == (1, 1)):
        value = value.reshape(value.shape[:2])
    value = from_torch(value)
    return swap_halves(value) if ours == ("embed_0", "kernel") else value


class Description(NamedTuple):
    """What the shapes of a file say, and what is known of the published ones.

    net: fields of the config's network, with its name. image_size: pixels. sde: a spec.
    learns_variance, denoises: whether the network does.
    in_edm: whether it is one of consistency_models, a denoiser or a consistency model, made for
        EDM's process.
    """

    net: dict[str, Any]
    image_size: int
    channels: int
    sde: str
    learns_variance: bool
    denoises: bool
    in_edm: bool = False


# What shapes do not tell, of the published models that differ from the others: by width, multiples
# and whether it is a classifier.
_IN_EDM = {"sde": "EDM(t_min=0.002, t_max=80.0)", "in_edm": True}
_COSINE = {"sde": 'DDPM(num_steps=1000, schedule="cosine")'}
_KNOWN: dict[tuple[int, tuple[float, ...], bool], tuple[dict[str, Any], dict[str, Any]]] = {
    (192, (1, 2, 3, 4), False): ({"attention_order": "new"}, _COSINE),  # 64 pixels
    (128, (1, 2, 3, 4), True): ({}, _COSINE),  # its classifier
    (256, (1, 1, 2, 3, 4), False): ({"head_dim": 0, "num_heads": 4}, {}),  # 128 pixels
}


def describe(path: Path) -> Description:
    """The network of a file, from the names and shapes of its weights.

    They leave open the width of a head, the order of q, k and v, the schedule of the noise and, of
    a U-Net, the size of the images. The published models are known by their widths. Of others it is
    taken that heads have 64 channels (where that does not divide, that there are four, or one), the
    order "legacy", the linear schedule, and that the smallest images have 8 pixels; the fields of a
    config say otherwise (net.head_dim, net.num_heads, net.attention_order, sde, data.image_size;
    net.num_heads_up for files of their deprecated num_heads_upsample). A classifier
    without attention on the way down, whose residual blocks resample and whose stages have one
    width, may be divided into stages in several ways: the fewest blocks a stage are taken.

    Raises:
        ValueError: the file is damaged, or holds no such network, or an upsampler, or a classifier
            whose pool is another than that of the published ones.
    """
    shapes = {name: value.shape for name, value in _read(path).items()}
    if not _has_way_up(shapes) and "out.2.positional_embedding" not in shapes:
        raise ValueError(
            f"{path} is a classifier whose pool is not 'attention', that of the published ones: "
            "not supported"
        )
    try:
        net = _net(shapes)
        channels = shapes["input_blocks.0.0.weight"][1]
        places = shapes.get("out.2.positional_embedding")
        out = shapes["out.2.weight" if places is None else "out.2.c_proj.weight"][0]
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"{path} is no whole network of guided-diffusion ({error})") from error
    if places is None and channels == 6:
        raise ValueError(f"{path} is an upsampler, which sees a small image too: not supported")
    if places is None and out not in (channels, 2 * channels):
        raise ValueError(f"{path} has {out} channels at its end for {channels} of the image")
    bottom = 8 if places is None else round((places[1] - 1) ** 0.5)
    if places is None:
        net |= {"name": "adm.ADM", "num_classes": shapes.get("label_emb.weight", (0,))[0]}
        net["learn_variance"] = out == 2 * channels
    else:
        net |= {"name": "adm.ADMClassifier", "num_classes": out}
    # consistency_models has convolutions over two axes in the attention, and one order
    if any(name.endswith(".qkv.weight") and len(shape) == 4 for name, shape in shapes.items()):
        of_net, others = {"attention_order": "new"}, _IN_EDM
    else:
        of_net, others = _KNOWN.get((net["nf"], net["ch_mult"], places is not None), ({}, {}))
    about = {
        "image_size": bottom * 2 ** (len(net["ch_mult"]) - 1),
        "channels": channels,
        "sde": "DDPM(num_steps=1000)",
        "learns_variance": places is None and out == 2 * channels,
        "denoises": places is None,
    }
    return Description(net=net | of_net, **(about | others))


def _net(shapes: Shapes) -> dict[str, Any]:
    """The fields that U-Nets and classifiers share.

    Raises:
        KeyError, IndexError, ValueError: the way down does not divide into stages.
    """
    entries = 1 + max(
        int(name.split(".")[1]) for name in shapes if re.match(r"input_blocks\.\d{1,4}\.", name)
    )
    blocks = _blocks_of_stage(shapes, entries)
    stages = [
        [f"input_blocks.{1 + stage * (blocks + 1) + i}" for i in range(blocks)]
        for stage in range(entries // (blocks + 1))
    ]
    nf = shapes["time_embed.0.weight"][1]
    widths = [_width(shapes, stage[0]) for stage in stages]
    attended = [f"{stage[0]}.1.qkv.weight" in shapes for stage in stages]
    between = f"input_blocks.{blocks + 1}.0"
    updown = f"{between}.in_layers.2.weight" in shapes
    heads = [w for w, has in zip(widths, attended, strict=True) if has] + widths[-1:]
    head_dim = 0 if any(width % 64 for width in heads) else 64
    return {
        "nf": nf,
        "ch_mult": tuple(int(m) if m == int(m) else m for m in (w / nf for w in widths)),
        "num_res_blocks": blocks,
        "attn_rates": tuple(2**stage for stage, has in enumerate(attended) if has),
        "head_dim": head_dim,
        "num_heads": 1 if any(width % 4 for width in heads) else 4,
        "attention_order": "legacy",
        "scale_shift": shapes[f"{stages[0][0]}.0.emb_layers.1.weight"][0] == 2 * widths[0],
        "resblock_updown": updown,
        "conv_resample": updown or len(stages) == 1 or f"{between}.op.weight" in shapes,
        "dropout": 0.0,
    }


def _width(shapes: Shapes, entry: str) -> int:
    return shapes[f"{entry}.0.out_layers.3.weight"][0]


def _blocks_of_stage(shapes: Shapes, entries: int) -> int:
    """The number n of residual blocks in a stage: entry 0 is a convolution, and after each n comes
    one that halves the image, whose width is that before and which has no attention.

    Raises:
        ValueError: no n fits.
    """

    def what(number):
        """The width of a residual block, and whether attention follows; None of other entries."""
        weight = shapes.get(f"input_blocks.{number}.0.out_layers.3.weight")
        return weight and (weight[0], f"input_blocks.{number}.1.qkv.weight" in shapes)

    def fits(n):
        for first in range(1, entries, n + 1):
            stage, after = {what(first + i) for i in range(n)}, what(first + n)
            if len(stage) > 1 or stage == {None}:
                return False
            if after is not None and after != (next(iter(stage))[0], False):  # pyright: ignore
                return False
        return True

    found = [n for n in range(1, entries) if entries % (n + 1) == 0 and fits(n)]
    known = _blocks_before_resampling(shapes, entries, [what(i) for i in range(1, entries)])
    found = [n for n in found if known in (None, n)]
    if not found:
        raise ValueError("its blocks do not divide into stages")
    return found[0]


def _blocks_before_resampling(shapes: Shapes, entries: int, down: list) -> int | None:
    """The number of residual blocks in a stage where something other than a residual block halves
    or doubles the image, or where nothing does; None where residual blocks may do so.

    down: entry by entry after the first, None of those that are no residual block.
    """
    if None in down:
        return down.index(None)
    ups = [
        int(name.split(".")[1])
        for name in shapes
        if re.fullmatch(r"output_blocks\.\d{1,4}\.[12]\.(in_layers\.0|conv)\.weight", name)
    ]
    if ups:
        return min(ups)
    return entries - 1 if _has_way_up(shapes) else None


def _has_way_up(shapes: Shapes) -> bool:
    return any(name.startswith("output_blocks.") for name in shapes)
