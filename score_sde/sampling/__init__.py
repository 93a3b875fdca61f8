"""The loop that runs a solver along a grid of times; also grids, likelihoods, parallel sampling and
learned solvers."""

from score_sde.sampling.loop import Sample as Sample
from score_sde.sampling.loop import sample as sample
from score_sde.sampling.loop import sweep as sweep
