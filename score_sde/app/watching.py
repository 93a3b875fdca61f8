"""What a sampler sees while it runs: a changer `Denoiser -> Denoiser` that tells of every call.

It changes no value. So no solver and no loop knows of it. The number of the watch is an argument of
the compiled program, and not a constant of it: runs at the same time share a program, and each
tells its own watch.
"""

from __future__ import annotations

import itertools
import threading
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from score_sde.errors import ReportedError
from score_sde.types import Denoiser

_NUMBERS = itertools.count(1)
_OPEN: dict[int, Watch] = {}


class StoppedError(ReportedError):
    """Whoever asked for samples does not want them any more."""


class Seen(NamedTuple):
    """A call of a denoiser: its t, the estimate E[x_0 | x_t] [b, ...], and how many calls there
    have been with it. Of tokens the estimate is the likeliest value of each, int [b, l]."""

    t: float
    estimate: np.ndarray
    calls: int


class Watch:
    """Keeps the newest call of the denoisers that it changes. Older ones are let go, so a slow
    reader holds nothing up. It hears of calls between `with watch:` and its end.

    Thread-safe.
    """

    def __init__(self) -> None:
        self.number = next(_NUMBERS)
        self.stopped = False
        self._condition = threading.Condition()
        self._newest: Seen | None = None
        self._told = 0

    def __enter__(self) -> Watch:
        _OPEN[self.number] = self
        return self

    def __exit__(self, *_: object) -> None:
        _OPEN.pop(self.number, None)

    @property
    def change(self) -> jax.tree_util.Partial:
        """`Denoiser -> Denoiser`, a pytree of the number."""
        return jax.tree_util.Partial(watched, jnp.int32(self.number))

    def hear(self, t: Any, estimate: Any) -> None:
        """Takes in a call.

        Raises:
          StoppedError: nobody wants the samples, and one device makes them. (Several would wait for
            one another.)
        """
        if self.stopped and jax.device_count() == 1:
            raise StoppedError("stopped")
        with self._condition:
            calls = 1 + (self._newest.calls if self._newest else 0)
            self._newest = Seen(float(t), np.asarray(estimate), calls)
            self._condition.notify_all()

    def newer(self, timeout: float) -> Seen | None:
        """The newest call that this has not given yet, after a wait of at most so many seconds;
        None if there is none."""
        with self._condition:
            self._condition.wait_for(lambda: self._calls() > self._told, timeout)
            if self._calls() <= self._told:
                return None
            self._told = self._calls()
            return self._newest

    def check(self) -> None:
        """Raises a StoppedError if nobody wants the samples."""
        if self.stopped:
            raise StoppedError("stopped")

    def _calls(self) -> int:
        return self._newest.calls if self._newest else 0


def watched(number: jax.Array, denoiser: Denoiser) -> Denoiser:
    """The same denoiser, or flow map, which tells the watch of this number of every call.

    number: int32 [], of a `Watch`. Nothing is told of one that is not open.
    """

    def watching(x_t, t, *s):
        result = denoiser(x_t, t, *s)
        jax.debug.callback(_tell, number, jnp.max(t), _estimate(result, x_t))
        return result

    return watching


def _estimate(result: Any, x_t: jax.Array) -> jax.Array:
    """E[x_0 | x_t], without what solvers may ask for beside it."""
    if jnp.issubdtype(x_t.dtype, jnp.integer):
        return jnp.argmax(result, axis=-1).astype(x_t.dtype)
    mean = getattr(result, "mean", None)  # of a Tilt; an array has a method of this name
    return (result if mean is None or callable(mean) else mean)[..., : x_t.shape[-1]]


def _tell(number: Any, t: Any, estimate: Any) -> None:
    watch = _OPEN.get(int(number))
    if watch is not None:
        watch.hear(t, estimate)
