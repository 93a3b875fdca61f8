"""Many devices: meshes of eight simulated ones against one device, and parts of batches."""

import functools
import operator
import os
import re
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.data import train_iterator
from score_sde.errors import ConfigError
from score_sde.experiment import build, workdirs
from score_sde.experiment.build import Experiment
from score_sde.experiment.program import compiled_step, lower, stack
from score_sde.modes.train import train
from score_sde.runtime import mesh
from score_sde.runtime.checkpoint import Checkpoints
from score_sde.training.state import TrainState, accumulated
from tests.modes.test_train import equal, small

NETS = {
    # kernels are large enough to be split; the perceptron's batches are cut into parts as well
    "perceptron": {"name": "mlp.MLP", "features": (256,), "embedding_dim": 8},
    "u-net": {
        "name": "ncsnpp.NCSNpp",
        "nf": 48,
        "ch_mult": (1,),
        "num_res_blocks": 1,
        "attn_resolutions": (),
        "dropout": 0.1,
    },
    "transformer": {
        "name": "dit.DiT",
        "patch_size": 1,
        "width": 128,
        "depth": 2,
        "num_heads": 4,
    },
}
# shapes of what is computed of examples, in [b, 8, 8, c] or [b, 64 tokens, c]
OF_EXAMPLES = {"perceptron": r"\b8,8\b", "u-net": r"\b8,8\b", "transformer": r"\b(8,8|64,\d+)\b"}
BATCH = 16
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "reduce-scatter", "collective-permute")


def config_of(net, fsdp):
    """A step of Adam is smooth in the gradient by its eps, also where that is but rounding."""
    changes = {
        "mesh.fsdp": fsdp,
        "optim.optimizer": "adamw(eps=1e-3, weight_decay=0.0)",
        "train.accumulate": 1 + (net == "perceptron"),
    }
    config = small(**changes)
    config.net = NETS[net]
    return config


class Program(NamedTuple):
    """A compiled training step, and what it is of."""

    experiment: Experiment
    abstract: TrainState
    step: Any

    def run(self, state, first, last):
        """The losses of steps first + 1 to last, and the state after them."""
        experiment, losses = self.experiment, []
        state = jax.device_put(state, experiment.layout(state))
        batches = train_iterator(experiment.data.train, batch_size=BATCH, seed=0)
        stacked = [stack(batches, 1, experiment.sharded(axis=1)) for _ in range(last)]
        for batch in stacked[first:]:
            state, metrics = self.step(jax.random.key(1), state, batch)
            losses.append(float(metrics["loss"][0]))
        return losses, state


@functools.cache
def program(net, fsdp, devices):
    """On the first devices, so many of them."""
    config = config_of(net, fsdp)
    experiment = build.build_experiment(config, devices=jax.devices()[:devices])
    abstract = build.abstract_state(experiment)
    batches = train_iterator(experiment.data.train, batch_size=BATCH, seed=0)
    batch = stack(batches, 1, experiment.sharded(axis=1))
    step = compiled_step(config, experiment, 1)
    compiled = lower(step, jax.random.key(1), abstract, batch).compile()
    return Program(experiment, abstract, functools.partial(compiled, *step.args))


@functools.cache
def initial(net):
    """The same for every mesh."""
    config = config_of(net, 1)
    return jax.device_get(build.initial_state(config, build.build_experiment(config)))


def test_how_arrays_lie():
    """Large ones along the largest dimension that divides, by their shape alone."""
    of = mesh.make(4)
    assert dict(of.shape) == {"data": 2, "fsdp": 4}
    assert [device.id for device in of.devices[0]] == [0, 1, 2, 3]
    for shape, shard in {
        (): (),
        (16_380,): (16_380,),  # small
        (16_384,): (4_096,),
        (16_385,): (16_385,),  # does not divide
        (3, 3, 64, 32): (3, 3, 16, 32),
        (3, 3, 64, 64): (3, 3, 64, 16),
        (3, 3, 1_001, 16): (3, 3, 1_001, 4),
    }.items():
        array = jax.ShapeDtypeStruct(shape, np.float32)
        assert mesh.split(of, array).shard_shape(shape) == shard
    assert mesh.spread(of, axis=1).shard_shape((3, 16, 2)) == (3, 2, 2)
    assert mesh.split(mesh.make(1), np.zeros((512, 512))).is_fully_replicated


@pytest.mark.parametrize(
    ("net", "fsdp"),
    [
        ("perceptron", 1),
        ("perceptron", 2),
        ("perceptron", 8),
        ("u-net", 2),
        ("transformer", 8),
    ],
)
def test_a_mesh_learns_what_one_device_learns(net, fsdp):
    """Losses and parameters to rounding; and each device has its part of the state and no more."""
    assert jax.device_count() == 8
    alone, ours = program(net, 1, devices=1), program(net, fsdp, devices=8)
    truth, truth_state = alone.run(initial(net), 0, 3)
    losses, state = ours.run(initial(net), 0, 3)
    np.testing.assert_allclose(losses, truth, rtol=1e-5)
    chex.assert_trees_all_close(state.params, truth_state.params, rtol=0, atol=1e-6)

    leaves = jax.tree.leaves(state)
    split = [a.size >= 2**14 and any(n % fsdp == 0 for n in a.shape) for a in leaves]
    sizes = [a.nbytes // (fsdp if s else 1) for a, s in zip(leaves, split, strict=True)]
    assert any(split)
    for a, size in zip(leaves, sizes, strict=True):
        assert {shard.data.nbytes for shard in a.addressable_shards} == {size}
    # the program takes and gives the state in the same memory, and else a key and 8x8 images
    memory = ours.step.func.memory_analysis()
    assert memory.alias_size_in_bytes == sum(sizes)
    assert memory.argument_size_in_bytes == sum(sizes) + 8 + BATCH // 8 * 64
    # examples stay where they are, also when a batch is cut into parts: between devices go
    # gradients, parameters and embeddings of noise levels, and nothing that is computed of pixels
    moves = rf"= (.*?) (?:{'|'.join(COLLECTIVES)})(?:-start)?\("
    moved = re.findall(moves, ours.step.func.as_text())
    assert moved
    assert not [shapes for shapes in moved if re.search(OF_EXAMPLES[net], shapes)]


def test_a_checkpoint_goes_on_and_draws_on_any_mesh(tmp_path):
    """The state is equal bit for bit, and what follows to rounding."""
    net = "perceptron"
    first, alone = program(net, 8, devices=8), program(net, 1, devices=1)
    _, state = first.run(initial(net), 0, 2)
    saved = jax.device_get(state)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, state, None, {})
    checkpoints.wait()
    truth, _ = alone.run(initial(net), 0, 3)
    for of in (program(net, 2, devices=8), program(net, 1, devices=8), alone):
        restored = checkpoints.restore(of.abstract).state
        equal(restored, saved)
        lie = (jax.tree.map(lambda a: a.sharding, tree) for tree in (restored, of.abstract))
        assert operator.eq(*lie)
        losses, _ = of.run(restored, 2, 3)
        np.testing.assert_allclose(losses, truth[2:], rtol=1e-5)
    checkpoints.close()

    drawn = []
    for fsdp in (1, 8):
        config = config_of(net, fsdp)
        experiment, params, _ = workdirs.restore(config, tmp_path)
        equal(params, saved.ema[0])
        kernel = params["dense_0"]["kernel"]
        assert kernel.addressable_shards[0].data.size == kernel.size // fsdp
        x = jax.random.normal(jax.random.key(0), (8, 8, 8, 1))
        x = jax.device_put(x, experiment.sharded())
        denoise = jax.jit(lambda params, x, of=experiment.model: of.denoiser(params)(x, x[0, 0, 0]))
        drawn.append(denoise(params, x))
    np.testing.assert_allclose(*drawn, rtol=1e-5, atol=1e-6)
    # what another workdir was made with says nothing of the devices of now
    workdirs.store_config(config_of(net, 8), tmp_path)
    assert workdirs.stored_config(tmp_path, config_of(net, 2).mesh).mesh.fsdp == 2


def test_accumulated_gradients(x64):
    """Those of the whole batch, and with randomness the mean of those of the parts."""

    def objective(params, key, batch, training):
        noise = jax.random.normal(key, batch["x"].shape) * batch["noise"][:, None]
        output = jnp.tanh((batch["x"] + noise) @ params["w"]) + params["b"][None]
        loss = jnp.mean(output**2)
        return loss, {"loss": loss}

    key_w, key_x, key = jax.random.split(jax.random.key(0), 3)
    params = {"w": jax.random.normal(key_w, (3, 5)), "b": jnp.arange(5.0)}
    x = jax.random.normal(key_x, (12, 3))
    gradient = jax.grad(objective, has_aux=True)
    in_parts = jax.jit(accumulated(gradient, 4))

    def close(ours, truth):
        # means of 60 numbers of about 1, which may cancel: a rounding each, of 2e-16
        chex.assert_trees_all_close(ours, truth, rtol=0, atol=60 * 2e-16)

    quiet = {"x": x, "noise": jnp.zeros(12)}
    close(in_parts(params, key, quiet, None), gradient(params, key, quiet, None))

    noisy = {"x": x, "noise": jnp.ones(12)}
    keys = jax.random.split(key, 4)
    parts = [
        gradient(params, keys[i], jax.tree.map(lambda a, i=i: a[i::4], noisy), None)
        for i in range(4)
    ]
    close(in_parts(params, key, noisy, None), jax.tree.map(lambda *a: sum(a) / 4, *parts))
    assert accumulated(gradient, 1) is gradient


def test_parameters_are_whole_only_in_a_part():
    """The loop over parts keeps of a split kernel, and of its gradient, the device's own columns:
    the kernel is gathered within it."""
    of = mesh.make(8)
    kernel = jax.ShapeDtypeStruct((128, 128), jnp.float32)
    kernel = jax.ShapeDtypeStruct(kernel.shape, kernel.dtype, sharding=mesh.split(of, kernel))
    x = jax.ShapeDtypeStruct((4_096, 128), jnp.float32, sharding=mesh.spread(of))

    def objective(params, key, batch, training):
        loss = jnp.mean(jnp.tanh((batch + jax.random.normal(key, batch.shape)) @ params) ** 2)
        return loss, {"loss": loss}

    key = jax.eval_shape(lambda: jax.random.key(0))
    in_parts = accumulated(jax.grad(objective, has_aux=True), 2)
    in_parts = jax.jit(in_parts, out_shardings=(kernel.sharding, mesh.whole(of)))
    text = in_parts.lower(kernel, key, x, None).compile().as_text()
    (loop,) = (found for found in re.findall(r"= \((.*)\) while\(", text) if "f32[128,16]" in found)
    assert "f32[128,128]" not in loop
    assert re.search(r"= f32\[128,128\]\S* all-gather", text)


def test_what_does_not_fit_the_devices_is_told(tmp_path):
    for changes, message in (
        ({"mesh.fsdp": 3}, r"mesh: fsdp=3 does not divide the 8 device\(s\)"),
        ({"mesh.fsdp": 0}, "mesh: fsdp=0 does not divide"),
        ({"train.accumulate": 0}, "train.accumulate must be at least 1, not 0"),
        (
            {"train.batch_size": 24, "train.accumulate": 2},
            "train.batch_size=24 must be a multiple of the 8 devices times train.accumulate=2",
        ),
    ):
        with pytest.raises(ConfigError, match=message):
            train(small(**changes), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(("cores", "batch", "devices"), [(2, 32, 2), (6, 32, 4), (96, 128, 64)])
def test_cores_are_devices_where_they_divide_the_batch(monkeypatch, cores, batch, devices):
    told = []
    monkeypatch.setattr(jax.config, "update", lambda *setting: told.append(setting))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    mesh.use_cores(batch)  # XLA_FLAGS says already how many there are
    assert not told
    monkeypatch.delenv("XLA_FLAGS")
    mesh.use_cores(batch)
    assert told == [("jax_num_cpu_devices", devices)]
