"""One of two processes of `test_metrics.py`: `summary_of_two_hosts.py PROCESS ADDRESS FOLDER`.

Writes the summary of the images in FOLDER/images.npz twice: gathered of those of each process
(gathered_PROCESS.npz), and of batches that lie over both (spread_PROCESS.npz).
"""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from score_sde.evaluation.metrics import summary
from score_sde.evaluation.metrics.summary import Features
from tests.stored import arrays


def main(process, address, folder):
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, num_processes=2, process_id=process)
    images = arrays(folder / "images.npz")
    own = [np.array_split(images[name], 2)[process] for name in ("pool", "probs", "index", "mask")]
    begin = summary.empty(5, 3, splits=4, capacity=20)

    pool, probs, index, mask = map(jnp.asarray, own)
    part = summary.update(begin, Features(pool, probs), index, mask)
    summary.save(folder / f"gathered_{process}.npz", summary.gather(part), {})

    sharding = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), PartitionSpec("data"))
    rows = (jax.make_array_from_process_local_data(sharding, a) for a in own)
    pool, probs, index, mask = rows
    whole = summary.update(begin, Features(pool, probs), index, mask)
    summary.save(folder / f"spread_{process}.npz", whole, {})


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
