r"""Solids as 12 x 12 x 12 voxels: a transformer on patches of 3 x 3 x 3, EDM.

python main.py --mode train,sample --config configs/voxels.py --workdir runs/voxels
"""

from ml_collections import ConfigDict

from configs import solids


def get_config() -> ConfigDict:
    config = solids.get_config()
    config.data = ConfigDict({"name": "voxels"})
    config.codec = {"name": "reals", "part": "voxels", "medium": "voxels"}
    config.net.update({"patch_size": 3, "positions": "sines"})
    config.train.steps = 600
    return config
