"""Options at the ends of their ranges, and the constants of the papers."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from score_sde.processes import (
    DDPM,
    EDM,
    SMLD,
    VE,
    VP,
    Cosine,
    Flow,
    Masking,
    Uniform,
    chains,
    exact,
)
from score_sde.processes.two_ends import Brownian, Trigonometric

LEAST = 1e-6
MOST_STEPS = 10**6


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VP(t_min=-LEAST), "t_min must be below t_max, and not below 0"),
        (lambda: VP(t_min=1.0), "t_min must be below t_max"),
        (lambda: VE(sigma_min=0.0), "sigma_min must be above 0"),
        (lambda: VE(sigma_min=50.0), "below sigma_max"),
        (lambda: DDPM(num_steps=1, beta_max=0.5), "num_steps must be from 2 to 1,000,000, not 1"),
        (lambda: DDPM(num_steps=MOST_STEPS + 1), "not 1000001"),
        (lambda: DDPM(beta_min=0.0), "beta_min=0.0"),
        (lambda: Brownian(variance=-LEAST), "variance must be above 0"),
        (lambda: Masking(t_min=-LEAST), "0 <= t_min < t_max <= 1"),
        (lambda: Masking(t_max=1 + LEAST), "0 <= t_min < t_max <= 1"),
        (lambda: Masking(t_min=1.0), "0 <= t_min < t_max <= 1"),
    ],
)
def test_beyond_a_range_is_one_line(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_ends_of_a_range_are_in_it():
    VP(t_min=0.0)
    VE(sigma_min=LEAST, sigma_max=2 * LEAST)
    Brownian(variance=LEAST)
    Masking(t_min=0.0, t_max=1.0)
    Uniform(values=2)


def test_the_shortest_and_the_longest_chain(x64):
    """alpha^2 is the product of 1 - beta_i at the steps, beta_i = beta/num_steps."""
    short = DDPM(num_steps=2, beta_min=0.1, beta_max=1.0)
    found = np.asarray(short.alpha(jnp.array([0.0, 1.0]))) ** 2
    np.testing.assert_allclose(found, [0.95, 0.95 * 0.5], rtol=1e-12)
    # with ever shorter steps the chain is VP, to first order in their length
    end = float(jnp.log(DDPM(num_steps=MOST_STEPS).alpha(jnp.ones(()))))
    assert end == pytest.approx(-(0.1 + 20) / 4, rel=1e-4)


PUBLISHED = {
    # Song et al. 2021, app. C and F: the times from 1e-5 on
    VP: {"beta_min": 0.1, "beta_max": 20.0, "t_min": 1e-5, "t_max": 1.0},
    VE: {"sigma_min": 0.01, "sigma_max": 50.0, "t_min": 1e-5, "t_max": 1.0},
    # Ho et al. 2020: beta from 1e-4 to 0.02 in 1,000 steps
    DDPM: {"num_steps": 1000, "beta_min": 0.1, "beta_max": 20.0, "t_min": 0.0, "t_max": 1.0},
    SMLD: {"num_steps": 1000, "t_min": 0.0, "t_max": 1.0},
    # Nichol & Dhariwal 2021, sec. 3.2
    Cosine: {"s": 0.008},
    # Karras et al. 2022, tab. 1
    EDM: {"t_min": 0.002, "t_max": 80.0},
}


@pytest.mark.parametrize("make", PUBLISHED)
def test_constants_are_as_published(make):
    fields = inspect.signature(make).parameters
    assert {name: fields[name].default for name in PUBLISHED[make]} == PUBLISHED[make]


@pytest.mark.parametrize(
    "make", [VP, VE, Cosine, EDM, Flow, DDPM, SMLD, Brownian, Trigonometric, Masking, Uniform]
)
def test_numbers_of_a_process_are_given_by_name(make):
    with pytest.raises(TypeError, match="positional argument"):
        make(0.5)


@pytest.mark.parametrize("shape", [(), (2, 3), (3, 3, 2)])
def test_a_table_has_the_same_values_along_each_axis(shape):
    with pytest.raises(ValueError, match="probs must be"):
        exact.Table(jnp.ones(shape))


def test_laws_are_told_apart_by_identity():
    """Their arrays have no hash, and a compiled program is kept by the law."""
    mixture = exact.three_gaussians()
    for make in (
        lambda: exact.Table(jnp.ones((2, 2)) / 4),
        lambda: exact.Labelled(mixture, jnp.arange(3)),
        lambda: exact.ring(),
        exact.three_gaussians,
    ):
        law = make()
        assert hash(law) == hash(law)
        assert law == law
        assert law != make()


def test_nothing_is_revealed_where_there_is_no_noise(x64):
    found = Masking(t_min=0.0).revealing_rate(jnp.array([0.0, 0.5]))
    np.testing.assert_allclose(found, [0, 2], rtol=1e-9)  # 1/t of the linear schedule


def test_a_chain_is_constant_beyond_its_nodes(x64):
    found = chains._interpolate(
        jnp.array([0.0, 1.0, 1.5, 2.0, 4.0, 9.0]),
        jnp.array([1.0, 2.0, 4.0]),
        jnp.array([3.0, 5.0, 6.0]),
    )
    np.testing.assert_allclose(found, [3, 3, 4, 5, 6, 6], rtol=1e-12)


def test_equal_processes_have_one_hash():
    """Compiled programs are kept by the process, so that equal processes are one."""
    for process in (VP(), DDPM(), EDM(), Masking(), Brownian()):
        assert hash(process) == hash(type(process)())
        assert process == type(process)()
