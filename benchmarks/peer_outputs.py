"""Whether networks of PyTorch are those here: `python benchmarks/peer_outputs.py`.

These are what throughput.py times beside ours. Their parameters, drawn by PyTorch and
copied to our network, must be as many as ours and give the
same output to 1e-4 of its largest number. Needs `pip install torch==2.13.0 diffusers==0.42.0`.
UNet2DModel, the peer of NCSNpp, has other layers and is not asked.
"""

import command
import jax
import jax.numpy as jnp
import numpy as np

from score_sde.models.model import num_params
from score_sde.nets.dit import DiT
from score_sde.nets.edm import SongUNet

try:
    import torch
    from peer_networks import dit, edm
except ModuleNotFoundError as missing:
    raise command.without_peers(__doc__, missing) from None

CASES = {
    "DiT": (dit, DiT(depth=3, num_classes=10, freq_shift=1), (32, 32, 4)),
    "SongUNet": (
        edm,
        SongUNet(model_channels=32, num_blocks=2, num_classes=10, augment_dim=9),
        (32, 32, 3),
    ),
}


def difference(module, net, shape) -> float:
    """The largest of the outputs' numbers, as a part of the largest output.

    Raises:
        AssertionError: the numbers of parameters differ.
    """
    torch.manual_seed(0)
    peer = module.peer(net, shape).eval()
    params = module.as_ours(peer, net)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *shape), np.float32)
    noise, label = np.float32([0.3, 7.0]), np.int32([1, 8])
    with torch.inference_mode():
        inputs = torch.tensor(x.transpose(0, 3, 1, 2)), torch.tensor(noise)
        theirs = peer(*inputs, torch.tensor(label, dtype=torch.int64)).permute(0, 2, 3, 1).numpy()
    ours = jax.jit(net.apply)({"params": params}, x, noise, {"label": jnp.asarray(label)})
    expected = jax.eval_shape(net.init, jax.random.key(0), x, noise, {"label": label})["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, expected)
    assert num_params(expected) == sum(p.numel() for p in peer.parameters())
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def main() -> None:
    """Prints the differences, and fails where one is not small."""
    command.parser(__doc__).parse_args()
    found = {name: difference(*case) for name, case in CASES.items()}
    for name, error in found.items():
        print(f"{name}: {error:.1e}")
    assert max(found.values()) < 1e-4


if __name__ == "__main__":
    main()
