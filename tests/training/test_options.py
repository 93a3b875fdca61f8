"""Options at the ends of their ranges, and the constants of the papers."""

import inspect
import math

import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.training import (
    constraints,
    curricula,
    distances,
    ema,
    perceptual,
    schedules,
    time_law,
    weighting,
)
from score_sde.training.flow_maps import Guiding
from score_sde.training.lean_adjoint import _check as check_paths
from score_sde.training.objectives.lcm import lcm
from score_sde.training.objectives.mean_flow import mean_flow

LEAST = 1e-6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: distances.huber(scale=0.0), "scale must be above 0, not 0.0"),
        (lambda: distances.elementwise_huber(scale=0.0), "scale must be above 0, not 0.0"),
        (lambda: distances.adaptive(constant=0.0), "constant must be above 0, not 0.0"),
        (lambda: curricula.fixed(1), "at least 2 noise levels, not 1"),
        (lambda: curricula.fixed(2, -LEAST), "rate"),
        (lambda: curricula.fixed(2, 1.0), "rate"),
        (lambda: curricula.progressive(first=1), "at least 2 noise levels, not 1"),
        (lambda: curricula.progressive(length=0), "length=0"),
        (lambda: curricula.progressive(first=3, last=2), "last=2"),
        (lambda: curricula.progressive(rate=0.0), "rate=0.0"),
        (lambda: curricula.doubling(first=0), "first=0"),
        (lambda: curricula.doubling(first=2, last=1), "last=1"),
        (lambda: curricula.doubling(length=1, first=1, last=2), "length=1 has fewer steps"),
        (lambda: ema.power(0.0), "between 0 and 0.28, not 0.0"),
        (lambda: ema.power(0.28), "between 0 and 0.28, not 0.28"),
        (lambda: time_law.karras(rho=0.0), "rho"),
        (lambda: time_law.measured(bins=1), "bins=1"),
        (lambda: time_law.measured(memory=1.0), "memory=1.0"),
        (lambda: time_law.measured(floor=0.0), "floor=0.0"),
        (lambda: time_law.measured(floor=1 + LEAST), "floor=1.000001"),
        (lambda: check_paths(20, 0, 0), "times_per_path=0"),
        (lambda: check_paths(20, 21, 0), "times_per_path=21"),
        (lambda: check_paths(20, 4, -1), "anneal=-1"),
        (lambda: Guiding(mix=-LEAST).check(0.1), r"mix=-1e-06 is not in \[0, 1\)"),
        (lambda: Guiding(mix=1.0).check(0.1), r"mix=1.0 is not in \[0, 1\)"),
        (lambda: Guiding(weight=2.0).check(0.0), "guidance=2.0"),
        (lambda: perceptual.random_convolutions(patch=0), "patch=0"),
        (lambda: perceptual.random_convolutions(stride=0), "stride=0"),
        (lambda: perceptual.random_convolutions(channels=0), "channels=0"),
    ],
)
def test_beyond_a_range_is_one_line(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: curricula.fixed(2, 0.0),
        lambda: curricula.fixed(2, 1 - LEAST),
        lambda: ema.power(0.28 - LEAST),
        lambda: ema.power(0.001),
        lambda: time_law.karras(rho=LEAST),
        lambda: time_law.measured(bins=2, memory=1 + LEAST, floor=1.0),
        lambda: check_paths(20, 1, 0),
        lambda: check_paths(20, 20, 0),
        lambda: Guiding(weight=1.0, mix=0.0).check(0.0),
        lambda: Guiding(weight=2.0, mix=1 - LEAST).check(LEAST),
    ],
)
def test_the_ends_of_a_range_are_in_it(make):
    make()


def test_the_shortest_curricula():
    """N(0) = s_0 and, from the end of K steps on, s_1 + 1; mu = e^(s_0 ln(mu_0)/N)."""
    short = curricula.progressive(length=1, first=2, last=2, rate=0.9)
    assert short.levels == (2, 3)
    assert short.starts == (0, 1)
    assert short.rates == pytest.approx((0.9, 0.9 ** (2 / 3)))
    assert curricula.doubling(length=1, first=1, last=1) == curricula.Curriculum((2,), (0,), (0.0,))
    assert curricula.doubling(length=2, first=1, last=2).starts == (0, 1)


def test_a_square_may_be_as_large_as_the_image():
    features = perceptual.random_convolutions(patch=2, stride=1, channels=1)
    (found,) = features(jnp.ones((1, 2, 2, 1)))
    assert found.shape == (1, 1, 1, 1)
    for shape in ((1, 1, 2, 1), (1, 2, 1, 1)):
        with pytest.raises(ValueError, match="patch=2 is larger than images"):
            features(jnp.ones(shape))


def test_features_of_noise_are_as_large_as_the_noise():
    """The filters of n numbers are drawn from N(0, 2/n), so of white noise the mean square behind
    the rectifier is 1 (He et al. 2015, arXiv:1502.01852, eq. 10)."""
    x = np.random.default_rng(0).normal(size=(40, 16, 16, 3)).astype(np.float32)
    (found,) = perceptual.random_convolutions()(jnp.asarray(x))
    assert found.shape == (40, 3, 3, 64)  # 8 x 8, every 4 pixels
    # 64 filters, whose squared norms have the relative standard deviation sqrt(2/192)
    assert np.mean(np.square(found)) == pytest.approx(1, abs=4 * math.sqrt(2 / 192 / 64) + 0.03)


PUBLISHED = {
    # Karras et al. 2022, tab. 1
    time_law.karras: {"rho": 7.0},
    time_law.log_normal: {"mean": -1.2, "std": 1.2},
    weighting.edm: {"mean": -1.2, "std": 1.2, "sigma_data": 0.5},
    # Esser et al. 2024, sec. 5.1: rf/lognorm(0.00, 1.00)
    time_law.logit_normal: {"mean": 0.0, "std": 1.0},
    weighting.sd3: {"mean": 0.0, "std": 1.0},
    # Hang et al. 2023, sec. 4; Choi et al. 2022, sec. 4
    weighting.min_snr: {"gamma": 5.0},
    weighting.p2: {"k": 1.0, "gamma": 1.0},
    # Song et al. 2023, tab. 3
    curricula.progressive: {"length": 800_000, "first": 2, "last": 150, "rate": 0.9},
    # Song & Dhariwal 2023, tab. 1 and app. B
    curricula.doubling: {"length": 400_000, "first": 10, "last": 1280},
    distances.huber: {"scale": 0.00054},
    # Luo et al. 2023, app. F; Geng et al. 2025, tab. 4
    distances.elementwise_huber: {"scale": 0.001},
    distances.adaptive: {"power": 1.0, "constant": 1e-3},
    # Luo et al. 2023, alg. 1: guidance from 2 to 14, of which their weight is 1 less
    lcm: {"weights": (3.0, 15.0)},
    # Karras et al. 2023, eq. 66 and tab. 6
    constraints.unit_rms: {"eps": 1e-4},
    schedules.inverse_sqrt: {"reference": 70_000, "before": 0},
    # Ho et al. 2020
    time_law.grid_points: {"num_steps": 1000},
}


@pytest.mark.parametrize("make", PUBLISHED, ids=lambda make: make.__qualname__)
def test_constants_are_as_published(make):
    fields = inspect.signature(make).parameters
    assert {name: fields[name].default for name in PUBLISHED[make]} == PUBLISHED[make]


def test_what_is_left_out_unless_it_is_asked_for():
    """Averages have no half-life that grows, and mean flows no guidance."""
    for make, name, value in ((ema.constant, "ramp", 0.0), (mean_flow, "guidance", 1.0)):
        assert inspect.signature(make).parameters[name].default == value, make.__name__


def test_schedules_end_at_zero_unless_told_otherwise():
    for make in (schedules.cosine, schedules.linear):
        assert float(make(0.5, 10)(jnp.asarray(10.0))) == pytest.approx(0, abs=1e-8)


def test_laws_draw_independently_unless_told_otherwise():
    for make in (
        time_law.uniform,
        time_law.grid_points,
        time_law.log_snr_uniform,
        time_law.karras,
        time_law.log_normal,
        time_law.logit_normal,
    ):
        assert not make().stratified
        assert make(stratified=True).stratified


def test_the_karras_law_draws_the_levels_of_its_grid(x64):
    """Quantile and density belong together, and the quantile at i/n is the level of eq. 5 of Karras
    et al. 2022 at 1 - i/n."""
    from score_sde.processes import EDM

    sde, law = EDM(), time_law.karras()
    u = np.linspace(0, 1, 9)
    root = 0.002 ** (1 / 7) + u * (80 ** (1 / 7) - 0.002 ** (1 / 7))
    np.testing.assert_allclose(law.quantile(sde, jnp.asarray(u)), root**7, rtol=1e-10)
    # q(sigma) = (1/7) sigma^(1/7 - 1)/(difference of the roots), times the length of the interval
    sigma = root[1:-1] ** 7
    truth = sigma ** (1 / 7 - 1) / 7 / (80 ** (1 / 7) - 0.002 ** (1 / 7)) * (80 - 0.002)
    np.testing.assert_allclose(law.density(sde, jnp.asarray(sigma)), truth, rtol=1e-9)
