"""A process whose data is gone at t_max: what can be trained and sampled there, and who says no."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling, solvers
from score_sde.conditioning.labels import Labels
from score_sde.errors import ConfigError
from score_sde.experiment.workdirs import load
from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.modes import likelihood as likelihood_mode
from score_sde.modes import solvers as solvers_mode
from score_sde.processes import DDPM
from score_sde.sampling import grids, likelihood
from score_sde.training import time_law, weighting
from score_sde.training.objective import Training
from score_sde.training.objectives.denoising import denoising
from tests.modes.test_train import small, untrained

SDE = DDPM(num_steps=20, zero_terminal_snr=True, beta_max=10.0)
MEAN, VARIANCE = 0.5, 0.25
PREDICTIONS = {name: getattr(parametrization, name) for name in ("v", "x0", "flow", "edm")}


class Constant(nn.Module):
    """A network whose output is its one parameter, 0 at first."""

    @nn.compact
    def __call__(self, x, noise, cond=None, train=False):
        return jnp.broadcast_to(self.param("output", nn.initializers.zeros, (), x.dtype), x.shape)


def model(prediction):
    return Model(Constant(), SDE, PREDICTIONS[prediction](parametrization.time(19.0)))


def at_the_end(prediction, name):
    """The loss of one batch with every t at t_max, its gradient, and the batch."""
    last = time_law.TimeLaw(lambda sde, u: jnp.ones_like(u), lambda sde, t: jnp.ones_like(t))
    options = {"time_law": last, "weighting": getattr(weighting, name)()}
    losses = denoising(model(prediction), Labels(1), **options).losses
    x = jax.random.normal(jax.random.key(1), (64, 3))
    key = jax.random.key(0)

    def loss(params):
        return jnp.mean(losses(params, key, {"x": x}, Training()).value)

    value, gradient = jax.jit(jax.value_and_grad(loss))({"output": jnp.asarray(0.7)})
    _, key_noise, _ = jax.random.split(key, 3)
    z = jax.random.normal(key_noise, x.shape)
    return float(value), float(gradient["output"]), np.asarray(x), np.asarray(z)


@pytest.mark.parametrize("name", weighting.__all__)
def test_every_weighting_is_finite_where_alpha_is_0(x64, name):
    """Also the gradient; and those that train a model there are above 0 there."""
    for prediction in PREDICTIONS:
        value, gradient, *_ = at_the_end(prediction, name)
        assert np.isfinite([value, gradient]).all(), prediction
        trains = name in ("v", "truncated_snr", "flow")
        assert (value > 0) == (gradient != 0) == trains, prediction


@pytest.mark.parametrize(
    ("prediction", "name", "target"),
    [
        # alpha = 0 and sigma = 1, so v = -x_0
        ("v", "v", lambda x, z: -x),
        ("x0", "v", lambda x, z: x),
        ("x0", "truncated_snr", lambda x, z: x),
        ("flow", "flow", lambda x, z: z - x),
    ],
)
def test_the_loss_at_the_end_is_the_published_one(x64, prediction, name, target):
    """(SNR + 1) |x_0 - x^|^2 and max(SNR, 1) |x_0 - x^|^2 of Salimans & Ho 2022 with SNR = 0, and
    |z - x_0 - u|^2 of Lipman et al. 2022, whose x^ is x_t - u."""
    value, gradient, x, z = at_the_end(prediction, name)
    error = 0.7 - target(x, z)
    np.testing.assert_allclose(value, np.mean(error**2), rtol=1e-12)
    np.testing.assert_allclose(gradient, 2 * np.mean(error), rtol=1e-12)


def denoiser(x, t):
    """Of N(MEAN, VARIANCE)."""
    alpha, sigma = SDE.alpha(t), SDE.sigma(t)
    gain = alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2)
    return MEAN + gain * (x - alpha * MEAN)


@pytest.mark.parametrize("name", ["ddim", "dpmpp", "unipc", "dpmpp_singlestep"])
def test_solvers_in_x0_start_from_pure_noise(x64, name):
    """The flow of a Gaussian maps x_T, the noise itself, to MEAN + std x_T; the first step jumps to
    an alpha above 0 by D = MEAN, whatever the solver: exact."""
    x = jnp.linspace(-2.0, 2.0, 5)[:, None]
    first = grids.uniform(SDE, 19)[:2]
    solver = getattr(solvers, name)(SDE)
    one = sampling.sample(jax.random.key(0), solver, denoiser, x, first).x
    alpha, sigma = SDE.alpha(first[1]), SDE.sigma(first[1])
    if name == "dpmpp_singlestep":  # looks at the denoiser on the way
        assert np.all(np.isfinite(one))
    else:
        np.testing.assert_allclose(one, alpha * MEAN + sigma * x, rtol=1e-12)
    times = grids.uniform(SDE, 19)
    end = sampling.sample(jax.random.key(0), solver, denoiser, x, times, denoise=True).x
    assert np.all(np.isfinite(end))
    assert np.all(np.diff(end[:, 0]) > 0)  # the flow keeps the order of one coordinate


@pytest.mark.parametrize(
    "name",
    [
        *("heun", "dpm2", "dpm_solver", "deis", "lms", "ipndm", "pndm", "edm", "restart"),
        *("probability_flow", "dpm_adaptive", "gotta_go_fast", "euler_maruyama"),
    ],
)
def test_other_solvers_say_so_in_a_line(name):
    with pytest.raises(ValueError, match=r"needs a finite log-SNR, .* is -inf at t=1") as told:
        getattr(solvers, name)(SDE)
    assert "take a solver in x_0, such as ddim" in str(told.value)
    assert "\n" not in str(told.value)


def test_a_likelihood_says_so_in_a_line():
    x = jnp.zeros((2, 1))
    for ask in (
        lambda: likelihood.log_likelihood(jax.random.key(0), SDE, denoiser, x),
        lambda: likelihood.invert(SDE, denoiser, x),
        lambda: likelihood.generate(SDE, denoiser, x),
    ):
        with pytest.raises(ValueError, match=r"needs a finite log-SNR.*: move that end of the"):
            ask()


def test_modes_that_need_the_ode_say_so_in_a_line(tmp_path):
    """Also of an ODE's method that there is not."""
    config = small(
        **{
            "sde": "DDPM(num_steps=20, zero_terminal_snr=True, beta_max=10.0)",
            "parametrization": "v",
            "c_noise": "time(scale=19.0)",
            "sampling.solver": "ddim",
            "sampling.grid": "uniform",
            "sampling.steps": 5,
            "solvers.solvers": ("ddim",),
            "solvers.grids": ("uniform",),
            "solvers.nfe": (3,),
        }
    )
    untrained(config, tmp_path)
    with pytest.raises(ConfigError, match=r"^likelihood: a likelihood needs a finite log-SNR"):
        likelihood_mode.likelihood(config, tmp_path)
    with pytest.raises(ConfigError, match=r"^solvers: .* needs a finite log-SNR"):
        solvers_mode.solvers(config, tmp_path)
    config.sde = "DDPM(num_steps=20, zero_terminal_snr=True, beta_max=10.0, t_max=0.99)"
    config.likelihood.method = "Dopri9"
    untrained(config, tmp_path / "inwards")
    with pytest.raises(ConfigError, match=r"^likelihood: unknown ODE method 'Dopri9'"):
        likelihood_mode.likelihood(config, tmp_path / "inwards")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"parametrization": "eps"},
            r"parametrization=eps: c_skip is inf at t=1.0 of DDPM\(.*v, x0",
        ),
        ({"c_noise": "log_snr"}, r"c_noise is -inf at t=1.0 .*: set c_noise to time or"),
        (
            {"objective.time_law": "log_snr_uniform"},
            r"objective.time_law=log_snr_uniform: .*finite",
        ),
    ],
)
def test_a_config_that_is_infinite_at_the_end_is_refused(changes, message):
    process = "DDPM(num_steps=20, zero_terminal_snr=True, beta_max=10.0)"
    fields = {"sde": process, "parametrization": "v", "c_noise": "time(scale=19.0)"}
    with pytest.raises(ConfigError, match=message):
        load(small(**fields | changes))
    load(small(**fields))
