"""Edits against exact posteriors and laws in closed form, and mode edit as a user meets it."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from score_sde import inverse, solvers
from score_sde.config import build
from score_sde.data import read_images
from score_sde.editing import tasks
from score_sde.errors import CheckpointError, ConfigError, DataError
from score_sde.experiment import build as experiments
from score_sde.experiment import workdirs
from score_sde.inverse import fourier
from score_sde.modes import detect, sample
from score_sde.modes import edit as mode
from score_sde.processes import DDPM, VP
from score_sde.processes.exact import Dataset, Gaussian
from score_sde.sampling import grids
from score_sde.sampling.likelihood import interpolate
from tests.modes.test_train import small, untrained
from tests.stored import arrays

SHAPE = (4, 4, 1)
D = 16


def tools(sde, solver, steps=40, **options):
    return tasks.Tools(
        **{"shape": SHAPE} | options,
        sde=sde,
        solver=solver(sde),
        grid=lambda sde: grids.log_snr(sde, steps),
        method=lambda observation: inverse.mmps(sde, observation, iterations=8),
    )


def run(edit, denoiser, *sources, seed=0):
    return jax.device_get(
        jax.jit(lambda key, *x: edit.run(key, lambda k: denoiser, *x))(
            jax.random.key(seed), *sources
        )
    )


def correlated(d=D):
    """A Gaussian with a mean of its own, and correlations between neighbours."""
    places = np.stack(np.divmod(np.arange(d), 4), 1)
    square = np.sum((places[:, None] - places[None]) ** 2, axis=-1)
    return np.linspace(-0.5, 0.5, d), 0.09 * np.exp(-square / 4) + 0.01 * np.eye(d)


def close_in_law(x, mean, cov):
    """Means and covariances of draws [n, d], each within five of its own standard errors, or to
    rounding where there is no variance."""
    n, std = len(x), np.sqrt(np.maximum(np.diag(cov), 0))
    assert np.all(np.abs(x.mean(0) - mean) < 5 * std / np.sqrt(n) + 1e-9)
    error = np.sqrt((np.outer(std, std) ** 2 + cov**2) / n)
    assert np.all(np.abs(np.cov(x.T) - cov) < 5 * error + 1e-9)


@pytest.mark.parametrize(
    ("spec", "shape", "noise"),
    [("inpaint(keep='left')", SHAPE, 0.0), ("colourise", (4, 2, 3), 0.1)],
)
def test_completions_of_a_gaussian_are_its_posterior(x64, spec, shape, noise):
    """Means and covariances; without noise known pixels are the source's to the last digit."""
    d = int(np.prod(shape))
    mean, cov = correlated(d)
    denoiser = Gaussian(jnp.asarray(mean), jnp.asarray(cov)).denoiser(VP())
    source = jax.random.normal(jax.random.key(3), (1, *shape)) / 3
    kit = tools(VP(), solvers.dpmpp, completions=1000, noise=noise, shape=shape)
    out = run(build("editing.tasks", spec, kit), denoiser, source)
    if noise:  # the mean of the channels
        a = np.kron(np.eye(d // 3), np.full((1, 3), 1 / 3))
        y = out.seen["observed"].mean(axis=-1).reshape(-1)
        assert np.std(y - a @ np.asarray(source).reshape(d)) < 3 * noise
    else:
        known = np.tile([True, True, False, False], 4)
        a, y = np.eye(d)[known], np.asarray(source).reshape(d)[known]
        x = out.x.reshape(-1, d)[:, known]
        np.testing.assert_array_equal(x, np.broadcast_to(y, x.shape))
        np.testing.assert_array_equal(out.errors["known_error"], np.zeros((1, 1000)))
    gain = cov @ a.T @ np.linalg.inv(a @ cov @ a.T + noise**2 * np.eye(len(a)))
    close_in_law(out.x.reshape(-1, d), mean + gain @ (y - a @ mean), cov - gain @ a @ cov)
    # the network's evaluations alone: one a step and one at the end
    assert out.nfe == 41


def test_what_was_hidden_is_denoised_and_differs():
    """Six pictures, of which the left half tells two groups. Sampling ends with noise of a tenth,
    and yet every completion is one of the three pictures that have this left half, to a
    ten-thousandth; each a third of the time, within four errors, as the posterior has it."""
    rng, n = np.random.default_rng(0), 150
    points = rng.choice([-0.8, 0.8], (6, *SHAPE)).astype(np.float32)
    points[:3, :, :2], points[3:, :, :2] = points[0, :, :2], points[3, :, :2]
    sde = dataclasses.replace(VP(), t_min=float(VP().t_of_log_snr(jnp.asarray(2 * np.log(10)))))
    denoiser = Dataset(jnp.asarray(points)).denoiser(sde)
    edit = tasks.inpaint(tools(sde, solvers.ancestral, completions=n, bounds=(-0.8, 0.8)))
    out = run(edit, denoiser, jnp.asarray(points[[1, 5]]))
    for x, group in zip(out.x, (points[:3], points[3:]), strict=True):
        away = np.abs(x[:, None] - group[None]).reshape(n, 3, D).max(axis=2)
        assert np.all(away.min(axis=1) < 1e-4)
        counts = np.bincount(away.argmin(axis=1), minlength=3)
        assert np.all(np.abs(counts - n / 3) < 4 * np.sqrt(n * 2 / 9))
        known = np.broadcast_to(group[0, :, :2], (n, 4, 2, 1))
        np.testing.assert_array_equal(x[:, :, :2], known)


def test_image_to_image_of_a_gaussian(x64):
    """x_t = alpha x + sigma z, pushed back. The ODE keeps the standardised x_t; the SDE draws from
    p(x_0 | x_t). Both in the eigenbasis of the covariance, for which there are closed forms, and
    both by one program: the SDE with tau = 0 is the ODE."""
    mean, cov = correlated()
    sde, log_snr, n = VP(), -0.5, 2000
    source = jax.random.normal(jax.random.key(3), (1, *SHAPE)) / 3
    denoiser = Gaussian(jnp.asarray(mean), jnp.asarray(cov)).denoiser(sde)

    def draw(tau):
        kit = tools(sde, lambda sde: solvers.dpmpp_sde(sde, tau=tau), 80, completions=n)
        edit = tasks.image_to_image(kit, log_snr=log_snr)
        return edit.run(jax.random.key(0), lambda k: denoiser, source).x

    ode, reverse_sde = np.asarray(jax.jit(jax.vmap(draw))(jnp.array([0.0, 1.0])))
    alpha2 = 1 / (1 + np.exp(-log_snr))
    alpha, sigma2 = np.sqrt(alpha2), 1 - alpha2
    values, basis = np.linalg.eigh(cov)
    variance = alpha2 * values + sigma2  # of x_t
    for x, gain, left in (
        (ode, np.sqrt(values / variance), 0 * values),
        (reverse_sde, alpha * values / variance, values * sigma2 / variance),
    ):
        center = mean + (basis * gain * alpha) @ basis.T @ (np.asarray(source).reshape(D) - mean)
        close_in_law(x.reshape(n, D), center, (basis * (gain**2 * sigma2 + left)) @ basis.T)


def test_latent_edits_of_a_gaussian(x64, monkeypatch):
    """The ODE standardises: latents, what is made of them, and the way back in closed form. Both
    edits in one program."""
    mean, cov = correlated()
    sde = VP()
    values, basis = np.linalg.eigh(cov)

    def transport(x, start, end):
        alphas, sigmas = (
            [float(f(jnp.asarray(t))) for t in (start, end)] for f in (sde.alpha, sde.sigma)
        )
        stds = [np.sqrt(a**2 * values + s**2) for a, s in zip(alphas, sigmas, strict=True)]
        z = (np.asarray(x).reshape(-1, D) - alphas[0] * mean) @ basis * (stds[1] / stds[0])
        return (alphas[1] * mean + z @ basis.T).reshape(-1, *SHAPE)

    kit = tools(sde, solvers.dpmpp, denoise=False)
    by_latents, made = tasks.by_latents, []

    def remembered(tools, *rest):
        made.append(rest)
        return by_latents(tools, *rest)

    monkeypatch.setattr(tasks, "by_latents", remembered)
    tasks.interpolate(kit, points=3)
    tasks.mix(kit, cutoffs=(1.0,))
    (between, *_), (mixed, *_) = made

    def both(a, b):
        return jnp.concatenate([between(a, b), mixed(a, b)])

    edit = by_latents(kit, both, made[0][1] + made[1][1], 1e-7)
    assert edit.labels == ("0", "0.5", "1", "up to 1")
    a, b = jax.random.normal(jax.random.key(5), (2, 2, *SHAPE)) / 3
    denoiser = Gaussian(jnp.asarray(mean), jnp.asarray(cov)).denoiser(sde)
    out = run(edit, denoiser, a, b)
    la, lb = (transport(x, sde.t_min, sde.t_max) for x in (a, b))
    middle = interpolate(jnp.asarray(la), jnp.asarray(lb), jnp.asarray([0.5]))[0]
    low = ((la - lb).reshape(-1, D) @ rows_of_low_pass(1.0)).reshape(la.shape)
    latents = (la, middle, lb, lb + low)
    truth = np.stack([transport(x, sde.t_max, sde.t_min) for x in latents], axis=1)
    np.testing.assert_allclose(out.x, truth, atol=1e-5)


def rows_of_low_pass(cutoff):
    """The projection on waves of |f| <= cutoff, from the waves themselves."""
    row, column = np.divmod(np.arange(D), 4)
    waves = []
    for i in range(-1, 3):
        for j in range(-1, 3):
            if np.hypot(i, j) <= cutoff:
                phase = 2 * np.pi * (i * row + j * column) / 4
                waves += [np.cos(phase), np.sin(phase)]
    u, s, _ = np.linalg.svd(np.array(waves).T, full_matrices=False)
    u = u[:, s > 1e-9]
    return u @ u.T


def test_a_mixture_of_white_latents_is_white(x64):
    """[P, 1 - P] has orthonormal rows, P being the projection on low frequencies."""
    unit = jnp.eye(D).reshape(D, *SHAPE)
    none = jnp.zeros_like(unit)
    for cutoff in (0.0, 1.0, 1.5, 2.0):
        p = np.asarray(tasks.mixture(unit, none, cutoff)).reshape(D, D).T
        rest = np.asarray(tasks.mixture(none, unit, cutoff)).reshape(D, D).T
        np.testing.assert_allclose(p, rows_of_low_pass(cutoff), atol=1e-12)
        np.testing.assert_allclose(p @ p.T + rest @ rest.T, np.eye(D), atol=1e-12)
    assert np.linalg.matrix_rank(np.asarray(fourier.low_pass(unit, 1.0)).reshape(D, D)) == 5


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("inpant", "unknown name 'inpant'; did you mean 'inpaint'"),
        ("inpaint(keep='up')", "unknown keep 'up'"),
        ("inpaint(keep='no.png')", "no.png"),
        ("colourise", "one channel have no colours"),
        ("super_resolution(factor=3)", "factor must divide"),
        ("image_to_image(log_snr=-40.0)", "log_snr must be between"),
        ("interpolate(points=1)", "at least 2 points"),
        ("mix(cutoffs=())", "at least one result"),
    ],
)
def test_a_wrong_edit_is_told(spec, message):
    with pytest.raises((ConfigError, DataError), match=message):
        build("editing.tasks", spec, tools(VP(), solvers.dpmpp))


@pytest.mark.parametrize("spec", ["inpaint", "colourise", "deblur", "mix"])
def test_edits_of_images_are_of_images(spec):
    kit = tools(VP(), solvers.dpmpp)._replace(shape=(64,))
    with pytest.raises(ConfigError, match=r"height, width and channels, not the shape \(64,\)"):
        build("editing.tasks", spec, kit)


def test_a_chain_cannot_begin_in_between():
    chain = DDPM(num_steps=100)
    with pytest.raises(ValueError, match=r"from t=0\.909.*sampling\.grid=log_snr"):
        tasks.image_to_image(
            tools(chain, solvers.ancestral)._replace(grid=lambda sde: grids.leading(sde, 10))
        )


# The modes, on a network whose output is zero: with EDM's parametrization it is the exact denoiser
# of N(0, sigma_data^2 I).


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("edit")
    config = settings()
    untrained(config, workdir)
    return workdir


def settings(**changes):
    options = {
        "parametrization": "edm(sigma_data=0.4)",
        "c_noise": "log_snr(scale=0.1)",
        "sampling.solver": "dpmpp",
        "sampling.grid": "log_snr",
        "sampling.steps": 20,
        "sampling.batch_size": 64,
        "edit.num_images": 5,
        "edit.completions": 3,
        "edit.method": "pigdm(data_std=0.4)",
    }
    return small(**options | changes)


def test_mode_edit_keeps_known_pixels_bit_for_bit(workdir, tmp_path):
    mask = np.zeros((8, 8), np.uint8)
    mask[2:7, 1:5] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    (workdir / "edit").mkdir(exist_ok=True)
    (workdir / "edit" / "of_the_run_before.png").touch()
    result = mode.edit(settings(**{"edit.task": f"inpaint(keep='{tmp_path}/mask.png')"}), workdir)
    assert json.loads((workdir / "edit.json").read_text()).items() >= result.items()
    found = arrays(workdir / "edit.npz")
    test = experiments.build_experiment(settings()).data.test
    source = np.round(255 / 16 * np.stack([test[i]["image"] for i in range(5)]))
    np.testing.assert_array_equal(found["source"], source)
    each = np.broadcast_to(np.asarray(source)[:, None], (5, 3, 8, 8, 1))
    known = np.broadcast_to(mask[..., None] > 0, each.shape)
    np.testing.assert_array_equal(found["results"][known], each[known])
    hidden = found["x"][~known]  # 5 * 3 * 44 numbers N(0, 0.16): four errors of mean and variance
    assert abs(hidden.mean()) < 4 * 0.4 / np.sqrt(hidden.size)
    assert abs(hidden.var() / 0.16 - 1) < 4 * np.sqrt(2 / hidden.size)
    # the spread is that of three draws, in 44 of 64 pixels
    assert result["spread"] == pytest.approx(0.4 * np.sqrt(2 / 3 * 44 / 64), rel=0.15)
    files = sorted(path.name for path in (workdir / "edit").iterdir())
    names = [f"{i}_test_{i:04d}_{j}.png" for i in range(5) for j in (1, 2, 3)]
    assert files == names
    for i, j in ((0, 0), (4, 2)):
        np.testing.assert_array_equal(
            np.asarray(Image.open(workdir / "edit" / names[3 * i + j])),
            found["results"][i, j, ..., 0],
        )
    # the first column of the grid are the images, enlarged
    grid = np.asarray(Image.open(workdir / "edit.png"))
    assert np.all(np.isin(np.unique(source), grid))


def picture(path, size=8, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def test_files_are_read_as_they_are(tmp_path):
    a, b = picture(tmp_path / "b.png"), picture(tmp_path / "a.bmp", seed=1)
    (tmp_path / "notes.txt").write_text("no image")
    images, names = read_images(tmp_path, (8, 8, 1))
    np.testing.assert_array_equal(images[..., 0], [b, a])
    assert names == ["a.bmp", "b.png"]
    images, _ = read_images(tmp_path / "b.png", (8, 8, 3))
    np.testing.assert_array_equal(images[0], np.stack([a] * 3, axis=-1))
    halves, _ = read_images(tmp_path / "b.png", (4, 4, 1), resize=True)
    means = a.reshape(4, 2, 4, 2).mean(axis=(1, 3))
    assert np.abs(halves[0, ..., 0] - means).max() <= 1  # it rounds along each side
    np.savez(tmp_path / "c.npz", samples=images)
    np.testing.assert_array_equal(read_images(tmp_path / "c.npz", (8, 8, 3))[0], images)
    with pytest.raises(DataError, match=r"uint8 \[n, 8, 8, 1\], but has uint8 \[1, 8, 8, 3\]"):
        read_images(tmp_path / "c.npz", (8, 8, 1))


def test_mistakes_of_mode_edit_are_one_line_and_write_nothing(workdir, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match="no checkpoint"):
        mode.edit(settings(), tmp_path / "nowhere")
    restored = workdirs.restore(settings(), workdir)  # once
    monkeypatch.setattr(mode, "restore", lambda config, workdir: restored)
    picture(tmp_path / "large.png", 10)
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}
    for changes, error, message in [
        ({"edit.completions": 0}, ConfigError, "edit.completions must be at least 1, not 0"),
        ({"edit.num_images": 0}, ConfigError, "edit.num_images must be at least 1"),
        ({"edit.particles": 8}, ConfigError, "twisted takes 2 or more"),
        ({"sampling.labels": (3,)}, ConfigError, "the network has no classes"),
        ({"edit.noise": -1.0}, ConfigError, "noise is a standard deviation"),
        ({"edit.method": "mmpss"}, ConfigError, "unknown name 'mmpss'"),
        ({"edit.task": f"inpaint(keep='{tmp_path}/large.png')"}, DataError, "has 10x10 pixels"),
        ({"edit.task": f"inpaint(keep='{tmp_path}/text.png')"}, DataError, "cannot be read"),
        ({"edit.images": f"{tmp_path}/large.png"}, DataError, r"has 10x10 .*edit\.resize"),
        ({"edit.images": f"{tmp_path}/text.png"}, DataError, "cannot be read as an image"),
        ({"edit.images": f"{tmp_path}/empty"}, DataError, "holds no image"),
        ({"edit.images": f"{tmp_path}/no.png"}, DataError, "does not exist"),
        ({"edit.task": "mix", "edit.num_images": 1}, ConfigError, "takes 2 images at a time"),
        ({"sampling.steps": 0}, ConfigError, "steps must be at least 1"),
    ]:
        with pytest.raises(error, match=message) as caught:
            mode.edit(settings(**changes), workdir)
        assert "\n" not in str(caught.value)
    assert before == {path: path.stat().st_mtime_ns for path in workdir.rglob("*")}


def test_samples_bear_the_watermark_and_test_images_do_not(workdir):
    """The samples as mode sample stores them, 17 levels."""
    config = settings(
        **{
            "watermark.key": 5,
            "watermark.num_control": 128,
            "watermark.method": "Bosh3",
            "sampling.num_samples": 64,
        }
    )
    sample.sample(config, workdir)
    result = detect.detect(config, workdir)
    assert result["samples.npz, share of p < 0.001"] >= 0.95
    assert result["test images, share of p < 0.001"] <= 0.01
    stored = json.loads((workdir / "detect.json").read_text())["p_values"]
    assert len(stored) == 64
    assert (workdir / "detect.png").exists()
    for changes, message in [
        ({"watermark.key": None}, "watermark.key is not set"),
        ({"watermark.rtol": 0.0}, "watermark.rtol must be positive"),
    ]:
        wrong = config.copy_and_resolve_references()
        wrong.update_from_flattened_dict(changes)
        with pytest.raises(ConfigError, match=message):
            detect.detect(wrong, workdir)
    config.sampling.solver = "ancestral"
    with pytest.raises(ConfigError, match="a sampler without noise of its own"):
        sample.sample(config, workdir)
