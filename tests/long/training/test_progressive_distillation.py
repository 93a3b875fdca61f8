"""Progressive distillation: targets, stages and weights against formulas written out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from score_sde.conditioning.labels import Labels
from score_sde.errors import ConfigError
from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.nets.mlp import MLP
from score_sde.processes import VP, exact, jump
from score_sde.training import time_law, weighting
from score_sde.training.objective import Training, mean, noise_levels
from score_sde.training.objectives.progressive_distillation import (
    progressive_distillation,
    two_steps,
)
from score_sde.training.state import create, train_step
from score_sde.training.steps import check_spans
from score_sde.training.teacher import Teacher
from tests.training.flow_map_nets import SDES, model_of, shift

pytestmark = pytest.mark.usefixtures("x64")

KEY = jax.random.key(0)


def gaussian():
    return exact.Gaussian(jnp.array([0.5, -1.0]), jnp.array([[0.6, 0.2], [0.2, 0.3]]))


def teacher_of(denoiser, params=None):
    of_cond = jax.tree_util.Partial(lambda params, cond: lambda x, t: denoiser(x, t), params)
    return Teacher(of_cond, params)


def make(model, denoiser, law=None, **options):
    whole = {"steps": 8, "stages": 3, "stage_length": 10, **options}
    law = time_law.uniform() if law is None else law
    weight = weighting.truncated_snr()
    return progressive_distillation(
        model,
        Labels(1),
        time_law=law,
        weighting=weight,
        teacher=teacher_of(denoiser),
        **whole,
    )


def batch(n=64):
    rng = np.random.default_rng(0)
    cov = np.array([[0.6, 0.2], [0.2, 0.3]])
    return {"x": jnp.asarray(rng.multivariate_normal([0.5, -1.0], cov, n)), "cond": {}}


def ddim(sde, x, t, s, value):
    """DDIM's step as Salimans & Ho write it, with the noise that D means."""
    noise = (x - sde.alpha(t) * value) / sde.sigma(t)
    return sde.alpha(s) * value + sde.sigma(s) * noise


@pytest.mark.parametrize("name", SDES)
def test_the_target_reproduces_two_steps_of_the_teacher(name):
    """The student's one step lands on z'', and its x~ is that of alg. 2."""
    sde = SDES[name]
    denoiser = gaussian().denoiser(sde)
    x = jnp.asarray(np.random.default_rng(1).normal(size=(1, 2))) * sde.sigma(sde.t_max)
    for i in range(8):
        t, m, s = (
            jnp.asarray(sde.t_min + (i + p) / 8 * (sde.t_max - sde.t_min)) for p in (1, 0.5, 0)
        )
        value = two_steps(sde, lambda x, t, s: denoiser(x, t), x, t, m, s)
        z1 = ddim(sde, x, t, m, denoiser(x, t))
        z2 = ddim(sde, z1, m, s, denoiser(z1, m))
        np.testing.assert_allclose(jump(sde, x, t, s, value), z2, rtol=1e-12, atol=1e-13)
        ratio = sde.sigma(s) / sde.sigma(t)
        by_hand = (z2 - ratio * x) / (sde.alpha(s) - ratio * sde.alpha(t))
        np.testing.assert_allclose(value, by_hand, rtol=1e-11, atol=1e-12)


PREDICTIONS = (parametrization.v, parametrization.eps, parametrization.flow, parametrization.edm)


@pytest.mark.parametrize(("name", "prediction"), list(zip(SDES, PREDICTIONS, strict=True)))
def test_a_student_that_copies_has_no_loss(name, prediction):
    """In the first stage it does what two steps of the teacher do; later the exact flow map is the
    same in two steps as in one. An error of .1 of D costs max(SNR, 1) .1^2, whatever the network
    predicts."""
    sde, law = SDES[name], gaussian()
    denoiser = law.denoiser(sde)

    def copy(x, t, s):
        return two_steps(sde, lambda x, t, s: denoiser(x, t), x, t, (t + s) / 2, s)

    for value, steps in ((copy, (0, 9)), (law.flow_map(sde), (10, 99))):
        objective = make(model_of(sde, value, prediction), denoiser)

        @jax.jit
        def loss(params, step, objective=objective):
            training = Training(step, (shift(),))
            return objective.losses(params, jax.random.fold_in(KEY, step), batch(), training)

        for step in steps:
            assert float(jnp.max(loss(shift(), jnp.int32(step)).value)) < 1e-20
            off = loss(shift(0.1), jnp.int32(step))
            snr = (sde.alpha(off.t) / sde.sigma(off.t)) ** 2
            np.testing.assert_allclose(off.value, jnp.maximum(snr, 1) * 0.1**2, rtol=1e-8)


def counting(denoiser, calls):
    """The denoiser, which counts its calls while a compiled program runs."""

    def counted(x, t):
        jax.debug.callback(lambda: calls.append(1))
        return denoiser(x, t)

    return counted


@pytest.mark.parametrize("keep", [False, True])
def test_stages_and_who_teaches_them(keep):
    """At each boundary: the steps that are drawn, and that the teacher is asked in the first stage
    alone. `lax.cond` leaves it out of the others."""
    sde, law, calls = SDES["VP"], gaussian(), []
    denoiser = counting(law.denoiser(sde), calls)
    objective = make(model_of(sde, law.flow_map(sde)), denoiser, keep_stages=keep)

    @jax.jit
    def drawn(step, key):
        training = Training(step, (shift(),))
        return objective.losses(shift(), key, batch(256), training).t

    def seen(step, seeds):
        found = {}
        for seed in range(seeds):
            calls.clear()
            t = np.asarray(drawn(jnp.int32(step), jax.random.key(seed)))
            jax.effects_barrier()
            places = (t - sde.t_min) / (sde.t_max - sde.t_min)  # i/n for i = 1..n
            count = round(1 / places.min())
            np.testing.assert_allclose(
                np.unique(np.round(places * count, 9)), np.arange(1, count + 1)
            )
            found[count] = len(calls)
        return found

    stages = {0: 8, 9: 8, 10: 4, 19: 4, 20: 2, 29: 2, 30: 2, 1000: 2}
    for step, count in stages.items():
        if not keep:
            assert seen(step, 2) == {count: 2 if step < 10 else 0}
    if keep:
        assert seen(9, 3) == {8: 2}
        assert seen(10, 12) == {8: 2, 4: 0}
        assert seen(1000, 16) == {8: 2, 4: 0, 2: 0}


def test_the_copy_is_the_student_at_the_end_of_a_stage():
    """Bit for bit, and it stays until the next stage ends; the last stage leaves no copy."""
    sde = VP(t_min=1e-3)
    net = MLP(features=(4,), embedding_dim=4, numbers=("jump",))
    model = Model(net, sde, parametrization.v(lambda sde, t: 999.0 * t))
    start = model.init(jax.random.key(0), jnp.zeros((1, 2)))
    start = jax.tree.map(lambda a: a.astype(jnp.float32), start)
    law = time_law.uniform()
    objective = progressive_distillation(
        model,
        Labels(1),
        time_law=law,
        weighting=weighting.v(),
        teacher=teacher_of(lambda x, t: 0.5 * x, start),
        steps=4,
        stages=3,
        stage_length=3,
    )
    with jax.enable_x64(False):
        optimizer = optax.adam(1e-2)
        gradient = jax.grad(mean(objective.losses, noise_levels(law, sde)), has_aux=True)
        prepare = lambda key, raw: raw  # noqa: E731
        step = jax.jit(train_step(gradient, optimizer, (), prepare, objective.targets))
        state = create(start, optimizer, 1)
        data = {"x": jnp.asarray(batch()["x"], jnp.float32), "cond": {}}
        students, copies = [state.params], [state.ema[0]]
        for _ in range(11):
            state, _ = step(jax.random.key(1), state, data)
            students.append(state.params)
            copies.append(state.ema[0])
    for n, copy in enumerate(copies):
        of_step = min(n // 3, 2) * 3
        for ours, truth in zip(*map(jax.tree.leaves, (copy, students[of_step])), strict=True):
            np.testing.assert_array_equal(ours, truth)
    moved = [
        np.abs(a - b).max()
        for a, b in zip(*map(jax.tree.leaves, (students[3], students[6])), strict=True)
    ]
    assert max(moved) > 1e-3


def test_mistakes_are_named():
    sde, law = SDES["VP"], gaussian()
    model, denoiser = model_of(sde, law.flow_map(sde)), law.denoiser(sde)
    with pytest.raises(ValueError, match=r"steps=6 cannot be halved stages - 1 = 2 times"):
        make(model, denoiser, steps=6)
    with pytest.raises(ValueError, match="stage_length must be at least 1, not 0"):
        make(model, denoiser, stage_length=0)
    with pytest.raises(
        ValueError, match=r'keep_stages needs a network with net.numbers=\("jump",\)'
    ):
        make(model_of(sde, law.flow_map(sde), numbers=()), denoiser, keep_stages=True)
    with pytest.raises(ValueError, match=r"quantiles of this time_law go from .* take uniform"):
        make(model, denoiser, law=time_law.logit_normal())
    objective = progressive_distillation(
        model, Labels(1), time_law=time_law.uniform(), weighting=weighting.v()
    )
    with pytest.raises(ConfigError, match=r"set objective\.teacher to its workdir"):
        objective.losses(shift(), jax.random.key(0), batch(), Training(0, (shift(),)))


def test_laws_that_reach_both_ends():
    for sde in SDES.values():
        for law in (time_law.uniform(), time_law.log_snr_uniform(), time_law.grid_points()):
            check_spans(law, sde)
        with pytest.raises(ValueError, match="must go from t_min"):
            check_spans(time_law.logit_normal(), sde)
