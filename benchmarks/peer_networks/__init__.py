"""Networks of PyTorch that `throughput.py --peers` times beside ours of the same settings.

A peer is `(net, shape [h, w, c]) -> torch.nn.Module`, and that module is
`(x [b, c, h, w], noise [b], label [b]) -> [b, c, h, w]`.
"""

from sides import diffusers_models

from peer_networks import dit, edm
from score_sde.nets.dit import DiT
from score_sde.nets.edm import SongUNet
from score_sde.nets.ncsnpp import NCSNpp

PEERS = {NCSNpp: diffusers_models.unet, DiT: dit.peer, SongUNet: edm.peer}
