"""Freed arrays are used again without the system's help."""

import resource
import sys

import numpy as np
import pytest

from score_sde.runtime import memory
from tests.soak import FORKS

ROUNDS, ARRAYS, PAGES = 10, 10, 500


def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def steps():
    """Pages that the system hands out while arrays are made and freed, as in steps of a training,
    the first aside."""

    def step():
        return [np.ones(PAGES * resource.getpagesize(), np.int8) for _ in range(ARRAYS)]

    step()
    before = faults()
    for _ in range(ROUNDS):
        step()
    return faults() - before


def count(found):
    found.put(steps())
    memory.keep_freed()
    found.put(steps())


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_a_step_takes_the_memory_of_the_one_before():
    found = FORKS.SimpleQueue()
    process = FORKS.Process(target=count, args=(found,))
    process.start()
    given_back, kept = found.get(), found.get()
    process.join()
    assert given_back > ROUNDS * ARRAYS * PAGES / 2  # else the test shows nothing
    assert kept < ARRAYS * PAGES / 10
