"""Flags of XLA for tests, which compile much and compute little."""

import importlib.metadata


def flags(devices):
    """With so many simulated devices."""
    fast = [
        f"--xla_force_host_platform_device_count={devices}",
        "--xla_backend_optimization_level=0",
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_parallel_codegen_split_count=1",  # programs are small: up to 40 % of compiling
        "--xla_cpu_multi_thread_eigen=false",  # there is a worker for every core
    ]
    if importlib.metadata.version("jaxlib") < "0.11":  # later ones do not know it, and stop
        fast.append("--xla_cpu_use_fusion_emitters=false")  # over half of compiling
    return " ".join(fast)
