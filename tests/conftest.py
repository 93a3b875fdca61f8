"""Every test runs on eight simulated devices, with no silent promotion of dtypes or ranks."""

import os

from tests import xla

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla.flags(devices=8)}"
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(os.path.dirname(__file__), ".jax_cache")

import gc
import resource

import jax
import pytest

gc.set_threshold(100_000, 20, 100)  # a file's programs are kept: looking for garbage finds little

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

PEAKS = []  # GiB, of the workers that have ended
LONG = {
    *("hosts", "mesh", "solvers", "train", "configs", "report", "nets", "orders", "survival"),
    "commands",
    "layout",
}


def pytest_collection_modifyitems(items):
    """A file belongs to one worker. The longest come first, so that short ones are left at the end
    and the workers stop together."""
    items.sort(
        key=lambda item: (
            item.path.suffix == ".py",
            item.path.stem.removeprefix("test_") not in LONG,
        )
    )


@pytest.fixture(autouse=True, scope="module")
def programs():
    """Lets go of a file's compiled programs at its end: thousands of them, a megabyte each."""
    yield
    jax.clear_caches()


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # of pytest-xdist
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux
        session.config.workeroutput["peak"] = peak / 2**20


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    PEAKS.append(getattr(node, "workeroutput", {}).get("peak", float("nan")))


def pytest_terminal_summary(terminalreporter):
    if PEAKS:
        peaks = ", ".join(f"{peak:.1f}" for peak in PEAKS)
        terminalreporter.write_line(f"peak memory of the workers: {peaks} GiB")


@pytest.fixture
def x64():
    """float64, for tests against closed forms."""
    with jax.enable_x64(True):
        yield
