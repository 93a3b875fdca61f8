"""Recipes of published few-step models: what each names exists, and its loss can be computed."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import few_steps
from score_sde.config import build
from score_sde.experiment import build as experiments
from score_sde.experiment import requests
from score_sde.training.objective import Training
from score_sde.training.teacher import Teacher


def row(name):
    """The cells of a recipe in the docstring, without its name."""
    line = re.search(rf"^    {name}  .*$", few_steps.__doc__, re.MULTILINE)[0]
    return re.split(r"\s{2,}", line.strip())[1:]


def test_the_docstring_lists_all():
    listed = re.findall(r"^    ([a-z0-9-]+)  +\d", few_steps.__doc__, re.MULTILINE)
    assert sorted(listed) == sorted(few_steps.RECIPES)


@pytest.mark.parametrize("name", few_steps.RECIPES)
def test_a_recipe(name, tmp_path):
    """Its length is that of the docstring. Its gradient is finite, of a network of its kind."""
    config = few_steps.get_config(name)
    told = row(name)[-1]
    if "steps of" in told:
        assert f"{config.train.steps:,} steps of {config.train.batch_size:,}" in told
    elif "epochs" in told:
        assert round(config.train.steps * config.train.batch_size / 1_281_167) == 240
    config.data = {"name": "absent", "image_size": 8, "num_classes": 10}
    if "mean-flow-" in name:
        config.data = {"name": "absent_reals", "shape": (8, 8, 4), "num_classes": 10}
        config.net.update(width=16, depth=1, num_heads=2, num_classes=10)
    else:
        config.net.update(
            model_channels=8, channel_mult=(1,), num_blocks=1, attn_resolutions=(), dropout=0.0
        )
        config.net.num_classes = min(config.net.num_classes, 10)
    teacher = Teacher(jax.tree_util.Partial(lambda cond: lambda x, t: x / 2), {})
    given = teacher if config.objective.get("teacher") else None
    experiment = experiments.build_experiment(config, teacher=given)
    sde = requests.sampling_sde(config)
    build("sampling.grids", config.sampling.grid, sde, 2)
    assert experiment.objective.answers(build("solvers", config.sampling.solver, sde).asks)

    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, *experiment.codec.shape)), "float32")
    batch = {"x": x, "cond": {"label": jnp.arange(4)}}
    params = experiment.init(jax.random.key(0), batch)
    copies = (params,) * len(experiment.objective.targets)

    def loss(params):
        training = Training(jnp.asarray(0), copies)
        return jnp.mean(
            experiment.objective.losses(params, jax.random.key(1), batch, training).value
        )

    shapes = jax.eval_shape(jax.grad(loss), params)
    assert jax.tree.structure(shapes) == jax.tree.structure(params)
