"""Guidance whose direction loses a part, against the papers' formulas in NumPy on exact mixtures;
and what all guidance has in common."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling, solvers
from score_sde.config import build
from score_sde.errors import ConfigError
from score_sde.models import guidance, projected
from score_sde.processes import EDM, VP, Flow
from score_sde.processes.exact import Labelled, Mixture
from score_sde.sampling.grids import log_snr

PROCESSES = pytest.mark.parametrize("sde", [Flow(), VP(), EDM()], ids=lambda s: type(s).__name__)
CLASSES = np.array([0, 1, 1, 2])
LABEL, OTHER = np.array([0, 1, 2, 2, 1]), np.array([2, 0, 1, -1, -1])
SHAPE = (5, 2, 3)


def parts():
    """Four Gaussians in six dimensions: weights, means, covariances."""
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(4, 6, 6)) / 3
    covs = roots @ roots.transpose(0, 2, 1) + 0.1 * np.eye(6)
    return np.array([0.1, 0.2, 0.3, 0.4]), rng.normal(size=(4, 6)), covs


@functools.partial(jax.jit, static_argnums=0)
def value(sde, cond, x, t):
    return law().denoiser(sde, cond)(x, t)


def law():
    return Labelled(Mixture(*map(jnp.asarray, parts())), jnp.asarray(CLASSES))


def of_cond(sde):
    """The exact denoiser of a label; of -1, that of all. It is one program, whatever is made of it,
    so that XLA rounds its values in one way."""
    return lambda cond: functools.partial(value, sde, cond)


def by_numpy(alpha, sigma, x, labels):
    """The same, E[x_0 | x_t] of each example, from the textbook."""
    values = []
    for a, s, point, label in zip(alpha, sigma, x, labels, strict=True):
        logs, means = [], []
        for k, (weight, mean, cov) in enumerate(zip(*parts(), strict=True)):
            if label in (-1, CLASSES[k]):
                total = a**2 * cov + s**2 * np.eye(6)
                away = np.linalg.solve(total, point.ravel() - a * mean)
                square = (point.ravel() - a * mean) @ away
                logs.append(np.log(weight) - square / 2 - np.linalg.slogdet(total)[1] / 2)
                means.append(mean + a * cov @ away)
        share = np.exp(np.array(logs) - max(logs))
        values.append((share / share.sum() @ np.array(means)).reshape(point.shape))
    return np.array(values)


@pytest.fixture
def points(x64):
    """x [5, 2, 3], the times' quantiles in log-SNR [5], and two conditions."""
    x = jnp.asarray(np.random.default_rng(1).normal(size=SHAPE) * 2)
    return x, *({"label": jnp.asarray(label)} for label in (LABEL, OTHER))


def times_of(sde):
    """Of log-SNRs from 3 to -3."""
    return sde.t_of_log_snr(jnp.linspace(3.0, -3.0, 5))


def constructed(name, sde, times=None, **options):
    """`(cond, other) -> Denoiser` of a guidance that calls the network with both conditions."""
    times = log_snr(sde, 10) if times is None else times
    made = build("models.guidance", {"name": name, **options}, sde, times)
    assert made.drops
    return made.guided(of_cond(sde), lambda cond: None)


def both(sde, cond, other):
    """The pair (D_pos, D_neg)."""
    return guidance.in_one_batch(of_cond(sde), cond, other)


def inner(a, b):
    return np.sum(a * b, axis=(1, 2), keepdims=True)


def levels(sde):
    """t, and alpha and sigma as numpy arrays [5]."""
    t = times_of(sde)
    return t, *(np.asarray(level(t)) for level in (sde.alpha, sde.sigma))


@PROCESSES
@pytest.mark.parametrize("norm", [None, 1.0])
def test_adaptive_projected_guidance_is_the_papers(sde, norm, points):
    x, cond, other = points
    t, alpha, sigma = levels(sde)
    d_c, d_u = (by_numpy(alpha, sigma, np.asarray(x), labels) for labels in (LABEL, OTHER))
    d = d_c - d_u
    if norm is not None:
        lengths = np.sqrt(inner(d, d))
        assert 0 < np.sum(lengths > norm) < 5  # some are shortened, some are not
        d = d * np.minimum(1, norm / lengths)
    unit = d_c / np.sqrt(inner(d_c, d_c))
    parallel = inner(d, unit) * unit
    expected = d_c + (4.0 - 1) * (d - parallel + 0.3 * parallel)
    options = {} if norm is None else {"norm": norm}
    found = constructed("apg", sde, weight=4.0, eta=0.3, **options)(cond, other)(x, t)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-11)


@PROCESSES
def test_cfg_zero_star_is_the_papers_on_the_rectified_flow_of_equal_noise(sde, points):
    """In velocities z - x_0 at y = x/(alpha + sigma), the x of a flow at tau = sigma/(alpha +
    sigma)."""
    x, cond, other = points
    t, alpha, sigma = levels(sde)
    wide = (alpha + sigma)[:, None, None]
    y, tau = np.asarray(x) / wide, sigma[:, None, None] / wide
    if isinstance(sde, Flow):
        np.testing.assert_allclose(y, x, rtol=1e-12)
        np.testing.assert_allclose(tau.ravel(), t, rtol=1e-12)
    v_c, v_u = (
        (y - by_numpy(alpha, sigma, np.asarray(x), labels)) / tau for labels in (LABEL, OTHER)
    )
    s = inner(v_c, v_u) / inner(v_u, v_u)
    assert np.max(np.abs(s - 1)) > 0.1
    velocity = s * v_u + 4.0 * (v_c - s * v_u)
    found = np.asarray(constructed("cfg_zero_star", sde, weight=4.0, zero=0.0)(cond, other)(x, t))
    np.testing.assert_allclose(found, y - tau * velocity, rtol=1e-9, atol=1e-11)
    # what is added is orthogonal to the other velocity
    added = velocity - v_c
    np.testing.assert_allclose(inner(added, v_u), 0, atol=1e-10 * np.max(inner(v_u, v_u)))


@PROCESSES
def test_of_equal_conditions_nothing_is_left(sde, points):
    """v_c = v_u, so s = 1 and d = 0; there the gradient is that of the denoiser, and no NaN."""
    x, cond, _ = points
    t, plain = times_of(sde), lambda x, t: both(sde, cond, cond)(x, t)[0]
    for name, options in (("apg", {"norm": 0.5}), ("cfg_zero_star", {"zero": 0.0})):
        denoiser = constructed(name, sde, weight=5.0, **options)(cond, cond)
        np.testing.assert_array_equal(denoiser(x, t), plain(x, t))
        slope, truth = (
            jax.grad(lambda x, f=f: jnp.sum(f(x, t) ** 2))(x) for f in (denoiser, plain)
        )
        np.testing.assert_allclose(slope, truth, rtol=1e-9, atol=1e-12)


@PROCESSES
def test_weight_one_is_the_conditional_model_to_the_last_bit(sde, points):
    """For every guidance that a config can name."""
    x, cond, other = points
    times = log_snr(sde, 10)
    worse = Mixture(*map(jnp.asarray, (parts()[0][::-1], *parts()[1:])))

    def of_guide(name, cond):
        if name == "classifier":
            return lambda x, t: law().log_class(sde, x, t, cond)
        return worse.denoiser(sde)

    table = {
        "apg": {"weight": 1.0, "norm": 0.5, "interval": (-2.0, 2.0)},
        "autoguidance": {"weight": 1.0, "workdir": "none"},
        "cfg_pp": {"strength": 1.0},  # its weight is 1 where the grid ends
        "cfg_zero_star": {"weight": 1.0, "zero": 0.5, "rescale": 0.7},
        "classifier": {"scale": 0.0, "workdir": "none"},
        "classifier_free": {"weight": 1.0, "rescale": 0.7},
        "conditioned": {"weight": 1.0},
        "geometric": {"weight": 1.0},
        "rewarded": {"reward": "linear(direction=(0.0,))"},  # nothing is wanted
        "text_and_image": {"text": 1.0, "image": 1.0, "part": "label"},
        "unguided": {},
    }
    assert sorted(table) == sorted(guidance.__all__)
    t = jnp.stack([times[0], times[1], times[5], times[9], times[10]])
    alone, in_pair = of_cond(sde)(cond)(x, t), both(sde, cond, other)(x, t)[0]
    np.testing.assert_allclose(alone, in_pair, rtol=1e-12)
    for name, options in table.items():
        made = build("models.guidance", {"name": name, **options}, sde, times)
        guided = made.guided(of_cond(sde), functools.partial(of_guide, name))
        found, truth = guided(cond, other)(x, t), in_pair if made.drops else alone
        same = slice(4, None) if name == "cfg_pp" else slice(None)
        np.testing.assert_array_equal(found[same], truth[same], err_msg=name)


def test_eta_of_one_is_classifier_free_guidance(points):
    x, cond, other = points
    sde = VP()
    t = times_of(sde)
    free = constructed("classifier_free", sde, weight=4.0)(cond, other)(x, t)
    for norm in None, 1e6:
        found = constructed("apg", sde, weight=4.0, eta=1.0, norm=norm)(cond, other)(x, t)
        np.testing.assert_allclose(found, free, rtol=1e-13)


def test_a_difference_along_the_mean_is_taken_away(x64):
    """Where D_u is a multiple of D_c, and wherever an example is one number. Along 0 nothing is."""
    rng = np.random.default_rng(2)
    positive = jnp.asarray(rng.normal(size=SHAPE))
    factor = jnp.asarray(rng.normal(size=(5, 1, 1)))
    t = jnp.linspace(0.2, 0.8, 5)
    pair = lambda x_t, t: (x_t, factor * x_t)  # noqa: E731
    changed = guidance.guide(pair, 7.0, change=projected.along_mean())(positive, t)
    np.testing.assert_allclose(changed, positive, rtol=1e-12)
    plain = guidance.guide(pair, 7.0)(positive, t)
    assert np.min(np.max(np.abs(plain - positive), axis=(1, 2))) > 0.1
    one, two = (jnp.asarray(rng.normal(size=(5, 1))) for _ in range(2))
    for change in projected.along_mean(), projected.along_velocity(Flow()):
        alone = guidance.guide(lambda x_t, t: (one, two), 7.0, change=change)
        np.testing.assert_allclose(alone(one + 1, t), one, rtol=1e-12)
    from_zero = guidance.guide(lambda x_t, t: (0 * x_t, -x_t), 7.0, change=projected.along_mean())
    np.testing.assert_allclose(from_zero(positive, t), 6 * positive, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("apg", {"norm": 0.8}),
        ("cfg_zero_star", {"zero": 0.3, "rescale": 0.5}),
        ("classifier_free", {"rescale": 0.5}),
        ("cfg_pp", {}),
    ],
)
def test_each_example_leads_away_from_its_own_condition(name, options, points):
    """A batch with a negative condition for each example is what its examples are alone; and no
    other example matters."""
    x, cond, other = points
    sde = VP()
    t = times_of(sde)
    of_both = constructed(name, sde, **options)
    whole = np.asarray(of_both(cond, other)(x, t))
    for i in range(5):
        one = slice(i, i + 1)
        given, away = ({"label": part["label"][one]} for part in (cond, other))
        np.testing.assert_allclose(of_both(given, away)(x[one], t[one]), whole[one], rtol=1e-11)
    changed = np.asarray(of_both(cond, other)(x.at[0].add(1.0), t))
    np.testing.assert_array_equal(changed[1:], whole[1:])
    assert np.all(changed[0] != whole[0])
    # an example's condition to lead away from counts: null and negative are not the same
    nothing = np.asarray(of_both(cond, {"label": jnp.full(5, -1)})(x, t))
    differ = np.max(np.abs(nothing - whole), axis=(1, 2))
    np.testing.assert_array_equal(differ[3:], 0)
    moved = differ[:3] > 1e-4
    assert moved.all() if name != "cfg_zero_star" else moved.any()


@pytest.mark.parametrize("name", ["apg", "cfg_zero_star"])
def test_intervals_and_rescaling(name, points):
    x, cond, other = points
    sde = EDM()
    t = times_of(sde)
    plain = np.asarray(both(sde, cond, other)(x, t)[0])
    options = {"zero": 0.0} if name == "cfg_zero_star" else {}
    always = constructed(name, sde, weight=6.0, **options)(cond, other)(x, t)
    within = constructed(name, sde, weight=6.0, interval=(-2.0, 2.0), **options)(cond, other)(x, t)
    inside = np.array([False, True, True, True, False])
    np.testing.assert_array_equal(within[inside], always[inside])
    np.testing.assert_array_equal(within[~inside], plain[~inside])
    assert np.min(np.max(np.abs(always - plain), axis=(1, 2))) > 1e-3
    if name == "cfg_zero_star":
        options["rescale"] = 1.0
        found = constructed(name, sde, weight=6.0, **options)(cond, other)(x, t)
        ratio = plain.std(axis=(1, 2)) / np.asarray(always).std(axis=(1, 2))
        np.testing.assert_allclose(found, always * ratio[:, None, None], rtol=1e-11)


@PROCESSES
def test_the_first_steps_are_held(sde, points):
    """Two of ten: y = x/(alpha + sigma) stays, x itself on the flow; then all goes on as from a
    later start. Where the interval says that nothing is guided, nothing is held."""
    x, cond, other = points
    times = log_snr(sde, 10)
    x = x * sde.prior_std

    @functools.partial(jax.jit, static_argnums=0)
    def path(denoiser, x, times):
        out = sampling.sample(
            jax.random.key(0), solvers.ddim(sde), denoiser, x, times, trajectory=True
        )
        return out.trajectory

    def made(zero, **options):
        return constructed("cfg_zero_star", sde, times, weight=3.0, zero=zero, **options)(
            cond, other
        )

    found = np.asarray(path(made(0.2), x, times))
    wide = np.asarray(sde.alpha(times) + sde.sigma(times))[:, None, None, None]
    y = found / wide
    np.testing.assert_allclose(y[:3], np.stack([y[0]] * 3), rtol=1e-12)
    if isinstance(sde, Flow):
        np.testing.assert_allclose(found[:3], np.stack([x] * 3), rtol=1e-12)
    assert np.min(np.abs(y[3] - y[2])) > 0
    later = path(made(0.0), jnp.asarray(found[2]), times[2:])
    np.testing.assert_allclose(found[2:], later, rtol=1e-9, atol=1e-12)
    low = (float(sde.log_snr(times[5])), 100.0)
    apart = (path(made(zero, interval=low), x, times) for zero in (0.2, 0.0))
    np.testing.assert_array_equal(*map(np.asarray, apart))


def test_mistakes_that_show_before_sampling(x64):
    sde = VP()
    times = log_snr(sde, 10)

    def make(spec):
        return build("models.guidance", spec, sde, times)

    for spec, message in {
        "classifier_free(weight=25.0)": r"weight=25\.0 is large: expect samples far from the data",
        "apg(weight=20.5)": r"weight=20\.5 is large",
        "cfg_zero_star(weight=-1.0)": r"weight=-1\.0 leads away from the condition",
        "autoguidance(weight=30.0, workdir='none')": r"weight=30\.0 is large",
        "classifier_free(interval=(50.0, 60.0))": "nothing is guided",
        "apg(interval=(-60.0, -50.0))": r"has no time of the grid, whose log-SNRs go from -10",
        "cfg_pp(strength=7.5)": r"strength=7\.5 is not between 0 and 1",
    }.items():
        with pytest.warns(UserWarning, match=message) as seen:
            make(spec)
        assert [str(each.message).count("\n") for each in seen] == [0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for spec in (
            "classifier_free(weight=20.0, interval=(-3.0, 60.0))",
            "apg(weight=0.0)",
            "cfg_zero_star(zero=0.0)",
            "cfg_pp(strength=1.0)",
        ):
            make(spec)
    for spec, message in {
        "apg(norm=0.0)": r"norm=0\.0 is no length above 0",
        "cfg_zero_star(zero=1.5)": r"zero=1\.5 is not between 0 and 1",
        "cfg_zero_star(rescale=-0.1)": r"rescale=-0\.1 is not between 0 and 1",
        "classifier_free(rescale=2.0)": r"rescale=2\.0 is not between 0 and 1",
        "apg(interval=(2.0, 1.0))": "two log-SNRs with low < high",
    }.items():
        with pytest.raises(ConfigError, match=message):
            make(spec)
