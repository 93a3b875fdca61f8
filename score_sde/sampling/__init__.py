"""The loop that runs a solver along a grid, and what else runs along the process: grids of times,
likelihoods, sampling in parallel, solvers that are learned."""

from score_sde.sampling.loop import Sample as Sample
from score_sde.sampling.loop import sample as sample
from score_sde.sampling.loop import sweep as sweep
