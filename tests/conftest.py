"""Every test runs on eight simulated devices, with no silent promotion of dtypes or ranks."""

import importlib.metadata
import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",  # tests compile much and compute little
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",  # programs are small: two thirds of compiling
        "--xla_cpu_multi_thread_eigen=false",  # there is a worker for every core
    ]
)
if importlib.metadata.version("jaxlib") < "0.11":  # later ones do not know it, and stop
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"  # a fifth of compiling

os.environ["JAX_COMPILATION_CACHE_DIR"] = os.path.join(os.path.dirname(__file__), ".jax_cache")

import gc

import jax
import pytest

gc.set_threshold(100_000, 20, 100)  # a file's programs are kept: looking for garbage finds little

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)

LONG = {"hosts", "mesh", "solvers", "train", "configs", "report", "nets", "orders", "survival"}


def pytest_collection_modifyitems(items):
    """A file is one worker's: the longest come first (after the notebooks), so that at the end the
    workers share short ones, and stop together."""
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


@pytest.fixture
def x64():
    """float64, for tests against closed forms."""
    with jax.enable_x64(True):
        yield
