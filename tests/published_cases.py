"""Published checkpoints as configs of ours, made small: what several test files import."""

import importlib
import json
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"
FOLDERS = GOLDEN / "diffusers"
SHAPE = (16, 16, 3)  # of the images of the 2021 cases
CONFIGS = {  # which of our configs says what a case was trained as
    "subvp_ncsnpp_continuous": "subvp.cifar10_ncsnpp_continuous",
    "ve_bedroom_ncsnpp_continuous": "ve.bedroom_ncsnpp_continuous",
    "ve_ncsnpp": "ve.cifar10_ncsnpp",
    "ve_ncsnpp_continuous": "ve.cifar10_ncsnpp_continuous",
    "vp_ddpm_continuous": "vp.cifar10_ddpm_continuous",
    "vp_ddpmpp": "vp.cifar10_ddpmpp",
    "vp_ddpmpp_continuous": "vp.cifar10_ddpmpp_continuous",
}


def config_of(case):
    """Our config of a published model, with the sizes of the golden one alone."""
    config = importlib.import_module(f"configs.{CONFIGS[case]}").get_config()
    model = json.loads((GOLDEN / f"{case}.config.json").read_text())["model"]
    for field in ("nf", "ch_mult", "num_res_blocks", "attn_resolutions"):
        value = model[field]
        config.net[field] = tuple(value) if isinstance(value, list) else value
    config.data = {"name": "absent", "image_size": SHAPE[0], "augment": "flip"}
    return config
