r"""EDM2 (Karras et al. 2023, arXiv:2312.02696), by the name of a recipe or from a published file.

    python main.py --mode train,sample --config configs/edm2.py:img64-s --workdir runs/edm2
    python main.py --mode import,sample --config configs/edm2.py:FILE --source FILE \
        --workdir runs/imported

FILE is a downloaded pickle, such as edm2-img64-s-1073741-0.075.pkl. Its arrays are read, and the
code in it is not run.
"""

from ml_collections import ConfigDict

from configs import edm
from score_sde.nets.edm2 import EDM2UNet

NETS = {"edm2.EDM2UNet": EDM2UNet}
RECIPES = {}


def get_config(what: str = "img64-s") -> ConfigDict:
    """A recipe of `RECIPES`, or what a published file holds."""
    return RECIPES[what]() if what in RECIPES else edm.of_file(what, NETS, RECIPES)
