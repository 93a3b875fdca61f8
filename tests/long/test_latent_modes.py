"""The modes of a latent model, against an autoencoder whose latents are known: its squares of 2 x 2
pixels are four channels, and nothing is lost."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import score_sde
from configs import digits_autoencoder
from score_sde.data import digits, gather
from score_sde.data import pairs as pair_files
from score_sde.errors import CheckpointError, ConfigError
from score_sde.evaluation.metrics.frechet import frechet_distance
from score_sde.experiment import build, edits, frozen, teachers, workdirs
from score_sde.experiment.drawing import draw
from score_sde.modes import detect, edit, encode, evaluate, likelihood, pairs, sample
from score_sde.modes.train import train
from tests import latents
from tests.latents import gaussian, small, untrained
from tests.stored import arrays


class Dark(latents.Blocks):
    """Its images are half as far from the middle."""

    def decode(self, z):
        return super().decode(z) / 2


class Mixed(latents.Blocks):
    """The decoder turns the 4 numbers of a square, and the encoder knows nothing of it."""

    def decode(self, z):
        turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(4, 4)))
        return super().decode(z @ jnp.asarray(turn, z.dtype))


@pytest.fixture(scope="module", autouse=True)
def networks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latents, "NETS", {**latents.NETS, "dark": Dark(), "mixed": Mixed()})
        patch.setattr(workdirs, "load_frozen", latents.load)
        yield


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("latent")
    untrained(gaussian(), workdir)
    return workdir


def images(split, n=None):
    source = getattr(digits(), split)
    return gather(source, np.arange(len(source) if n is None else n))["image"]


def shown(raw):
    return np.round(255 / 16 * raw.astype(float))


# Editing


def test_a_mask_of_images_keeps_latents_whose_pixels_are_all_known(workdir, tmp_path):
    """Rows 2 to 6 and columns 1 to 4 are white: of squares of 2 x 2, rows 2 to 5 and columns 2, 3.
    These come back as they are; the rest are N(0, 0.16), four errors of mean and variance."""
    mask = np.zeros((8, 8), np.uint8)
    mask[2:7, 1:5] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    options = {"edit.num_images": 5, "edit.completions": 3, "edit.method": "pigdm(data_std=0.4)"}
    options |= {"sampling.solver": "dpmpp", "sampling.steps": 20}
    config = gaussian(**options, **{"edit.task": f"inpaint(keep='{tmp_path}/mask.png')"})
    edit.edit(config, workdir)
    found = arrays(workdir / "edit.npz")
    source = shown(images("test", 5))
    np.testing.assert_array_equal(found["source"], source)
    known = np.zeros((8, 8, 1), bool)
    known[2:6, 2:4] = True
    each = np.broadcast_to(source[:, None], (5, 3, 8, 8, 1))
    everywhere = np.broadcast_to(known, each.shape)
    np.testing.assert_array_equal(found["results"][everywhere], each[everywhere])
    drawn = found["x"].reshape(5, 3, 4, 4, 4)
    inside = np.zeros((4, 4), bool)
    inside[1:3, 1] = True
    hidden = drawn[:, :, ~inside]
    assert abs(hidden.mean()) < 4 * 0.4 / np.sqrt(hidden.size)
    assert abs(hidden.var() / 0.16 - 1) < 4 * np.sqrt(2 / hidden.size)
    assert json.loads((workdir / "edit.json").read_text())["known_error"] < 1e-6


def test_images_of_a_user_are_read_at_their_own_size(workdir, tmp_path):
    """With hardly any noise image to image gives them back, at the nearest of 17 values."""
    pixels = np.random.default_rng(0).integers(0, 17, (8, 8))
    Image.fromarray(shown(pixels).astype(np.uint8)).save(tmp_path / "mine.png")
    options = {"edit.task": "image_to_image(log_snr=9.0)", "edit.completions": 2}
    config = gaussian(**options, **{"edit.images": f"{tmp_path}/mine.png"})
    edit.edit(config, workdir)
    found = arrays(workdir / "edit.npz")
    np.testing.assert_array_equal(found["source"][0, ..., 0], shown(pixels))
    away = np.abs(found["results"][0, :, ..., 0].astype(float) - shown(pixels)[None])
    assert away.max() <= 16  # e^-4.5 of noise is .006 of the range
    assert away.mean() < 0.5


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("colourise", "colourise is linear in pixels, and x are latents: take inpaint"),
        ("super_resolution", "super_resolution is linear in pixels"),
        ("deblur", "deblur is linear in pixels"),
        ("inpaint(keep='left', fraction=0.125)", "keeps no latent: each stands for .* 2x2 pixels"),
    ],
)
def test_edits_that_are_none_of_latents(workdir, task, message):
    config = gaussian(**{"edit.task": task})
    experiment = workdirs.load(config)
    with pytest.raises(ConfigError, match=message):
        edits.build_plan(config, experiment)


# What needs a density, and what does not


def test_there_is_no_likelihood_of_images(workdir):
    line = "likelihood: a density of latents is none of images.*codec is pixels"
    with pytest.raises(ConfigError, match=line):
        likelihood.likelihood(gaussian(), workdir)
    config = gaussian(**{"evaluate.parts": ("likelihood",)})
    with pytest.raises(ConfigError, match=line):
        evaluate.evaluate(config, workdir)
    model = score_sde.load(workdir)
    with pytest.raises(ConfigError, match=line):
        model.log_likelihood(jax.random.key(0), images("test", 2))


def test_the_model_of_a_notebook(workdir):
    """x that are given are shown by the decoder; samples are those of the mode."""
    model = score_sde.load(workdir)
    raw = images("test", 3)
    squares = raw.reshape(3, 4, 2, 4, 2).transpose(0, 1, 3, 2, 4).reshape(3, 4, 4, 4)
    np.testing.assert_array_equal(model.show(squares.astype(np.float32) / 8 - 1), shown(raw))
    sample.sample(gaussian(), workdir)
    key = build.key_for(gaussian(), "sample")
    truth = arrays(workdir / "samples.npz")["samples"]
    np.testing.assert_array_equal(model.sample(key, 8), truth)


def test_samples_bear_the_watermark_in_latents(workdir):
    """Of noise in latents, found by the encoder in images of 17 values."""
    options = {"watermark.key": 5, "watermark.num_control": 64, "watermark.method": "Bosh3"}
    options |= {"sampling.num_samples": 64, "sampling.solver": "dpmpp", "sampling.steps": 20}
    config = gaussian(**options)
    sample.sample(config, workdir)
    result = detect.detect(config, workdir)
    assert result["samples.npz, share of p < 0.001"] >= 0.95
    assert result["test images, share of p < 0.001"] <= 0.05


def test_the_watermark_is_found_by_inverting_the_decoder(tmp_path):
    """Where the encoder gives other latents than those that the image was made of."""
    options = {"watermark.key": 5, "watermark.num_control": 64, "watermark.method": "Bosh3"}
    options |= {"sampling.num_samples": 64, "sampling.solver": "dpmpp", "sampling.steps": 20}
    config = gaussian("mixed", **options)
    untrained(config, tmp_path)
    sample.sample(config, tmp_path)
    found = {}
    for steps in (0, 300):
        config.watermark.decoder_steps = steps
        found[steps] = detect.detect(config, tmp_path)
    assert found[0]["samples.npz, share of p < 0.001"] <= 0.05
    assert found[300]["samples.npz, share of p < 0.001"] >= 0.95
    assert found[300]["test images, share of p < 0.001"] <= 0.05


def test_pairs_are_of_latents(workdir):
    """The flow of N(0, s^2) is a change of scale, sqrt(m_0/m_T) with m = alpha^2 s^2 + sigma^2; the
    examples that reflow learns from are x and noise alone."""
    options = {"sampling.solver": "dpmpp", "sampling.steps": 50, "sampling.denoise": False}
    config = gaussian(**{"pairs.number": 40}, **options)
    pairs.pairs(config, workdir)
    found = pair_files.read(workdir / "pairs.npz")
    sde = workdirs.load(config).model.sde
    low, high = (
        (float(sde.alpha(t)) * 0.4) ** 2 + float(sde.sigma(t)) ** 2
        for t in (np.float32(config.sampling.t_min), np.float32(sde.t_max))
    )
    start = (
        float(sde.alpha(np.float32(1))) * found.x + float(sde.sigma(np.float32(1))) * found.noise
    )
    np.testing.assert_allclose(found.x, np.sqrt(low / high) * start, rtol=3e-3, atol=3e-3)
    reflow = gaussian()
    reflow.objective = {
        "name": "reflow",
        "teacher": str(workdir),
        "pairs": "pairs.npz",
        "time_law": "uniform",
        "weighting": "simple",
        "drop_cond": 0.0,
    }
    experiment = teachers.load(reflow)
    raw = {name: part[None] for name, part in experiment.data.train[7].items()}
    assert set(raw) == {"label", "x", "noise"}
    batch = experiment.prepare(jax.random.key(0), raw)
    np.testing.assert_array_equal(batch["x"][0], found.x[7])
    np.testing.assert_array_equal(batch["noise"][0], found.noise[7])


# Evaluation


def test_how_near_images_come_back(tmp_path):
    """dB and the Frechet distance, by NumPy: x is halved, and rounded to 17 values."""
    config = gaussian("dark", **{"evaluate.parts": ("reconstruction",)})
    untrained(config, tmp_path)
    evaluate.evaluate(config, tmp_path)
    found = json.loads((tmp_path / "evaluate.json").read_text())["reconstruction"]
    raw = images("test").astype(float)
    back = np.floor((raw / 8 - 1) / 2 * 8 + 8 + 0.5)
    seen, rebuilt = shown(raw), shown(back)
    square = np.mean((seen - rebuilt) ** 2, axis=(1, 2, 3))
    decibel = 10 * np.log10(255**2 / square)
    assert found["num_images"] == 297
    assert found["psnr"] == pytest.approx(decibel.mean(), abs=1e-3)
    assert found["standard_error"] == pytest.approx(decibel.std(ddof=1) / np.sqrt(297), rel=1e-3)
    flat = [a.reshape(297, -1) / 255 for a in (rebuilt, seen)]
    moments = [m for a in flat for m in (a.mean(0), np.cov(a.T))]
    assert found["frechet"] == pytest.approx(frechet_distance(*moments), rel=1e-4)
    assert f"{found['psnr']:.4g}" in (tmp_path / "evaluate.md").read_text()


def test_a_report_on_images_and_on_moments(workdir, tmp_path):
    """The same samples; what they are compared with are images, or what the decoder makes of
    latents, as the report says. Of moments alone nothing can be told of the autoencoder."""
    options = {"evaluate.parts": ("metrics", "copies", "field"), "evaluate.num_samples": 64}
    encode.encode(small(), tmp_path)
    cache, found = {"name": "encoded", "path": str(tmp_path / "encoded")}, []
    for data in (None, cache):
        config = gaussian(**options)
        if data is not None:
            config.data = data
            (workdir / "reference_test.npz").unlink()
            (workdir / "reference_train.npz").unlink()
        evaluate.evaluate(config, workdir)
        found.append(json.loads((workdir / "evaluate.json").read_text()))
    assert [a["metrics"]["reference"] for a in found] == ["test images", "test images, decoded"]
    assert found[1]["metrics"]["rows"][0]["sampler"] == "train images, decoded"
    assert found[0]["metrics"]["rows"][1] == found[1]["metrics"]["rows"][1]  # nothing is lost
    assert found[0]["metrics"]["rows"][1]["num_blank"] == 0
    assert found[0]["copies"] == found[1]["copies"]
    # the ideal score of latents, which are drawn, is not known; the field is that of a Gaussian
    assert set(found[0]["field"]) == {"jacobian_asymmetry", "fokker_planck_residual"}
    np.testing.assert_allclose(found[0]["field"]["jacobian_asymmetry"]["value"], 0, atol=1e-3)
    config = gaussian(**{"evaluate.parts": ("reconstruction",)})
    config.data = cache
    with pytest.raises(ConfigError, match=r"finds no difference.*config\.data="):
        evaluate.evaluate(config, workdir)


def test_samples_do_not_depend_on_the_data_set(workdir, tmp_path):
    """A model that was trained on moments samples with them and without, label for label."""
    encode.encode(small(), tmp_path)
    drawn = []
    for data in ({"name": "digits"}, {"name": "encoded", "path": str(tmp_path / "encoded")}):
        config = gaussian()
        config.data = data
        experiment, params, _ = workdirs.restore(config, workdir)
        drawn.append(draw(config, experiment, params, 8)[:2])
    for ours, truth in zip(*map(jax.tree.leaves, drawn), strict=True):
        np.testing.assert_array_equal(ours, truth)


# An autoencoder of its own


def autoencoder():
    config = digits_autoencoder.get_config()
    config.net.update(channels=4, num_res_blocks=1, groups=2, latent_channels=2)
    config.train.update(steps=2, batch_size=16, sample_every=1, log_every=2)
    config.optim.warmup = 1
    config.evaluate.parts = ("loss", "reconstruction")
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("autoencoder")
    train(autoencoder(), workdir)
    return workdir


def test_an_autoencoder_shows_what_comes_back(trained):
    """Rows of test images, each above what becomes of them: eight images of 8 x 8, enlarged, with a
    frame around each."""
    picture = np.asarray(Image.open(trained / "reconstructions_1.png").convert("L"))
    assert not list(trained.glob("samples*.png"))
    cell = picture.shape[1] // 8
    scale, gap = 7, cell - 56
    raw = shown(images("test", 32)).reshape(4, 8, 8, 8)
    model = workdirs.restore(autoencoder(), trained)
    differing = 0
    for row in range(4):
        for column in range(8):
            top, left = gap + 2 * row * cell, gap + column * cell
            place = picture[top : top + 56 : scale, left : left + 56 : scale]
            np.testing.assert_array_equal(place, raw[row, column])
            below = picture[top + cell : top + cell + 56 : scale, left : left + 56 : scale]
            differing += np.any(below != raw[row, column])
    assert differing == 32
    assert model.step == 2


def test_an_autoencoder_is_evaluated(trained):
    """It has no samples, in one line."""
    evaluate.evaluate(autoencoder(), trained)
    found = json.loads((trained / "evaluate.json").read_text())
    model = workdirs.restore(autoencoder(), trained)
    codec, result = model.experiment.codec, model.experiment.objective.result
    raw = images("test")
    x = codec.middle(raw)
    back = np.asarray(codec.show(codec.decode(result(model.params, {})(x, x[:, 0, 0, 0]))), float)
    square = np.mean((back - shown(raw)) ** 2, axis=(1, 2, 3))
    truth = np.mean(10 * np.log10(255**2 / square))
    assert found["reconstruction"]["psnr"] == pytest.approx(truth, abs=0.02)
    with pytest.raises(ConfigError, match=r"does not denoise.*an autoencoder is a codec"):
        sample.sample(autoencoder(), trained)


def test_latents_of_an_autoencoder_have_unit_variance(trained, monkeypatch):
    """Of the training images: mean 0 and variance 1 in each channel, draws included. The numbers
    are measured once, and again for other parameters; a classifier's workdir is no autoencoder."""
    monkeypatch.undo()

    def load(folder):
        return frozen.load(
            folder, lambda path: workdirs.restore_as(workdirs.stored_config(path), path)
        )

    monkeypatch.setattr(workdirs, "load_frozen", load)
    config = small(str(trained))
    experiment = workdirs.load(config)
    codec = experiment.codec
    assert (codec.shape, codec.inner.shape, codec.medium) == ((4, 4, 2), (8, 8, 1), "images")
    raw = images("train", 1472)  # whole batches of 64
    x = np.asarray(codec.encode(jax.random.key(0), raw), float)
    np.testing.assert_allclose(x.mean((0, 1, 2)), 0, atol=0.02)
    np.testing.assert_allclose(x.std((0, 1, 2)), 1, atol=0.02)
    path = trained / "latents.json"
    stored = json.loads(path.read_text())
    path.write_text(json.dumps({**stored, "shift": [9.0, 9.0]}))
    assert workdirs.load(config).codec.shift == (9.0, 9.0)
    path.write_text(json.dumps({**stored, "shift": [9.0, 9.0], "sha256": "of others"}))
    assert workdirs.load(config).codec.shift == pytest.approx(stored["shift"])
    with pytest.raises(CheckpointError, match=r"^nowhere is no folder, and the config names it"):
        workdirs.load(small("nowhere"))
