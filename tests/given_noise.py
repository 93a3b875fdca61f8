"""Noise that a test gives, in the place of `score_sde.types.Noise`."""


class Given:
    """The draws of one step, in the order in which the solver asks for them."""

    def __init__(self, draws):
        self._draws = iter(draws)

    def __call__(self, t, s, shape):
        return next(self._draws)

    def levy(self, t, s, shape, power):
        return next(self._draws), next(self._draws)

    def fold(self, number):
        return self
