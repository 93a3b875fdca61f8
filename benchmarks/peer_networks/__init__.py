"""Networks of PyTorch that `throughput.py --peers` times beside ours of the same settings.

A peer is `(net, shape [h, w, c]) -> torch.nn.Module`, and that module is
`(x [b, c, h, w], noise [b], label [b]) -> [b, c, h, w]`.
"""

from peer_networks import dit, edm, ncsnpp
from score_sde.nets.dit import DiT
from score_sde.nets.edm import SongUNet
from score_sde.nets.ncsnpp import NCSNpp

PEERS = {NCSNpp: ncsnpp.peer, DiT: dit.peer, SongUNet: edm.peer}
