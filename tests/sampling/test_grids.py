"""Grids against their published formulas, written out by hand in NumPy float64."""

import json

import jax
import numpy as np
import pytest
import scipy.stats

from score_sde.processes import DDPM, EDM, SMLD, VE, VP, Cosine, Flow, SubVP
from score_sde.sampling import grids
from tests.golden.make_adm import HERE

ALL = [VP(), SubVP(), VE(), Cosine(), EDM(), Flow(), DDPM(), SMLD()]
STABLE_DIFFUSION = DDPM(schedule="scaled_linear", beta_min=0.85, beta_max=12.0)


def name(sde):
    return type(sde).__name__


def vp_alpha(t):
    return np.exp(-(t**2) * 19.9 / 4 - t * 0.05)


def cosine_alpha(t):
    return np.cos((t + 0.008) / 1.008 * np.pi / 2) / np.cos(0.008 / 1.008 * np.pi / 2)


def ddpm_level(t):
    bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    return np.sqrt(np.exp(-np.interp(t, np.arange(1000) / 999, np.log(bar))) - 1)


LEVEL = {  # sigma/alpha
    VP(): lambda t: np.sqrt(vp_alpha(t) ** -2 - 1),
    SubVP(): lambda t: (1 - vp_alpha(t) ** 2) / vp_alpha(t),
    VE(): lambda t: 0.01 * 5000**t,
    Cosine(): lambda t: np.sqrt(cosine_alpha(t) ** -2 - 1),
    EDM(): lambda t: t,
    Flow(): lambda t: t / (1 - t),
    DDPM(): ddpm_level,
    SMLD(): lambda t: 0.01 * 5000**t,
}

U = np.arange(11) / 10
IN_LEVEL = {  # from the greatest level to the smallest, as printed
    "log_snr": (grids.log_snr, {}, lambda high, low: high * (low / high) ** U),
    "polyexponential": (
        grids.polyexponential,
        {"rho": 2.0},
        lambda high, low: np.exp((1 - U) ** 2 * np.log(high / low) + np.log(low)),
    ),
    "karras": (
        grids.karras,
        {},
        lambda high, low: ((1 - U) * high ** (1 / 7) + U * low ** (1 / 7)) ** 7,
    ),
    "karras of rho 1": (grids.karras, {"rho": 1.0}, lambda high, low: (1 - U) * high + U * low),
    "beta": (
        grids.beta,
        {},
        lambda high, low: low + (high - low) * scipy.stats.beta.ppf(1 - U, 0.6, 0.6),
    ),
    "beta of the arcsine law": (
        grids.beta,
        {"alpha": 0.5, "beta": 0.5},
        lambda high, low: low + (high - low) * np.sin((1 - U) * np.pi / 2) ** 2,
    ),
}
IN_TIME = {  # u from 1 to 0
    "uniform": (grids.uniform, {}, lambda u: u),
    "flow_shift": (grids.flow_shift, {}, lambda u: 3 * u / (1 + 2 * u)),
    "flow_shift of 1/2": (grids.flow_shift, {"shift": 0.5}, lambda u: 0.5 * u / (1 - 0.5 * u)),
    "beta_time": (grids.beta_time, {}, lambda u: scipy.stats.beta.ppf(u, 0.6, 0.6)),
    "beta_time of the arcsine law": (
        grids.beta_time,
        {"alpha": 0.5, "beta": 0.5},
        lambda u: np.sin(u * np.pi / 2) ** 2,
    ),
    "beta_time, not symmetric": (
        grids.beta_time,
        {"alpha": 2.0, "beta": 1.0},
        np.sqrt,  # the law's cdf is u^2
    ),
}
DISCRETE = [grids.linspace, grids.leading, grids.trailing]
FORMULAS = [key for key in grids.__all__ if key != "learned"]  # which is a file
BETWEEN_ENDS = [getattr(grids, key) for key in FORMULAS]
BETWEEN_ENDS = [grid for grid in BETWEEN_ENDS if grid not in (*DISCRETE, grids.respaced)]


@pytest.mark.parametrize("sde", ALL, ids=name)
def test_levels_of_noise_are_the_formulas(x64, sde):
    level = LEVEL[sde]
    ends = level(sde.t_max), level(sde.t_min)
    for key, (grid, options, formula) in IN_LEVEL.items():
        times = np.asarray(grid(sde, 10, **options))
        np.testing.assert_allclose(level(times), formula(*ends), rtol=1e-9, err_msg=key)


@pytest.mark.parametrize("sde", [VP(), EDM(), Flow(), Flow(t_min=0.0, t_max=1.0)], ids=name)
def test_times_are_the_formulas(x64, sde):
    for key, (grid, options, formula) in IN_TIME.items():
        truth = sde.t_min + (sde.t_max - sde.t_min) * formula(1 - U)
        np.testing.assert_allclose(
            grid(sde, 10, **options), truth, rtol=1e-12, atol=1e-15, err_msg=key
        )


def test_the_shift_of_a_flow_multiplies_its_level(x64):
    """s = t/(1 - t) becomes k s: the resolution shift, logSNR - 2 ln k (arXiv:2403.03206)."""
    sde = Flow(t_min=0.0, t_max=1.0)
    plain, shifted = (np.asarray(grids.flow_shift(sde, 9, k))[1:-1] for k in (1.0, 2.5))
    np.testing.assert_allclose(shifted / (1 - shifted), 2.5 * plain / (1 - plain), rtol=1e-12)
    np.testing.assert_array_equal(grids.flow_shift(sde, 9, 1.0), grids.uniform(sde, 9))


def test_special_cases_meet(x64):
    sde = VP()
    np.testing.assert_allclose(grids.polyexponential(sde, 8), grids.log_snr(sde, 8), rtol=1e-11)
    # s^(1/rho) = 1 + ln(s)/rho + ln(s)^2/(2 rho^2): ln s differs by up to (7^2/4)/(2 rho) here
    np.testing.assert_allclose(
        np.log(LEVEL[sde](np.asarray(grids.karras(sde, 8, rho=1e6)))),
        np.log(LEVEL[sde](np.asarray(grids.log_snr(sde, 8)))),
        atol=2e-5,
    )
    np.testing.assert_allclose(
        grids.beta(sde, 8, 1.0, 1.0), grids.karras(sde, 8, rho=1.0), rtol=1e-11
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sde", ALL, ids=name)
def test_from_end_to_end_and_down(sde, dtype):
    with jax.enable_x64(dtype is np.float64):
        for grid in BETWEEN_ENDS:
            for n in (1, 10, 48):
                times = np.asarray(grid(sde, n))
                assert times.dtype == dtype
                assert times.shape == (n + 1,)
                assert tuple(times[[0, -1]]) == (dtype(sde.t_max), dtype(sde.t_min)), grid
                assert np.all(np.diff(times) < 0), grid


@pytest.mark.parametrize("sde", ALL, ids=name)
def test_float32_is_float64_rounded(sde):
    with jax.enable_x64(True):
        truth = {grid: np.asarray(grid(sde, 10)) for grid in BETWEEN_ENDS}
    for grid, times in truth.items():
        # ln s, up to 7 in size, is known to 7 units of 6e-8 at its ends, and s goes by its
        # exponential; between the steps of DDPM's start t moves by 1/(2 * 999) a unit of ln s.
        np.testing.assert_allclose(
            grid(sde, 10), times, rtol=2e-5, atol=1e-6 if isinstance(sde, DDPM) else 0
        )


# Lin et al. 2023 (arXiv:2305.08891), table 2: T = 1000, 10 steps, counted from 1.
TABLE_2 = {
    grids.linspace: [1, 112, 223, 334, 445, 556, 667, 778, 889, 1000],
    grids.leading: [1, 101, 201, 301, 401, 501, 601, 701, 801, 901],
    grids.trailing: [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000],
}


@pytest.mark.parametrize("sde", [DDPM(), SMLD()], ids=name)
@pytest.mark.parametrize("grid", DISCRETE)
def test_table_of_the_discrete_spacings(x64, grid, sde):
    steps = np.asarray(grid(sde, 9)) * 999
    np.testing.assert_allclose(steps, np.array(TABLE_2[grid])[::-1] - 1, rtol=0, atol=1e-9)


@pytest.mark.parametrize("num_steps", [1000, 50])
def test_discrete_spacings_of_every_length(num_steps):
    """The formulas of diffusers' schedulers, for count = n + 1 evaluations."""
    sde, total = SMLD(num_steps=num_steps), num_steps
    too_long = 0
    for count in [*range(2, 51), 61, 127, 250, 333, 611, 999, 1000]:
        if count > total:
            break
        trailing = np.round(np.arange(total, 0, -total / count)) - 1
        too_long += len(trailing) > count
        formulas = {
            grids.linspace: np.linspace(0, total - 1, count).round()[::-1],
            grids.leading: (np.arange(0, count) * (total // count)).round()[::-1],
            grids.trailing: trailing[:count],
        }
        for grid, steps in formulas.items():
            ours = np.asarray(grid(sde, count - 1)) * (total - 1)
            assert np.all(np.diff(ours) < 0)
            np.testing.assert_allclose(ours, steps, rtol=1e-6, err_msg=f"{grid} {count}")
            if grid != grids.leading:  # what they are for: the ends
                assert ours[0] == total - 1
            if grid != grids.trailing:
                assert ours[-1] == 0
    # the cut of `trailing` is tested: rounding makes some of these too long (61 of 1000, 29 of 50)
    assert too_long > 0


def test_respacings_by_their_names(x64):
    """The steps of OpenAI's code: strides that are no whole numbers, sections, and DDIM's."""
    for key, steps in json.loads((HERE / "respacing.json").read_text()).items():
        ours = np.asarray(grids.respaced(DDPM(), len(steps) - 1, name=key)) * 999
        np.testing.assert_allclose(ours, steps[::-1], rtol=1e-12, err_msg=key)
    for count in (2, 21, 250):
        one, other = (grids.respaced(DDPM(), count - 1, name=key) for key in ("", str(count)))
        np.testing.assert_array_equal(one, other)
    # 21 steps are 49.95 apart: the sum of ten of them is below 499.5, and ten times it is above
    assert not np.array_equal(grids.respaced(DDPM(), 20), grids.linspace(DDPM(), 20))


def test_offset_of_stable_diffusion(x64):
    """50 steps of diffusers' PNDM and DDIM with steps_offset 1: 981, 961, ..., 1."""
    steps = np.asarray(grids.leading(STABLE_DIFFUSION, 49, offset=1)) * 999
    np.testing.assert_allclose(steps, np.arange(981, 0, -20), rtol=1e-12)


AYS = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029]


def test_searched_levels(x64):
    """As published, on processes of the range they were found for."""
    sde = EDM(t_min=0.029, t_max=14.615)
    np.testing.assert_allclose(grids.searched(sde, 10), AYS, rtol=1e-12)
    gits = [80, 10.9836, 3.8811, 1.584, 0.5666, 0.1698, 0.002]
    np.testing.assert_allclose(grids.searched(EDM(), 6, "gits"), gits, rtol=1e-12)

    # twice the steps: the geometric means between
    finer = np.asarray(grids.searched(sde, 20))
    np.testing.assert_allclose(finer[::2], AYS, rtol=1e-12)
    np.testing.assert_allclose(finer[1::2], np.sqrt(finer[:-2:2] * finer[2::2]), rtol=1e-12)
    # 7 steps: the authors' interpolation, ln s linear in the index
    by_hand = np.exp(np.interp(np.linspace(0, 10, 8), np.arange(11), np.log(AYS)))
    np.testing.assert_allclose(grids.searched(sde, 7), by_hand, rtol=1e-12)


def test_searched_levels_in_another_range(x64):
    levels = np.asarray(VE().sigma(grids.searched(VE(), 10)))
    shape = np.log(np.array(AYS) / AYS[-1]) / np.log(AYS[0] / AYS[-1])
    ends = [VE().sigma_min * 5000**t for t in (1e-5, 1.0)]
    np.testing.assert_allclose(levels, ends[0] * (ends[1] / ends[0]) ** shape, rtol=1e-9)


def test_searched_levels_are_the_steps_that_peers_list(x64):
    """diffusers' AysSchedules lists the same grid as steps of the chain of Stable Diffusion."""
    steps = np.asarray(grids.searched(STABLE_DIFFUSION, 10)) * 999
    listed = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24]
    # The steps are whole, and the third decimal of a level is up to 0.2 of a step.
    np.testing.assert_allclose(steps[:-1], listed, rtol=0, atol=1.2)


def test_under_jit_as_outside(x64):
    """To rounding: one program, or one for each operation. ln s, up to 7 in size, is known to some
    units of 2e-16."""
    for grid in (grids.uniform, grids.karras, grids.searched):
        inside = jax.jit(lambda grid=grid: grid(VP(), 5))()
        np.testing.assert_allclose(inside, grid(VP(), 5), rtol=1e-13)


def test_zero_terminal_snr_has_grids_in_time():
    sde = DDPM(zero_terminal_snr=True)
    for grid in (grids.uniform, grids.flow_shift, grids.beta_time, grids.trailing):
        assert float(sde.alpha(grid(sde, 5)[0])) == 0
    for grid in (grids.log_snr, grids.karras, grids.beta, grids.searched):
        with pytest.raises(ValueError, match="is -inf at t=1"):
            grid(sde, 5)
        lower = DDPM(zero_terminal_snr=True, t_max=0.9995)
        assert np.all(np.diff(grid(lower, 5)) < 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: grids.karras(VP(), 5, rho=0.0), "rho must be above 0, not 0.0"),
        (lambda: grids.polyexponential(VP(), 5, rho=-1.0), "rho must be above 0, not -1.0"),
        (lambda: grids.flow_shift(Flow(), 5, shift=0.0), "shift must be above 0, not 0.0"),
        (lambda: grids.beta(VP(), 5, alpha=0.0), "alpha must be above 0"),
        (lambda: grids.beta_time(VP(), 5, beta=float("nan")), "beta must be above 0, not nan"),
        (lambda: grids.searched(VP(), 5, "amed"), "unknown name 'amed': one of ays, gits"),
        (lambda: grids.leading(DDPM(), 5, offset=-1), "offset must be at least 0, not -1"),
        (lambda: grids.leading(DDPM(), 9, offset=100), "goes from t=1.001 .* t_max=1.0"),
        (lambda: grids.trailing(DDPM(t_max=0.99), 9), "goes from t=1 .* t_max=0.99"),
        (lambda: grids.linspace(DDPM(t_min=0.01), 9), "to 0, .* t_min=0.01"),
        (lambda: grids.linspace(DDPM(num_steps=30), 30), "n must be below num_steps=30, not 30"),
        (lambda: grids.trailing(VP(), 5), r"VP\(.*has no num_steps; this grid is for discrete"),
        (lambda: grids.respaced(DDPM(), 9, "25"), "'25' has 25 steps: set sampling.steps=24"),
        (lambda: grids.respaced(DDPM(), 9, "dim"), "unknown name 'dim': one such as '250', '10,1"),
        (lambda: grids.respaced(DDPM(), 299, "ddim300"), "no whole stride takes 300 of 1000 steps"),
        (lambda: grids.respaced(DDPM(), 9, "600,1"), "600 of 500 steps cannot be taken"),
        (lambda: grids.respaced(DDPM(), 9, "10,0"), "0 of 500 steps cannot be taken"),
        (lambda: grids.polyexponential(EDM(), 99, rho=9.0), "of the 100 times are equal in float"),
    ],
)
def test_wrong_options_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("key", FORMULAS)
def test_a_grid_has_a_step(key):
    with pytest.raises(ValueError, match="n must be at least 1, not 0"):
        getattr(grids, key)(DDPM(), 0)


def test_grids_of_many_lengths_are_computed_in_few():
    """XLA compiles for each length, and a curriculum of consistency training has 150 grids."""
    sizes = set()

    class Seen(EDM):
        def t_of_log_snr(self, log_snr):
            sizes.add(log_snr.shape)
            return super().t_of_log_snr(log_snr)

    for n in (1, *range(60, 150, 8), 149):
        times = np.linspace(80 ** (1 / 7), 0.002 ** (1 / 7), n + 1) ** 7
        np.testing.assert_allclose(grids.karras(Seen(), n), times, rtol=1e-5)
    assert sizes == {(2,), (64,), (128,), (256,)}
