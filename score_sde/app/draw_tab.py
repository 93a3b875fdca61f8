"""The tab that draws samples, and compares them with the ODE."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import gradio as gr

from score_sde.app import look
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
    sampling,
    shown,
)
from score_sde.app.offers import Offers
from score_sde.app.studio import Studio

PLAYERS = 4  # of sounds


def draw_tab(studio: Studio, offered: Offers, free: bool) -> None:
    """Makes the tab, within a row of gradio. free: as `page.build`."""
    options = studio.config.sampling
    with left():
        with gr.Group():
            asked_for = conditions(studio, offered, free)
        with gr.Group():
            own = sampling(studio, offered, free, options.solver, options.grid, options.steps)
            samples = gr.Slider(1, 100, min(options.num_samples, 64), step=1, label="Samples")
            compare = gr.Checkbox(
                False,
                label="Compare with the ODE",
                info="the same noise through a fine solution of the probability-flow ODE",
                visible=offered.latents,
                elem_id="compare",
            )
        button, stop = buttons("Draw", "draw")
    with right():
        status = gr.HTML(look.line("press Draw"), elem_id="draw-status")
        with gr.Row():
            picture = image("Samples", height=440, elem_id="samples")
            truth = image(
                "The ODE, from the same noise", height=440, visible=False, elem_id="truth"
            )
        error = gr.HTML(elem_id="rms")
        count = PLAYERS * offered.sound
        players = [gr.Audio(visible=False, label=f"Sound {i}") for i in range(count)]
        results = results_of()

    def draw(values: dict[str, Any]) -> Iterator[Update]:
        asked = fields(studio, offered, values, values["samples"])
        if values["compare"]:
            studio.check_reference(asked)
        yield {error: "", truth: gr.update(visible=values["compare"], value=None)}
        job = functools.partial(studio.sample, asked)
        most = asked["sampling.num_samples"]
        figure = yield from shown(studio, asked, job, status, picture, most)
        heard = [path for path in figure.files if path.suffix == ".wav"]
        yield {
            **made(results, figure),
            status: look.told(figure.about),
            picture: str(figure.picture),
            **{
                player: gr.update(value=str(path), visible=True)
                for player, path in zip(players, heard, strict=False)
            },
        }
        if values["compare"]:
            yield {error: look.line("solving the ODE from the same noise …")}
            refer = functools.partial(studio.refer, asked, figure)
            found = yield from followed(
                refer, lambda seen: {error: look.line(f"the ODE: {seen.calls} network calls")}
            )
            yield {error: look.told(found.about), truth: str(found.picture)}

    inputs = {**asked_for, **own, "samples": samples, "compare": compare}
    outputs = [picture, truth, error, *players, *results.values()]
    on_press(button, stop, inputs, outputs, status, draw)
