"""How arrays lie over devices: a mesh of the axes "data" and "fsdp".

A batch is spread over all devices. Parameters, their averages and the optimiser's moments are split
over the axis "fsdp" and are the same all along "data": each device keeps 1/fsdp of them (ZeRO,
Rajbhandari et al. 2020, arXiv:1910.02054, stage 3). With fsdp=1 that is plain data parallelism.

A program is told how its arguments and results lie, and XLA does the rest: it gathers a kernel
where it is used and sums gradients to where they are kept; where a layer's activations are smaller
than its kernel it may move those.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from score_sde.errors import ConfigError

# An array of fewer numbers than this is whole on every device: to gather it would take longer than
# it saves memory.
SMALL = 2**14


def make(fsdp: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh [data, fsdp] of all devices, or of those given. The devices of a host are
    neighbours along "fsdp", whose traffic is the larger.

    Raises:
      ValueError: fsdp does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(f"fsdp={fsdp} does not divide the {len(devices)} device(s)")
    return Mesh(np.array(devices).reshape(-1, fsdp), ("data", "fsdp"))


def use_cores(batch_size: int) -> None:
    """Makes every core of the processor a device, before there are devices: the most of them that
    divide the batch. XLA runs some operations of a device on one core alone.

    On accelerators it changes nothing, nor where their number is set in the environment, by
    JAX_NUM_CPU_DEVICES or XLA_FLAGS.
    """
    set_already = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if set_already or jax.config.jax_num_cpu_devices > 0:
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    divisors = (n for n in range(1, max(cores or 1, 1) + 1) if batch_size % n == 0)
    jax.config.update("jax_num_cpu_devices", max(divisors))


def round_to_devices(wanted: int, total: int) -> int:
    """A batch size near `wanted`: at most what is needed, and a multiple of the devices.

    Raises:
      ConfigError: one of the numbers is not positive.
    """
    if min(wanted, total) < 1:
        raise ConfigError(
            f"a batch size and a number of examples must be positive, not {wanted} and {total}"
        )
    return math.ceil(min(wanted, total) / jax.device_count()) * jax.device_count()


def spread(mesh: Mesh, axis: int = 0) -> NamedSharding:
    """Dimension `axis` is spread over all devices: that of a batch."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, mesh.axis_names))


def whole(mesh: Mesh) -> NamedSharding:
    """Every device has the whole."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh, array: Any) -> NamedSharding:
    """How an array of the state of training lies: split over "fsdp" along the largest dimension
    that this divides (the last of equal ones), or whole if there is none or it is small.

    The shape alone decides, so a parameter, its averages and its moments lie alike.
    """
    shape, parts = array.shape, mesh.shape["fsdp"]
    divided = [(n, i) for i, n in enumerate(shape) if n % parts == 0]
    if math.prod(shape) < SMALL or not divided:
        return whole(mesh)
    return NamedSharding(mesh, PartitionSpec(*[None] * max(divided)[1], "fsdp"))
