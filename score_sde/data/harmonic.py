"""Atoms that springs hold together: a world of molecules whose density is known."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Float
from scipy.linalg import helmert
from scipy.special import ndtri

from score_sde.data.draws import uniform
from score_sde.data.source import Arrays, Data, labelled_reals
from score_sde.errors import DataError

__all__ = ["harmonic"]

TRAIN, TEST = range(2)  # each has random numbers of its own


@dataclasses.dataclass(frozen=True)
class Cluster:
    """p(r) ~ exp(-1/2 sum_ij k_ij |r_i - r_j|^2), the sum over pairs, for n atoms r [n, 3] whose
    mean is 0: Boltzmann's law of springs with k_ij in units of kT. With the Laplacian matrix L of
    the springs and Helmert's basis B of the vectors of sum 0, B r is N(0, (B L B^T)^-1) along each
    axis of space.

    stiffness: k [n, n], symmetric.
    """

    stiffness: Float[np.ndarray, "n n"]

    @property
    def precision(self) -> Float[np.ndarray, "m m"]:
        """B L B^T, of the n - 1 numbers B r along one axis."""
        laplacian = np.diag(self.stiffness.sum(axis=1)) - self.stiffness
        basis = helmert(len(laplacian))
        return basis @ laplacian @ basis.T

    def log_density(self, atoms: Float[np.ndarray, "b n 3"]) -> Float[np.ndarray, " b"]:
        """ln p, nats, on the (n - 1) 3 dimensions of centred clouds; the centre does not matter."""
        m = len(self.stiffness) - 1
        x = np.einsum("mn,bnc->bmc", helmert(m + 1), np.asarray(atoms, float))
        energy = np.einsum("bmc,mk,bkc->b", x, self.precision, x) / 2
        log_norm = 3 / 2 * (m * math.log(2 * math.pi) - np.linalg.slogdet(self.precision)[1])
        return -energy - log_norm

    def atoms(self, normal: Float[np.ndarray, "b m 3"]) -> Float[np.ndarray, "b n 3"]:
        """Atoms of standard normal numbers."""
        root = np.linalg.cholesky(self.precision)
        x = np.linalg.solve(root.T, normal)
        return np.einsum("mn,bmc->bnc", helmert(len(self.stiffness)), x)


SPRINGS = {
    "chain": lambda n: np.eye(n, k=1) + np.eye(n, k=-1),
    "all": lambda n: 1 - np.eye(n),
}


def cluster(atoms: int, springs: str, stiffness: float) -> Cluster:
    """The cluster of so many atoms.

    springs: "chain", between one atom and the next; or "all", between all pairs, so that the atoms
        are alike.

    Raises DataError where a number is out of range or there are no such springs.
    """
    if atoms < 2 or not stiffness > 0:
        raise DataError(
            f"atoms must be at least 2 and stiffness above 0, got {atoms} and {stiffness}"
        )
    if springs not in SPRINGS:
        raise DataError(f"there are no springs {springs!r}: one of {', '.join(SPRINGS)}")
    return Cluster(stiffness * SPRINGS[springs](atoms))


def harmonic(
    *,
    atoms: int = 5,
    springs: str = "chain",
    stiffness: float = 1.0,
    train: int = 20_000,
    test: int = 500,
    seed: int = 0,
) -> Data:
    """float32 [atoms, 3]: draws of a `Cluster`, as `cluster` describes it, around the origin. An
    example depends on its number and the seed alone."""
    law = cluster(atoms, springs, stiffness)
    if min(train, test) < 1:
        raise DataError(f"train and test must be at least 1, got {train} and {test}")

    def source(split: int, size: int) -> Arrays:
        u = uniform((seed, split), size * (atoms - 1) * 3).reshape(size, atoms - 1, 3)
        points = law.atoms(ndtri(u + 2.0**-54))  # in the middle of the cells that u numbers
        return Arrays(points=points.astype(np.float32), label=np.zeros(size, np.int32))

    features = labelled_reals("points", (atoms, 3))
    return Data("harmonic", source(TRAIN, train), source(TEST, test), features)
