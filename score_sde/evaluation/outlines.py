"""How well two outlines agree."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool
from scipy import ndimage


def overlap(
    wanted: Bool[np.ndarray, "h w"], found: Bool[np.ndarray, "h w"], reach: int = 0
) -> float:
    """The intersection over union of two outlines: `F / (2 - F)` of their F-measure F, the share
    of the pixels of both that the other outline has too.

    reach: how many pixels away, diagonally too, the other outline may be (the tolerance of Martin
        et al. 2004, doi:10.1109/TPAMI.2004.1273918, without their one-to-one matching). 0 is the
        plain intersection over union. Two empty outlines agree.
    """
    total = wanted.sum() + found.sum()
    if not total:
        return 1.0
    near = np.ones((2 * reach + 1,) * 2, bool)
    both = (wanted & ndimage.binary_dilation(found, near)).sum()
    both += (found & ndimage.binary_dilation(wanted, near)).sum()
    f = both / total
    return float(f / (2 - f))
