"""How much of what prompts ask for is in the pictures, read back from them."""

from __future__ import annotations

from typing import Any

import numpy as np

from score_sde.config import build
from score_sde.errors import ConfigError
from score_sde.evaluation.worlds import World
from score_sde.experiment import drawing, workdirs
from score_sde.experiment.report.subject import Subject

COLUMNS = 8  # of the picture, for each kind of prompts


def adherence(subject: Subject) -> dict[str, Any]:
    """For each weight of classifier-free guidance, the share of samples in which all attributes are
    as asked, and that of each attribute: for prompts of combinations that training had, and of
    those that it had not. `seen` and `held_out` are the shares at the best weight. Also in
    DIR/adherence.json, with pictures in DIR/adherence.png.

    Raises:
      ConfigError: no world says what to ask for; or the model reads no prompts.
    """
    config = subject.config
    options = config.evaluate
    if options.world is None:
        raise ConfigError(
            "evaluate.parts: adherence needs a world that can be read back: set "
            "evaluate.world='shapes'"
        )
    if subject.experiment.conditioner.field != "prompts":
        raise ConfigError(
            "evaluate.parts: adherence asks by prompts, and the conditioner "
            f"{config.conditioner} reads none"
        )
    world: World = build("evaluation.worlds", options.world)
    n = options.num_prompts
    seen, held_out = (world.prompts(held_out, n) for held_out in (False, True))
    texts, wanted = (a + b for a, b in zip(seen, held_out, strict=True))
    rows, pictures = [], []
    for weight in options.weights:
        asked = config.copy_and_resolve_references()
        asked.sampling.prompts = tuple(texts)
        asked.sampling.guidance = f"classifier_free(weight={float(weight)})"
        drawn, _, _, _ = drawing.draw(asked, subject.experiment, subject.params, 2 * n)
        found = [world.read(image, what) for image, what in zip(drawn, wanted, strict=True)]
        row: dict[str, Any] = {"guidance": float(weight)}
        for name, part in (("seen", found[:n]), ("held_out", found[n:])):
            row[name] = _share(part, "all")
            row |= {f"{name}_{key}": _share(part, key) for key in part[0] if key != "all"}
        rows.append(row)
        pictures.append(np.concatenate([drawn[:COLUMNS], drawn[n : n + COLUMNS]]))
    best = max(rows, key=lambda row: row["seen"] + row["held_out"])
    result = {
        "world": options.world,
        "prompts": n,
        **{name: best[name] for name in ("guidance", "seen", "held_out")},
        "rows": rows,
    }
    names = [f"{name} {i + 1}" for name in ("seen", "held out") for i in range(COLUMNS)]
    subject.experiment.medium.rows(subject.workdir / "adherence.png", np.stack(pictures), names)
    return workdirs.store(subject.workdir / "adherence.json", result)


def _share(found: list[Any], name: str) -> float:
    return float(np.mean([each[name] for each in found]))
