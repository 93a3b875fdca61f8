"""How much of what prompts ask for is in the pictures, read back from them."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np

from score_sde.config import build
from score_sde.errors import ConfigError
from score_sde.evaluation.worlds import World
from score_sde.experiment import drawing, requests, workdirs
from score_sde.experiment.report.subject import Subject

COLUMNS = 8  # of the picture, for each kind of prompts


def adherence(subject: Subject) -> dict[str, Any]:
    """For each weight of classifier-free guidance and each kind of prompts of the world, the share
    of samples in which all is as asked, and the means of the other numbers that the world reads,
    such as the share of each attribute. By the name of a kind it gives the share at the best
    weight: the one with the largest sum over the kinds. Also in DIR/adherence.json, with pictures
    in DIR/adherence.png.

    Raises:
      ConfigError: no world says what to ask for; the model reads no prompts; or there are more
        prompts with an image than a conditioner takes.
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
    asked = [world.prompts(kind, n) for kind in world.kinds]
    texts, wanted, examples = (
        list(itertools.chain.from_iterable(parts)) for parts in zip(*asked, strict=True)
    )
    requests.check_examples("evaluate.num_prompts", examples, len(world.kinds))
    experiment = subject.experiment
    if examples:  # a conditioner takes the test examples in turn
        data = dataclasses.replace(experiment.data, test=examples)
        experiment = experiment._replace(data=data)
    rows, pictures = [], []
    for weight in options.weights:
        of_weight = config.copy_and_resolve_references()
        of_weight.sampling.update(world=None, images=None, prompts=tuple(texts))
        of_weight.sampling.guidance = f"classifier_free(weight={float(weight)})"
        drawn, _, _, _ = drawing.draw(of_weight, experiment, subject.params, len(texts))
        found = [world.read(image, what) for image, what in zip(drawn, wanted, strict=True)]
        row: dict[str, Any] = {"guidance": float(weight)}
        for i, kind in enumerate(world.kinds):
            row |= _means(kind, found[i * n : (i + 1) * n])
        rows.append(row)
        pictures.append(np.concatenate([drawn[i : i + COLUMNS] for i in range(0, len(texts), n)]))
    best = max(rows, key=lambda row: sum(row[kind] for kind in world.kinds))
    result = {
        "world": options.world,
        "prompts": n,
        "kinds": list(world.kinds),
        **{name: best[name] for name in ("guidance", *world.kinds)},
        "rows": rows,
    }
    columns = range(1, min(COLUMNS, n) + 1)
    names = [f"{kind.replace('_', ' ')} {i}" for kind in world.kinds for i in columns]
    subject.experiment.medium.rows(subject.workdir / "adherence.png", np.stack(pictures), names)
    return workdirs.store(subject.workdir / "adherence.json", result)


def _means(kind: str, found: list[Any]) -> dict[str, float]:
    """Of all that was read from the samples of one kind; "all" is called by the kind alone."""
    means = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
    return {kind: means.pop("all"), **{f"{kind}_{name}": mean for name, mean in means.items()}}
