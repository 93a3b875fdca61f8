"""The page: controls, and what happens when a button is pressed. It is a thin skin over `Studio`.

Needs gradio (the extra `app`).
"""

from __future__ import annotations

import functools
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import jax
import numpy as np

from score_sde import inverse
from score_sde.app import asking, look, painting
from score_sde.app.following import following
from score_sde.app.offers import Offers, offers
from score_sde.app.studio import Figure, Studio, steps_done
from score_sde.app.watching import Seen, Watch
from score_sde.config import names
from score_sde.errors import ReportedError

AT_ONCE = 4  # sessions that draw; more wait
PLAYERS = 4  # of sounds
EXAMPLES = 24  # test images to choose from

Update = dict[Any, Any]
"""New values of components."""


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
        with gr.Row():
            with gr.Column(scale=2, min_width=290):
                common = _conditions(studio, offered, free)
            with gr.Column(scale=5, min_width=300), gr.Tabs():
                with gr.Tab("Draw"):
                    _draw_tab(studio, offered, free, common)
                if offered.image is not None:
                    with gr.Tab("Paint"):
                        _paint_tab(studio, offered, free, common)
                if offered.latents:
                    with gr.Tab("Between"):
                        _between_tab(studio, offered, common)
    page.queue(api_open=False)
    return page


def _about(studio: Studio) -> str:
    """One line on the model."""
    config, experiment = studio.config, studio.experiment
    count = sum(a.size for a in jax.tree.leaves(studio.trained.params))
    shape = "x".join(map(str, experiment.codec.inner.shape))
    sde = str(config.sde).partition("(")[0]
    return f"{shape} · {sde} · {count:,} parameters · step {studio.trained.step:,}"


def _conditions(studio: Studio, offered: Offers, free: bool) -> dict[str, gr.components.Component]:
    """The controls of all tabs: what is asked for, guidance, the seed."""
    options = studio.config.sampling
    kind, weight, interval = asking.kind_of(options.guidance)
    low, high = interval or (None, None)
    text = offered.field == "prompts"
    asked = options[offered.field] if offered.field else ()
    value = "\n".join(asked) if text else " ".join(map(str, asked))
    about = "a line each" if text else "numbers; -1: none; empty: any"
    if offered.names:
        about = ", ".join(f"{i} {name}" for i, name in enumerate(offered.names[:12]))
    called = "Prompts" if text else "Classes"
    guides = len(offered.guidances) > 1
    away = ("\n" if text else " ").join(map(str, options.negative))
    return {
        "wanted": gr.Textbox(
            value, label=called, info=about, lines=3 if text else 1, visible=bool(offered.field)
        ),
        "unwanted": gr.Textbox(
            away,
            label=f"Negative {called.lower()}",
            info="what guidance leads away from",
            visible=bool(offered.field) and guides,
        ),
        "kind": gr.Dropdown(
            list(offered.guidances),
            value=kind,
            label="Guidance",
            allow_custom_value=free,
            visible=guides,
        ),
        "weight": gr.Slider(0, 10, weight or 2.0, step=0.1, label="Weight", visible=guides),
        "low": gr.Number(low, label="From log-SNR", info="empty: always", visible=guides),
        "high": gr.Number(high, label="To log-SNR", info="of the interval", visible=guides),
        "seed": gr.Number(studio.config.seed, label="Seed", precision=0, elem_id="seed"),
    }


def _common(offered: Offers, values: dict[str, Any]) -> dict[str, Any]:
    """The common part of `asking.drawing`."""
    guide = "unguided"
    if len(offered.guidances) > 1:
        guide = asking.guidance(
            values["kind"] or "", values["weight"], values["low"], values["high"]
        )
    none = "" if offered.field else None
    return {
        "wanted": values["wanted"] or "" if none is None else none,
        "unwanted": values["unwanted"] or "" if none is None else none,
        "guidance": guide,
        "seed": values["seed"],
    }


def _sampling(offered: Offers, free: bool, solver: str, grid: str, steps: int) -> dict[str, Any]:
    """The controls of a solver."""
    with gr.Row():
        return {
            "solver": gr.Dropdown(
                [*dict.fromkeys([solver, *offered.solvers])],
                value=solver,
                label="Solver",
                allow_custom_value=free,
                min_width=150,
            ),
            "grid": gr.Dropdown(
                [*dict.fromkeys([grid, *offered.grids])],
                value=grid,
                label="Grid",
                allow_custom_value=free,
                min_width=110,
            ),
            "steps": gr.Number(steps, label="Steps", precision=0, min_width=80, elem_id="steps"),
        }


def _fields(studio: Studio, offered: Offers, values: dict[str, Any], samples: Any) -> asking.Fields:
    return asking.drawing(
        offered.field or studio.experiment.conditioner.field,
        **_common(offered, values),
        solver=values["solver"] or "",
        grid=values["grid"] or "",
        steps=values["steps"],
        samples=samples,
        files=offered.sound,
    )


def _image(label: str, **options: Any) -> gr.Image:
    return gr.Image(
        label=label,
        type="filepath",
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_classes=["figure", "pixels"],
        **options,
    )


def _results() -> dict[str, Any]:
    """Where the command and the files of a figure appear."""
    command = gr.Code(
        label="The command that makes it again",
        language="shell",
        interactive=False,
        wrap_lines=True,
        show_line_numbers=False,
        lines=2,
        visible=False,
        elem_classes=["command"],
    )
    return {"command": command, "files": gr.Files(label="Files", height=150, visible=False)}


def _made(results: dict[str, Any], figure: Figure) -> Update:
    files = [str(path) for path in figure.files]
    return {
        results["command"]: gr.update(value=figure.command, visible=True),
        results["files"]: gr.update(value=files, visible=True),
    }


def _on_press(
    button: gr.Button,
    stop: gr.Button,
    inputs: dict[str, Any],
    outputs: list[Any],
    status: gr.HTML,
    handle: Callable[[dict[str, Any]], Iterator[Update]],
) -> None:
    """Runs a generator of updates on a press; a mistake is told in one line."""

    def run(*given: Any) -> Iterator[Update]:
        try:
            yield from handle(dict(zip(inputs, given, strict=True)))
        except ReportedError as error:
            yield {status: look.wrong(" ".join(str(error).split()))}
        except Exception as error:  # a defect, which must not end the page
            traceback.print_exc()
            yield {status: look.wrong(f"{type(error).__name__}: {error} (see the terminal)")}

    event = button.click(
        run,
        list(inputs.values()),
        [status, *outputs],
        concurrency_limit=AT_ONCE,
        show_progress="hidden",
        api_visibility="private",
    )
    stop.click(None, cancels=[event], api_visibility="private")


def _shown(
    studio: Studio,
    asked: asking.Fields,
    job: Callable[[Watch], Figure],
    status: Any,
    picture: Any,
    most: int,
) -> Iterator[Update | Figure]:
    """Progress and the estimates while a job runs, and then its figure."""
    times = studio.times(asked)
    yield {status: look.line("compiling, or waiting for another session …", 0.0)}
    with tempfile.TemporaryDirectory() as folder:
        for event in following(job):
            if not isinstance(event, Seen):
                yield event
                return
            done, steps = steps_done(times, event.t), len(times) - 1
            text = f"step {min(done + 1, steps)} of {steps} · {event.calls} network calls"
            shown = studio.preview(event, most, Path(folder) / f"{event.calls}.png")
            yield {status: look.line(text, done / steps), picture: gr.update(value=str(shown))}


def _draw_tab(studio: Studio, offered: Offers, free: bool, common: dict[str, Any]) -> None:
    options = studio.config.sampling
    own = _sampling(offered, free, options.solver, options.grid, options.steps)
    with gr.Row(equal_height=True):
        samples = gr.Slider(1, 100, min(options.num_samples, 64), step=1, label="Samples")
        compare = gr.Checkbox(
            False, label="Compare with a fine solution of the ODE", visible=offered.latents
        )
    with gr.Row():
        button = gr.Button("Draw", variant="primary", elem_id="draw")
        stop = gr.Button("Stop", min_width=80, scale=0)
    status = gr.HTML(elem_id="draw-status")
    with gr.Row():
        picture = _image("Samples", height=430, elem_id="samples")
        truth = _image("The ODE, from the same noise", height=430, visible=False, elem_id="truth")
    error = gr.HTML(elem_id="rms")
    players = [gr.Audio(visible=False, label=f"Sound {i}") for i in range(PLAYERS * offered.sound)]
    results = _results()

    def draw(values: dict[str, Any]) -> Iterator[Update]:
        asked = _fields(studio, offered, values, values["samples"])
        if values["compare"]:
            studio.check_reference(asked)
        yield {error: "", truth: gr.update(visible=values["compare"], value=None)}
        job = functools.partial(studio.sample, asked)
        figure: Any = None
        most = asked["sampling.num_samples"]
        for figure in _shown(studio, asked, job, status, picture, most):
            if isinstance(figure, dict):
                yield figure
        heard = [path for path in figure.files if path.suffix == ".wav"]
        yield {
            **_made(results, figure),
            status: look.told(figure.about),
            picture: str(figure.picture),
            **{
                player: gr.update(value=str(path), visible=True)
                for player, path in zip(players, heard, strict=False)
            },
        }
        if values["compare"]:
            yield {error: look.line("solving the ODE from the same noise …")}
            found: Any = None
            for found in following(functools.partial(studio.refer, asked, figure)):
                if isinstance(found, Seen):
                    yield {error: look.line(f"the ODE: {found.calls} network calls")}
            yield {error: look.told(found.about), truth: str(found.picture)}

    inputs = {**common, **own, "samples": samples, "compare": compare}
    outputs = [picture, truth, error, *players, *results.values()]
    _on_press(button, stop, inputs, outputs, status, draw)


def _paint_tab(studio: Studio, offered: Offers, free: bool, common: dict[str, Any]) -> None:
    shape = offered.image or ()
    test = studio.examples(EXAMPLES)
    gr.HTML(
        '<span class="hint">Choose or upload a picture, and paint over what is to be drawn anew.'
        "</span>"
    )
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
    own = _sampling(offered, free, "dpmpp_sde", "log_snr", 50)
    kinds = [name for name in names(inverse) if name[0].islower() and name != "twisted"]
    method = studio.config.edit.method
    with gr.Row():
        way = gr.Dropdown(
            [*dict.fromkeys([method, *kinds])],
            value=method,
            label="Method",
            allow_custom_value=free,
        )
        completions = gr.Slider(1, 8, 4, step=1, label="Completions")
    with gr.Row():
        button = gr.Button("Draw what is painted", variant="primary", elem_id="complete")
        stop = gr.Button("Stop", min_width=80, scale=0)
    status = gr.HTML(elem_id="paint-status")
    picture = _image("Completions", elem_id="completions")
    results = _results()

    def complete(values: dict[str, Any]) -> Iterator[Update]:
        drawn = values["editor"] or {}
        if drawn.get("background") is None:
            raise ReportedError("choose or upload a picture first")
        mask = painting.known(drawn["layers"], shape)
        image = painting.image_of(drawn["background"], shape)
        files = [studio.input(painting.png(array), ".png") for array in (image, mask)]
        asked = {
            **_fields(studio, offered, values, 1),
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
        figure: Any = None
        for figure in _shown(studio, asked, job, status, picture, asked["edit.completions"]):
            if isinstance(figure, dict):
                yield figure
        yield {
            **_made(results, figure),
            status: look.told(figure.about),
            picture: str(figure.picture),
        }

    inputs = {**common, **own, "editor": editor, "way": way, "completions": completions}
    _on_press(button, stop, inputs, [picture, *results.values()], status, complete)


def _between_tab(studio: Studio, offered: Offers, common: dict[str, Any]) -> None:
    test, chosen = studio.examples(EXAMPLES), offered.image is not None
    gr.HTML(
        '<span class="hint">From one test example to another, on the great circle between their '
        "latents of the probability-flow ODE.</span>"
    )
    with gr.Row():
        most = max(len(test) - 1, 1)
        first = gr.Slider(0, most, 0, step=1, label="From test image", visible=chosen)
        last = gr.Slider(0, most, 1, step=1, label="To test image", visible=chosen)
        points = gr.Slider(3, 15, 9, step=2, label="Points")
    with gr.Row():
        button = gr.Button("Go between", variant="primary", elem_id="between")
        stop = gr.Button("Stop", min_width=80, scale=0)
    status = gr.HTML(elem_id="between-status")
    parts = gr.State([])
    place = gr.Slider(0, 1, 0.5, step=0.01, label="Place", visible=False, elem_id="place")
    picture = _image("Between", height=380, elem_id="one")
    whole = _image("All points", visible=False)
    results = _results()

    def go(values: dict[str, Any]) -> Iterator[Update]:
        n = asking.whole("points", values["points"])
        asked: asking.Fields = {
            **_fields(studio, offered, values, 1),
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
        figure: Any = None
        for figure in following(job):
            if isinstance(figure, Seen):
                yield {status: look.line(f"the ODE: {figure.calls} network calls")}
        yield {
            **_made(results, figure),
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
    solver = {name: gr.State(value) for name, value in _FOR_ODE.items()}
    inputs = {**common, **solver, "first": first, "last": last, "points": points}
    outputs = [parts, place, picture, whole, *results.values()]
    _on_press(button, stop, inputs, outputs, status, go)


_FOR_ODE = {"solver": "probability_flow", "grid": "uniform", "steps": 1}


def _npz(images: np.ndarray) -> bytes:
    import io

    content = io.BytesIO()
    np.savez(content, samples=images)
    return content.getvalue()
