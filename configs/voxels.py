r"""Solids as 12 x 12 x 12 voxels: a transformer on patches of 3 x 3 x 3, EDM.

python main.py --mode train,sample --config configs/voxels.py --workdir runs/voxels

A short training of rough solids: of 25 samples, 20 are nearest to a training solid of the kind that
was asked for. 331,611 parameters, 600 steps. Both modes take 67 s of processor time (measured).
"""

from ml_collections import ConfigDict

from configs import solids


def get_config() -> ConfigDict:
    config = solids.get_config()
    config.data = ConfigDict({"name": "voxels"})
    scale = {"mean": -0.73, "std": 0.66}
    config.codec = {"name": "reals", "part": "voxels", "medium": "voxels", **scale}
    config.net.update({"patch_size": 3, "positions": "sines"})
    # neighbours tell much of a voxel, so that shapes are decided at more noise than points
    config.objective.time_law = "log_normal(mean=0.5, std=1.4, stratified=True)"
    config.objective.weighting = "edm(mean=0.5, std=1.4, sigma_data=1.0)"
    config.train.steps = 600
    return config
