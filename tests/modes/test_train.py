"""Runs on the digits: resuming, devices, failures; and modes against a model that is known."""

import json
import shutil

import chex
import jax
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from configs import digits, signals
from score_sde.data import train_iterator
from score_sde.errors import (
    CheckpointError,
    ConfigError,
    ConvergenceError,
    DataError,
    NonFiniteError,
)
from score_sde.experiment import build
from score_sde.experiment.program import compiled_step, stack
from score_sde.modes import evaluate, likelihood, sample, solvers
from score_sde.modes.train import train
from score_sde.runtime.checkpoint import Checkpoints
from tests import perceptron
from tests.stored import arrays


def small(**changes):
    """The perceptron of a few steps; eight devices."""
    config = perceptron.get_config()
    config.train.update(steps=8, batch_size=16, log_every=2, checkpoint_every=4, sample_every=0)
    config.sampling.update(solver="ddim", steps=3, num_samples=8)
    config.update_from_flattened_dict(changes)
    return config


def final_state(config, workdir):
    experiment = build.build_experiment(config)
    checkpoints = Checkpoints(workdir)
    restored = checkpoints.restore(build.abstract_state(experiment))
    checkpoints.close()
    return restored


def untrained(config, workdir):
    """Makes a workdir whose only checkpoint is what a training starts from."""
    checkpoints = Checkpoints(workdir)
    checkpoints.save(0, build.initial_state(config, build.build_experiment(config)), None, {})
    checkpoints.close()


def equal(a, b):
    """Bit for bit, and of one dtype."""
    chex.assert_trees_all_equal(a, b, strict=True)


def rows(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One undisturbed run of eight steps."""
    workdir = tmp_path_factory.mktemp("run")
    train(small(), workdir)
    return workdir


def test_a_resumed_run_is_the_same_run_bit_for_bit(run, tmp_path):
    train(small(**{"train.steps": 4}), tmp_path)
    # the run was killed while it wrote the metrics of a step after its last checkpoint
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "loss": 0.5}\n{"step": 8, "lo')
    train(small(), tmp_path)
    ours, truth = final_state(small(), tmp_path), final_state(small(), run)
    assert ours.step == truth.step == 8
    equal(ours.state, truth.state)
    assert ours.data == truth.data
    assert [r["step"] for r in rows(tmp_path)] == [2, 4, 6, 8]
    assert [r["loss"] for r in rows(tmp_path)] == [r["loss"] for r in rows(run)]


def test_several_steps_a_call_are_the_same_steps(run, tmp_path):
    train(small(**{"train.steps_per_call": 2}), tmp_path)
    ours, truth = final_state(small(), tmp_path), final_state(small(), run)
    # Adam divides a gradient by its size: rounding of 1e-5 of it, of one that nearly cancels, moves
    # a parameter by 1e-5 of the rate of 3e-3, and steps add up
    chex.assert_trees_all_close(ours.state, truth.state, rtol=1e-5, atol=1e-6)


def test_averages_follow_their_recursion(run):
    """ema_n = d_n ema + (1 - d_n) params, d_n = min(rate, (1 + n)/(10 + n)), for each rate."""
    config = small(**{"train.ema_rates": (0.15, 0.999)})
    experiment = build.build_experiment(config)
    state = build.initial_state(config, experiment)
    step = compiled_step(config, experiment, 1)
    batches = train_iterator(experiment.data.train, batch_size=16, seed=0)
    expected = [jax.device_get(state.params)] * 2
    for n in range(3):
        state, _ = step(jax.random.key(1), state, stack(batches, 1, experiment.sharded(axis=1)))
        params = jax.device_get(state.params)
        for i, rate in enumerate((0.15, 0.999)):
            d = np.float32(min(rate, (1 + n) / (10 + n)))
            expected[i] = jax.tree.map(lambda e, p, d=d: d * e + (1 - d) * p, expected[i], params)
    for ours, truth in zip(state.ema, expected, strict=True):
        chex.assert_trees_all_close(ours, truth, rtol=1e-5, atol=1e-9)


def test_a_finished_run_says_so(run, capsys):
    before = rows(run)
    train(small(), run)
    assert "is finished: its checkpoint is at step 8 of 8" in capsys.readouterr().out
    assert rows(run) == before


@pytest.mark.parametrize("end", [b'{"step": 8, "lo', b"\xff\xfe", b"[8]", b'{"loss": 1.0}'])
def test_a_damaged_line_of_metrics_is_left_out(run, tmp_path, end):
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + end)
    assert train(small(), tmp_path) == json.loads((run / "train.json").read_text())


def test_files_of_a_run(run):
    assert {
        "checkpoints",
        "config.json",
        "loss.png",
        "metrics.jsonl",
        "tensorboard",
        "train.json",
    } <= {path.name for path in run.iterdir()}
    assert list((run / "tensorboard").glob("events.*"))
    for row in rows(run):
        assert {"step", "loss", "images_per_second", "gradient_norm", "learning_rate"} <= set(row)
        assert row["learning_rate"] == pytest.approx(3e-3 * min(row["step"] / 3, 1))


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    train(small(**{"train.steps": 4}), tmp_path)
    good = final_state(small(), tmp_path)
    bad = small(**{"optim.learning_rate": 1e30, "optim.clip": 0.0})
    with pytest.raises(NonFiniteError, match=r"became (nan|inf) at step [67].*step 4 is kept"):
        train(bad, tmp_path)
    equal(final_state(small(), tmp_path).state, good.state)


def test_a_damaged_image_stops_the_run_after_a_checkpoint(tmp_path):
    """The run goes on from it once the image is mended, as if nothing had been."""
    images, data = tmp_path / "images", {"name": "folder", "image_size": 8, "channels": 1}
    images.mkdir()
    for i in range(60):  # image i is all of the grey i
        Image.fromarray(np.full((8, 8), i, np.uint8)).save(images / f"{i:02d}.png")
    config = small(**{"train.batch_size": 8, "train.steps": 6, "train.steps_per_call": 2})
    config.data = {**data, "path": str(images), "augment": "none"}
    train(config, tmp_path / "whole")

    source = build.build_experiment(config).data.train
    batches = train_iterator(source, batch_size=8, seed=config.seed)
    greys = [int(grey) for _ in range(4) for grey in next(batches)["image"][:, 0, 0, 0]]
    damaged = images / f"{greys[-1]:02d}.png"  # which the second call of two steps asks for
    content = damaged.read_bytes()
    damaged.write_bytes(content[:40])
    message = rf"{damaged.name}.*; the checkpoint of step 2 is written: mend the data"
    for _ in range(2):  # the second run can make no step
        with pytest.raises(DataError, match=message):
            train(config, tmp_path / "broken")
        assert final_state(config, tmp_path / "broken").step == 2
    assert [row["step"] for row in rows(tmp_path / "broken")] == [2]

    damaged.write_bytes(content)
    train(config, tmp_path / "broken")
    ours, truth = (final_state(config, tmp_path / name) for name in ("broken", "whole"))
    equal(ours.state, truth.state)
    assert ours.data == truth.data


def test_a_damaged_image_of_the_first_batch_leaves_no_checkpoint(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i in range(9):
        (images / f"{i}.png").write_bytes(b"no image")
    config = small(**{"train.batch_size": 8})
    config.data = {"name": "folder", "path": str(images), "image_size": 8, "augment": "none"}
    with pytest.raises(DataError) as error:
        train(config, tmp_path)
    assert "checkpoint" not in str(error.value)
    assert not list((tmp_path / "checkpoints").iterdir())


def halve(step):
    for path in (step / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def lose_metadata(step):
    (step / "state" / "_METADATA").unlink()


def lose_data(step):
    shutil.rmtree(step / "data")


def empty_manifest(step):
    (step / "state" / "manifest.ocdbt").write_bytes(b"")


@pytest.mark.parametrize("damage", [halve, lose_metadata, lose_data, empty_manifest])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(run, tmp_path, capsys, damage):
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    damage(tmp_path / "checkpoints" / "8")
    if damage is halve:  # looking changes nothing on the disk
        files = sorted(tmp_path.rglob("*"))
        assert sample.restore(small(), tmp_path)[2] == 4
        assert sorted(tmp_path.rglob("*")) == files
    train(small(), tmp_path)
    out = capsys.readouterr().out
    assert "checkpoint 8 in" in out
    assert "is damaged and was skipped" in out
    assert "resuming at step 4" in out
    equal(final_state(small(), tmp_path).state, final_state(small(), run).state)
    assert len(list((tmp_path / "damaged_checkpoints").iterdir())) == 1


def test_only_damaged_checkpoints(tmp_path):
    train(small(**{"train.steps": 4}), tmp_path)
    for path in (tmp_path / "checkpoints" / "4" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"none of the checkpoints \[4\].*can be read"):
        sample.sample(small(), tmp_path)
    assert (tmp_path / "checkpoints" / "4").exists()


def test_a_workdir_of_another_model_is_refused(run):
    before = (run / "config.json").read_text()
    for changes, named in (
        ({"sde": "VE"}, "sde 'VP' -> 'VE'"),
        ({"parametrization": "v"}, "parametrization 'eps' -> 'v'"),
        ({"codec.centered": False}, "codec.centered True -> False"),
        ({"net.features": (17,)}, r"net.features \[16\] -> \[17\]"),
    ):
        for mode in (train, sample.sample):
            with pytest.raises(ConfigError, match=f"holds another model .{named}") as error:
                mode(small(**changes), run)
            assert "\n" not in str(error.value)
    assert (run / "config.json").read_text() == before
    sample.restore(small(sde="VP()"), run)  # another spelling, not another model


@pytest.mark.parametrize("content", [b'{"seed": 4', b"[]", b"\xff\xfe{", b""])
def test_a_damaged_config_is_one_line(run, tmp_path, content):
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    path = tmp_path / "config.json"
    path.write_bytes(content)
    for mode in (train, sample.sample):
        with pytest.raises(ConfigError, match=r"config\.json is damaged: mend or remove") as error:
            mode(small(), tmp_path)
        assert "\n" not in str(error.value)
    assert path.read_bytes() == content


def test_a_checkpoint_that_does_not_fit_is_refused(run, tmp_path):
    (tmp_path / "checkpoints").symlink_to(run / "checkpoints")
    with pytest.raises(CheckpointError, match=r"another model or optimiser: .* arrays differ"):
        sample.sample(small(**{"net.features": (17,)}), tmp_path)


def test_the_given_config_wins_and_differences_are_told(run, capsys):
    result = sample.sample(small(**{"sampling.steps": 5}), run)
    out = capsys.readouterr().out
    assert (
        "config differs from the stored one, the given value is used: sampling.steps 3 -> 5" in out
    )
    assert result["nfe"] == 6  # five steps and the denoising


def test_samples_that_are_not_finite_are_no_result(run, tmp_path, capsys):
    """NaN would be written as black images."""
    shutil.copytree(run, tmp_path, dirs_exist_ok=True)
    sample.sample(small(), tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    wild = {"sampling.solver": "ddim(eta=50.0)", "sampling.batch_size": 8}
    message = r"^8 of 8 samples are not finite \(sampling\.solver=ddim\(eta=50\.0\), .*: take more"
    with pytest.raises(ConvergenceError, match=message) as error:
        sample.sample(small(**wild, **{"sampling.num_samples": 12}), tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(ConvergenceError, match=r"^3 of 3 samples are not finite"):
        sample.sample(small(**wild, **{"sampling.num_samples": 3}), tmp_path)
    metrics = {"evaluate.parts": ("metrics",), "evaluate.num_samples": 16}
    with pytest.raises(ConvergenceError, match=r"^8 of 8 samples are not finite"):
        evaluate.evaluate(small(**wild, **metrics), tmp_path)
    assert not (tmp_path / "evaluate.json").exists()
    for name in ("samples.npz", "samples.png", "sample.json"):
        assert (tmp_path / name).read_bytes() == files[tmp_path / name]

    capsys.readouterr()
    train(small(**wild, **{"train.sample_every": 4}), tmp_path / "new")  # which goes on
    line = f"{tmp_path}/new/samples_4.png: 64 of 64 are not finite"
    assert capsys.readouterr().out.splitlines().count(line) == 1
    assert final_state(small(), tmp_path / "new").step == 8


def test_missing_things_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="run --mode train with this --workdir first"):
        likelihood.likelihood(small(), tmp_path)
    with pytest.raises(ConfigError, match="must be a multiple of the 8 devices"):
        train(small(**{"train.batch_size": 12}), tmp_path)
    for field in ("steps", "keep", "accumulate"):
        with pytest.raises(ConfigError, match=rf"train\.{field} must be at least 1, not 0"):
            train(small(**{f"train.{field}": 0}), tmp_path)
    with pytest.raises(ConfigError, match="unknown name 'line'; did you mean 'linear'"):
        train(small(**{"optim.schedule": "line"}), tmp_path)
    with pytest.raises(ConfigError, match=r"sampling\.ema=1 is not an index"):
        train(small(**{"sampling.ema": 1}), tmp_path)
    with pytest.raises(ConfigError, match="denoising: unknown reduction 'max'"):
        train(small(**{"objective.reduction": "max"}), tmp_path)
    for field, value, message in (
        ("resblock", "resnet", r"NCSNpp: resblock='resnet' is none of"),
        ("remat", "some", r"NCSNpp: remat='some' is none of"),
        ("dropout", 1.0, r"NCSNpp: dropout=1.0 is not at least 0 and below 1"),
        ("ch_mult", (1, 1, 1, 1, 1), "net: images of 8x8 cannot be halved 4 times"),
    ):
        config = digits.get_config()
        config.net[field] = value
        with pytest.raises(ConfigError, match=message):
            train(config, tmp_path)
    waves = signals.get_config()
    waves.data.augment = "flip"
    with pytest.raises(ConfigError, match="flip: the data set has no part 'image', only signal"):
        train(waves, tmp_path)
    config = small()
    config.data = {"name": "npz", "path": str(tmp_path / "no.npz"), "augment": "none"}
    with pytest.raises(DataError, match=r"no\.npz"):
        train(config, tmp_path)


# A network whose output is zero is, in EDM's parametrization, the exact denoiser of
# N(0, sigma_data^2 I): so every mode has a truth.

STD = 0.4


@pytest.fixture(scope="module")
def gaussian(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("gaussian")
    config = small(
        **{
            "parametrization": f"edm(sigma_data={STD})",
            "c_noise": "log_snr(scale=0.1)",
            "sampling.solver": "probability_flow",
            "sampling.t_min": 1e-5,
            "sampling.denoise": False,
            "sampling.steps": 1,
            "sampling.num_samples": 200,
        }
    )
    untrained(config, workdir)
    return config, workdir


def test_bits_per_dim_of_a_known_density(gaussian):
    config, workdir = gaussian
    result = likelihood.likelihood(config, workdir)
    data = build.build_experiment(config).data
    levels = np.stack([data.test[i]["image"] for i in range(297)]).astype(float)
    # E over u of x^2 for x = 2 (v + u)/17 - 1, exactly
    a, b = 2 * levels / 17 - 1, 2 * (levels + 1) / 17 - 1
    square = (b**3 - a**3) / (3 * (b - a))
    nats = square / (2 * STD**2) + np.log(STD * np.sqrt(2 * np.pi))
    truth = nats / np.log(2) + np.log2(17) - 1
    # images are the same here and there, so only the spread of u is left: one pixel's x^2/(2 s^2)
    # varies by at most |x| (2/17)/sqrt(12)/s^2 = 0.21 nats
    error = 0.21 / np.log(2) / np.sqrt(297 * 64)
    assert abs(result["bits_per_dim"] - truth.mean()) < 4 * error
    between = truth.reshape(297, -1).mean(axis=1).std(ddof=1) / np.sqrt(297)
    assert result["standard_error"] == pytest.approx(between, rel=0.05)
    assert result["num_examples"] == 297
    assert json.loads((workdir / "likelihood.json").read_text()) == result


def test_bits_per_dim_does_not_depend_on_the_batch(gaussian):
    config, workdir = gaussian
    whole = likelihood.likelihood(config, workdir)
    config = config.copy_and_resolve_references()
    config.likelihood.batch_size = 104
    parts = likelihood.likelihood(config, workdir)
    assert parts["bits_per_dim"] == pytest.approx(whole["bits_per_dim"], abs=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        # exact in few steps, with the variance that the denoiser implies
        {
            "solver": "ancestral(variance='learned')",
            "variance": "hutchinson(probes=1)",
            "grid": "log_snr",
            "steps": 3,
        },
    ],
)
def test_samples_of_a_known_density(gaussian, changes):
    config, workdir = gaussian
    config = config.copy_and_resolve_references()
    config.sampling.update(changes)
    result = sample.sample(config, workdir)
    samples = arrays(workdir / "samples.npz")["samples"]
    assert samples.dtype == np.uint8
    assert samples.shape == (200, 8, 8, 1)
    assert (workdir / "samples.png").stat().st_size > 0
    assert result["num_samples"] == 200
    levels = np.round(samples / 255 * 16).astype(int)
    np.testing.assert_array_equal(np.round(255 * levels / 16).astype(np.uint8), samples)
    edges = 2 * np.arange(18) / 17 - 1
    edges[0], edges[-1] = -np.inf, np.inf
    truth = np.diff(stats.norm.cdf(edges / STD)) * samples.size
    counts = np.bincount(levels.ravel(), minlength=17)
    assert stats.chisquare(counts, truth).pvalue > 0.001


def test_a_window_draws_the_same_images_in_fewer_calls(gaussian):
    config, workdir = gaussian
    config = config.copy_and_resolve_references()
    config.sampling.update(solver="ddim", grid="log_snr", steps=20, num_samples=16)
    sequential = sample.sample(config, workdir)
    images = arrays(workdir / "samples.npz")["samples"]
    assert sequential["depth"] == sequential["nfe"] == 20
    config.sampling.update(window=8, tolerance=1e-5)
    parallel = sample.sample(config, workdir)
    assert parallel["depth"] < 20 < parallel["nfe"]
    # Inputs are off by 1e-5, and a level is 1/8 wide, so of 1,024 pixels one or the other may lie
    # between two levels and be rounded the other way.
    found = arrays(workdir / "samples.npz")["samples"].astype(int)
    assert np.abs(found - images).max() <= 16
    assert np.sum(found != images) <= 2
    config.sampling.solver = "probability_flow"
    with pytest.raises(ConfigError, match=r"sampling: .*a fixed number of evaluations"):
        sample.sample(config, workdir)


def test_solvers_of_a_trained_model(run, capsys):
    config = small()
    config.solvers.update(solvers=("ddim",), grids=("log_snr",), nfe=(3, 24))
    config.solvers.update(reference_tolerance=1e-4, num_samples=8, batches=1)
    solvers.solvers(config, run)
    result = json.loads((run / "solvers.json").read_text())
    assert (result["problem"], result["dtype"]) == (f"{run}, step 8", "float32")
    few, many = result["measures"]["RMS error of the endpoint"]["rows"]
    assert (few["nfe"], many["nfe"]) == (3, 24)
    assert many["error"] < few["error"] / 4  # DDIM has order 1
    assert "| `ddim` | `log_snr` | **" in capsys.readouterr().out
