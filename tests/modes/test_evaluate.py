"""Mode evaluate against a model that is known, and interrupted."""

import functools
import json
import re
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from score_sde.data import gather
from score_sde.errors import ConfigError
from score_sde.evaluation import diagnostics
from score_sde.evaluation.metrics import summary
from score_sde.experiment import build, neighbours, workdirs
from score_sde.experiment.drawing import draw
from score_sde.experiment.report import field, floor, samples
from score_sde.experiment.report.subject import Subject, first
from score_sde.experiment.workdirs import restore
from score_sde.modes import evaluate, likelihood, reference, sample
from score_sde.runtime import mesh, resumable
from tests.modes.test_train import small, untrained

# A network whose output is zero is, in EDM's parametrization, the exact denoiser of
# N(0, sigma_data^2 I).
STD = 0.4


@pytest.fixture(scope="module")
def gaussian(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("gaussian")
    config = small(
        **{
            "parametrization": f"edm(sigma_data={STD})",
            "c_noise": "log_snr(scale=0.1)",
            "sampling.solver": "ddim",
            "sampling.grid": "log_snr",
            "sampling.steps": 40,
            "sampling.denoise": False,
            "sampling.batch_size": 64,
            "evaluate.num_samples": 500,
            "likelihood.method": "Bosh3",  # few stages compile quickly
        }
    )
    untrained(config, workdir)
    return config, workdir


@pytest.fixture(scope="module")
def done(gaussian):
    """The report of an undisturbed run."""
    config, workdir = gaussian
    evaluate.evaluate(config, workdir)
    assert not (workdir / "partial").exists()
    return json.loads((workdir / "evaluate.json").read_text())


def images(config, split):
    source = getattr(build.build_experiment(config).data, split)
    return np.stack([source[i]["image"] for i in range(len(source))]).reshape(len(source), -1)


def moments_of_levels():
    """Mean and variance of a sample's pixel: it is a level of the cells of N(0, STD^2)."""
    edges = 2 * np.arange(18) / 17 - 1
    edges[0], edges[-1] = -np.inf, np.inf
    levels, weights = np.arange(17) / 16, np.diff(stats.norm.cdf(edges / STD))
    mean = weights @ levels
    return mean, weights @ levels**2 - mean**2


def test_distance_of_samples_and_its_floor(gaussian, done):
    config, _ = gaussian
    floor, row = done["metrics"]["rows"]
    train, test = (images(config, split) / 16 for split in ("train", "test"))
    means, covs = (train.mean(0), test.mean(0)), (np.cov(train.T), np.cov(test.T))
    roots = np.sqrt(np.maximum(np.linalg.eigvals(covs[0] @ covs[1]).real, 0)).sum()
    truth = np.sum((means[0] - means[1]) ** 2) + np.trace(covs[0] + covs[1]) - 2 * roots
    # uint8 images round a sixteenth of 255 to a whole number
    assert floor["frechet"] == pytest.approx(truth, rel=2e-2)
    assert (floor["sampler"], floor["num_images"]) == ("train images", 1500)

    mean, variance = moments_of_levels()
    assert abs(row["mean_feature"] - mean) < 4 * np.sqrt(variance / (500 * 64))
    values = np.linalg.eigvalsh(covs[1])
    exact = np.sum((means[1] - mean) ** 2)
    exact += np.sum(variance + values - 2 * np.sqrt(np.maximum(variance * values, 0)))
    # the covariance of 500 images has eigenvalues that spread by sqrt(64/500) and more
    assert row["frechet"] == pytest.approx(exact, rel=0.03)
    assert (row["num_images"], row["nfe"], row["steps"], row["num_blank"]) == (500, 40, 40, 0)


def error(sde, t, square):
    """E|z - z^|^2 of the model at t, for images of this mean square."""
    alpha, sigma = np.asarray(sde.alpha(t), float), np.asarray(sde.sigma(t), float)
    variance = (alpha * STD) ** 2 + sigma**2
    # z - z^ = (alpha STD)^2 / variance z - alpha sigma / variance x_0
    return ((alpha * STD) ** 2 / variance) ** 2 + (alpha * sigma / variance) ** 2 * square


def test_loss_and_noise_error(gaussian, done):
    """With F = 0 the loss is E|z - z^|^2, z^ = sigma x_t / (alpha^2 s^2 + sigma^2)."""
    config, _ = gaussian
    sde = build.build_experiment(config).model.sde
    levels = images(config, "test").astype(float)
    a, b = 2 * levels / 17 - 1, 2 * (levels + 1) / 17 - 1
    square = np.mean((b**3 - a**3) / (3 * (b - a)))
    truth = np.mean(error(sde, jnp.linspace(sde.t_min, sde.t_max, 20_001), square))
    # 8 draws for 297 images: z^2 has variance 2, over 64 * 8 * 297 numbers, and t is stratified
    assert done["loss"]["loss"] == pytest.approx(truth, rel=0.02)
    found = done["loss"]["noise_error"]
    log_snr, value, spread = (np.array(found[k]) for k in ("log_snr", "value", "standard_error"))
    # VP from t = 1 to 1e-5: alpha^2/sigma^2 = 1/expm1(integral of beta)
    ends = [-np.log(np.expm1(b)) for b in (10.05, 1e-6 + 9.95e-10)]
    np.testing.assert_allclose(log_snr[[0, -1]], ends, rtol=1e-3)
    at = error(sde, sde.t_of_log_snr(jnp.asarray(log_snr, jnp.float32)), square)
    assert np.all(np.abs(value - at) < 4 * spread + 1e-4 * at)


def test_the_loss_above_its_floor(gaussian, monkeypatch):
    """Of 16 training images the floor and what is above it are the error of `test_loss_and_noise
    _error`, at each noise level and of the whole loss."""
    monkeypatch.setattr(field, "FIELD_IMAGES", 16)
    monkeypatch.setattr(floor, "DRAWS", 32)
    config, workdir = gaussian
    rows, drawn = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}], []
    monkeypatch.setattr(floor.metrics_log, "read", lambda workdir: rows)
    monkeypatch.setattr(floor.figures, "loss_curve", lambda *curve: drawn.append(curve))
    found = floor.floor(Subject(config, workdir, *restore(config, workdir)))
    whole = found.pop("whole")
    assert drawn == [(workdir / "loss_above_floor.png", rows, whole["floor"])]
    least, above = (np.array(part["value"]) for part in found.values())
    spread = sum(np.array(part["standard_error"]) for part in found.values())
    log_snr = np.array(found["floor_of_training_images"]["log_snr"])
    levels = images(config, "train")[:16].astype(float)
    a, b = 2 * levels / 17 - 1, 2 * (levels + 1) / 17 - 1
    square = np.mean((b**3 - a**3) / (3 * (b - a)))
    sde = build.build_experiment(config).model.sde
    truth = error(sde, sde.t_of_log_snr(jnp.asarray(log_snr, jnp.float32)), square)
    assert np.all(np.abs(least + above - truth) < 4 * spread + 1e-3 * truth)
    loss = np.mean(error(sde, jnp.linspace(sde.t_min, sde.t_max, 20_001), square))
    spread = whole["floor_standard_error"] + whole["above_standard_error"]
    assert abs(whole["floor"] + whole["above"] - loss) < 4 * spread < 0.3 * loss
    middle = list(log_snr).index(2.0)  # where the ideal one knows all images by heart
    assert above[middle] > 20 * least[middle] > 0
    # at little noise what is left is the noise of dequantisation, uniform in cells of 2/17
    cell = np.exp(log_snr[-1]) * (2 / 17) ** 2 / 12
    assert cell / (1 + cell) * 0.5 < least[-1] < cell


def test_a_floor_that_is_not_known(gaussian, monkeypatch):
    config, workdir = gaussian
    monkeypatch.setattr(field, "MAX_IDEAL", 1000)
    with pytest.raises(ConfigError, match=r"floor needs the ideal denoiser .* leave it out"):
        floor.floor(Subject(config, workdir, *restore(config, workdir)))


def test_an_interrupted_report_goes_on_where_it_was(gaussian, done, monkeypatch):
    config, workdir = gaussian
    monkeypatch.setattr(resumable, "EVERY", 0.0)
    calls = []
    add = summary.update

    def update(*args):
        calls.append(len(calls))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return add(*args)

    monkeypatch.setattr(summary, "update", update)
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate(config, workdir)
    evaluate.evaluate(config, workdir)
    assert len(calls) == 4 + 5  # 500 images are 8 batches of 64, and 3 of them were kept
    again = json.loads((workdir / "evaluate.json").read_text())
    assert again | {"seconds": 0} == done | {"seconds": 0}
    assert not (workdir / "partial").exists()


def test_one_part_alone(gaussian):
    config, workdir = gaussian
    config = config.copy_and_resolve_references()
    config.evaluate.update(parts=("metrics",), num_samples=64)
    evaluate.evaluate(config, workdir)
    found = json.loads((workdir / "evaluate.json").read_text())
    assert "loss" not in found
    assert [row["num_images"] for row in found["metrics"]["rows"]] == [1500, 64]
    assert not (workdir / "partial").exists()


def test_an_interrupted_likelihood_goes_on_where_it_was(gaussian, monkeypatch):
    config, workdir = gaussian
    config = config.copy_and_resolve_references()
    config.likelihood.batch_size = 104
    whole = likelihood.likelihood(config, workdir)
    monkeypatch.setattr(resumable, "EVERY", 0.0)
    save, kept = resumable.Partial.save, []

    def stop(self, **arrays):
        save(self, **arrays)
        kept.append(len(arrays["values"]))
        if len(kept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(resumable.Partial, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        likelihood.likelihood(config, workdir)
    again = likelihood.likelihood(config, workdir)
    assert kept == [104, 208, 297]
    assert again | {"seconds": 0} == whole | {"seconds": 0}


def test_partial_results_of_other_options_are_not_taken(gaussian, monkeypatch):
    """A part that was finished, or half a likelihood, counts only for what it was made with."""
    config, workdir = gaussian
    config = config.copy_and_resolve_references()
    config.likelihood.batch_size = 104
    config.evaluate.parts = ("likelihood", "loss")
    monkeypatch.setattr("score_sde.training.objectives.denoising.simple", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        evaluate.evaluate(config, workdir)
    monkeypatch.undo()
    config.likelihood.drop_last = True  # 208 images instead of 297
    evaluate.evaluate(config, workdir)
    found = json.loads((workdir / "evaluate.json").read_text())
    assert found["likelihood"]["num_examples"] == 208
    shutil.rmtree(workdir / "partial")  # what the first run finished
    other = config.copy_and_resolve_references()
    other.sampling.ema = 1
    assert workdirs.identity(other) != workdirs.identity(config)


def test_the_last_batch_is_left_out_on_request(gaussian):
    config, workdir = gaussian
    config = config.copy_and_resolve_references()
    config.likelihood.update(batch_size=104, drop_last=True)
    assert likelihood.likelihood(config, workdir)["num_examples"] == 208
    config.likelihood.batch_size = 400
    with pytest.raises(ConfigError, match=r"drop_last leaves nothing of 297 images"):
        likelihood.likelihood(config, workdir)


def test_each_device_does_its_part_of_the_field_and_of_the_neighbours(gaussian):
    """No array of its program has all of the 88 examples, but its 11, and nothing but sums moves;
    the network is exact for a Gaussian, and the rest is what one device finds."""
    config, workdir = gaussian
    experiment, params, _ = sample.restore(config, workdir)
    raw, mask = first(experiment, experiment.data.test, 83)
    assert mask.tolist() == [True] * 83 + [False] * 5
    known = gather(experiment.data.train, np.arange(5))["image"]
    measured = field.compiled_measure(config, experiment)
    frozen = field.frozen(experiment)
    found = []
    for measure, truth in (
        (diagnostics.score_error, [known]),
        (functools.partial(diagnostics.jacobian_asymmetry, probes=1), []),
        (functools.partial(diagnostics.fokker_planck_residual, probes=2), []),
    ):
        program = measured.lower(measure, frozen, params, raw, mask, *truth).compile()
        found.append(program(frozen, params, raw, mask, *truth).value)
        check_spread(program.as_text())
    error, *faults = found
    np.testing.assert_allclose(faults, 0, atol=1e-3)
    alone = experiment._replace(mesh=mesh.make(1, jax.devices()[:1]))
    of_one, _ = first(alone, experiment.data.test, 83)
    measured = field.compiled_measure(config, alone)
    truth = measured(diagnostics.score_error, frozen, jax.device_get(params), of_one, mask, known)
    np.testing.assert_allclose(error, truth.value, rtol=1e-5)

    x = raw["image"].astype(np.float32) / 16
    points = known / np.float32(16)
    program = neighbours.compiled_nearest(experiment).lower(x, points).compile()
    check_spread(program.as_text())
    truth = diagnostics.nearest(jnp.asarray(np.asarray(x)), jnp.asarray(points))
    # a square is a sum of 64, each term rounded once, and a ratio has two of their roots
    rounding = 64 * float(np.finfo(np.float32).eps)
    chex.assert_trees_all_close(program(x, points), truth, rtol=rounding)


def check_spread(text):
    """Of 88 examples of 64 pixels over eight devices."""
    shapes = [shape.split(",") for shape in re.findall(r"\b[a-z]+\d*\[([\d,]+)\]", text)]
    assert any("11" in shape for shape in shapes)
    assert not [shape for shape in shapes if {"88", str(88 * 64)} & set(shape)]
    moves = "all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute"
    moved = re.findall(rf"= (.*?) (?:{moves})(?:-start)?\(", text)
    assert not [shapes for shapes in moved if re.search(r"\[\d", shapes)]


def test_statistics_of_other_images_are_refused(gaussian, tmp_path):
    config, _ = gaussian
    config = config.copy_and_resolve_references()
    config.evaluate.reference = str(tmp_path / "digits.npz")
    result = reference.reference(config, tmp_path)
    assert (result["num_images"], result["features"]) == (297, 64)
    test = images(config, "test") / 16
    found, _ = summary.load(tmp_path / "digits.npz")
    np.testing.assert_allclose(found.moments.mean, test.mean(0), atol=1 / 510)
    for changes, message in (
        ({"split": "train"}, r"digits\.npz is a summary of something else \(split 'test'"),
        ({"reservoir": 50}, r"reservoir 10000, not 50\): remove it, or set"),
    ):
        other = config.copy_and_resolve_references()
        other.evaluate.update(changes)
        with pytest.raises(ConfigError, match=message):
            reference.reference(other, tmp_path)
    (tmp_path / "digits.npz").write_bytes(b"half")
    with pytest.raises(ConfigError, match=r"digits\.npz is damaged"):
        reference.reference(config, tmp_path)


@pytest.mark.parametrize("solver", ["ancestral", "probability_flow(rtol=1e-3, atol=1e-3)"])
def test_a_sample_is_drawn_by_its_number(gaussian, solver):
    """Whatever the size of the batches; but for a level where rounding decides between two."""
    config, workdir = gaussian
    drawn = []
    for size in (8, 24):
        config = config.copy_and_resolve_references()
        config.sampling.update({"solver": solver, "steps": 10, "batch_size": size})
        experiment, params, _ = workdirs.restore(config, workdir)
        images, *_ = draw(config, experiment, params, 24)
        drawn.append(images)
    assert np.sum(drawn[0] != drawn[1]) <= 2
    assert len({image.tobytes() for image in drawn[0]}) == 24


def test_a_budget_is_spent_on_steps(gaussian):
    """20 evaluations, sampling.denoise being off: PNDM takes four for each of its first three
    steps, `restart` two a step and 2 * 2 * 1 once, `start_order=3` three for each of its first two.
    An adaptive solver alone gets a grid of one step."""
    config = gaussian[0].copy_and_resolve_references()
    config.evaluate.samplers = (
        "pndm",
        "restart(steps=1)",
        "dpmpp(order=3, start_order=3)",
        "heun",
        "probability_flow",
        "dpm_adaptive",
    )
    for nfe, steps in ((20,), (11, 8, 16, 10, 1, 1)), ((), (40, 40, 40, 40, 1, 1)):
        config.evaluate.nfe = nfe
        found = [variant.sampling.steps for _, variant in samples.variants_of(config)]
        assert found == list(steps)


def test_samples_of_pndm_are_those_of_the_data(gaussian):
    """Their mean is that of the levels of N(0, STD^2), within four standard errors, from the
    evaluations that were asked for. On one step PNDM leaves noise of thousands."""
    config, workdir = gaussian
    config = config.copy_and_resolve_references()
    config.evaluate.update({"parts": ("metrics",), "samplers": ("pndm",), "nfe": (25,)})
    config.evaluate.num_samples = 100
    evaluate.evaluate(config, workdir)
    row = json.loads((workdir / "evaluate.json").read_text())["metrics"]["rows"][1]
    mean, variance = moments_of_levels()
    assert row["nfe"] == 25
    assert abs(row["mean_feature"] - mean) < 4 * np.sqrt(variance / (100 * 64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parts": ("losses",)}, r"evaluate\.parts=\('losses',\): one or more of loss, likeli"),
        ({"samplers": ("dimm on karras",)}, r"unknown name 'dimm'; did you mean 'ddim'"),
        ({"samplers": ("ddim on karass",)}, r"unknown name 'karass'; did you mean 'karras'"),
        ({"samplers": ("heun",), "nfe": (1,)}, r"evaluate\.nfe=1 is too little for heun"),
        ({"features": "pixel"}, r"unknown name 'pixel'; did you mean 'pixels'"),
        ({"num_samples": 3}, r"evaluate\.num_samples must be at least 10, not 3"),
    ],
)
def test_mistakes_are_told(gaussian, options, message):
    config, workdir = gaussian
    config = config.copy_and_resolve_references()
    config.evaluate.update({"parts": ("metrics",)} | options)
    with pytest.raises(ConfigError, match=message):
        evaluate.evaluate(config, workdir)
