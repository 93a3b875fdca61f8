"""Overlaps of outlines that are counted by hand."""

import numpy as np
import pytest

from score_sde.evaluation.outlines import overlap


def line(row, shape=(7, 5)):
    found = np.zeros(shape, bool)
    found[row] = True
    return found


def test_the_plain_overlap_is_intersection_over_union():
    random = np.random.default_rng(0)
    a, b = random.random((2, 8, 8)) < 0.4
    truth = (a & b).sum() / (a | b).sum()
    assert 0.1 < truth < 0.9
    assert overlap(a, b) == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("reach", [0, 1, 2])
def test_an_outline_may_be_so_many_pixels_away(reach):
    """All of a line is within `reach` rows of the other, or none of it."""
    for away in range(4):
        assert overlap(line(1), line(1 + away), reach) == (1.0 if away <= reach else 0.0)
    corner, other = np.zeros((2, 5, 5), bool)
    corner[1, 1] = other[2, 2] = True  # a neighbour across the corner
    assert overlap(corner, other, reach) == (1.0 if reach else 0.0)


def test_half_of_one_outline_is_found():
    """F = 2 precision recall/(precision + recall) is 2/3 with 1 and 1/2, so the overlap is 1/2."""
    wanted = line(1) | line(5)
    assert overlap(wanted, line(1), reach=1) == pytest.approx(0.5)


def test_empty_outlines_agree():
    nothing = np.zeros((3, 3), bool)
    assert overlap(nothing, nothing) == 1.0
    assert overlap(nothing, line(1, (3, 3))) == 0.0
