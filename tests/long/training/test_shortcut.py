"""Shortcut models: the fixed point is the Euler solution of the base, in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.conditioning.labels import Labels
from score_sde.models.flow_map import slope
from score_sde.processes import Flow, exact, flow, jump_value
from score_sde.training import distances, time_law
from score_sde.training.objective import Training
from score_sde.training.objectives.shortcut import shortcut, spread, two_slopes
from tests.training.flow_map_nets import SDES, model_of, shift

pytestmark = pytest.mark.usefixtures("x64")

KEY = jax.random.key(0)


def gaussian():
    return exact.Gaussian(jnp.array([0.5, -1.0]), jnp.array([[0.6, 0.2], [0.2, 0.3]]))


def make(model, **options):
    law = options.pop("law", time_law.uniform())
    return shortcut(model, Labels(1), time_law=law, distance=distances.squared(), **options)


def batch(n=64):
    rng = np.random.default_rng(0)
    cov = np.array([[0.6, 0.2], [0.2, 0.3]])
    x = rng.multivariate_normal([0.5, -1.0], cov, n)
    return {"x": jnp.asarray(x), "cond": {"label": jnp.zeros(n, jnp.int32)}}


@pytest.mark.parametrize("name", SDES)
def test_two_slopes_of_an_exact_flow_map_are_the_slope_of_one_step(name):
    sde, law = SDES[name], gaussian()
    of_step = slope(model_of(sde, law.flow_map(sde)), shift())
    t = jnp.linspace(sde.t_min, sde.t_max, 9)[1:]
    s = jnp.concatenate([jnp.full(4, sde.t_min), t[3:7]])
    x = jnp.asarray(np.random.default_rng(1).normal(size=(8, 2))) * (sde.sigma(t)[:, None] + 0.5)
    m = 0.3 * t + 0.7 * s
    found = two_slopes(sde, of_step, x, t, m, s)
    np.testing.assert_allclose(found, of_step(x, t, s), rtol=1e-9, atol=1e-9)


def test_on_the_rectified_flow_the_target_is_the_mean_of_two_slopes():
    """(s(x_t, t, d) + s(x_{t-d}, t - d, d)) / 2 of Frans et al. 2024, eq. 4, of any slope."""
    sde = Flow(t_min=0.0, t_max=1.0)
    u = lambda x, t, s: jnp.sin(x + t[:, None]) * (1 + s[:, None])  # noqa: E731
    x, t, d = jnp.array([[0.3, 2.0]]), jnp.array([0.75]), 0.125
    first = u(x, t, t - d)
    by_hand = (first + u(x - d * first, t - d, t - 2 * d)) / 2
    np.testing.assert_allclose(two_slopes(sde, u, x, t, t - d, t - 2 * d), by_hand, rtol=1e-13)


def euler_base(sde, law, steps):
    """The FlowMap of `steps` steps of Euler's method in tau on a grid of the uniform law, for jumps
    between points of it that are 1, 2, 4, ... of them long; at s = t the denoiser."""
    denoiser, times = law.denoiser(sde), np.linspace(sde.t_min, sde.t_max, steps + 1)

    def value(x, t, s):
        y = x
        for high, low in zip(times[:0:-1], times[-2::-1], strict=True):
            now, then = jnp.full_like(t, high), jnp.full_like(t, low)
            inside = (now <= t + 1e-9) & (then >= s - 1e-9)
            step = flow(sde, lambda x, t, s: denoiser(x, t))(y, now, then)
            y = jnp.where(inside[:, None], step, y)
        still = t - s < 1e-9
        led = jump_value(sde, x, t, jnp.where(still, sde.t_min / 2, s), y)
        return jnp.where(still[:, None], denoiser(x, t), led)

    return value


@pytest.mark.parametrize("name", ["VP", "EDM"])
def test_the_fixed_point_is_the_base_of_euler_steps(name):
    """With the flow map of `steps` DDIM steps in the network's place long steps have no loss, and
    the others that of flow matching, whose gradient is 0 on average. The exact flow map has not: it
    lacks the bias of the base."""
    sde, law, steps = SDES[name], gaussian(), 8
    found = {}
    for kind, value in (("base", euler_base(sde, law, steps)), ("exact", law.flow_map(sde))):
        objective = make(model_of(sde, value), steps=steps, share=0.5)
        training = Training(jnp.int32(0), (shift(),))
        found[kind] = jax.jit(objective.losses)(shift(), KEY, batch(), training)
    chosen = spread(64, 0.5)
    assert float(jnp.max(found["base"].value[chosen])) < 1e-18
    assert float(jnp.max(found["exact"].value[chosen])) > 1e-6
    rest = np.setdiff1d(np.arange(64), chosen)
    np.testing.assert_allclose(found["base"].value[rest], found["exact"].value[rest], rtol=1e-9)
    assert float(jnp.min(found["base"].value[rest])) > 1e-6
    # long steps begin at points of the grid, others anywhere
    places = (np.asarray(found["base"].t) - sde.t_min) / (sde.t_max - sde.t_min) * steps
    on_grid = np.abs(places - np.round(places)) < 1e-9
    assert on_grid[chosen].all()
    assert not on_grid[rest].any()
    assert set(np.round(places[chosen])) == {2, 4, 6, 8}


def test_the_bias_of_the_base_is_that_of_128_euler_steps():
    """N(0, .25) on the rectified flow: from slopes of Euler's method, halved lengths lead to a step
    from 1 to 0 with a standard deviation of .494 for .5. It is the product of the factors
    1 - (t - s) (t - .25 (1 - t))/(.25 (1 - t)^2 + t^2)."""
    sde = Flow(t_min=0.0, t_max=1.0)
    t = jnp.arange(1, 129) / 128
    exact_slope = (t - 0.25 * (1 - t)) / (0.25 * (1 - t) ** 2 + t**2)
    factors, found = exact_slope, np.prod(1 - exact_slope / 128)
    for count in (64, 32, 16, 8, 4, 2, 1):
        t = jnp.arange(1, count + 1) / count

        def half(x, t, s, count=count, factors=factors):
            return factors[jnp.round(2 * count * t).astype(int) - 1][:, None] * x

        ends = (t, t - 0.5 / count, t - 1 / count)
        factors = two_slopes(sde, half, jnp.ones((count, 1)), *ends)[:, 0]
    np.testing.assert_allclose(1 - factors, [found], rtol=1e-10)
    assert round(float(found), 3) == 0.494


def test_targets_come_from_the_average_alone():
    """A shift of the average moves the targets of long steps and no others; gradients do not reach
    it."""
    sde, law = SDES["Flow"], gaussian()
    objective = make(model_of(sde, law.flow_map(sde)), share=0.25)
    average = lambda number: Training(jnp.int32(0), (shift(number),))  # noqa: E731
    plain, moved = (objective.losses(shift(), KEY, batch(), average(a)).value for a in (0.0, 0.5))
    changed = np.abs(np.asarray(plain - moved)) > 1e-9
    np.testing.assert_array_equal(np.flatnonzero(changed), spread(64, 0.25))
    slope_of = jax.grad(
        lambda a: jnp.sum(objective.losses(shift(), KEY, batch(), average(a)).value)
    )
    assert float(slope_of(0.5)) == 0
    share = objective.targets[0]
    np.testing.assert_allclose(share(jnp.int32(100_000)), 0.001, rtol=1e-4)
    np.testing.assert_allclose(share(jnp.int32(0)), 0.9, rtol=1e-6)


@pytest.mark.parametrize(
    ("size", "share", "count"),
    [(64, 0.125, 8), (16, 0.125, 2), (7, 0.5, 4), (8, 0.0, 0), (8, 1.0, 8)],
)
def test_the_share_is_spread_over_the_batch(size, share, count):
    found = spread(size, share)
    assert len(found) == len(set(found)) == count
    if count:
        gaps = np.diff([*found, size])
        assert found[0] == 0
        assert gaps.max() - gaps.min() <= 1


def test_which_steps_are_asked_for():
    """With steps = 8: long steps of 1, 1/2 and 1/4, each at all its places; the average is asked
    for their halves, and for s = t in the place of 1/8; the others have s = t."""
    sde, law, asked = Flow(t_min=0.0, t_max=1.0), gaussian(), []

    def value(x, t, s):
        asked.append(np.round(np.stack([t, t - s], axis=1), 9))
        return law.flow_map(sde)(x, t, s)

    objective = make(model_of(sde, value), steps=8, share=0.5)
    objective.losses(shift(), KEY, batch(512), Training(jnp.int32(0), (shift(),)))
    first, second, both = (calls.tolist() for calls in asked)
    chosen = spread(512, 0.5)
    steps = {tuple(both[i]) for i in chosen}
    assert steps == {(i / n, 1 / n) for n in (1, 2, 4) for i in range(1, n + 1)}
    for i, (t, length), (m, other) in zip(chosen, first, second, strict=True):
        whole = both[i][1]
        assert (t, m) == (both[i][0], both[i][0] - whole / 2)
        assert length == other == (0 if whole == 0.25 else whole / 2)
    assert all(length == 0 for _, length in np.delete(both, chosen, axis=0))


def test_mistakes_are_named():
    sde, law = SDES["VP"], gaussian()
    model = model_of(sde, law.flow_map(sde))
    for options, message in (
        ({"steps": 12}, "steps=12 is no power of two above 1"),
        ({"steps": 1}, "steps=1 is no power of two above 1"),
        ({"share": 1.5}, r"share=1\.5 is not between 0 and 1"),
        ({"decay": -1.0}, r"decay=-1\.0 is not between 0 and 1"),
        ({"law": time_law.logit_normal()}, "must go from t_min"),
    ):
        with pytest.raises(ValueError, match=message):
            make(model, **options)
    with pytest.raises(ValueError, match="does not read how far a flow map goes"):
        make(model_of(sde, law.flow_map(sde), numbers=()))
