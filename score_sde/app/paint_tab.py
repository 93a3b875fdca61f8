"""The tab that completes what is painted over."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np

from score_sde import inverse
from score_sde.app import asking, look, painting
from score_sde.app.controls import (
    Update,
    buttons,
    conditions,
    fields,
    image,
    left,
    made,
    on_press,
    results_of,
    right,
    sampling,
    shown,
)
from score_sde.app.offers import Offers
from score_sde.app.studio import EXAMPLES, Studio
from score_sde.config import names
from score_sde.errors import ReportedError


def paint_tab(studio: Studio, offered: Offers, free: bool) -> None:
    """Makes the tab, within a row of gradio. free: as `page.build`."""
    shape = offered.image or ()
    kinds = [name for name in names(inverse) if name[0].islower() and name != "twisted"]
    method = studio.config.edit.method
    with left():
        with gr.Group():
            asked_for = conditions(studio, offered, free)
        with gr.Group():
            own = sampling(studio, offered, free, "dpmpp_sde", "log_snr", 50)
            way = gr.Dropdown(
                [*dict.fromkeys([method, *kinds])],
                value=method,
                label="Method",
                allow_custom_value=free,
            )
            completions = gr.Slider(1, 8, 4, step=1, label="Completions")
        button, stop = buttons("Complete", "complete")
    with right():
        editor = _canvas(studio.examples(EXAMPLES))
        status = gr.HTML(
            look.line("choose or upload a picture, and paint over what is to be drawn anew"),
            elem_id="paint-status",
        )
        picture = image("Completions", elem_id="completions")
        results = results_of()

    def complete(values: dict[str, Any]) -> Iterator[Update]:
        drawn = values["editor"] or {}
        if drawn.get("background") is None:
            raise ReportedError("choose or upload a picture first")
        mask = painting.known(drawn["layers"], shape)
        image = painting.image_of(drawn["background"], shape)
        files = [studio.input(painting.png(array), ".png") for array in (image, mask)]
        asked = {
            **fields(studio, offered, values, 1),
            "edit.task": f"inpaint(keep={str(files[1])!r})",
            "edit.images": str(files[0]),
            "edit.resize": False,
            "edit.num_images": 1,
            "edit.completions": asking.whole("edit.completions", values["completions"]),
            "edit.method": values["way"] or "",
            "edit.particles": 1,
        }
        asked.pop("sampling.num_samples")
        job = functools.partial(studio.edit, asked)
        figure = yield from shown(studio, asked, job, status, picture, asked["edit.completions"])
        yield {
            **made(results, figure),
            status: look.told(figure.about),
            picture: str(figure.picture),
        }

    inputs = {**asked_for, **own, "editor": editor, "way": way, "completions": completions}
    on_press(button, stop, inputs, [picture, *results.values()], status, complete)


def _canvas(test: np.ndarray) -> gr.ImageEditor:
    """Where a picture is painted over, with test images to choose from."""
    with gr.Row():
        editor = gr.ImageEditor(
            painting.enlarged(test[0]) if len(test) else None,
            type="pil",
            format="png",
            label="Picture",
            sources=["upload", "clipboard"],
            transforms=[],
            layers=False,
            brush=gr.Brush(default_size=48, colors=["#6366f1"], color_mode="fixed"),
            canvas_size=(painting.CANVAS, painting.CANVAS),
            height=520,
            elem_id="editor",
            elem_classes=["pixels"],
        )
        large = [painting.enlarged(image) for image in test]
        choice = gr.Gallery(
            large,
            label="Test images",
            columns=4,
            height=520,
            allow_preview=False,
            format="png",
            elem_classes=["pixels"],
            visible=bool(large),
        )

    def choose(event: gr.SelectData) -> Any:
        return large[event.index]

    choice.select(choose, None, editor, show_progress="hidden", api_visibility="private")
    return editor
