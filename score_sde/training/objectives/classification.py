"""Classification of noisy data, for guidance by a classifier."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from score_sde.conditioning.conditioner import Conditioner
from score_sde.conditioning.labels import log_prob
from score_sde.models.model import Model
from score_sde.training.objective import Loss, Objective
from score_sde.training.time_law import TimeLaw

__all__ = ["classification"]  # what a config can name


def classification(model: Model, conditioner: Conditioner, *, time_law: TimeLaw) -> Objective:
    """Cross-entropy, nats, of the logits that the network gives x_t for batch["cond"]["label"]:

        E_{t ~ law} [ -ln p(label | x_t, t) / density(t) ]

    for guidance by a classifier (Dhariwal & Nichol 2021, arXiv:2105.05233, sec. 4.1). The minimum
    over all functions is the exact posterior of the class at every t. The result is
    `(params, cond) -> ((x_t, t) -> ln p(label | x_t))`.

    Raises:
      ValueError: the network and the labels have different numbers of classes.
    """
    classes, wanted = (model.net.num_classes, conditioner.features["label"].values)
    if classes != wanted:
        raise ValueError(f"net.num_classes is {classes}: a classifier needs {wanted}, all classes")

    def logits(params, key, batch, t, dropout):
        x_t = model.sde.perturb(key, batch["x"], t)
        return model.network(params, x_t, t, None, dropout)

    def losses(params, key, batch, training):
        key_time, key_noise, key_dropout = jax.random.split(key, 3)
        t = time_law.sample(key_time, model.sde, len(batch["x"]), batch["x"].dtype)
        found = logits(params, key_noise, batch, t, None if training is None else key_dropout)
        return Loss(-log_prob(found, batch["cond"]["label"]) / time_law.density(model.sde, t), t)

    def is_wrong(params, key, batch, t):
        """1 where the likeliest class is not the label, else 0."""
        found = logits(params, key, batch, jnp.broadcast_to(t, len(batch["x"])), None)
        return (jnp.argmax(found, axis=1) != batch["cond"]["label"]).astype(found.dtype)

    def result(params, cond):
        return lambda x_t, t: log_prob(model.network(params, x_t, t), cond["label"])

    return Objective(losses, is_wrong, "classification_error", result, gives="log_prob")
