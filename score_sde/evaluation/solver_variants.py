"""A solver by its name in a config, with options that may be swept."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from score_sde.config import build, parse
from score_sde.errors import ConfigError
from score_sde.evaluation import solver_error
from score_sde.processes import SDE
from score_sde.sampling import grids
from score_sde.types import Grid, Solver


class Variants(NamedTuple):
    """The solver `name(**options)` at every point of a sweep.

    swept: the values of each swept option. A point has one value of each.
    """

    name: str
    options: dict[str, Any]
    swept: dict[str, Sequence[float]]

    @classmethod
    def read(cls, text: str, sde: SDE) -> Variants:
        """From a spec such as "ddim(eta=(0.0, 0.5))", where a tuple is a sweep.

        Raises:
          ConfigError: a wrong name or option, or an option that cannot be swept.
        """
        name, options = parse(text)
        swept: dict[str, Sequence[float]]
        swept = {key: value for key, value in options.items() if isinstance(value, tuple | list)}
        found = cls(name, {k: v for k, v in options.items() if k not in swept}, swept)
        found.build(sde, {key: values[0] for key, values in swept.items() if values})
        for key, values in swept.items():
            if not values or not all(isinstance(value, int | float) for value in values):
                raise ConfigError(f"{name}: {key}={values!r} is not a sweep of numbers")
            if not found._can_sweep(key, sde):
                raise ConfigError(f"{name}: {key} cannot be swept: list a solver for each value")
        return found

    def points(self) -> list[dict[str, Any]]:
        """Every combination of the swept values; the last option changes fastest."""
        combinations = itertools.product(*self.swept.values())
        return [dict(zip(self.swept, values, strict=True)) for values in combinations]

    def label(self, point: dict[str, Any]) -> str:
        """The spec of one point."""
        options = ", ".join(f"{key}={value!r}" for key, value in (self.options | point).items())
        return f"{self.name}({options})" if options else self.name

    def build(self, sde: SDE, point: dict[str, Any]) -> Solver:
        """The solver at one point."""
        return build("solvers", {"name": self.name} | self.options | point, sde)

    def first(self, sde: SDE) -> Solver:
        """The solver at the first point."""
        return self.build(sde, self.points()[0])

    def is_adaptive(self, sde: SDE) -> bool:
        """Whether the solver chooses its own steps."""
        return self.first(sde).adaptive

    def is_stochastic(self, sde: SDE, times: Sequence[Grid]) -> bool:
        """Whether the solver draws noise at any point, on any of these grids."""
        solvers = [self.build(sde, point) for point in self.points()]
        return any(solver_error.is_stochastic(solver, grid) for solver in solvers for grid in times)

    def fits(self, sde: SDE, grid: Callable[[int], Grid], budget: int) -> bool:
        """Whether the solver can take a step within a budget of evaluations."""
        solver = self.first(sde)
        return solver.adaptive or bool(solver_error.steps_within(solver, grid, budget))

    def at_tolerances(self, tolerances: Sequence[float]) -> list[Variants]:
        """An adaptive solver at each tolerance, unless its spec states one."""
        if {"rtol", "atol"} & self.options.keys():
            return [self]
        return [self._replace(options=self.options | {"rtol": x, "atol": x}) for x in tolerances]

    def _can_sweep(self, key: str, sde: SDE) -> bool:
        """Whether a step can be compiled for a value that is not known yet."""
        point, times = self.points()[0], grids.uniform(sde, 1)

        def sample(value):
            solver = self.build(sde, point | {key: value})
            return solver_error.without_network(solver, jax.random.key(0), times)

        try:
            jax.eval_shape(sample, float(point[key]))
        except TypeError:  # Python asked for the value
            return False
        return True
