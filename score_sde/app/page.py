"""The page: a thin skin over `Studio`. It needs gradio (the extra `app`)."""

from __future__ import annotations

import gradio as gr
import jax

from score_sde.app import look
from score_sde.app.between_tab import between_tab
from score_sde.app.draw_tab import draw_tab
from score_sde.app.offers import offers
from score_sde.app.paint_tab import paint_tab
from score_sde.app.studio import Studio


def build(studio: Studio, free: bool) -> gr.Blocks:
    """The page of a model.

    free: whether any solver, grid, guidance or method can be typed, options and files included;
        else only those on offer can be chosen.
    """
    offered = offers(studio.config, studio.experiment)
    with gr.Blocks(
        title=f"score_sde: {studio.workdir.name}",
        analytics_enabled=False,
        delete_cache=(3600, 7200),
    ) as page:
        gr.HTML(look.head(f"score_sde · {studio.workdir.name}", _about(studio)), elem_id="head")
        with gr.Tabs():
            with gr.Tab("Draw"), gr.Row():
                draw_tab(studio, offered, free)
            if offered.image is not None:
                with gr.Tab("Paint"), gr.Row():
                    paint_tab(studio, offered, free)
            if offered.latents:
                with gr.Tab("Between"), gr.Row():
                    between_tab(studio, offered, free)
    page.queue(api_open=False)
    return page


def _about(studio: Studio) -> str:
    """One line on the model."""
    config, experiment = studio.config, studio.experiment
    count = sum(a.size for a in jax.tree.leaves(studio.trained.params))
    shape = "x".join(map(str, experiment.codec.inner.shape))
    sde = str(config.sde).partition("(")[0]
    return f"{shape} · {sde} · {count:,} parameters · step {studio.trained.step:,}"
