"""What objectives refuse, and what they keep."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import solvers
from score_sde.conditioning.labels import Labels
from score_sde.conditioning.nothing import Nothing
from score_sde.errors import ConfigError
from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.processes import EDM, VP, Masking
from score_sde.processes.two_ends import Brownian
from score_sde.training import distances, time_law, weighting
from score_sde.training.consistency import Point, consistency_loss
from score_sde.training.objective import Training
from score_sde.training.objectives.adjoint_sampling import adjoint_sampling
from score_sde.training.objectives.autoencoding import _check as check_autoencoder
from score_sde.training.objectives.bridge_matching import bridge_matching
from score_sde.training.objectives.ctm import ctm
from score_sde.training.objectives.denoising import dropping
from score_sde.training.objectives.masked import masked
from score_sde.training.objectives.terminal_velocity import terminal_velocity
from score_sde.training.teacher import Teacher, start_from
from tests.training.flow_map_nets import model_of, shift, tell_t

LEAST = 1e-6
PARTS = {"time_law": time_law.uniform(), "distance": distances.squared()}


def jumping():
    """A model whose network reads where a jump ends."""
    return model_of(VP(t_min=1e-3), lambda x, t, s: jnp.zeros_like(x))


def of_ctm(**options):
    more = {"weighting": weighting.simple(), "solver": solvers.heun(VP())}
    return ctm(jumping(), Nothing(), **PARTS, **more, **options)


def of_terminal_velocity(**options):
    return terminal_velocity(jumping(), Nothing(), **PARTS, **options)


@pytest.mark.parametrize("make", [of_ctm, of_terminal_velocity])
def test_a_target_is_averaged_where_it_has_a_rate(make):
    """At 0 the target is the network itself, and no average of it is kept."""
    assert len(make(target_rate=0.0).targets) == 0
    (average,) = make(target_rate=0.75).targets
    assert float(average(jnp.asarray(5))) == pytest.approx(0.25)
    for rate in (-LEAST, 1.0):
        with pytest.raises(ValueError, match="target_rate"):
            make(target_rate=rate)


def test_ctm_tells_the_time_from_which_it_jumps():
    """The later of two draws, of which the mean is 2/3; that of the earlier is 1/3."""
    n = 4000
    student = Teacher(jax.tree_util.Partial(lambda cond: lambda x, t: x), {})
    losses = jax.jit(of_ctm(teacher=student).losses)
    found = losses(shift(), jax.random.key(0), {"x": jnp.zeros((n, 1))}, None)
    assert float(jnp.mean(found.t)) == pytest.approx(2 / 3, abs=4 * np.sqrt(1 / 18 / n) + 1e-3)


@pytest.mark.parametrize("share", [0.0, LEAST, 1.0])
def test_a_share_of_conditions_is_a_probability(share):
    dropping(Nothing(), share)


@pytest.mark.parametrize("share", [-LEAST, 1 + LEAST])
def test_no_other_share_of_conditions_is_taken(share):
    with pytest.raises(ValueError, match="drop_cond"):
        dropping(Nothing(), share)


def test_an_energy_needs_a_base_of_some_width():
    with pytest.raises(ValueError, match="std must be above 0, not 0"):
        adjoint_sampling(
            jumping(),
            Nothing(),
            time_law=time_law.uniform(),
            weighting=weighting.simple(),
            log_density=lambda x: -jnp.sum(x**2, axis=-1),
            std=0.0,
        )


@pytest.mark.parametrize("equivariance", [-LEAST, 1 + LEAST])
def test_an_equivariance_is_a_probability(equivariance):
    with pytest.raises(ValueError, match="equivariance"):
        check_autoencoder(jumping(), "l1", (1.0, 1.0), equivariance)


def test_a_student_needs_the_layers_of_its_teacher():
    model = model_of(VP(t_min=1e-3), lambda x, t, s: x, numbers=())
    batch = {"x": jnp.zeros((1, 2)), "cond": None}
    for params, message in (
        ({"shift": jnp.zeros(2)}, r"shift of shape \(2,\) has the shape \(\)"),
        ({"scale": jnp.zeros(())}, r"scale of shape \(\) is missing"),
    ):
        teacher = Teacher(jax.tree_util.Partial(lambda *a: a), params)
        with pytest.raises(ConfigError, match=message):
            start_from(teacher, model)(jax.random.key(0), batch)


def test_equal_times_have_no_loss(x64):
    """Though the averaged network that the target is leads elsewhere. With D = x + shift, what is
    shifted by 0.5 costs 0.25/gap where the times differ."""
    model = model_of(EDM(), lambda x, t, s: jnp.zeros_like(x))
    x, later = jnp.ones((2, 1)), jnp.array([2.0, 2.0])
    points = Point(x, later), Point(x, jnp.array([2.0, 1.0]))
    found = consistency_loss(
        model, distances.squared(), 1.0, shift(0.5), shift(0.0), None, None, *points
    )
    assert float(found.value[0]) == 0
    assert float(found.value[1]) > 0


def test_nothing_is_dropped_in_an_evaluation():
    """With all conditions dropped in training, a loss without `Training` still has them."""
    seen = []

    class Reads(nn.Module):
        @nn.compact
        def __call__(self, x, noise, cond=None, train=False):
            seen.append(cond["label"])
            return self.param("logit", nn.initializers.zeros, ()) + jnp.zeros((*x.shape[:2], 2))

    model = Model(Reads(), Masking(), parametrization.without_itself(tell_t, values=2))
    objective = masked(model, Labels(3), time_law=time_law.uniform(), drop_cond=1.0)
    labels = jnp.array([0, 2])
    batch = {"x": jnp.zeros((2, 4), jnp.int32), "cond": {"label": labels}}
    params = model.init(jax.random.key(0), batch["x"], batch["cond"])
    for training, wanted in ((None, [0, 2]), (Training(), [-1, -1])):
        objective.losses(params, jax.random.key(0), batch, training)
        np.testing.assert_array_equal(seen[-1], wanted)


def test_a_network_that_learns_both_ends(x64):
    """Of images, whose height is another number than their channels. The other end adds the mean
    of (0 - x_1)^2, which is 9, by the density of the law of t."""
    shape = (1, 4, 4, 2)
    batch = {"x": jnp.zeros(shape), "cond": {"start": 3 * jnp.ones(shape)}}

    def losses(channels, second):
        class Zero(nn.Module):
            @nn.compact
            def __call__(self, x, noise, cond=None, train=False):
                return jnp.zeros((*x.shape[:-1], channels))

        model = Model(Zero(), Brownian(), parametrization.v(tell_t))
        parts = {"time_law": time_law.uniform(), "weighting": weighting.simple()}
        objective = bridge_matching(model, Nothing(), **parts, second=second)
        return objective.losses({}, jax.random.key(0), batch, Training()).value

    density = time_law.uniform().density(Brownian(), jnp.asarray(0.5))
    np.testing.assert_allclose(losses(4, "learnt"), losses(2, None) + 9 / density, rtol=1e-12)
    for channels in (2, 8):
        with pytest.raises(ValueError, match=f"gives {channels} channels for the 2 of the data"):
            losses(channels, "learnt")
