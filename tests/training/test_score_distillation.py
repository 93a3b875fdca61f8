"""Score distillation: where it ends on laws that are known."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_sde.config import build
from score_sde.inverse import rendering
from score_sde.processes import EDM, VP, Flow, exact
from score_sde.training.score_distillation import View, distil, losses

MEAN = np.array([1.0, -0.5, 0.3])
COV = np.array([[0.5, 0.2, 0.0], [0.2, 0.3, -0.1], [0.0, -0.1, 0.2]])
PROCESSES = [VP(), EDM(t_min=0.02, t_max=10.0), Flow(t_min=0.01)]


def how(law="uniform(stratified=True)", weighting="simple"):
    return {
        "time_law": build("training.time_law", law),
        "weighting": build("training.weighting", weighting),
    }


def gaussian():
    return exact.Gaussian(jnp.asarray(MEAN), jnp.asarray(COV))


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
@pytest.mark.parametrize("weighting", ["simple", "v"])
def test_the_gradient_is_that_of_the_papers(x64, sde, weighting):
    """With w of the noise error: SDS is w (E[z | x_t] - z) alpha, and VSD has the noise that the
    law of x itself expects in the place of z. Written with the score."""
    x = jax.random.normal(jax.random.key(0), (5, 3))
    denoiser, own = gaussian().denoiser(sde), exact.Gaussian(jnp.zeros(3), jnp.eye(3)).denoiser(sde)
    key = jax.random.key(1)
    for law in (None, own):
        found = jax.grad(
            lambda x, law=law: jnp.sum(
                losses(key, sde, View(x, denoiser, law), **how(weighting=weighting))
            )
        )(x)
        key_time, key_noise = jax.random.split(key)
        t = how()["time_law"].sample(key_time, sde, 5, x.dtype)
        z = jax.random.normal(key_noise, x.shape)
        alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
        x_t = alpha * x + sigma * z
        ours = -sigma * sde.score(x_t, t, denoiser(x_t, t))
        theirs = z if law is None else -sigma * sde.score(x_t, t, own(x_t, t))
        # a weighting of 1 on the error of v counts that of z ((alpha^2 + sigma^2)/alpha)^2 times
        w = 1 if weighting == "simple" else ((alpha**2 + sigma**2) / alpha) ** 2
        truth = w * alpha / sigma * (ours - theirs)
        np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("sde", PROCESSES, ids=lambda sde: type(sde).__name__)
def test_on_a_gaussian_sds_ends_at_the_mean(x64, sde):
    """Copies of one x, each with a noise of its own: the gradient is (I - K) (x - mu), and what the
    noise leaves is averaged over the copies and, as the step falls, over steps. Three seeds and
    three processes ended at most .01 away; the start is 2.5 away, and a std is up to .7."""
    start = jnp.array([-1.0, 2.0, 0.0])

    def render(key, x):
        return View(jnp.tile(x[None], (256, 1)), gaussian().denoiser(sde))

    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, 1500))
    law = how("log_snr_uniform(stratified=True)", "min_snr(gamma=1.0)")
    run = jax.jit(
        lambda key: distil(key, sde, render, start, optimizer=optimizer, steps=1500, **law)[0]
    )
    np.testing.assert_allclose(run(jax.random.key(0)), MEAN, atol=0.02)


def test_on_a_gaussian_vsd_ends_at_it(x64):
    """Particles whose own law is the Gaussian of their moments end with those of the model, where
    both denoisers agree at every x_t, so no noise is left; SDS draws them to a point."""
    sde = PROCESSES[1]
    start = 0.3 * jax.random.normal(jax.random.key(2), (200, 3))

    def moments(x):
        return jnp.mean(x, axis=0), jnp.cov(x.T, bias=True)

    def variational(key, x):
        return View(x, gaussian().denoiser(sde), exact.Gaussian(*moments(x)).denoiser(sde))

    def plain(key, x):
        return View(x, gaussian().denoiser(sde))

    def run(render):
        optimizer = optax.adam(optax.cosine_decay_schedule(0.02, 2000))
        options = {"optimizer": optimizer, "steps": 2000, **how("log_snr_uniform")}
        return jax.jit(lambda key: distil(key, sde, render, start, **options))(jax.random.key(3))

    x, found = run(variational)
    mean, cov = moments(x)
    np.testing.assert_allclose(mean, MEAN, atol=2e-3)
    np.testing.assert_allclose(cov, COV, atol=2e-3)
    assert found[-1] < 1e-3 * found[0]
    point, _ = run(plain)
    assert jnp.trace(moments(point)[1]) < 0.1 * np.trace(COV)


def test_the_value_of_vsd_is_the_divergence(x64):
    """With the weighting "likelihood", E[L] is KL(own | model), but for the noise at t_max and
    t_min (Song et al. 2021b, arXiv:2101.09258, theorem 1); here of two Gaussians."""
    sde = VP(t_min=1e-4)
    own_mean, own_cov = jnp.array([0.8, -0.4, 0.4]), jnp.diag(jnp.array([0.4, 0.3, 0.3]))
    own = exact.Gaussian(own_mean, own_cov)
    inverse, away = np.linalg.inv(COV), MEAN - np.asarray(own_mean)
    ratio = np.linalg.slogdet(COV)[1] - np.linalg.slogdet(np.asarray(own_cov))[1]
    truth = (np.trace(inverse @ np.asarray(own_cov)) + away @ inverse @ away - 3 + ratio) / 2
    x = own.sample(jax.random.key(0), 200_000)
    view = View(x, gaussian().denoiser(sde), own.denoiser(sde))
    found = losses(
        jax.random.key(1), sde, view, **how("log_snr_uniform(stratified=True)", "likelihood")
    )
    error = float(jnp.std(found) / np.sqrt(len(found)))
    assert abs(float(jnp.mean(found)) - truth) < 4 * error + 0.005 * truth


def test_a_volume_is_found_from_its_pictures():
    """A model that knows the silhouette of each side: SDS finds voxels that have them."""
    side = np.arange(8) - 3.5
    solid = (np.abs(side)[:, None, None] < 3) & (np.abs(side)[:, None] < 2) & (np.abs(side) < 4)
    pictures = jnp.stack(
        [
            rendering.silhouette(rendering.seen_from(s, jnp.asarray(9.0 * solid, jnp.float32)))
            for s in rendering.SIDES
        ]
    )
    sde = EDM(t_min=0.02, t_max=1.0)
    laws = [exact.Dataset(picture[None], 0.02).denoiser(sde) for picture in pictures]

    def seen(volume):
        density = jax.nn.softplus(volume)
        sides = [rendering.seen_from(s, density) for s in rendering.SIDES]
        return jnp.stack([rendering.silhouette(side) for side in sides])

    def render(key, volume):
        def each(x_t, t):
            return jnp.concatenate(
                [law(x_t[i : i + 1], t[i : i + 1]) for i, law in enumerate(laws)]
            )

        return View(seen(volume), each)

    start = jnp.full((8, 8, 8), -2.0)
    options = {"optimizer": optax.adam(0.1), "steps": 300, **how("log_snr_uniform")}
    volume, _ = jax.jit(lambda key: distil(key, sde, render, start, **options))(jax.random.key(0))
    np.testing.assert_allclose(seen(volume), pictures, atol=0.15)
