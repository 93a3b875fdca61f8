"""The controls of the page that its tabs share, and what a press of a button does with them."""

from __future__ import annotations

import functools
import tempfile
import traceback
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import gradio as gr

from score_sde.app import asking, look
from score_sde.app.following import following
from score_sde.app.offers import Offers
from score_sde.app.studio import Figure, Studio, steps_done
from score_sde.app.watching import Seen, Watch
from score_sde.errors import ReportedError

AT_ONCE = 4  # sessions that draw; more wait

Update = dict[Any, Any]
"""New values of components."""


def conditions(studio: Studio, offered: Offers, free: bool) -> dict[str, Any]:
    """The controls of all tabs: what is asked for, guidance, the seed."""
    options = studio.config.sampling
    kind, weight, interval = asking.kind_of(options.guidance)
    text = offered.field == "prompts"
    asked = options[offered.field] if offered.field else ()
    value = "\n".join(asked) if text else " ".join(map(str, asked))
    about = "a line each" if text else "numbers, such as 0 1 2; -1 for none; nothing for any"
    if offered.names:
        about = ", ".join(f"{i} {name}" for i, name in enumerate(offered.names[:12]))
    called = "Prompts" if text else "Classes"
    guides = len(offered.guidances) > 1
    away = ("\n" if text else " ").join(map(str, options.negative))
    found: dict[str, Any] = {
        "wanted": gr.Textbox(
            value,
            label=called,
            info=about,
            lines=3 if text else 1,
            visible=bool(offered.field),
            elem_classes=["wanted"],
        )
    }
    with gr.Accordion("Guidance", open=kind != "unguided", visible=guides):
        found["kind"] = gr.Dropdown(
            list(offered.guidances), value=kind, label="Kind", allow_custom_value=free
        )
        found["weight"] = gr.Slider(0, 10, weight or 2.0, step=0.1, label="Weight")
        found["interval"] = gr.Textbox(
            " ".join(map(str, interval or ())),
            label="Interval of log-SNR",
            placeholder="always; or from and to, such as -2 4",
        )
        found["unwanted"] = gr.Textbox(
            away,
            label=f"Negative {called.lower()}",
            placeholder="what it leads away from",
            visible=bool(offered.field),
            elem_classes=["unwanted"],
        )
    return found


def left() -> Any:
    """The column of controls."""
    return gr.Column(scale=2, min_width=300)


def right() -> Any:
    """The column of results."""
    return gr.Column(scale=5, min_width=300)


def buttons(text: str, name: str) -> tuple[gr.Button, gr.Button]:
    """The one that begins, and the one that ends."""
    with gr.Row():
        begin = gr.Button(text, variant="primary", min_width=120, scale=3, elem_id=name)
        return begin, gr.Button("Stop", min_width=70, scale=1)


def _common(offered: Offers, values: dict[str, Any]) -> dict[str, Any]:
    """The common part of `asking.drawing`."""
    guide = "unguided"
    if len(offered.guidances) > 1:
        ends = asking.interval(values["interval"] or "")
        guide = asking.guidance(values["kind"] or "", values["weight"], ends)
    return {
        "wanted": values["wanted"] or "",
        "unwanted": values["unwanted"] or "",
        "guidance": guide,
        "seed": values["seed"],
    }


def sampling(
    studio: Studio, offered: Offers, free: bool, solver: str, grid: str, steps: int
) -> dict[str, Any]:
    """The controls of a solver, and the seed."""
    found: dict[str, Any] = {
        "solver": gr.Dropdown(
            [*dict.fromkeys([solver, *offered.solvers])],
            value=solver,
            label="Solver",
            allow_custom_value=free,
        ),
        "grid": gr.Dropdown(
            [*dict.fromkeys([grid, *offered.grids])],
            value=grid,
            label="Grid",
            allow_custom_value=free,
        ),
    }
    with gr.Row():
        number = functools.partial(gr.Number, precision=0, min_width=90)
        found["steps"] = number(steps, label="Steps", elem_classes=["steps"])
        found["seed"] = number(studio.config.seed, label="Seed", elem_classes=["seed"])
    return found


def fields(studio: Studio, offered: Offers, values: dict[str, Any], samples: Any) -> asking.Fields:
    """The fields of `config` that the values of these controls ask for.

    Raises:
      ConfigError: a number is none.
    """
    asked = asking.drawing(
        offered.field or studio.experiment.conditioner.field,
        **_common(offered, values),
        solver=values["solver"] or "",
        grid=values["grid"] or "",
        steps=values["steps"],
        samples=samples,
        files=offered.sound,
    )
    if asked["sampling.guidance"] == "unguided" and not studio.config.sampling.guidance:
        del asked["sampling.guidance"]
    return asked


def image(label: str, **options: Any) -> gr.Image:
    """Where a picture appears."""
    return gr.Image(
        label=label,
        type="filepath",
        format="png",
        interactive=False,
        buttons=["download", "fullscreen"],
        elem_classes=["figure", "pixels"],
        **options,
    )


def results_of() -> dict[str, Any]:
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


def made(results: dict[str, Any], figure: Figure) -> Update:
    """The command and the files of a figure."""
    files = [str(path) for path in figure.files]
    return {
        results["command"]: gr.update(value=figure.command, visible=True),
        results["files"]: gr.update(value=files, visible=True),
    }


def on_press(
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
    stop.click(
        lambda: look.told("stopped"),
        None,
        status,
        cancels=[event],
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )


def shown(
    studio: Studio,
    asked: asking.Fields,
    job: Callable[[Watch], Figure],
    status: Any,
    picture: Any,
    most: int,
) -> Generator[Update, None, Figure]:
    """Yields progress and the estimates while a job runs, and returns its figure."""
    times = studio.times(asked)
    yield {status: look.line("compiling, or waiting for another session …", 0.0)}
    with tempfile.TemporaryDirectory() as folder:

        def step(seen: Seen) -> Update:
            done, steps = steps_done(times, seen.t), len(times) - 1
            text = f"step {min(done + 1, steps)} of {steps} · {seen.calls} network calls"
            path = studio.preview(seen, most, Path(folder) / f"{seen.calls}.png")
            return {status: look.line(text, done / steps), picture: str(path)}

        return (yield from followed(job, step))


def followed(
    job: Callable[[Watch], Figure], update: Callable[[Seen], Update]
) -> Generator[Update, None, Figure]:
    """Yields an update of the page for each call that is told while a job runs, and returns its
    figure."""
    for event in following(job):
        if isinstance(event, Figure):
            return event
        yield update(event)
    raise AssertionError("a job that neither ends nor fails")
