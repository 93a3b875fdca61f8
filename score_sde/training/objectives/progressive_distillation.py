"""Progressive distillation: one step of DDIM that does what two did, stage by stage.

A stage has n steps from t_max to t_min, at the quantiles i/n of a law of t. For each example one of
them is drawn, from t to s. Two steps of DDIM with the stage's teacher, by the quantile between,
lead from x_t to x_s, and the student learns the D that leads there in one. The teacher of the first
stage is the trained network, guided if that is asked for. Each later stage has half as many steps,
and its teacher is the student as it was at the end of the stage before. The student starts as the
trained network. Unlike in Salimans & Ho 2022, its learning rate follows one schedule over all
stages.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from score_sde.conditioning.conditioner import Conditioner
from score_sde.models.model import Model
from score_sde.processes import SDE, Time, jump, jump_value
from score_sde.training.objective import Loss, Objective
from score_sde.training.objectives.denoising import noise_error
from score_sde.training.steps import check_spans, step_times
from score_sde.training.teacher import Teacher, required, start_from
from score_sde.training.time_law import TimeLaw
from score_sde.training.weighting import Weighting, network_weight
from score_sde.types import FlowMap, Key, expand

__all__ = ["progressive_distillation"]  # what a config can name


def progressive_distillation(
    model: Model,
    conditioner: Conditioner,
    *,
    time_law: TimeLaw,
    weighting: Weighting,
    teacher: Teacher | None = None,
    steps: int = 32,
    stages: int = 6,
    stage_length: int = 1000,
    keep_stages: bool = False,
) -> Objective:
    """Progressive distillation (Salimans & Ho 2022, arXiv:2202.00512, alg. 2):

        E[ w(t) |F - F(D)|^2 ],    D from two steps of the stage's teacher (`two_steps`)

    with the weight of a `Weighting`; the paper's is truncated_snr, max(SNR, 1) on D (eq. 9).

    Sample with `flow_map(gamma=0.0)` in as many steps as the last stage has, on the grid of the law
    (`uniform` of uniform, `log_snr` of log_snr_uniform). A student whose network reads "jump" gives
    a FlowMap, any other a jump. Outside of training the loss compares a step of the last stage with
    two of the student's own.

    steps: of the student in the first stage.
    stages: how many; the last has steps/2^(stages - 1) steps.
    stage_length: how many steps of training a stage takes. The last one takes what is left.
    keep_stages: whether the stage of a batch is drawn among all up to the present one, so that the
        student still knows how to take more steps. Its network must read "jump".

    Raises:
      ValueError: steps cannot be halved so often; stage_length is not positive; keep_stages without
        "jump"; the quantiles of the law do not reach the ends of the process. When it is trained,
        ConfigError: there is no teacher, or it has another network.
    """
    if keep_stages and "jump" not in model.numbers:
        raise ValueError('keep_stages needs a network with net.numbers=("jump",)')
    plan = checked(Stages(steps, stages - 1, stage_length, keep_stages))
    check_spans(time_law, model.sde)
    return Objective(
        jax.tree_util.Partial(_losses(model, time_law, weighting, plan), teacher),
        noise_error(model),
        "noise_error",
        model.flow_map,
        gives="flow_map" if "jump" in model.numbers else "jump",
        targets=(plan.copied,),
        init=None if teacher is None else start_from(teacher, model),
    )


class Stages(NamedTuple):
    """steps: of the first stage. last: the number of the last stage, from 0. length: of a stage, in
    steps of training. keep: whether earlier stages are drawn too."""

    steps: int
    last: int
    length: int
    keep: bool

    def drawn(self, key: Key, now: Int[Array, ""]) -> Int[Array, ""]:
        """The stage of a batch in stage `now`: that one, or any up to it. It is one for all
        examples, so that only the network that teaches it is evaluated."""
        first = jnp.zeros_like(now) if self.keep else now
        return jax.random.randint(key, (), first, now + 1)

    def copied(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """1 after the last step of a stage, else 0: the weight of the student in the copy."""
        ends = ((step + 1) % self.length == 0) & (step + 1 <= self.last * self.length)
        return ends.astype(jnp.float32)


def checked(plan: Stages) -> Stages:
    """The stages, if there can be such.

    Raises:
      ValueError: steps cannot be halved so often, or a stage has no length.
    """
    if plan.last < 0 or plan.steps % 2**plan.last:
        raise ValueError(f"steps={plan.steps} cannot be halved stages - 1 = {plan.last} times")
    if plan.length < 1:
        raise ValueError(f"stage_length must be at least 1, not {plan.length}")
    return plan


def two_steps(sde: SDE, denoiser: FlowMap, x_t: Array, t: Time, m: Time, s: Time) -> Array:
    """The D that leads from x_t to where two steps of DDIM, to m and to s, lead."""
    x_m = jump(sde, x_t, t, m, denoiser(x_t, t, m))
    return jump_value(sde, x_t, t, s, jump(sde, x_m, m, s, denoiser(x_m, m, s)))


def _losses(model: Model, time_law: TimeLaw, weighting: Weighting, plan: Stages):
    sde = model.sde

    def losses(teacher, params, key, batch, training):
        key_stage, key_step, key_noise, key_dropout = jax.random.split(key, 4)
        x_0, size, cond = batch["x"], len(batch["x"]), batch.get("cond")
        dropout, now, before = None, jnp.asarray(plan.last), params
        if training is not None:
            dropout, now = key_dropout, jnp.minimum(training.step // plan.length, plan.last)
            (before,) = training.targets

        stage = plan.drawn(key_stage, now)
        count = plan.steps / 2.0 ** stage.astype(x_0.dtype)
        index = jnp.floor(jax.random.uniform(key_step, (size,), x_0.dtype) * count)
        t, m, s = step_times(time_law, sde, index, count)
        x_t = sde.perturb(key_noise, x_0, t)

        def taught(denoiser):
            return two_steps(sde, denoiser, x_t, t, m, s)

        denoiser = required(teacher)(cond)
        value = lax.cond(
            stage == 0,
            lambda: taught(lambda x, t, s: denoiser(x, t)),
            lambda: taught(model.flow_map(before, cond)),
        )
        a, b = model.parametrization.target(sde.alpha(t), sde.sigma(t))
        target = expand(a, x_t) * value + expand(b, x_t) * sde.eps(x_t, t, value)
        output = model.network(params, x_t, t, cond, dropout, s)
        square = (output - lax.stop_gradient(target)) ** 2
        weight = network_weight(weighting, model.parametrization, sde, t)
        return Loss(weight * jnp.mean(square.reshape(size, -1), axis=1), t)

    return losses
