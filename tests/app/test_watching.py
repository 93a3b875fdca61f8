"""Watches: they hear what the sampler saw, once a call, each its own, and change nothing."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from score_sde import sampling, solvers
from score_sde.app import watching
from score_sde.app.following import following
from score_sde.app.watching import Seen, StoppedError, Watch, watched
from score_sde.processes import VP
from score_sde.processes.exact import Gaussian
from score_sde.sampling import grids

SDE = VP()
TIMES = grids.log_snr(SDE, 6)
TRACED = []


def denoiser(std):
    TRACED.append(std)
    return Gaussian(jnp.full(3, 0.5), std**2 * jnp.eye(3)).denoiser(SDE)


@jax.jit
def draw(key, change=None):
    of_data = denoiser(0.3)
    of_data = of_data if change is None else change(of_data)
    x = jax.random.normal(key, (4, 3))
    return sampling.sample(key, solvers.ddim(SDE), of_data, x, TIMES, denoise=True, trajectory=True)


class Log(Watch):
    """Keeps every call."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def hear(self, t, estimate):
        super().hear(t, estimate)
        self.calls.append((float(t), np.asarray(estimate)))


def test_it_hears_each_call_once_with_what_the_sampler_saw():
    key = jax.random.key(0)
    plain = draw(key)
    with Log() as log:
        told = draw(key, log.change)
        jax.block_until_ready(told)
    jax.tree.map(np.testing.assert_array_equal, told, plain)
    np.testing.assert_array_equal([t for t, _ in log.calls], TIMES)  # a step each, and the end
    exact = Gaussian(jnp.full(3, 0.5), 0.09 * jnp.eye(3)).denoiser(SDE)
    for (t, estimate), x_t in zip(log.calls, plain.trajectory, strict=True):
        np.testing.assert_allclose(estimate, exact(x_t, jnp.float32(t)), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(log.calls[-1][1], plain.x)


def test_runs_at_the_same_time_share_a_program_and_hear_their_own():
    keys = [jax.random.key(i) for i in range(4)]
    jax.block_until_ready(draw(keys[0], Watch().change))
    before = len(TRACED)
    logs, wanted = [Log() for _ in keys], [draw(key) for key in keys]
    traced = len(TRACED)

    def run(log, key):
        with log:
            for _ in range(3):
                jax.block_until_ready(draw(key, log.change))

    threads = [threading.Thread(target=run, args=pair) for pair in zip(logs, keys, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(TRACED) == traced == before
    for log, ends in zip(logs, wanted, strict=True):
        assert len(log.calls) == 3 * len(TIMES)
        for i in range(3):
            own = log.calls[i * len(TIMES) : (i + 1) * len(TIMES)]
            np.testing.assert_array_equal(own[-1][1], ends.x)


def test_a_slow_reader_gets_the_newest_and_a_closed_watch_nothing():
    watch = Watch()
    with watch:
        for i in range(5):
            watching._tell(watch.number, 1.0 - i / 10, np.full(2, i))
        seen = watch.newer(0.0)
        assert seen is not None
        assert (seen.calls, seen.t) == (5, 0.6)
        np.testing.assert_array_equal(seen.estimate, [4, 4])
        assert watch.newer(0.0) is None
    watching._tell(watch.number, 0.1, np.zeros(2))
    assert watch.newer(0.0) is None
    assert watch.number not in watching._OPEN


def test_of_tokens_the_likeliest_and_of_moments_the_mean():
    tokens, reals = jnp.array([[0, 2, 1]]), jnp.ones((1, 2))
    probs = jax.nn.one_hot(jnp.array([[2, 2, 0]]), 3) * 0.5 + 0.1

    def moments(x_t, t, s):
        return jnp.concatenate([x_t, 7 * x_t], axis=-1)

    for given, of_data, wanted in (
        ((tokens, jnp.float32(0.3)), lambda x, t: probs, [[2, 2, 0]]),
        ((reals, jnp.float32(0.3), jnp.float32(0.2)), moments, [[1, 1]]),
    ):
        with Log() as log:
            result = jax.jit(
                lambda number, of_data=of_data, given=given: watched(number, of_data)(*given)
            )(jnp.int32(log.number))
            jax.effects_barrier()
        np.testing.assert_array_equal(result, of_data(*given))
        np.testing.assert_array_equal(log.calls[0][1], wanted)


def test_a_job_tells_of_its_calls_and_then_its_result():
    ready = threading.Event()

    def job(watch):
        with watch:
            watch.hear(0.5, np.ones(2))
            assert ready.wait(30)
            watch.hear(0.4, np.zeros(2))
        return "done"

    told = following(job)
    first = next(told)
    assert isinstance(first, Seen)
    assert first.t == 0.5
    ready.set()
    assert [*told][-1] == "done"


def test_a_job_that_fails_fails_here_and_one_that_nobody_reads_is_stopped():
    def fails(watch):
        raise ValueError("so it is")

    with pytest.raises(ValueError, match="so it is"):
        next(following(fails))
    ended = threading.Event()

    def waits(watch):
        watch.hear(0.5, np.ones(2))
        try:
            while True:
                watch.check()
                ended.wait(0.01)
        except StoppedError:
            ended.set()
            raise

    told = following(waits)
    next(told)
    told.close()  # the browser is gone
    assert ended.wait(30)
