"""Guidance against the scores of exact mixtures."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling, solvers
from score_sde.models import guidance, guidance_weights, thresholding
from score_sde.processes import DDPM, EDM, VP, Flow, SubVP
from score_sde.processes.exact import Labelled, Mixture
from score_sde.sampling.grids import log_snr
from score_sde.types import counted

WEIGHTS = np.array([-0.5, 0.0, 0.3, 1.0, 1.5, 4.0])
CLASSES = np.array([0, 1, 1, 2])


def mixture(seed=0):
    """Four components in two dimensions."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(4, 2, 2)) / 2
    covs = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(2)
    arrays = (np.array([0.1, 0.2, 0.3, 0.4]), rng.normal(size=(4, 2)) * 2, covs)
    return Mixture(*map(jnp.asarray, arrays))


def nothing_of(cond):
    return {"label": jnp.full_like(cond["label"], -1)}


def labelled():
    return Labelled(mixture(), jnp.asarray(CLASSES))


@pytest.fixture
def points(x64):
    """x [6, 2], t [6] and labels [6]."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=(6, 2)) * 2)
    return x, jnp.linspace(0.2, 0.9, 6), {"label": jnp.array([0, 1, 2, 2, 1, 0])}


def test_one_batch_of_video_has_the_times_of_each_frame(x64):
    """Of a Gaussian walk that moves to the left or to the right, by label."""
    sde, t = Flow(), jnp.array([[0.1, 0.5, 0.9], [0.7, 0.2, 0.4]])

    def of_cond(cond):
        def denoise(x_t, t):
            drift = jnp.where(cond["label"] < 0, 0.0, cond["label"].astype(float) - 1.0)[
                :, None, None
            ]
            a, s = (f(t)[..., None] for f in (sde.alpha, sde.sigma))
            return drift + a / (a**2 + s**2) * (x_t - a * drift)

        return denoise

    x, cond = jax.random.normal(jax.random.key(0), (2, 3, 1)), {"label": jnp.array([0, 2])}
    pair = guidance.in_one_batch(of_cond, cond, nothing_of(cond))
    for ours, alone in zip(pair(x, t), (cond, nothing_of(cond)), strict=True):
        np.testing.assert_array_equal(ours, of_cond(alone)(x, t))
    towards = pair(x, t)[0] - pair(x, t)[1]
    guided = guidance.guide(pair, 2.5)(x, t)
    np.testing.assert_allclose(guided, pair(x, t)[0] + 1.5 * towards, rtol=1e-12, atol=1e-12)


def test_a_class_is_the_mixture_of_its_components(points):
    x, t, _ = points
    sde, whole = SubVP(), mixture()

    @jax.jit
    def both():
        ours, truth = [], []
        for label in (-1, 0, 1, 2):
            own = np.flatnonzero((label == CLASSES) | (label < 0))
            share = jnp.sum(whole.weights[own])
            alone = Mixture(whole.weights[own] / share, whole.means[own], whole.covs[own])
            log_prob = alone.log_prob(sde, x, t)
            bayes = jnp.log(share) + log_prob - whole.log_prob(sde, x, t)
            truth.append((alone.denoiser(sde)(x, t), log_prob, bayes))
            cond = {"label": jnp.full(6, label)}
            ours.append(
                (
                    labelled().denoiser(sde, cond)(x, t),
                    labelled().log_prob(sde, x, t, cond),
                    labelled().log_class(sde, x, t, cond),
                )
            )
        return ours, truth

    ours, truth = both()
    for found, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(truth), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    posterior = np.exp([log_class for _, _, log_class in ours])
    np.testing.assert_allclose(posterior[0], 1, rtol=1e-12)
    np.testing.assert_allclose(posterior[1:].sum(axis=0), 1, rtol=1e-12)


@pytest.mark.parametrize("sde", [VP(), SubVP(), EDM(), Flow()], ids=lambda s: type(s).__name__)
def test_guided_scores_are_those_of_the_product(sde, points):
    """p_pos^w p_neg^(1-w): of a class and of all, and of two models; a classifier does the same."""
    x, t, cond = points
    truth, other = labelled(), mixture(seed=3)
    of_cond = functools.partial(truth.denoiser, sde)

    @jax.jit
    @jax.vmap
    def scores(w):
        def tilted(x):
            given, plain = truth.log_prob(sde, x, t, cond), truth.mixture.log_prob(sde, x, t)
            return jnp.sum(w * given + (1 - w) * plain)

        def extrapolated(x):
            better, worse = truth.mixture.log_prob(sde, x, t), other.log_prob(sde, x, t)
            return jnp.sum(w * better + (1 - w) * worse)

        def log_class(x, t):
            return truth.log_class(sde, x, t, cond)

        nothing = nothing_of(cond)
        ours = (
            guidance.guide(guidance.in_one_batch(of_cond, cond, nothing), w),
            guidance.with_classifier(sde, of_cond(nothing), log_class, w),
            guidance.guide(guidance.of_two(of_cond(nothing), other.denoiser(sde)), w),
        )
        ours = [sde.score(x, t, denoiser(x, t)) for denoiser in ours]
        return ours, [jax.grad(log_p)(x) for log_p in (tilted, tilted, extrapolated)]

    for found, expected in zip(*scores(jnp.asarray(WEIGHTS)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-8, atol=1e-9)


def test_weights_of_one_and_zero_are_the_plain_ones(points):
    x, t, _ = points
    sde = VP()
    better, worse = (jax.jit(mixture(seed).denoiser(sde)) for seed in (0, 3))
    pair = guidance.of_two(better, worse)
    np.testing.assert_array_equal(guidance.guide(pair, 1.0)(x, t), better(x, t))
    np.testing.assert_allclose(guidance.guide(pair, 0.0)(x, t), worse(x, t), rtol=1e-12)
    with_nothing = guidance.with_classifier(sde, better, lambda x, t: jnp.zeros(6), 3.0)
    np.testing.assert_array_equal(with_nothing(x, t), better(x, t))


def test_both_conditions_are_one_call_at_one_time_or_many(points):
    x, t, cond = points
    sde, calls, made, count = VP(), [], [], None

    def of_cond(cond):
        nonlocal count
        counting, count = counted(labelled().denoiser(sde, cond))

        def denoise(x_t, t):
            calls.append((x_t.shape, t.shape))
            return counting(x_t, t)

        return denoise

    @jax.jit
    def run(x, t):
        pair = guidance.in_one_batch(of_cond, cond, nothing_of(cond))
        ours = [pair(x, time) for time in (t, t[0])]
        made.append(count())
        given, nothing = labelled().denoiser(sde, cond), mixture().denoiser(sde)
        truth = [(given(x, time), nothing(x, time)) for time in (t, t[0])]
        solver, guided = solvers.ddim(sde), guidance.guide(pair, 2.0)
        return ours, truth, sampling.sample(jax.random.key(0), solver, guided, x, t[::-1]).nfe

    ours, truth, nfe = run(x, t)
    chex.assert_trees_all_close(ours, truth, rtol=1e-11)
    assert made == [2]
    assert calls[:2] == [((12, 2), (12,)), ((12, 2), ())]
    assert nfe == len(t) - 1


def test_an_interval_of_noise_levels(points):
    x, t, cond = points
    sde = VP()
    pair = jax.jit(guidance.of_two(labelled().denoiser(sde, cond), mixture().denoiser(sde)))
    levels = np.asarray(sde.log_snr(t))
    schedule = guidance_weights.within(sde, 3.0, (levels[2] + levels[3]) / 2, levels[1])
    inside = np.array([False, True, True, False, False, False])
    ours, always = (np.asarray(guidance.guide(pair, w)(x, t)) for w in (schedule, 3.0))
    np.testing.assert_array_equal(ours[inside], always[inside])
    np.testing.assert_array_equal(ours[~inside], np.asarray(pair(x, t)[0])[~inside])
    with pytest.raises(ValueError, match=r"interval=\(4\.0, 1\.0\) is not \(low, high\)"):
        guidance.classifier_free(sde, t, interval=(4.0, 1.0))


@pytest.mark.parametrize("sde", [VP(t_min=1e-3), EDM(t_max=10.0)], ids=["VP", "EDM"])
def test_cfg_plus_plus_is_the_papers_update(sde, points):
    """x_s = alpha_s D_w + sigma_s eps_neg, with D_w guided by the strength (Chung et al. 2024)."""
    x, _, cond = points
    times, strength = log_snr(sde, 6), 0.6
    guided = guidance.cfg_pp(sde, times, strength)
    of_cond = functools.partial(labelled().denoiser, sde)
    denoiser = guided.guided(of_cond, None)(cond, nothing_of(cond))

    @jax.jit
    def run(x):
        out = sampling.sample(
            jax.random.key(0), solvers.ddim(sde), denoiser, x, times, denoise=True, trajectory=True
        )
        return out, sde.alpha(times), sde.sigma(times)

    out, alphas, sigmas = jax.device_get(run(x))
    pair = jax.jit(lambda x, t: (of_cond(cond)(x, t), of_cond(nothing_of(cond))(x, t)))
    z = np.asarray(x)
    for i, (alpha, sigma) in enumerate(zip(alphas, sigmas, strict=True)):
        np.testing.assert_allclose(out.trajectory[i], z, rtol=1e-9)
        given, nothing = (
            (z - alpha * np.asarray(d)) / sigma for d in pair(jnp.asarray(z), times[i])
        )
        eps = nothing + strength * (given - nothing)
        clean = (z - sigma * eps) / alpha
        if i < 6:
            z = alphas[i + 1] * clean + sigmas[i + 1] * nothing
    np.testing.assert_allclose(out.x, clean, rtol=1e-9)


def test_cfg_plus_plus_between_the_times_of_a_grid(points):
    sde = VP()

    @jax.jit
    def run():
        times = log_snr(sde, 4)
        schedule = guidance_weights.cfg_pp_weight(sde, times, 1.0)
        middle = schedule((times[1:] + times[:-1]) / 2)
        return schedule(times), schedule(times[2]), middle, sde.log_snr(times) / 2

    weights, single, middle, lam = run()
    expected = 1 / (1 - np.exp(-np.append(np.diff(lam), np.inf)))
    np.testing.assert_allclose(weights, expected, rtol=1e-10)
    # of one time and of many: the same numbers, which XLA may round otherwise
    np.testing.assert_allclose(single, weights[2], rtol=1e-12)
    np.testing.assert_allclose(middle, weights[:-1], rtol=1e-12)
    with pytest.raises(ValueError, match=r"goes by the steps of the grid, .* such as ddim"):
        guidance.cfg_pp(sde, jnp.array([1.0, 0.1]))


def test_rescaling_brings_the_standard_deviation_back(x64):
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(size=(2, 5, 4, 3))
    x, t = jnp.zeros((5, 4, 3)), jnp.asarray(0.5)

    def guided(rescale):
        pair = lambda x_t, t: (jnp.asarray(positive), jnp.asarray(negative))  # noqa: E731
        return np.asarray(guidance.guide(pair, 3.0, rescale)(x, t))

    plain = negative + 3 * (positive - negative)
    ratio = positive.std(axis=(1, 2)) / plain.std(axis=(1, 2))
    rescaled = plain * ratio[:, None, None]
    np.testing.assert_allclose(guided(0.7), 0.7 * rescaled + 0.3 * plain, rtol=1e-12)
    np.testing.assert_allclose(guided(1.0).std(axis=(1, 2)), positive.std(axis=(1, 2)), rtol=1e-12)
    constant = guidance.guide(lambda x_t, t: (x_t, x_t), 3.0, 1.0)(x, t)
    np.testing.assert_array_equal(constant, x)


def test_thresholds(x64):
    images = 2 * np.random.default_rng(0).normal(size=(4, 5, 6))
    images[0] *= 0.1  # within the range

    def change(kind, values, low, high, **options):
        denoiser = getattr(thresholding, kind)(float(low), float(high), **options)(lambda x, t: x)
        return np.asarray(denoiser(jnp.asarray(values), jnp.asarray(0.5)))

    s = np.maximum(np.percentile(np.abs(images).reshape(4, -1), 90, axis=1), 1)[:, None, None]
    assert s[0] == 1 < s[1]
    dynamic = np.clip(images, -s, s) / s
    np.testing.assert_allclose(change("dynamic", images, -1, 1, percentile=0.9), dynamic)
    unit = change("dynamic", (images + 1) / 2, 0, 1, percentile=0.9)
    np.testing.assert_allclose(unit, (dynamic + 1) / 2, atol=1e-12)
    np.testing.assert_array_equal(change("static", images, -1, 1), np.clip(images, -1, 1))
    np.testing.assert_array_equal(change("none", images, -1, 1), images)
    with pytest.raises(ValueError, match=r"percentile=99\.5 is not between 0 and 1"):
        thresholding.dynamic(-1.0, 1.0, percentile=99.5)
    np.testing.assert_array_equal(change("static", images, -np.inf, np.inf), images)
    with pytest.raises(ValueError, match="data without bounds"):
        thresholding.dynamic(-np.inf, np.inf)


def test_a_classifier_says_nothing_where_alpha_is_zero(x64):
    sde = DDPM(num_steps=100, zero_terminal_snr=True)
    x, denoiser = jnp.ones((2, 2)), lambda x_t, t: x_t
    guided = guidance.with_classifier(sde, denoiser, lambda x, t: jnp.sum(x, axis=1))
    np.testing.assert_array_equal(guided(x, jnp.asarray(1.0)), x)


def test_a_network_that_reads_the_weight_is_told_it(x64):
    """Of each example, beside its condition; without a condition too."""

    def of_cond(cond):
        label = cond.get("label", jnp.zeros(3))
        return lambda x_t, t: x_t * cond["guidance"][:, None] + label[:, None]

    told = guidance.conditioned(VP(), jnp.array([1.0, 0.1]), weight=2.5)
    assert (told.numbers, told.drops, told.guide) == (("guidance",), False, None)
    denoiser = told.guided(of_cond, lambda cond: None)
    x, label = jax.random.normal(jax.random.key(0), (3, 2)), jnp.arange(3.0)
    found = denoiser({"label": label}, {})(x, jnp.asarray(0.5))
    np.testing.assert_array_equal(found, 2.5 * x + label[:, None])
    np.testing.assert_array_equal(denoiser({}, {})(x, jnp.asarray(0.5)), 2.5 * x)


def test_two_weights_tilt_by_the_text_and_by_the_image(x64):
    """The score of p (p(.|I) / p)^image (p(.|T, I) / p(.|I))^text at each noise level, of a mixture
    in which the image tells a pair of components, and the text one of the pair."""
    whole, sde = mixture(), SubVP()
    x = jnp.asarray(np.random.default_rng(2).normal(size=(6, 2)) * 2)
    t = jnp.linspace(0.2, 0.9, 6)
    text = jnp.array([0, 1, 2, 3, 0, 3])
    cond = {"label": text, "image": jnp.where(text < 2, 1.0, 2.0)}
    pairs = jnp.array([1.0, 1.0, 2.0, 2.0])

    def of(label, image):
        """The mixture of one example's condition; -1 and 0 say nothing."""
        known = ((image == 0) | (pairs == image)) & ((label < 0) | (jnp.arange(4) == label))
        weights = jnp.where(known, whole.weights, 0)
        return Mixture(weights / jnp.sum(weights), whole.means, whole.covs)

    def of_cond(cond):
        def denoise(x, t):
            def one(x, t, label, image):
                return of(label, image).denoiser(sde)(x[None], t)[0]

            return jax.vmap(one)(x, t, cond["label"], cond["image"])

        return denoise

    made = guidance.text_and_image(sde, log_snr(sde, 10), text=3.5, image=1.7)
    other = {**cond, "label": -jnp.ones_like(text)}
    found = jax.jit(made.guided(of_cond, lambda cond: None)(cond, other))(x, t)

    def log_tilted(x, t, label, image):
        def log_p(*told):
            return of(*told).log_prob(sde, x[None], t[None])[0]

        nothing, of_image, both = log_p(-1, 0.0), log_p(-1, image), log_p(label, image)
        return nothing + 1.7 * (of_image - nothing) + 3.5 * (both - of_image)

    score = jax.jit(jax.vmap(jax.grad(log_tilted)))(x, t, cond["label"], cond["image"])
    alpha, sigma = sde.alpha(t)[:, None], sde.sigma(t)[:, None]
    np.testing.assert_allclose(found, (x + sigma**2 * score) / alpha, rtol=1e-8, atol=1e-8)


def test_geometric_guidance_is_the_tilted_law_of_tokens():
    """Of two tables of one token it is p_pos^w p_neg^(1-w), normalised; at w = 1 the first."""
    laws = np.random.default_rng(0).dirichlet(np.ones(4), 2)

    def of_cond(cond):
        return lambda x, t: jnp.asarray(laws)[cond["label"]][:, None]

    cond, other = ({"label": jnp.full(3, k)} for k in (0, 1))
    x, t = jnp.full((3, 1), -1), jnp.asarray(0.5)
    for weight in (1.0, 2.5, 0.0):
        made = guidance.geometric(VP(), jnp.asarray([1.0, 0.0]), weight=weight)
        found = made.guided(of_cond, lambda cond: None)(cond, other)(x, t)
        tilted = laws[0] ** weight * laws[1] ** (1 - weight)
        np.testing.assert_allclose(found[1, 0], tilted / tilted.sum(), rtol=1e-6)
