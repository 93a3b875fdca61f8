"""Averages with a power function as profile: in training, on the disk, and of any length."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from score_sde.errors import CheckpointError, ConfigError, NonFiniteError
from score_sde.experiment import build, optimization, samplers, workdirs
from score_sde.experiment.report import reference, samples
from score_sde.experiment.report.subject import Subject
from score_sde.modes.train import train
from score_sde.runtime.checkpoint import Checkpoints
from score_sde.training import ema
from score_sde.training.stored_averages import StoredAverages, Storing
from tests.modes.test_train import equal, final_state, small
from tests.stored import arrays

STEPS = 512
STORED, OTHERS = (0.05, 0.1), (0.03, 0.07, 0.13, 0.2)


def profiles(*pairs):
    gamma, end = np.array([(ema.gamma_of(length), end) for length, end in pairs], float).T
    return ema.Profiles(gamma, end)


@pytest.fixture(scope="module")
def tracked():
    """theta [STEPS, 6] after each step: the polynomials of degree 0 to 3, a wave and a random walk;
    and its averages by the recursion, of each length [STEPS, 6]."""
    i = np.arange(1, STEPS + 1)
    walk = np.cumsum(np.random.default_rng(0).standard_normal(STEPS)) / np.sqrt(STEPS)
    columns = [*((i / STEPS) ** k for k in range(4)), np.sin(i / 40), walk]
    theta = np.stack(columns, axis=1).astype(np.float32)
    averages = [ema.power(length) for length in (*STORED, *OTHERS)]

    @jax.jit
    def run(theta):
        def step(means, inputs):
            n, value = inputs
            share = jnp.stack([average(n) for average in averages])[:, None]
            means = share * value[None] + (1 - share) * means
            return means, means

        start = jnp.full((len(averages), theta.shape[1]), 1e3)  # must be forgotten at once
        return jax.lax.scan(step, start, (jnp.arange(STEPS), theta))[1]

    found = np.asarray(run(theta))
    return theta, {length: found[:, i] for i, length in enumerate((*STORED, *OTHERS))}


@pytest.mark.parametrize("warmup", [False, True])
def test_constant_decay(warmup):
    """Of the first step (n = 0) with the warm-up 1/10, as the PyTorch code of Song et al. 2021."""
    n = np.array([0, 1, 5, 80, 81, 100_000])
    decay = np.minimum((1 + n) / (10 + n), 0.9) if warmup else 0.9
    share = [ema.constant(0.9, warmup)(jnp.asarray(step)) for step in n]
    np.testing.assert_allclose(share, np.broadcast_to(1 - decay, n.shape), rtol=1e-5)


def test_half_lives_that_grow_with_the_training():
    """EDM: beta = 2^(-batch / min(half-life, 0.05 images so far)), here in steps."""
    half_life, n = 1000, np.array([0, 1, 20, 19_999, 20_001, 10**6])
    average = ema.constant(0.5 ** (1 / half_life), False, ramp=0.05)
    beta = 0.5 ** (1 / np.maximum(np.minimum(half_life, 0.05 * n), 1e-8))
    share = [average(jnp.asarray(step)) for step in n]
    np.testing.assert_allclose(share, 1 - beta, rtol=2e-4)  # 1 - beta is eps / 7e-4 in float32


@pytest.mark.parametrize("length", [0.003, 0.05, 0.1, 0.25, 0.279])
def test_a_length_is_the_standard_deviation_of_the_profile(length):
    gamma = ema.gamma_of(length)
    assert stats.beta(gamma + 1, 1).std() == pytest.approx(length, rel=1e-9)
    assert ema.length_of(gamma) == pytest.approx(length, rel=1e-9)


def test_the_recursion_is_the_integral(tracked):
    """For theta that is theta_i on (i - 1, i]; and for a polynomial of tau in the limit."""
    theta, means = tracked
    for length, mean in means.items():
        gamma = ema.gamma_of(length)
        for t in (1, 2, 37, STEPS):
            weights = np.diff((np.arange(t + 1) / t) ** (gamma + 1))
            np.testing.assert_allclose(mean[t - 1], weights @ theta[:t], rtol=1e-5, atol=1e-6)
        # int of (tau/T)^k is (gamma + 1)/(gamma + 1 + k); the cells are 1/T wide
        for k in range(4):
            limit = (gamma + 1) / (gamma + 1 + k)
            assert abs(mean[-1, k] - limit) < max(k, 1e-2) / STEPS


def test_shares_of_late_steps_have_all_their_digits():
    """1 - (1 - 1/t)^(gamma + 1) is 1e-5 at a million steps."""
    for length in (0.05, 0.25):
        share = ema.power(length)(jnp.int32(1_299_999))
        truth = -np.expm1((ema.gamma_of(length) + 1) * np.log1p(-1 / 1.3e6))
        np.testing.assert_allclose(share, truth, rtol=1e-6)


def test_inner_products_are_integrals():
    a = profiles((0.05, 30), (0.25, 100), (0.1, 80))
    b = profiles((0.02, 90), (0.1, 100))

    def density(gamma, end, tau):
        return (gamma + 1) / end * (tau / end) ** gamma

    for i, p in enumerate(zip(*a, strict=True)):
        for j, q in enumerate(zip(*b, strict=True)):
            both = min(p[1], q[1])
            truth, _ = integrate.quad(lambda u, p=p, q=q: density(*p, u) * density(*q, u), 0, both)
            assert ema.inner_products(a, b)[i, j] == pytest.approx(truth, rel=1e-7)


def test_a_combination_is_the_nearest_that_sums_to_one():
    """No way to go, along which the weights keep their sum, comes nearer: the gradient of the
    distance, by quadrature, is the same for every weight."""
    pairs = [(length, end) for end in (20, 40, 60) for length in STORED]
    stored, wanted = profiles(*pairs), profiles((0.13, 60))
    weights, error = ema.combine(stored, wanted)
    assert weights.sum() == pytest.approx(1, abs=1e-14)
    tau = (np.arange(600_000) + 0.5) / 10_000
    profile, target = (
        np.array([(g + 1) / t * (tau / t) ** g * (tau < t) for g, t in zip(*each, strict=True)])
        for each in (stored, wanted)
    )
    rest = weights @ profile - target[0]
    gradient = profile @ rest
    assert np.ptp(gradient) < 1e-6 * np.max(profile @ target[0])
    truth = np.linalg.norm(rest) / np.linalg.norm(target)
    assert error == pytest.approx(truth, rel=1e-5)


def fill(folder, means, every, dtype="float32"):
    store = StoredAverages(folder)
    store.begin(0, STORED)
    for step in range(every, STEPS + 1, every):
        trees = tuple({"a": {"b": means[length][step - 1]}} for length in STORED)
        store.save(step, STORED, trees, dtype)
    return store


def test_any_length_is_had_from_two(tracked, tmp_path):
    """The average of a length that was never stored is the one that was tracked, but for at most
    |p' - p| |theta - c| (Cauchy-Schwarz), which falls with the number of snapshots; a stored one
    is had bit for bit, and constants are."""
    theta, means = tracked
    like = {"a": {"b": theta[0]}}
    errors = []
    for every in (64, 16, 4):
        store = fill(tmp_path / str(every), means, every)
        worst = []
        for length in OTHERS:
            for end in (STEPS // 2, STEPS):
                made = store.reconstruct(like, length, end)
                gamma = ema.gamma_of(length)
                norm = (gamma + 1) / np.sqrt((2 * gamma + 1) * end)
                spread = np.sqrt(end) * theta[:end].std(axis=0)
                off = np.abs(made.params["a"]["b"] - means[length][end - 1])
                assert made.step == end
                assert np.all(off <= made.error * norm * spread + 1e-5)  # and float32
                np.testing.assert_allclose(made.params["a"]["b"][0], 1, rtol=1e-6)
                worst.append([off.max(), made.error])
        errors.append(np.max(worst, axis=0))
        for length in STORED:
            made = store.reconstruct(like, length)
            equal(made.params["a"]["b"], means[length][-1])
            assert made.count == 1
    # with four times as many, each a tenth and less: 0.07, 0.002, 0.00003
    (few, some, many), met = np.transpose(errors)
    assert many < some / 10 < few / 100
    assert met[2] < met[1] / 5 < met[0] / 25


def test_half_precision_is_half_precision(tracked, tmp_path):
    """A stored average is had but for the rounding of float16, 2^-11."""
    theta, means = tracked
    store = fill(tmp_path, means, 64, "float16")
    found = store.reconstruct({"a": {"b": theta[0]}}, STORED[0]).params["a"]["b"]
    np.testing.assert_allclose(found, means[STORED[0]][-1], rtol=2**-11)
    assert not np.array_equal(found, means[STORED[0]][-1])


def averaging(**changes):
    return small(**{"train.ema_lengths": STORED, "train.ema_every": 2} | changes)


def contents(workdir):
    files = sorted((workdir / "averages").iterdir())
    return {file.name: {k: v.copy() for k, v in arrays(file).items()} for file in files}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One undisturbed run of eight steps."""
    workdir = tmp_path_factory.mktemp("run")
    train(averaging(), workdir)
    return workdir


def test_a_run_stores_what_it_tracks_and_again_when_it_is_resumed(run, tmp_path, monkeypatch):
    truth = contents(run)
    assert sorted(truth) == ["2.npz", "4.npz", "6.npz", "8.npz"]
    state = final_state(averaging(), run).state
    for i, length in enumerate(STORED):
        config = averaging(**{"sampling.ema_length": length})
        _, params, step = workdirs.restore(config, run)
        assert step == 8
        equal(jax.tree.leaves(params), jax.tree.leaves(state.ema[1 + i]))

    # it was killed after its checkpoint of step 4, and while it wrote
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    (tmp_path / "averages" / "6.npz").write_bytes(b"of a run that went another way")
    (tmp_path / "averages" / "8.npz").rename(tmp_path / "averages" / "8.tmp")
    save, saved = Checkpoints.save, []

    def watched(checkpoints, step, *parts):
        saved.append((step, (tmp_path / "averages" / f"{step}.npz").exists()))
        save(checkpoints, step, *parts)

    monkeypatch.setattr(Checkpoints, "save", watched)
    train(averaging(), tmp_path)
    assert saved == [(8, True)]  # or a run that is killed between the two lacks the average
    equal(contents(tmp_path), truth)

    stored = (tmp_path / "config.json").read_text()
    with pytest.raises(
        CheckpointError, match=r"lengths \(0\.05, 0\.1\), and train\.ema_lengths=\("
    ):
        train(averaging(**{"train.ema_lengths": (0.05, 0.2), "train.steps": 10}), tmp_path)
    equal(contents(tmp_path), truth)
    assert (tmp_path / "config.json").read_text() == stored


def test_a_sweep_draws_with_each_average(run, monkeypatch):
    """A stored length is the average that the checkpoint has, bit for bit."""
    config = averaging(**{"evaluate.samplers": ("ddim", "heun"), "evaluate.ema_lengths": STORED})
    state, drawn = final_state(config, run).state, {}

    def summarise(subject, config, features, place, label):
        drawn[label] = subject.params, config.sampling.solver, config.sampling.ema_length
        return None, {}

    monkeypatch.setattr(samples, "_summarise", summarise)
    monkeypatch.setattr(samples, "_row", lambda *_: {})
    monkeypatch.setattr(reference, "of_data", lambda *_: None)
    found = samples.metrics(Subject(config, run, *workdirs.restore(config, run)))
    assert [row["sampler"] for row in found["rows"][1:]] == list(drawn)
    for i, length in enumerate(STORED):
        for solver in ("ddim", "heun"):
            params, *sampling = drawn[f"{solver} on uniform, length {length}"]
            assert sampling == [solver, length]
            equal(jax.tree.leaves(params), jax.tree.leaves(state.ema[1 + i]))
    assert len(drawn) == 4


def test_a_guide_has_the_average_that_is_asked_for(run):
    state = final_state(averaging(), run).state
    for i, length in enumerate(STORED):
        guidance = f"autoguidance(workdir='{run}', ema_length={length})"
        config = averaging(**{"sampling.guidance": guidance})
        frozen = samplers.build_denoiser(config, build.build_experiment(config))
        equal(jax.tree.leaves(frozen), jax.tree.leaves(state.ema[1 + i]))


def test_a_guide_of_before_has_its_own_averages(tmp_path):
    """Its config names neither lengths nor one of them, and those given are not its."""
    given = averaging(**{"sampling.ema_length": 0.1})
    old = workdirs.as_json(small())
    for part, field in (("train", "ema_lengths"), ("sampling", "ema_length")):
        del old[part][field]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(old))
    theirs = workdirs.stored_config(tmp_path, given.mesh)
    assert len(optimization.build_averages(theirs)) == 1
    assert theirs.sampling.ema_length is None


def test_a_write_that_fails_leaves_what_was(tracked, tmp_path, monkeypatch):
    theta, means = tracked
    store = fill(tmp_path, means, 256)

    def fails(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", fails)
        with pytest.raises(OSError, match="No space left"):
            store.save(600, STORED, ({}, {}), "float32")
    assert store.steps() == [256, 512]
    equal(store.reconstruct({"a": {"b": theta[0]}}, 0.1).params["a"]["b"], means[0.1][-1])


@pytest.mark.parametrize(("dtype", "value"), [("float32", np.nan), ("float16", 1e5)])
def test_no_average_is_stored_that_is_not_finite(tmp_path, dtype, value):
    config = averaging(**{"train.ema_dtype": dtype})
    train_ = config.train
    storing = Storing(tmp_path, 0, train_.ema_lengths, train_.ema_every, dtype, 1)
    every = storing.every
    whole, bad = ({"a": np.array([1.0, last], np.float32)} for last in (2.0, value))
    storing.store(every, (bad, whole, whole))
    with pytest.raises(NonFiniteError, match=rf"average 1/a is not finite as {dtype} at step 4"):
        storing.store(2 * every, (whole, whole, bad))
    assert [path.name for path in (tmp_path / "averages").iterdir()] == ["2.npz"]


def test_mistakes_are_told(run, tracked, tmp_path):
    theta, means = tracked
    with pytest.raises(CheckpointError, match=r"no averages.*train with --config\.train\.ema_leng"):
        StoredAverages(tmp_path).reconstruct({}, 0.1)
    for length in (0.0, -0.1, 0.28):
        with pytest.raises(ConfigError, match=r"sampling\.ema_length: .*between 0 and 0\.28, not"):
            workdirs.restore(averaging(**{"sampling.ema_length": length}), run)
    store = fill(tmp_path, means, 256)
    with pytest.raises(CheckpointError, match=r"no averages of step 300: one of \[256, 512\]"):
        store.reconstruct({"a": {"b": theta[0]}}, 0.1, 300)
    for other in ({"c": theta[0]}, {"a": {"b": theta}}, {"a": {"b": theta[0, 1:]}}):
        with pytest.raises(CheckpointError, match=r"512\.npz is of another network"):
            store.reconstruct(other, 0.1)
    (tmp_path / "averages" / "256.npz").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"256\.npz is damaged: remove it"):
        store.reconstruct({"a": {"b": theta[0]}}, 0.1)
    for changes, message in (
        (
            {"ema_lengths": (0.3,)},
            r"train\.ema_lengths: the length .* between 0 and 0\.28, not 0\.3",
        ),
        ({"ema_lengths": (0.1, 0.1)}, r"ema_lengths=\(0\.1, 0\.1\) has a length twice"),
        ({"ema_every": 0}, r"train\.ema_every must be positive, not 0"),
        ({"ema_dtype": "int8"}, r"train\.ema_dtype is 'int8': one of float32, float16"),
    ):
        changes = {f"train.{field}": value for field, value in changes.items()}
        with pytest.raises(ConfigError, match=message):
            train(averaging(**changes), tmp_path / "new")
