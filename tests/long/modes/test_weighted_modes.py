"""Samples with weights by a config: what the library makes, and one clear line per mistake."""

import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling, solvers
from score_sde.conditioning.conditioner import null
from score_sde.errors import ConfigError
from score_sde.experiment import samplers
from score_sde.models import guidance, tilting
from score_sde.modes import evaluate, sample
from score_sde.sampling.grids import log_snr
from tests.modes.test_guided_modes import classifier, put, restored, small

P = 3


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory):
    root = tmp_path_factory.mktemp("tilted")
    return {
        "classes": put(small(), root / "classes", scale=0.05),
        "classifier": put(classifier(), root / "classifier", scale=0.05),
    }


def weighted(spec="classifier_free(weight=2.0)", **changes):
    fields = {"sampling.solver": f"feynman_kac(particles={P})", "sampling.guidance": spec}
    return small(**{**fields, **changes})


def of_labels(workdir, spec):
    """`cond -> Tilted`, by the library."""
    experiment, params, _ = restored(small(), workdir["classes"])
    model = experiment.model
    of_cond = functools.partial(model.denoiser, params)
    if spec.startswith("classifier_free"):

        def of_pair(cond):
            nothing = null(experiment.conditioner, cond)
            return tilting.between(guidance.in_one_batch(of_cond, cond, nothing), 2.0)

        return experiment, of_pair
    judge, judge_params, _ = restored(classifier(), workdir["classifier"])
    of_guide = functools.partial(judge.objective.result, judge_params)
    return experiment, lambda cond: tilting.valued(model.sde, of_cond(cond), of_guide(cond), 2.0)


@pytest.mark.parametrize("kind", ["classifier_free", "classifier"])
def test_a_config_draws_what_the_library_does(workdirs, kind):
    """Each sample has particles of its own, and depends on its number alone; what is told of it is
    one of them, and the evaluations of all."""
    folder = workdirs["classifier"]
    spec = (
        f"classifier(workdir='{folder}', scale=2.0)"
        if kind == "classifier"
        else ("classifier_free(weight=2.0)")
    )
    config, key = weighted(spec, **{"sampling.labels": (3, 8)}), jax.random.key(5)
    experiment, params, _ = restored(config, workdirs["classes"])
    draw = samplers.build_paths(config, experiment, 8, lambda ends: ends)
    found = draw(params, key)
    part = samplers.build_paths(config, experiment, 2, lambda ends: ends)(params, key, 4)
    chex.assert_trees_all_close(found.x[4:6], part.x, rtol=1e-4, atol=1e-4)

    experiment, tilted = of_labels(workdirs, spec)
    sde = experiment.model.sde
    sde = type(sde)(t_min=config.sampling.t_min)
    numbers = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(8))
    keys = jax.vmap(lambda key: jax.random.split(key, 3))(numbers)
    start, walk = (
        jax.vmap(lambda key: jax.random.split(key, P))(keys[:, i]).ravel() for i in (0, 2)
    )
    cond = {"label": jnp.repeat(jnp.tile(jnp.array([3, 8], jnp.int32), 4), P)}
    out = jax.jit(
        lambda start, walk: sampling.sample(
            walk,
            solvers.feynman_kac(sde, P),
            tilted(cond),
            sde.prior_sample(start, (8 * P, 8, 8, 1)),
            log_snr(sde, 3),
            denoise=True,
        )
    )(start, walk)
    np.testing.assert_allclose(found.x, out.x[::P], rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(found.raw["label"], np.tile([3, 8], 4))
    assert int(found.depth) == 3 + 1 + (kind == "classifier")
    assert int(found.nfe) == P * int(found.depth)
    # where one particle has nearly all the weight, no neighbours are left but its copies
    assert np.ptp(np.asarray(out.state.log_z)) > 0


def test_modes_draw_with_weights(workdirs):
    """V at the end costs an evaluation, and so does E[x_0 | x] there."""
    spec = "rewarded(reward='quadratic(centre=(0.5,), std=2.0)')"
    result = sample.sample(weighted(spec), workdirs["classes"])
    assert result["nfe"] == P * (3 + 2)
    config = weighted(**{"evaluate.num_samples": 16, "evaluate.parts": ("metrics",)})
    config.evaluate.nfe = (15,)
    evaluate.evaluate(config, workdirs["classes"])
    stored = json.loads((workdirs["classes"] / "evaluate.json").read_text())
    (_, row) = stored["metrics"]["rows"]
    assert row["nfe"] == 15  # of three particles: four steps, and the denoiser at the end


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling.guidance": "apg(weight=3.0)"}, "has none: take classifier_free"),
        ({"sampling.guidance": "classifier_free(weight=2.0, rescale=0.7)"}, "has none"),
        ({"sampling.guidance": "classifier_free(weight=2.0, interval=(-4.0, 4.0))"}, "has none"),
        ({"sampling.guidance": "rewarded(reward='log_class(workdir=\"runs\", label=3)')"}, "reads"),
        ({"sampling.threshold": "static"}, r"sampling\.threshold=static changes the law"),
        ({"sampling.window": 2}, r"sampling\.window=2 changes the law"),
    ],
)
def test_what_has_no_law_is_refused(workdirs, changes, message):
    config = weighted(**changes)
    with pytest.raises(ConfigError, match=message):
        sample.sample(config, workdirs["classes"])
