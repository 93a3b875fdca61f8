"""The tab that goes from one example to another by their latents."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np

from score_sde.app import asking, look
from score_sde.app.controls import (
    Update,
    buttons,
    conditions,
    fields,
    followed,
    image,
    left,
    made,
    on_press,
    results_of,
    right,
)
from score_sde.app.offers import Offers
from score_sde.app.studio import EXAMPLES, Studio

MOST_POINTS = 15


def between_tab(studio: Studio, offered: Offers, free: bool) -> None:
    """Makes the tab, within a row of gradio. free: as `page.build`."""
    test, chosen = studio.examples(EXAMPLES), offered.image is not None
    most = max(len(test) - 1, 1)
    with left():
        with gr.Group():
            asked_for = conditions(studio, offered, free)
        with gr.Group():
            first = gr.Slider(0, most, 0, step=1, label="From test image", visible=chosen)
            last = gr.Slider(0, most, 1, step=1, label="To test image", visible=chosen)
            points = gr.Slider(3, MOST_POINTS, 9, step=2, label="Points")
        button, stop = buttons("Go between", "between")
    with right():
        status = gr.HTML(
            look.line("from one test example to another, by their latents of the ODE"),
            elem_id="between-status",
        )
        parts = gr.State([])
        place = gr.Slider(0, 1, 0.5, step=0.01, label="Place", visible=False, elem_id="place")
        picture = image("Between", height=380, elem_id="one")
        whole = image("All points", visible=False)
        results = results_of()

    def go(values: dict[str, Any]) -> Iterator[Update]:
        n = min(asking.whole("points", values["points"]), MOST_POINTS)
        asked: asking.Fields = {
            **fields(studio, offered, values, 1),
            "edit.task": f"interpolate(points={n})",
            "edit.images": None,
            "edit.num_images": 2,
            "edit.particles": 1,
        }
        asked.pop("sampling.num_samples")
        asked.pop("sampling.files", None)
        if chosen and len(test):
            pair = [asking.whole("number", values[name]) for name in ("first", "last")]
            asked["edit.images"] = str(
                studio.input(_npz(test[[i % len(test) for i in pair]]), ".npz")
            )
        job = functools.partial(studio.edit, asked)
        yield {status: look.line("compiling, or waiting for another session …")}
        figure = yield from followed(
            job, lambda seen: {status: look.line(f"the ODE: {seen.calls} network calls")}
        )
        yield {
            **made(results, figure),
            status: look.told(figure.about),
            parts: [str(path) for path in figure.parts],
            place: gr.update(visible=True, value=0.5),
            picture: str(figure.parts[len(figure.parts) // 2]),
            whole: gr.update(value=str(figure.picture), visible=True),
        }

    def show(place: float, parts: list[str]) -> str | None:
        return parts[round(place * (len(parts) - 1))] if parts else None

    place.change(
        show, [place, parts], picture, show_progress="hidden", queue=False, api_visibility="private"
    )
    fixed = {**_FOR_ODE, "seed": studio.config.seed}
    solver = {name: gr.State(value) for name, value in fixed.items()}
    inputs = {**asked_for, **solver, "first": first, "last": last, "points": points}
    outputs = [parts, place, picture, whole, *results.values()]
    on_press(button, stop, inputs, outputs, status, go)


_FOR_ODE = {"solver": "probability_flow", "grid": "uniform", "steps": 1}


def _npz(images: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez(content, samples=images)
    return content.getvalue()
