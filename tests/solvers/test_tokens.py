"""Solvers of tokens: the law of what they draw, by enumeration of their chains."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from score_sde import sampling, solvers
from score_sde.evaluation.token_chains import total_variation
from score_sde.processes import MASK, Masking, Uniform
from score_sde.solvers import tokens
from tests.tables import VALUES, law_of, sequences, states, table

pytestmark = pytest.mark.usefixtures("x64")

STEPS = (4, 8, 16, 32)
TRANSITIONS = {
    "unmask": (tokens.ancestral_law, Masking()),
    "unmask, cosine": (tokens.ancestral_law, Masking(schedule="cosine")),
    "unmask, uniform": (tokens.ancestral_law, Uniform(values=VALUES)),
    "tau leaping, cosine": (tokens.leaping_law, Masking(schedule="cosine")),
    "tau leaping, uniform": (tokens.leaping_law, Uniform(values=VALUES)),
    "remask, eta 1/n": (None, Masking()),
}


@pytest.mark.parametrize("name", TRANSITIONS)
def test_the_error_of_the_law_falls_with_the_number_of_steps(name):
    """Total variation of the exact law of the samples to the truth: order 1."""
    make, process = TRANSITIONS[name]
    law = table()
    denoiser, errors = law.denoiser(process), []
    for n in STEPS:
        transition = tokens.remasking_law(process, 1 / n) if make is None else make(process)
        found = law_of(transition, process, denoiser, n)
        assert found.sum() == pytest.approx(1, abs=1e-12)
        errors.append(total_variation(found, process, law.probs))
    assert errors[-1] < 0.05
    order = np.log2(errors[-2] / errors[-1])
    assert order == pytest.approx(1, abs=0.12)


def test_one_step_draws_each_token_by_itself():
    """The law of one step is the product of the marginals, so its error is theirs."""
    process, law = Masking(), table()
    found = law_of(tokens.ancestral_law(process), process, law.denoiser(process), 1)
    probs = np.asarray(law.probs)
    marginals = [probs.sum(axis=tuple(j for j in range(3) if j != i)) for i in range(3)]
    product = np.einsum("i,j,k->ijk", *marginals).reshape(-1)
    whole = np.all(states(process) >= 0, axis=1)
    np.testing.assert_allclose(found[whole], product, atol=1e-14)


def test_two_steps_by_hand():
    """At t = 1/2 each of the three tokens is known with probability 1/2, independently: by its
    marginal, and the others then by theirs given the known ones."""
    process, law = Masking(), table()
    probs, wanted = np.asarray(law.probs), np.zeros((3, 3, 3))
    marginals = [probs.sum(axis=tuple(j for j in range(3) if j != i)) for i in range(3)]
    for known in np.ndindex(2, 2, 2):
        for x in np.ndindex(3, 3, 3):
            chance = np.prod([marginals[i][x[i]] for i in range(3) if known[i]])
            slices = tuple(x[i] if known[i] else slice(None) for i in range(3))
            rest = probs[slices] / probs[slices].sum()
            free = [i for i in range(3) if not known[i]]
            for place, i in enumerate(free):
                axes = tuple(j for j in range(len(free)) if j != place)
                chance *= rest.sum(axis=axes)[x[i]]
            wanted[x] += chance / 8
    found = law_of(tokens.ancestral_law(process), process, law.denoiser(process), 2)
    whole = np.all(states(process) >= 0, axis=1)
    np.testing.assert_allclose(found[whole], wanted.reshape(-1), atol=1e-14)


def test_tau_leaping_is_ancestral_sampling_of_the_linear_schedule():
    process, x = Masking(), jnp.asarray(states(Masking()))
    denoiser, t, s = table().denoiser(process), jnp.asarray(0.8), jnp.asarray(0.5)
    found, wanted = (
        make(process)(denoiser, x, t, s) for make in (tokens.leaping_law, tokens.ancestral_law)
    )
    np.testing.assert_allclose(found.masked, wanted.masked, atol=1e-15)
    masks = np.asarray(x) == MASK
    np.testing.assert_allclose(found.value[masks], wanted.value[masks], atol=1e-14)


@pytest.mark.parametrize("eta", [0.0, 0.1, 1.0])
def test_masking_again_keeps_the_law_of_the_process(eta):
    """Where D is the one-hot x_0, x_s has the law of the process at s, if x_t has it at t."""
    process, t, s = Masking(schedule="cosine"), jnp.asarray(0.7), jnp.asarray(0.4)
    x = jnp.asarray([[MASK, 1]])
    transition = tokens.remasking_law(process, eta)
    known = jax.nn.one_hot(jnp.asarray([[1, 1]]), VALUES, dtype=jnp.float64)
    masked = transition(lambda x, t: known, x, t, s).masked[0]
    noise_t, noise_s = process.noise(t), process.noise(s)
    np.testing.assert_allclose(noise_t * masked[0] + (1 - noise_t) * masked[1], noise_s, rtol=1e-12)
    assert (masked[1] > 0) == (eta > 0)


def drawn(solver, process, denoiser, n, steps, x=None):
    """Sequences [n, 3] by the loop."""
    start = process.prior_sample(jax.random.key(1), (n, 3)) if x is None else x
    times = jnp.linspace(process.t_max, process.t_min, steps + 1)
    return sampling.sample(jax.random.key(2), solver, denoiser, start, times)


def p_value(x, probs):
    """Of a chi-square test; values that are rare are counted together."""
    n = len(x)
    counts = np.bincount(np.asarray(x) @ [9, 3, 1], minlength=27)
    expected = n * np.asarray(probs).reshape(-1)
    often = expected > 5
    pooled = [[*a[often], a[~often].sum()] for a in (counts, expected)]
    keep = np.asarray(pooled[1]) > 0
    return stats.chisquare(*(np.asarray(a)[keep] for a in pooled)).pvalue


def test_first_hitting_is_exact():
    """Chi-square of 20,000 samples of one interval, and of four; three evaluations each."""
    process, law = Masking(schedule="cosine"), table()
    denoiser = law.denoiser(process)
    for steps in (1, 4):
        out = drawn(solvers.first_hitting(process), process, denoiser, 20_000, steps)
        assert p_value(out.x, law.probs) > 1e-3
        assert np.all(np.asarray(out.nfe) == 3)


def test_first_hitting_stops_where_the_grid_does():
    """At t_min = 0.3 a token is still a mask with probability 1 - alpha(t_min)."""
    process, law = Masking(t_min=0.3), table()
    out = drawn(solvers.first_hitting(process), process, law.denoiser(process), 20_000, 1)
    share = float((out.x == MASK).mean())
    assert share == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / 60_000) ** 0.5)


@pytest.mark.parametrize("name", ["unmask", "tau_leaping", "remask"])
def test_what_is_drawn_has_the_law_of_the_transition(name):
    """Chi-square of 20,000 samples after 3 steps against the enumerated chain."""
    process, law = Masking(schedule="cosine"), table()
    transition = {
        "unmask": tokens.ancestral_law(process),
        "tau_leaping": tokens.leaping_law(process),
        "remask": tokens.remasking_law(process, 0.1),
    }[name]
    denoiser = law.denoiser(process)
    wanted = law_of(transition, process, denoiser, 3)[np.all(states(process) >= 0, axis=1)]
    out = drawn(getattr(solvers, name)(process), process, denoiser, 20_000, 3)
    assert p_value(out.x, wanted) > 1e-3
    assert int(out.nfe) == 3


def test_confident_sampling_is_biased_however_small_the_steps_are():
    """It always begins with the surest token: 100 steps are no nearer than 3."""
    process, law = Masking(), table()
    denoiser, errors = law.denoiser(process), []
    for steps in (3, 100):
        x = drawn(solvers.confident(process), process, denoiser, 10_000, steps).x
        counts = np.bincount(np.asarray(x) @ [9, 3, 1], minlength=27)
        errors.append(np.abs(counts / 10_000 - np.asarray(law.probs).reshape(-1)).sum() / 2)
    assert min(errors) > 0.2
    assert errors[1] == pytest.approx(errors[0], abs=0.02)


def test_known_tokens_stay_and_the_others_follow_them():
    """Infilling: from x with one known token, exact sampling draws the conditional law."""
    process, law = Masking(), table()
    x = jnp.full((20_000, 3), MASK, jnp.int32).at[:, 1].set(2)
    out = drawn(solvers.first_hitting(process), process, law.denoiser(process), len(x), 1, x)
    assert np.all(np.asarray(out.x)[:, 1] == 2)
    probs = np.asarray(law.probs).copy()
    probs[:, :2] = 0
    assert p_value(out.x, probs / probs.sum()) > 1e-3
    assert np.all(np.asarray(out.nfe) == 2)


def test_a_sample_does_not_depend_on_its_batch():
    """With a key for each, by every solver; and tokens keep their dtype."""
    process, law = Masking(), table()
    denoiser, keys = law.denoiser(process), jax.random.split(jax.random.key(3), 6)
    times = jnp.linspace(1.0, 0.0, 5)
    for name in tokens.__all__:
        solver = getattr(solvers, name)(process)
        x = process.prior_sample(keys, (6, 3), jnp.int8)
        whole = sampling.sample(keys, solver, denoiser, x, times).x
        part = sampling.sample(keys[2:4], solver, denoiser, x[2:4], times).x
        chex.assert_trees_all_equal(whole[2:4], part)
        assert whole.dtype == jnp.int8
        assert np.all(whole >= 0)


def test_rates_that_are_infinite_at_the_start_redraw_every_token():
    """Of the linear schedule the rate of `Uniform` is infinite at t = 1."""
    process, law = Uniform(values=VALUES), table()
    transition = tokens.leaping_law(process)
    x = jnp.asarray(sequences())
    found = transition(law.denoiser(process), x, jnp.asarray(1.0), jnp.asarray(0.9))
    assert np.all(np.isfinite(found.value))
    np.testing.assert_allclose(found.value.sum(axis=-1), 1, rtol=1e-12)


def test_a_leap_is_the_first_order_of_the_exact_step():
    """Of two tokens of three values. A step of h changes a token with the probability h times its
    rate, and the exact step with that up to h^2."""
    process, x = Uniform(values=3), jnp.asarray([[0, 2]])
    denoiser = lambda x, t: jnp.full((*x.shape, 3), 1 / 3)  # noqa: E731
    t, h = jnp.asarray(0.5), 1e-4
    leap = tokens.leaping_law(process)(denoiser, x, t, t - h).value
    exact = process.reverse(x, t, t - h, denoiser(x, t)).value
    np.testing.assert_allclose(leap, exact, atol=10 * h**2)
    assert np.abs(exact - jnp.eye(3)[x]).max() > h / 2


@pytest.mark.parametrize("name", ["remask", "confident", "first_hitting"])
def test_solvers_of_masks_refuse_other_processes(name):
    with pytest.raises(ValueError, match="take unmask"):
        getattr(solvers, name)(Uniform(values=3))


def test_a_share_is_in_its_range():
    process = Masking()
    with pytest.raises(ValueError, match="eta"):
        solvers.remask(process, eta=2.0)
