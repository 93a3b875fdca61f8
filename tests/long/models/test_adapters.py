"""Low-rank adapters: closed forms, and a small tree over frozen parameters in every store."""

import json

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import load
from score_sde.errors import ConfigError
from score_sde.experiment import build, digests, workdirs
from score_sde.experiment.program import compiled_step, lower
from score_sde.models.adapters import lora
from score_sde.modes.likelihood import likelihood
from score_sde.modes.sample import sample
from score_sde.modes.train import train
from score_sde.nets.ncsnpp import NCSNpp
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
    adapter = lora("base", rank=2, alpha=3.0)
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


def test_a_merged_network_computes_what_a_path_of_two_thin_layers_adds(x64):
    """y = W x + alpha / rank B (A x) in every dense layer and convolution of a network."""
    net = NCSNpp(nf=8, ch_mult=(1,), num_res_blocks=1, attn_resolutions=(4,), dtype="float64")
    x, t = jax.random.normal(jax.random.key(0), (2, 4, 4, 1)), jnp.array([0.3, 0.7])
    adapter, added = lora("base", rank=2, alpha=3.0), []

    def noisy(tree):
        return jax.tree.map(
            lambda a: 0.1 * jax.random.normal(jax.random.key(a.size), a.shape), tree
        )

    @jax.jit
    def both():
        base = noisy(net.init(jax.random.key(1), x, t, {}, train=False)["params"])
        delta = noisy(adapter.init(jax.random.key(2), base))
        factors = adapter.factors(base, delta)

        def unmerged(call, arguments, options, context):
            y, layer = call(*arguments, **options), context.module
            if layer.path not in factors:
                return y
            added.append(layer.path)
            a, b = factors[layer.path][:2]
            shape = layer.variables["params"]["kernel"].shape
            thin = {"kernel": a.reshape(*shape[:-1], 2), "bias": jnp.zeros(2)}
            low = layer.clone(features=2, name=None, parent=None)
            return y + 3.0 / 2 * low.apply({"params": thin}, *arguments) @ b

        plain = net.apply({"params": base}, x, t, {}, train=False)
        merged = net.apply({"params": adapter.merge(base, delta)}, x, t, {}, train=False)
        with nn.intercept_methods(unmerged):
            truth = net.apply({"params": base}, x, t, {}, train=False)
        assert len(added) == len(factors)
        return plain, merged, truth

    plain, merged, truth = both()
    assert jnp.max(jnp.abs(plain - truth)) > 1e-3 * jnp.max(jnp.abs(truth))
    np.testing.assert_allclose(merged, truth, rtol=1e-10, atol=1e-12)


def test_which_layers_change():
    delta = lora("base", layers="^conv$").init(jax.random.key(0), BASE)
    assert set(delta) == {"conv"}
    assert set(lora("base", layers="nse").init(jax.random.key(0), BASE)) == {"dense"}
    with pytest.raises(ValueError, match="no layer of the base matches layers='attn'"):
        lora("base", layers="attn").init(jax.random.key(0), BASE)
    with pytest.raises(ValueError, match="rank must be positive, not 0"):
        lora("base", rank=0)


def test_the_first_factor_has_the_scale_of_a_layer():
    """Of x ~ N(0, I) the product with A is N(0, 1) too; each layer has an A of its own."""
    base = {name: {"kernel": jnp.zeros((400, 3))} for name in ("wide", "other")}
    delta = lora("base", rank=50).init(jax.random.key(0), base)
    np.testing.assert_allclose(jnp.var(delta["wide"]["a"]), 1 / 400, rtol=0.05)  # 5 errors
    correlation = np.corrcoef(*(delta[name]["a"].ravel() for name in base))[0, 1]
    assert abs(correlation) < 5 / np.sqrt(400 * 50)


def test_the_targets_of_an_objective_are_adapted_too():
    """An average of small trees is merged into the base as the small tree is."""
    seen = []

    def losses(teacher, params, key, batch, training):
        seen.append((teacher, params, training))

    adapter = lora("base", rank=1)
    deltas = [adapter.init(jax.random.key(i), BASE) for i in range(2)]
    deltas = [jax.tree.map(lambda a, i=i: a + i + 1, delta) for i, delta in enumerate(deltas)]
    plain = objective.Objective(jax.tree_util.Partial(losses, 7.0), losses, "", losses)
    changed = objective.adapted(plain, adapter, BASE)
    training = objective.Training(5, (deltas[1],))
    changed.losses(deltas[0], jax.random.key(0), {}, training)
    changed.losses(deltas[0], jax.random.key(0), {}, None)
    (teacher, params, told), (_, _, nothing) = seen
    assert (teacher, told.step, nothing) == (7.0, 5, None)
    chex.assert_trees_all_equal(params, adapter.merge(BASE, deltas[0]))
    chex.assert_trees_all_equal(told.targets, (adapter.merge(BASE, deltas[1]),))
    # parameters of the teacher stay leaves, so that they are arguments of a compiled program
    leaves = jax.tree.leaves(changed.losses)
    assert [leaf for leaf in leaves if isinstance(leaf, float)] == [7.0]


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A base of 8 steps, and an adapter of 8 more."""
    folder = tmp_path_factory.mktemp("adapted")
    train(small(), folder / "base")
    config = small(adapter=f"lora(workdir='{folder}/base', rank=2)")
    result = train(config, folder / "small")
    return folder, config, result


def test_state_averages_and_checkpoints_hold_the_small_tree_alone(adapted):
    folder, config, result = adapted
    experiment, delta, step = workdirs.restore(config, folder / "small")
    base = workdirs.restore(small(), folder / "base")
    assert step == 8
    shapes = jax.tree.map(jnp.shape, delta)
    wanted = lora("", rank=2).init(jax.random.key(0), base.params)
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


def test_an_adapter_may_be_named_by_its_base_alone(adapted, capsys):
    """Its options are then those that it was made with; other options are another model."""
    folder, config, _ = adapted
    short = small(adapter=f"lora(workdir='{folder}/base')")  # its default rank is 4
    found, wanted = (workdirs.restore(c, folder / "small") for c in (short, config))
    assert short.adapter == config.adapter
    assert f"the adapter is that of {folder}/small: {config.adapter}" in capsys.readouterr().out
    chex.assert_trees_all_equal(found.params, wanted.params)
    other = small(adapter=f"lora(workdir='{folder}/base', rank=4)")
    with pytest.raises(ConfigError, match="holds another model"):
        workdirs.restore(other, folder / "small")


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


@pytest.fixture(scope="module")
def several(adapted):
    """Two more adapters of the base of `adapted`, of random numbers: a LoRA with norms, and one of
    the whole tree."""
    folder, _, _ = adapted
    rng = np.random.default_rng(0)
    for name, call in (
        ("norms", f"lora(workdir='{folder}/base', rank=1, dora=True, layers='^[^/]*0$')"),
        ("whole", f"full(workdir='{folder}/base')"),
    ):
        config, workdir = small(adapter=call), folder / name
        experiment = workdirs.load(config)
        state = build.initial_state(config, experiment)
        drawn = jax.tree.map(lambda a: a + 0.05 * rng.normal(size=a.shape).astype("f4"), state.ema)
        workdir.mkdir()
        workdirs.store_config(config, workdir)
        digests.store(experiment, workdir)
        checkpoints = Checkpoints(workdir)
        checkpoints.save(8, state.replace(ema=drawn), None, {})
        checkpoints.close()
    return folder


def with_adapters(*workdirs, weights=()):
    config = small()
    config.sampling.update(adapters=tuple(map(str, workdirs)), adapter_weights=weights)
    return config


def test_several_adapters_at_once(several):
    """The base, and the change of each adapter times its weight, by every mode that restores."""
    base = workdirs.restore(small(), several / "base")
    names, weights = ("small", "norms", "whole"), (0.5, -2.0, 1.5)
    changes = []
    for name in names:
        config = workdirs.stored_config(several / name)
        adapter = build.build("models.adapters", config.adapter)
        delta = workdirs.restore(config, several / name).params
        changes.append(jax.tree.map(jnp.subtract, adapter.merge(base.params, delta), base.params))
    truth = base.params
    for change, weight in zip(changes, weights, strict=True):
        truth = jax.tree.map(lambda p, d, w=weight: p + w * d, truth, change)
    paths = [several / name for name in names]
    found = workdirs.restore(with_adapters(*paths, weights=weights), several / "base")
    chex.assert_trees_all_close(found.params, truth, atol=1e-6)
    assert found.step == base.step
    fields = {"sampling.adapters": tuple(map(str, paths)), "sampling.adapter_weights": weights}
    chex.assert_trees_all_equal(load(several / "base", **fields).params, found.params)
    back = with_adapters(*paths[::-1], weights=weights[::-1])
    other = workdirs.restore(back, several / "base").params
    chex.assert_trees_all_close(found.params, other, atol=1e-6)
    nothing = workdirs.restore(with_adapters(paths[0], weights=(0.0,)), several / "base")
    chex.assert_trees_all_equal(nothing.params, base.params)
    ids = [workdirs.identity(c) for c in (small(), back, with_adapters(*paths, weights=weights))]
    assert len({json.dumps(one) for one in ids}) == 3


def test_one_adapter_of_weight_1_draws_what_its_own_workdir_draws(several):
    drawn = []
    for config, name in (
        (with_adapters(several / "norms"), "base"),
        (workdirs.stored_config(several / "norms"), "norms"),
    ):
        sample(config, several / name)
        drawn.append(arrays(several / name / "samples.npz")["samples"].astype(int))
    assert np.abs(drawn[0] - drawn[1]).max() <= 1  # of 255: merged is unmerged


def test_an_adapter_over_an_adapter(several):
    """Its base is the changed network, bit for bit."""
    theirs = workdirs.stored_config(several / "small")
    config = small(adapter=f"lora(workdir='{several}/small', rank=1)")
    config.data = theirs.data
    experiment = workdirs.load(config)
    delta = build.initial_state(config, experiment).params
    assert experiment.merge is not None
    under = workdirs.restore(theirs, several / "small")
    chex.assert_trees_all_equal(experiment.merge(delta), under.whole)
    assert experiment.base_digest == under.digest
    # the adapter's own network with another adapter of the same base, which is not its base
    config = theirs.copy_and_resolve_references()
    config.sampling.adapters = (str(several / "whole"),)
    with pytest.raises(ConfigError, match="was made over another network than that of this"):
        workdirs.restore(config, several / "small")


def test_mistakes_with_several_adapters(several, tmp_path):
    folder = several
    config = small(adapter=f"lora(workdir='{folder}/base', layers='attn')")
    with pytest.raises(ConfigError, match=r"adapter: no layer of the base .*, such as dense_0"):
        train(config, tmp_path / "new")
    for config, message in (
        (with_adapters(folder / "base"), "base is the workdir of no adapter"),
        (with_adapters(folder / "small", weights=(1.0, 2.0)), "has 2 numbers for 1 adapters"),
    ):
        with pytest.raises(ConfigError, match=message) as caught:
            workdirs.restore(config, folder / "base")
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ConfigError, match=r"leave them out of --mode train"):
        train(with_adapters(folder / "small"), tmp_path / "new")


def test_every_function_of_an_objective_sees_the_changed_parameters():
    adapter = lora("base", rank=2)
    delta = jax.tree.map(jnp.ones_like, adapter.init(jax.random.key(0), BASE))

    def given(params, *arguments):
        return params, arguments

    whole = objective.Objective(given, given, "error", given)
    whole = objective.adapted(whole, adapter, BASE)
    for function, last in ((whole.losses, None), (whole.error_at, 3), (whole.result, 3)):
        params, arguments = function(delta, 1, 2, last)
        chex.assert_trees_all_equal(params, adapter.merge(BASE, delta))
        assert arguments == (1, 2, last)
    half = jax.tree.map(lambda a: a / 2, delta)
    _, (*_, training) = whole.losses(delta, 1, 2, objective.Training(7, (half,)))
    assert training.step == 7
    chex.assert_trees_all_equal(training.targets, (adapter.merge(BASE, half),))
