"""Processes of tokens against Bayes' rule on all states."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from score_sde.config import build
from score_sde.errors import ConfigError
from score_sde.processes import MASK, Masking, Uniform, schedules
from score_sde.types import categorical
from tests.tables import VALUES, forward, sequences, states, table

pytestmark = pytest.mark.usefixtures("x64")

PROCESSES = {
    "masking": lambda **options: Masking(**options),
    "uniform": lambda **options: Uniform(values=VALUES, **options),
}


@pytest.fixture(params=PROCESSES)
def process(request):
    return PROCESSES[request.param](schedule="cosine")


@pytest.mark.parametrize("name", ["linear", "cosine", "polynomial(power=3.0)"])
def test_a_schedule_and_its_inverse(name):
    """alpha goes from 1 to 0, noise is 1 - alpha, and its inverse finds t."""
    schedule, t = build("processes.schedules", name), jnp.linspace(0.0, 1.0, 33)
    np.testing.assert_allclose(schedule.alpha(t) + schedule.noise(t), 1, rtol=1e-14)
    np.testing.assert_allclose(schedule.t_of_noise(schedule.noise(t)), t, atol=1e-8)
    assert np.all(np.diff(schedule.alpha(t)) < 0)
    np.testing.assert_allclose(schedule.alpha(t[::32]), [1, 0], atol=1e-16)


def test_small_numbers_keep_their_digits():
    """In float32 1 - alpha at t = 1e-9, and alpha at 1 - 2^-20, against float64."""
    for schedule in (schedules.linear(), schedules.cosine(), schedules.polynomial(2.0)):
        noise = schedule.noise(jnp.float32(1e-9)), schedule.noise(jnp.float64(1e-9))
        np.testing.assert_allclose(*noise, rtol=1e-6)
        late = 1 - 2.0**-20
        alpha = schedule.alpha(jnp.float32(late)), schedule.alpha(jnp.float64(late))
        np.testing.assert_allclose(*alpha, rtol=1e-6)


def test_log_snr_is_that_of_alpha(process):
    t = jnp.linspace(0.05, 0.95, 10)
    alpha = np.asarray(process.alpha(t))
    np.testing.assert_allclose(process.log_snr(t), np.log(alpha / (1 - alpha)), rtol=1e-12)
    np.testing.assert_allclose(process.t_of_log_snr(process.log_snr(t)), t, rtol=1e-12)


def test_noised_tokens_have_their_law(process):
    """Chi-square of 20,000 draws of one token at t = 0.4, fixed seed."""
    n, t = 20_000, jnp.asarray(0.4)
    x_t = process.perturb(jax.random.key(0), jnp.full((n, 1), 2, jnp.int32), t)
    alpha = float(process.alpha(t))
    expected = {MASK: 1 - alpha, 2: alpha}
    if not process.absorbing:
        expected = {k: (1 - alpha) / VALUES + alpha * (k == 2) for k in range(VALUES)}
    counts = [int((x_t == k).sum()) for k in expected]
    assert sum(counts) == n
    assert stats.chisquare(counts, [n * p for p in expected.values()]).pvalue > 1e-3


def test_the_ends_are_the_data_and_the_prior(process):
    x_0 = jax.random.randint(jax.random.key(0), (500, 8), 0, VALUES)
    key = jax.random.key(1)
    np.testing.assert_array_equal(process.perturb(key, x_0, jnp.asarray(0.0)), x_0)
    end = process.perturb(key, x_0, jnp.asarray(1.0))
    if process.absorbing:
        assert np.all(end == MASK)
    else:  # nothing is left of x_0: the same draws whatever it was
        np.testing.assert_array_equal(end, process.perturb(key, 0 * x_0, jnp.asarray(1.0)))


def test_a_key_for_each_example(process):
    """An example does not depend on the others of its batch."""
    x_0 = jax.random.randint(jax.random.key(0), (6, 40), 0, VALUES)
    keys, t = jax.random.split(jax.random.key(1), 6), jnp.asarray(0.5)
    whole = process.perturb(keys, x_0, t)
    np.testing.assert_array_equal(process.perturb(keys[2:4], x_0[2:4], t), whole[2:4])
    assert len({row.tobytes() for row in np.asarray(whole)}) == 6


def test_the_exact_denoiser_is_bayes_rule(process):
    """p(x_0 | x_t) of every state, by enumeration."""
    law, t = table(), 0.4
    joint = np.asarray(law.probs).reshape(-1)[:, None] * forward(process, t)
    possible = joint.sum(axis=0) > 0
    found = law.denoiser(process)(jnp.asarray(states(process)), jnp.asarray(t))
    posterior = joint[:, possible] / joint[:, possible].sum(axis=0)
    for i in range(3):
        for k in range(VALUES):
            wanted = posterior[sequences()[:, i] == k].sum(axis=0)
            np.testing.assert_allclose(found[possible][:, i, k], wanted, atol=1e-14)


def test_the_step_back_is_bayes_rule(process):
    """p(x_s = j | x_t) of a single token, with the joint law of x_0, x_s and x_t written out."""
    probs, t, s = np.array([0.2, 0.5, 0.3]), 0.7, 0.45
    alpha_t, alpha_s = (float(process.alpha(jnp.asarray(a))) for a in (t, s))

    def kernel(kept):  # [from, to]; the mask is the last state
        chain = np.zeros((4, 4))
        chain[:3, :3] = kept * np.eye(3)
        if process.absorbing:
            chain[:3, 3] = 1 - kept
        else:
            chain[:3, :3] += (1 - kept) / 3
        chain[3, 3] = 1
        return chain

    at_s = probs @ kernel(alpha_s)[:3]
    joint = at_s[:, None] * kernel(alpha_t / alpha_s)  # [x_s, x_t]
    evidence = probs[:, None] * kernel(alpha_t)[:3]  # [x_0, x_t]
    for x_t in range(-1 if process.absorbing else 0, 3):
        posterior = evidence[:, x_t] / evidence[:, x_t].sum()
        x = jnp.full((1, 1), x_t)
        law = process.reverse(x, jnp.asarray(t), jnp.asarray(s), jnp.asarray(posterior)[None, None])
        wanted = joint[:, x_t] / joint[:, x_t].sum()
        found = [*((1 - law.masked[..., None]) * law.value)[0, 0], law.masked[0, 0]]
        np.testing.assert_allclose(found, wanted, atol=1e-14)


def test_rates_are_the_limit_of_small_steps(process):
    """The chance of a change in a step, over its length, with an error of first order in it."""
    x = jnp.asarray(states(process))
    x_0 = table().denoiser(process)(x, jnp.asarray(0.6))
    possible = np.isfinite(np.asarray(x_0)).all(axis=(1, 2))
    rates = process.reverse_rates(x, jnp.asarray(0.6), x_0)
    errors = []
    for h in (1e-3, 5e-4):
        law = process.reverse(x, jnp.asarray(0.6), jnp.asarray(0.6 - h), x_0)
        other = law.value * (1 - law.masked)[..., None]
        other = np.asarray(other) * (np.asarray(x)[..., None] != np.arange(VALUES))
        errors.append(np.abs(other / h - rates)[possible].max())
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.05)
    assert errors[1] < 1e-2


def test_draws_of_rare_values_are_as_rare_as_they_should_be():
    """5,000 values of 1e-7 each come 5 times on average in 10,000 draws, not at all in one seed of
    150. JAX's plain draws in float32 give none."""
    probs = jnp.full((200, 5001), 1e-7, jnp.float32).at[:, 0].set(1 - 5e-4)
    keys = jax.random.split(jax.random.key(0), 50)
    found = jax.lax.map(lambda key: jnp.sum(categorical(key, probs) > 0), keys)
    assert 0 < int(found.sum()) < 20


def test_what_is_no_law_gives_no_token():
    """A number that is negative or NaN in one of them leaves the others as they are."""
    probs = jnp.array([[0.5, 0.5], [1.5, -0.5], [jnp.nan, 1.0]])
    found = categorical(jax.random.key(0), probs)
    assert found[0] in (0, 1)
    assert found[1:].tolist() == [-2, -2]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Masking(t_max=1.5), "t_min < t_max <= 1"),
        (lambda: Masking(t_min=0.5, t_max=0.4), "t_min < t_max <= 1"),
        (lambda: Masking(schedule="fast"), "linear"),
        (lambda: Uniform(values=1), "at least 2"),
        (lambda: schedules.polynomial(0.0), "above 0"),
        (
            lambda: table().denoiser(Uniform(values=5))(jnp.zeros((1, 3), int), jnp.ones(1)),
            "values=3",
        ),
    ],
)
def test_mistakes_are_told(make, message):
    with pytest.raises((ValueError, ConfigError), match=message):
        make()
