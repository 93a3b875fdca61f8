"""Whether generated records, such as rows of a table, are copies of those of training."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree


class Nearness(NamedTuple):
    """The median distance to the nearest training record, of samples and of held-out records; and
    the share of samples that are nearer to a training record than to any held-out one, corrected to
    sets of one size, which is 1/2 for samples of the law itself and 1 for copies."""

    samples: float
    held_out: float
    share: float


def nearest_records(
    samples: Float[np.ndarray, "n d"],
    train: Float[np.ndarray, "m d"],
    held_out: Float[np.ndarray, "k d"],
) -> Nearness:
    """Distances in the space of records, which should have one scale in all columns, such as the x
    of `codecs.columns`. The first records of the larger set are compared with those of the other,
    so that neither is nearer for being larger."""
    k = min(len(train), len(held_out))
    to_train, to_held = (KDTree(a[:k]).query(samples)[0] for a in (train, held_out))
    share = np.mean(to_train < to_held) + np.mean(to_train == to_held) / 2
    whole = KDTree(train)
    ours, theirs = (float(np.median(whole.query(a)[0])) for a in (samples, held_out))
    return Nearness(ours, theirs, float(share))
