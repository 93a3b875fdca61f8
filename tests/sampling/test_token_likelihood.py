"""Bounds of tokens against the exact law."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.processes import MASK, Masking, Uniform
from score_sde.processes.rates import rate_entropy
from score_sde.sampling import likelihood
from tests.tables import VALUES, forward, sequences, states, table

pytestmark = pytest.mark.usefixtures("x64")


@pytest.mark.parametrize("schedule", ["linear", "cosine", "polynomial(power=2.0)"])
def test_every_path_of_masks_gives_the_exact_likelihood(schedule):
    """With the exact conditionals the bound is ln p(x), without any spread."""
    process, law = Masking(schedule=schedule), table()
    x = jnp.asarray(sequences())
    for seed in range(3):
        found = likelihood.elbo(jax.random.key(seed), process, law.denoiser(process), x)
        np.testing.assert_allclose(found, law.log_prob(x), atol=1e-12)


def wrong(x_t, t):
    """Probabilities that depend on the other tokens and on t, and are those of no law."""
    x = x_t.astype(float)
    place = jnp.arange(3.0)[None, None]
    logits = jnp.sin(place + 2 * x[..., None] + jnp.sum(x, axis=1)[:, None, None])
    probs = jax.nn.softmax(3 * jnp.broadcast_to(t, x_t.shape[:1])[:, None, None] * logits, axis=-1)
    known = jax.nn.one_hot(x_t, 3, dtype=probs.dtype)
    return jnp.where((x_t == MASK)[..., None], probs, known)


def exact_bound(process, x, times=200):
    """The integral of the paper, over all masks of one x and by Gauss's rule over the noise:
    int d(noise)/noise E sum_(masked i) -ln D_i."""
    nodes, weights = np.polynomial.legendre.leggauss(times)
    levels, weights = (nodes + 1) / 2, weights / 2
    total = 0.0
    for masks in itertools.product([0, 1], repeat=3):
        k = sum(masks)
        x_t = jnp.where(jnp.asarray(masks) > 0, MASK, x)[None]
        t = process.t_of_noise(jnp.asarray(levels))
        found = wrong(jnp.repeat(x_t, times, axis=0), t)
        log_prob = jnp.log(found)[:, jnp.arange(3), x]
        each = -np.asarray(jnp.sum(jnp.where(jnp.asarray(masks) > 0, log_prob, 0), axis=1))
        total += np.sum(weights * levels ** (k - 1) * (1 - levels) ** (3 - k) * each)
    return -total


def test_the_bound_of_a_wrong_network_is_that_integral():
    """The mean of 4,000 paths, within five standard errors."""
    process, x = Masking(schedule="cosine"), jnp.asarray([0, 2, 1])
    rows = jnp.repeat(x[None], 4000, axis=0)
    keys = jax.random.split(jax.random.key(0), 4000)
    found = np.asarray(likelihood.elbo(keys, process, wrong, rows))
    assert found.std() > 0.1
    assert abs(found.mean() - exact_bound(process, x)) < 5 * found.std() / 4000**0.5


def test_more_paths_tighten_the_importance_weighted_bound():
    """E ln mean_k p_k rises with k, to ln E p, the ln-probability that the network gives."""
    process, x = Masking(), jnp.asarray([0, 2, 1])
    rows, means = jnp.repeat(x[None], 4000, axis=0), []
    keys = jax.random.split(jax.random.key(0), 4000)
    for draws in (1, 4, 16):
        found = likelihood.elbo(keys, process, wrong, rows, draws=draws, importance=True)
        means.append(float(jnp.mean(found)))
    plain = likelihood.elbo(keys, process, wrong, rows, draws=16)
    whole = float(jax.nn.logsumexp(likelihood.elbo(keys, process, wrong, rows)) - np.log(4000))
    assert means[0] < means[1] < means[2]
    assert abs(means[2] - whole) < abs(means[0] - whole) / 8
    assert float(jnp.mean(plain)) == pytest.approx(means[0], abs=0.02)


def test_the_ends_of_time_count():
    """With t_min = 0.2 what is a mask there is revealed at once: the bound of independent tokens.
    With t_max = 0.9 tokens that are known at the start were not drawn: ln 0."""
    law = table()
    process = Masking(t_min=0.2)
    x = jnp.asarray(sequences())
    keys = jax.random.split(jax.random.key(0), len(x))
    found = likelihood.elbo(keys, process, law.denoiser(process), x, draws=4000)
    chances = forward(process, 0.2)  # of each x_t that is left at t_min
    later = np.asarray(law.denoiser(process)(jnp.asarray(states(process)), jnp.asarray(0.2)))
    for row, log_prob, value in zip(sequences(), law.log_prob(x), found, strict=True):
        chance, gap = chances[np.all(sequences() == row, axis=1)][0], 0.0
        for x_t, each, p in zip(states(process), later, chance, strict=True):
            if p > 0:  # ln of the marginals less ln of the joint law of the masked tokens
                known = x_t != MASK
                fits = np.all((sequences() == x_t) | ~known, axis=1)
                joint = np.asarray(law.probs).reshape(-1)
                exact = np.log(joint[np.all(sequences() == row, axis=1)][0] / joint[fits].sum())
                gap += p * (np.log(each[np.arange(3), row])[~known].sum() - exact)
        assert value == pytest.approx(float(log_prob) + gap, abs=0.08)
    late = Masking(t_max=0.9)
    assert np.isneginf(likelihood.elbo(keys, late, law.denoiser(late), x, draws=200)).any()


def test_the_rates_of_uniform_noise_bound_exactly():
    """The integral over t of the relative entropy of the rates, over all states and by Gauss's rule
    in t^(1/4) (it is like ln t at 0), is -ln p(x) where the denoiser is exact."""
    process, law = Uniform(values=VALUES), table()
    nodes, weights = np.polynomial.legendre.leggauss(80)
    u, weights = (nodes + 1) / 2, weights / 2
    x_t, total = jnp.asarray(states(process)), np.zeros(27)
    for x_0, place in zip(sequences(), range(27), strict=True):
        rows = jnp.repeat(jnp.asarray(x_0)[None], 27, axis=0)
        for at, weight in zip(u, weights, strict=True):
            t = jnp.asarray(at**4)
            found = law.denoiser(process)(x_t, t)
            each = jnp.sum(rate_entropy(process, rows, x_t, t, found), axis=1)
            total[place] += weight * 4 * at**3 * (forward(process, at**4)[place] @ np.asarray(each))
        if place == 5:
            break
    wanted = -np.asarray(law.log_prob(jnp.asarray(sequences()[:6])))
    np.testing.assert_allclose(total[:6], wanted, atol=1e-6)


def test_draws_of_times_have_that_mean():
    """The estimate for uniform noise, within five standard errors of ln p(x)."""
    process, law = Uniform(values=VALUES), table()
    x = jnp.repeat(jnp.asarray([[0, 2, 1]]), 4000, axis=0)
    keys = jax.random.split(jax.random.key(0), 4000)
    found = np.asarray(likelihood.elbo(keys, process, law.denoiser(process), x, draws=16))
    error = found.std() / 4000**0.5
    assert abs(found.mean() - float(law.log_prob(x[:1])[0])) < 5 * error
    assert error < 0.03


def test_a_prior_that_is_not_reached_counts():
    """With t_max = 0.5 much is left of x_0. With the exact denoiser the bound is ln p(x) plus the
    mean of ln prior(x_T) - ln p(x_T), over all states."""
    process, law = Uniform(values=VALUES, t_max=0.5), table()
    row = np.all(sequences() == [0, 2, 1], axis=1)
    noised = forward(process, 0.5)
    marginal = np.asarray(law.probs).reshape(-1) @ noised
    x = jnp.repeat(jnp.asarray([[0, 2, 1]]), 4000, axis=0)
    gap = float(noised[row][0] @ (np.log(VALUES**-3.0) - np.log(marginal)))
    keys = jax.random.split(jax.random.key(0), 4000)
    found = np.asarray(likelihood.elbo(keys, process, law.denoiser(process), x, draws=16))
    error = found.std() / 4000**0.5
    assert abs(found.mean() - float(law.log_prob(x[:1])[0]) - gap) < 5 * error
    assert (
        3 * float(process.prior_entropy(float)) > 20 * error
    )  # which would be seen to be left out


def test_of_masks_the_entropy_of_rates_is_the_weighted_cross_entropy():
    process, x_0 = Masking(schedule="cosine"), jnp.asarray(sequences())
    t = jnp.asarray(0.4)
    x_t = process.perturb(jax.random.key(0), x_0, t)
    found = wrong(x_t, t)
    each = rate_entropy(process, x_0, x_t, t, found)
    slope, noise = np.pi / 2 * np.cos(np.pi / 2 * 0.4), np.sin(np.pi / 2 * 0.4)
    log_prob = np.log(np.take_along_axis(np.asarray(found), np.asarray(x_0)[..., None], 2))[..., 0]
    wanted = np.where(np.asarray(x_t) == MASK, -slope / noise * log_prob, 0)
    np.testing.assert_allclose(each, wanted, atol=1e-12)


def test_an_example_does_not_depend_on_its_batch():
    process, x = Masking(), jnp.asarray(sequences())
    keys = jax.random.split(jax.random.key(0), 27)
    whole = likelihood.elbo(keys, process, wrong, x)
    part = likelihood.elbo(keys[3:5], process, wrong, x[3:5])
    np.testing.assert_allclose(part, whole[3:5], rtol=1e-12)


def test_mistakes_are_told():
    x = jnp.asarray(sequences())
    with pytest.raises(ValueError, match="at least 1"):
        likelihood.elbo(jax.random.key(0), Masking(), wrong, x, draws=0)
    with pytest.raises(ValueError, match="paths of masks"):
        likelihood.elbo(jax.random.key(0), Uniform(values=3), wrong, x, importance=True)
