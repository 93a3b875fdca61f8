"""Low-rank adapters: closed forms, and a small tree over frozen parameters in every store."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.errors import ConfigError
from score_sde.experiment import build, workdirs
from score_sde.experiment.program import compiled_step, lower
from score_sde.models.adapters import low_rank
from score_sde.modes.likelihood import likelihood
from score_sde.modes.sample import sample
from score_sde.modes.train import train
from score_sde.runtime.checkpoint import Checkpoints
from score_sde.training import objective
from score_sde.training.state import TrainState
from tests.modes.test_train import small
from tests.stored import arrays

BASE = {
    "dense": {"kernel": jnp.arange(12.0).reshape(3, 4), "bias": jnp.ones(4)},
    "conv": {"kernel": jnp.arange(36.0).reshape(3, 3, 2, 2)},
}


def test_a_low_rank_change_is_the_product_of_its_factors():
    adapter = low_rank("base", rank=2, scale=3.0)
    delta = adapter.init(jax.random.key(0), BASE)
    chex.assert_trees_all_equal(adapter.merge(BASE, delta), BASE)  # nothing at first
    assert set(delta) == {"dense", "conv"}
    rng = np.random.default_rng(0)
    delta = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), delta)
    merged = adapter.merge(BASE, delta)
    np.testing.assert_array_equal(merged["dense"]["bias"], BASE["dense"]["bias"])
    for name in ("dense", "conv"):
        kernel = np.asarray(BASE[name]["kernel"], float)
        change = np.asarray(delta[name]["a"], float) @ np.asarray(delta[name]["b"], float)
        truth = kernel + 3.0 / 2 * change.reshape(kernel.shape)
        np.testing.assert_allclose(merged[name]["kernel"], truth, rtol=1e-5, atol=1e-5)
        matrix = (merged[name]["kernel"] - kernel).reshape(-1, kernel.shape[-1])
        assert np.linalg.matrix_rank(matrix, tol=1e-3) == 2


def test_which_layers_change():
    delta = low_rank("base", layers="^conv$").init(jax.random.key(0), BASE)
    assert set(delta) == {"conv"}
    assert set(low_rank("base", layers="nse").init(jax.random.key(0), BASE)) == {"dense"}
    with pytest.raises(ValueError, match="no layer of the base matches layers='attn'"):
        low_rank("base", layers="attn").init(jax.random.key(0), BASE)
    with pytest.raises(ValueError, match="rank must be at least 1, not 0"):
        low_rank("base", rank=0)


def test_the_first_factor_has_the_scale_of_a_layer():
    """Of x ~ N(0, I) the product with A is N(0, 1) too; each layer has an A of its own."""
    base = {name: {"kernel": jnp.zeros((400, 3))} for name in ("wide", "other")}
    delta = low_rank("base", rank=50).init(jax.random.key(0), base)
    np.testing.assert_allclose(jnp.var(delta["wide"]["a"]), 1 / 400, rtol=0.05)  # 5 errors
    correlation = np.corrcoef(*(delta[name]["a"].ravel() for name in base))[0, 1]
    assert abs(correlation) < 5 / np.sqrt(400 * 50)


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A base of 8 steps, and an adapter of 8 more."""
    folder = tmp_path_factory.mktemp("adapted")
    train(small(), folder / "base")
    config = small(adapter=f"low_rank(workdir='{folder}/base', rank=2)")
    result = train(config, folder / "small")
    return folder, config, result


def test_state_averages_and_checkpoints_hold_the_small_tree_alone(adapted):
    folder, config, result = adapted
    experiment, delta, step = workdirs.restore(config, folder / "small")
    base = workdirs.restore(small(), folder / "base")
    assert step == 8
    shapes = jax.tree.map(jnp.shape, delta)
    wanted = low_rank("", rank=2).init(jax.random.key(0), base.params)
    assert shapes == jax.tree.map(jnp.shape, wanted)
    state = build.abstract_state(experiment)
    assert isinstance(state, TrainState)
    for tree in (state.params, *state.ema):
        assert jax.tree.map(jnp.shape, tree) == shapes
    stored = Checkpoints(folder / "small")
    stored.restore(state)  # of these shapes, or it would say so
    stored.close()
    assert result["parameters"] == sum(np.prod(a.shape) for a in jax.tree.leaves(delta))
    assert result["parameters"] < sum(a.size for a in jax.tree.leaves(base.params)) / 2


def test_an_untrained_adapter_is_its_base(adapted):
    """The loss of the first step, and the denoiser, bit for bit; training then lowers the loss."""
    folder, config, _ = adapted
    experiment = workdirs.load(config)
    base = workdirs.restore(small(), folder / "base")
    delta = build.initial_state(config, experiment).params
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    cond = {"label": jnp.zeros(4, int)}
    ours = experiment.objective.result(delta, cond)(x, jnp.float32(0.5))
    truth = base.experiment.objective.result(base.params, cond)(x, jnp.float32(0.5))
    np.testing.assert_array_equal(ours, truth)


def test_modes_use_the_changed_network(adapted):
    folder, config, _ = adapted
    drawn = {}
    for name, of in (("base", small()), ("small", config)):
        sample(of, folder / name)
        drawn[name] = arrays(folder / name / "samples.npz")["samples"]
    assert not np.array_equal(drawn["base"], drawn["small"])
    fast = config.copy_and_resolve_references()
    fast.likelihood.update(rtol=1e-2, atol=1e-2, probes=1)
    assert 0 < likelihood(fast, folder / "small")["bits_per_dim"] < 20


def test_frozen_parameters_are_no_constants_of_the_training_step(adapted):
    """A constant of the text would be a list of numbers; the parameters are among the inputs."""
    _, config, _ = adapted
    experiment = workdirs.load(config)
    state = build.abstract_state(experiment)
    features = experiment.data.features
    batch = {name: feature.abstract(1, 16) for name, feature in features.items()}
    lowered = lower(compiled_step(config, experiment, 1), jax.random.key(0), state, batch)
    base = workdirs.restore(small(), adapted[0] / "base").params
    inputs = [tuple(a.shape) for a in jax.tree.leaves(lowered.in_avals)]
    for leaf in jax.tree.leaves(base):
        assert leaf.shape in inputs
    largest = max(jax.tree.leaves(base), key=lambda a: a.size)
    dims = "x".join(map(str, largest.shape))
    constants = [line for line in lowered.as_text().splitlines() if "stablehlo.constant" in line]
    assert not any(f"tensor<{dims}xf32>" in line and 'dense<"' in line for line in constants)


def test_another_base_is_refused(adapted, tmp_path):
    folder, config, _ = adapted
    train(small(seed=1), tmp_path / "other")
    other = config.copy_and_resolve_references()
    other.adapter = config.adapter.replace(str(folder / "base"), str(tmp_path / "other"))
    with pytest.raises(ConfigError, match="holds another model"):
        sample(other, folder / "small")
    # the same workdir, trained anew
    moved = folder / "moved"
    (folder / "base").rename(moved)
    try:
        (tmp_path / "other").rename(folder / "base")
        with pytest.raises(ConfigError, match="trained on other frozen parameters"):
            sample(config, folder / "small")
        with pytest.raises(ConfigError, match="trained on other frozen parameters"):
            train(config, folder / "small")
        (folder / "base").rename(tmp_path / "other")
    finally:
        moved.rename(folder / "base")
    wide = small(**{"net.features": (5,), "adapter": config.adapter})
    with pytest.raises(ConfigError, match=r"base holds another model \(net\.features"):
        workdirs.load(wide)
    assert json.loads((folder / "small" / "base.json").read_text()).keys() == {"sha256"}


def test_every_function_of_an_objective_sees_the_changed_parameters():
    adapter = low_rank("base", rank=2)
    delta = jax.tree.map(jnp.ones_like, adapter.init(jax.random.key(0), BASE))

    def given(params, *arguments):
        return params, arguments

    whole = objective.Objective(given, given, "error", given)
    whole = objective.adapted(whole, adapter, BASE)
    for function in (whole.losses, whole.error_at, whole.result):
        params, arguments = function(delta, 1, 2)
        chex.assert_trees_all_equal(params, adapter.merge(BASE, delta))
        assert arguments == (1, 2)
