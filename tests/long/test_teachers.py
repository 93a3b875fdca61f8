"""Objectives with a teacher, stages and targets in the modes: resuming, and a line per mistake."""

import functools
import itertools
import json
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import published
from score_sde.data import pairs as files
from score_sde.errors import CheckpointError, ConfigError, DataError
from score_sde.experiment import build, teachers, workdirs
from score_sde.experiment.program import compiled_step, lower
from score_sde.modes.evaluate import evaluate
from score_sde.modes.import_ import import_
from score_sde.modes.pairs import pairs
from score_sde.modes.sample import sample
from score_sde.modes.train import train
from score_sde.runtime import resumable
from score_sde.training.objective import Training
from tests.modes.test_guided_modes import classifier, put
from tests.modes.test_guided_modes import small as by_class
from tests.modes.test_train import equal, final_state
from tests.modes.test_train import small as unconditional
from tests.stored import arrays


def small(**changes):
    """The perceptron of a flow map, on the rectified flow."""
    config = unconditional(sde="Flow", parametrization="flow", **changes)
    config.net.numbers = ("jump",)
    config.sampling.t_min = None
    return config


def teacher_config(**changes):
    return unconditional(
        **{"sde": "Flow", "parametrization": "flow", "sampling.t_min": None, **changes}
    )


def progressive(workdir, **changes):
    config = small()
    config.objective = {
        "name": "progressive_distillation",
        "teacher": str(workdir),
        "time_law": "uniform",
        "weighting": "truncated_snr",
        "steps": 4,
        "stages": 3,
        "stage_length": 3,
    }
    config.sampling.solver = "flow_map(gamma=0.0)"
    return student(config, changes)


def shortcut(workdir=None, **changes):
    config = small()
    law = "uniform(stratified=True)"
    config.objective = {"name": "shortcut", "time_law": law, "distance": "squared", "steps": 8}
    config.sampling.solver = "flow_map(gamma=0.0)"
    return student(config, changes)


def reflow(workdir, **changes):
    config = teacher_config()
    config.objective = {
        "name": "reflow",
        "teacher": str(workdir),
        "pairs": "pairs.npz",
        "time_law": "uniform",
        "weighting": "flow",
    }
    config.sampling.solver = "ddim"
    return student(config, changes)


def dmd2(workdir, **changes):
    config = teacher_config()
    law = "uniform(stratified=True)"
    config.objective = {"name": "dmd2", "teacher": str(workdir), "time_law": law, "weighting": "v"}
    config.sampling.solver = "flow_map(gamma=0.0)"
    return student(config, changes)


def student(config, changes):
    config.sampling.update(steps=2, denoise=False)
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """A teacher whose parameters are random numbers, and its pairs."""
    folder = put(teacher_config(), tmp_path_factory.mktemp("taught") / "teacher", scale=0.1)
    pairs(teacher_config(**{"pairs.number": 40}), folder)
    return folder


@pytest.fixture(scope="module")
def students(taught, tmp_path_factory):
    """One undisturbed run of each objective."""
    folder = tmp_path_factory.mktemp("students")
    for make in (progressive, shortcut, reflow):
        train(make(taught), folder / make.__name__)
    return folder


@pytest.mark.parametrize("make", [progressive, shortcut])
def test_a_resumed_student_is_the_same_bit_for_bit(taught, students, tmp_path, make):
    """Stages end after 3 and 6 steps; the run stops after 4."""
    config = make(taught)
    train(make(taught, **{"train.steps": 4}), tmp_path)
    middle = final_state(config, tmp_path)
    train(config, tmp_path)
    ours, truth = final_state(config, tmp_path), final_state(config, students / make.__name__)
    assert (middle.step, ours.step, truth.step) == (4, 8, 8)
    equal(ours.state, truth.state)
    assert ours.data == truth.data
    with pytest.raises(AssertionError):
        equal(middle.state.ema[-1], ours.state.ema[-1])


def test_a_student_starts_as_its_teacher(taught):
    """The layers of the jump, which the teacher lacks, add nothing."""
    config = progressive(taught)
    experiment = teachers.load(config)
    base = workdirs.restore(teacher_config(), taught)
    params = build.initial_state(config, experiment).params
    x, t = jax.random.normal(jax.random.key(0), (4, 8, 8, 1)), jnp.linspace(0.1, 0.9, 4)
    ours = experiment.model.flow_map(params)(x, t, t / 2)
    theirs = base.experiment.model.denoiser(base.params)(x, t)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_a_student_does_without_the_folder_of_its_teacher(students, tmp_path):
    """Where it only samples and is scored. To train on it needs the teacher."""
    workdir = tmp_path / "run"
    shutil.copytree(students / "reflow", workdir)
    config = reflow(tmp_path / "gone")
    assert sample(config, workdir)["nfe"] == 2
    shutil.rmtree(workdir)
    shutil.copytree(students / "progressive", workdir)
    config = progressive(tmp_path / "gone")
    config.evaluate.update(parts=("metrics",), nfe=(1, 4), num_samples=16)
    evaluate(config, workdir)
    result = json.loads((workdir / "evaluate.json").read_text())
    assert [row.get("nfe") for row in result["metrics"]["rows"]] == [None, 1, 4]
    with pytest.raises(CheckpointError, match=r"gone has no checkpoint: run --mode train"):
        train(config, workdir)


def test_generator_and_critic_are_one_state(taught, tmp_path):
    """Both start as the teacher and are trained; samples do without it."""
    config = dmd2(taught, **{"train.steps": 2, "sampling.steps": 1})
    start = build.initial_state(config, teachers.load(config))
    base = workdirs.restore(teacher_config(), taught).params
    for part in ("generator", "critic"):
        equal(start.params[part], base)
    train(config, tmp_path / "run")
    ours = final_state(config, tmp_path / "run").state
    # Adam's first steps are of the learning rate, 1/3 and 2/3 of 3e-3, and the critic's of five
    moved = {
        part: max(np.abs(a - b).max() for a, b in zip(*map(jax.tree.leaves, pair), strict=True))
        for part, pair in {p: (ours.params[p], base) for p in ("generator", "critic")}.items()
    }
    assert moved["critic"] == pytest.approx(5 * 3e-3, rel=2e-2)
    assert 0 < moved["generator"] < 1.01 * 3e-3
    config = dmd2(tmp_path / "gone", **{"train.steps": 2, "sampling.steps": 1})
    assert sample(config, tmp_path / "run")["nfe"] == 1
    with pytest.raises(ConfigError, match="gives the end of a flow, and no posterior mean"):
        workdirs.load(config).check_denoises()


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Workdirs that cannot teach."""
    root, rename = tmp_path_factory.mktemp("others"), {"name": "npz", "path": None}
    images = root / "images.npz"
    rng = np.random.default_rng(0)
    np.savez(images, image=rng.integers(0, 256, (40, 8, 8, 1), dtype=np.uint8))
    data = teacher_config()
    data.data = {**rename, "path": str(images), "augment": "none"}
    judge = classifier()
    judge.sde = "Flow"
    return {
        "data": put(data, root / "data"),
        "process": put(teacher_config(sde="VP", parametrization="eps"), root / "process"),
        "classifier": put(judge, root / "classifier"),
        "net": put(teacher_config(**{"net.features": (5,)}), root / "net"),
        "prediction": put(teacher_config(parametrization="v"), root / "prediction"),
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("data", r"was trained on other data, data\.name='npz'"),
        ("process", r"has sde VP\(.*\), and this config has Flow\("),
        ("classifier", r"was trained with objective\.name='classification', and a teacher must be"),
        ("net", r"the student cannot start from its teacher: dense_0/bias of shape \(5,\) has"),
        ("prediction", r"has parametrization='v', and the student, which starts as its teacher"),
    ],
)
def test_a_workdir_that_cannot_teach_is_one_line(others, tmp_path, name, message):
    with pytest.raises(ConfigError, match=message) as error:
        train(progressive(others[name]), tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "checkpoints").exists() or not any((tmp_path / "checkpoints").iterdir())


def test_a_guided_teacher_has_learnt_to_do_without_its_condition(tmp_path):
    """That of lcm, unless all weights are 1."""

    def lcm(drop_cond, weights):
        workdir = tmp_path / f"teacher_{drop_cond}"
        if not workdir.exists():
            put(by_class(**{"objective.drop_cond": drop_cond}), workdir)
        config = by_class(**{"net.numbers": ("guidance",)})
        config.objective = {
            "name": "lcm",
            "teacher": str(workdir),
            "solver": "ddim",
            "grid": "log_snr",
            "curriculum": "fixed(levels=11)",
            "skip": 2,
            "weights": weights,
            "time_law": "log_snr_uniform",
            "distance": "squared",
        }
        return config

    with pytest.raises(
        ConfigError, match=r"teacher_0\.0 has objective\.drop_cond=0, .*lcm"
    ) as error:
        teachers.load(lcm(0.0, (1.0, 3.0)))
    assert "\n" not in str(error.value)
    teachers.load(lcm(0.0, (1.0, 1.0)))
    teachers.load(lcm(0.1, (1.0, 3.0)))


def test_a_teacher_that_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere has no checkpoint: run --mode train"):
        train(progressive(tmp_path / "nowhere"), tmp_path / "run")
    for teacher in (None, ""):
        config = progressive("")
        config.objective["teacher"] = teacher
        with pytest.raises(ConfigError, match=r"set objective\.teacher to its workdir") as error:
            train(config, tmp_path / "run")
        assert "\n" not in str(error.value)


def test_pairs_that_are_not_there_or_of_another_network(taught, tmp_path):
    copy = tmp_path / "teacher"
    shutil.copytree(taught, copy)
    (copy / "pairs.npz").unlink()
    with pytest.raises(DataError, match=r"pairs\.npz does not exist: run --mode pairs"):
        train(reflow(copy), tmp_path / "run")
    other = put(teacher_config(), tmp_path / "other", steps=(8,), scale=0.1)
    shutil.copy(taught / "pairs.npz", other)
    with pytest.raises(DataError, match=r"was made by another network than the teacher"):
        train(reflow(other), tmp_path / "run")
    np.savez(copy / "pairs.npz", x=np.zeros(3))
    with pytest.raises(DataError, match=r"holds x float64 \[3\], and no pairs of --mode pairs"):
        train(reflow(copy), tmp_path / "run")
    for changes, message in (
        ({"sampling.solver": "euler_maruyama"}, "needs a sampler without noise of its own"),
        ({"pairs.number": 0}, r"pairs\.number must be at least 1, not 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            pairs(teacher_config(**changes), copy)


def test_pairs_are_the_ends_of_the_ode(taught):
    """x is where DDIM's steps lead from alpha x + sigma z at t_max, step by step."""
    config, found = teacher_config(), arrays(taught / "pairs.npz")
    experiment, params, _ = workdirs.restore(config, taught)
    sde = experiment.model.sde
    denoiser = experiment.model.denoiser(params)
    times = np.linspace(sde.t_max, sde.t_min, config.sampling.steps + 1, dtype=np.float32)
    x_0, z = jnp.asarray(found["x"]), jnp.asarray(found["noise"])
    start = x = sde.noised(x_0, z, jnp.float32(sde.t_max))
    for t, s in itertools.pairwise(times):
        value = denoiser(x, jnp.float32(t))
        x = (1 - s) * value + s * (x - (1 - t) * value) / t
    x = denoiser(x, jnp.float32(times[-1]))  # sampling.denoise
    np.testing.assert_allclose(found["x"], x, rtol=2e-4, atol=2e-4)
    assert found["x"].shape == (40, 8, 8, 1)
    assert abs(np.std(start) - 1) < 4 / np.sqrt(2 * start.size)


def test_pairs_are_kept_and_killed_work_goes_on(taught, tmp_path, monkeypatch):
    config = teacher_config(**{"pairs.number": 20, "sampling.batch_size": 8})
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        shutil.copytree(taught, folder)
        (folder / "pairs.npz").unlink()
    assert pairs(config, whole)["made"]
    assert not pairs(config, whole)["made"]
    other = files.read(whole / "pairs.npz")
    files.write(whole / "pairs.npz", other._replace(about={**other.about, "seed": 1}))
    assert pairs(config, whole)["made"]

    monkeypatch.setattr(resumable, "EVERY", 0.0)
    kept = resumable.Partial.save

    def save_and_die(self, **arrays):
        kept(self, **arrays)
        if len(arrays["x"]) == 16:
            raise KeyboardInterrupt

    monkeypatch.setattr(resumable.Partial, "save", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        pairs(config, killed)
    assert not (killed / "pairs.npz").exists()
    monkeypatch.setattr(resumable.Partial, "save", kept)
    drawn = []
    monkeypatch.setattr(
        "score_sde.modes.pairs.samplers.check_finite", lambda config, finite: drawn.append(finite)
    )
    pairs(config, killed)
    assert [len(finite) for finite in drawn] == [4]  # the last of three batches
    ours, truth = (arrays(folder / "pairs.npz") for folder in (killed, whole))
    chex.assert_trees_all_equal(ours, truth, strict=True)
    assert not (killed / "partial").exists()


def test_reflow_trains_on_the_pairs(taught):
    """A batch has the x and the noise of a pair. There is no image: nothing decodes the x."""
    experiment = teachers.load(reflow(taught))
    stored, source = arrays(taught / "pairs.npz"), experiment.data.train
    assert len(source) == 40
    raw = {name: np.asarray(part)[None] for name, part in source[7].items()}
    assert "image" not in raw
    batch = experiment.prepare(jax.random.key(0), raw)
    np.testing.assert_array_equal(batch["x"][0], stored["x"][7])
    np.testing.assert_array_equal(batch["noise"][0], stored["noise"][7])


@pytest.mark.parametrize("adapter", [False, True])
def test_a_teacher_is_no_constant_of_the_training_step(taught, adapter):
    """Its parameters are inputs, beside those of the state, also under an adapter."""
    changes = {"adapter": f"lora(workdir='{taught}', rank=2)"} if adapter else {}
    config = teacher_config(**changes)
    config.objective = progressive(taught).objective
    experiment = teachers.load(config)
    state = build.abstract_state(experiment)
    features = experiment.data.features
    batch = {name: feature.abstract(1, 16) for name, feature in features.items()}
    lowered = lower(compiled_step(config, experiment, 1), jax.random.key(0), state, batch)
    inputs = [tuple(a.shape) for a in jax.tree.leaves(lowered.in_avals)]
    of_state = [tuple(a.shape) for a in jax.tree.leaves(state)]
    frozen = jax.tree.leaves(workdirs.restore(teacher_config(), taught).params)
    for shape in {leaf.shape for leaf in frozen}:
        count = sum(leaf.shape == shape for leaf in frozen)
        more = inputs.count(shape) - of_state.count(shape)
        assert more >= count * (2 if adapter else 1)  # the base, and the teacher
    largest = max(frozen, key=lambda a: a.size)
    dims = "x".join(map(str, largest.shape))
    constants = [line for line in lowered.as_text().splitlines() if "stablehlo.constant" in line]
    assert not any(f"tensor<{dims}xf32>" in line and 'dense<"' in line for line in constants)


def test_the_copies_of_an_adapter_are_of_its_small_tree(taught):
    """In a late stage the loss of a small tree is that of the whole network, copies included."""
    plain = teacher_config()
    plain.objective = progressive(taught).objective
    whole = teachers.load(plain)
    config = plain.copy_and_resolve_references()
    config.adapter = f"lora(workdir='{taught}', rank=2)"
    experiment = teachers.load(config)
    delta = build.initial_state(config, experiment).params
    rng = np.random.default_rng(0)
    first, second = (
        jax.tree.map(lambda a: jnp.asarray(0.1 * rng.normal(size=a.shape), a.dtype), delta)
        for _ in range(2)
    )
    base = workdirs.restore(teacher_config(), taught).params
    merge = functools.partial(build.build("models.adapters", config.adapter).merge, base)
    x = jax.random.normal(jax.random.key(0), (16, 8, 8, 1))
    batch = {"x": x, "cond": {"label": jnp.zeros(16, jnp.int32)}}
    key = jax.random.key(1)

    @jax.jit
    def losses(first, second):
        late = lambda copy: Training(jnp.int32(4), (copy,))  # noqa: E731
        return (
            experiment.objective.losses(first, key, batch, late(second)).value,
            whole.objective.losses(merge(first), key, batch, late(merge(second))).value,
            whole.objective.losses(merge(first), key, batch, late(base)).value,
        )

    ours, truth, other = losses(first, second)
    np.testing.assert_allclose(ours, truth, rtol=1e-5)
    assert not np.allclose(other, truth, rtol=1e-3)


def test_an_imported_checkpoint_has_the_copies(taught, tmp_path, monkeypatch):
    """They begin as the average does."""
    config = shortcut(**{"train.ema_rates": (0.9,)})
    params = build.build_model(config).init(jax.random.key(1), jnp.zeros((1, 8, 8, 1)))
    double = jax.tree.map(lambda a: 2 * a, params)
    file = taught / "config.json"
    imported = published.Imported("a test", file, params, double, 7)
    monkeypatch.setattr(published, "load", lambda *_: imported)
    import_(config, tmp_path / "run", file)
    restored = final_state(config, tmp_path / "run").state
    assert len(restored.ema) == 2
    for copy in restored.ema:
        equal(copy, double)
