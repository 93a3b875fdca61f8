"""How arrays are laid out over devices: a mesh with the axes "data" and "fsdp".

A batch is spread over all devices. Parameters, their averages and the optimiser's moments are split
along "fsdp" and repeated along "data": each device keeps 1/fsdp of them (ZeRO, Rajbhandari et al.
2020, arXiv:1910.02054, stage 3). With fsdp=1 that is plain data parallelism.

A program states the layout of its arguments and results, and XLA does the rest. It gathers a kernel
where it is used, and sums gradients to where they are kept. Where the activations of a layer are
smaller than its kernel, it may move the activations instead.
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

# An array of fewer numbers is whole on every device: gathering it would cost more than it saves.
SMALL = 2**14


def make(fsdp: int, devices: Sequence[jax.Device] | None = None) -> Mesh:  # pyright: ignore[reportInvalidTypeForm]
    """The mesh [data, fsdp] of all devices, or of those given. The devices of a host are
    neighbours along "fsdp", which has more traffic.

    Raises:
      ValueError: fsdp does not divide the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if fsdp < 1 or len(devices) % fsdp:
        raise ValueError(f"fsdp={fsdp} does not divide the {len(devices)} device(s)")
    return Mesh(np.array(devices).reshape(-1, fsdp), ("data", "fsdp"))


def use_cores(batch_size: int) -> None:
    """Makes cores of the processor devices: as many as divide the batch. To be called before the
    first use of a device.

    XLA runs some operations of a device on a single core. This changes nothing on accelerators, or
    if JAX_NUM_CPU_DEVICES or XLA_FLAGS in the environment set the number of devices.
    """
    set_already = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    settings: Any = jax.config
    if set_already or settings.jax_num_cpu_devices > 0:
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
    """Dimension `axis`, such as that of a batch, is spread over all devices."""
    return NamedSharding(mesh, PartitionSpec(*[None] * axis, mesh.axis_names))


def whole(mesh: Mesh) -> NamedSharding:
    """Every device has the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh, array: Any) -> NamedSharding:
    """The layout of an array of the training state: split over "fsdp" along its largest dimension
    that fsdp divides (the last of equal ones), or whole if there is none or the array is small.

    Only the shape decides, so a parameter, its averages and its moments have the same layout.
    """
    shape, parts = array.shape, mesh.shape["fsdp"]
    divided = [(n, i) for i, n in enumerate(shape) if n % parts == 0]
    if math.prod(shape) < SMALL or not divided:
        return whole(mesh)
    return NamedSharding(mesh, PartitionSpec(*[None] * max(divided)[1], "fsdp"))
