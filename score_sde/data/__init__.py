"""Data sets: loaders that return `Data`, and batches of them.

A loader is a function with keyword options; `data.name` in a config is its name here.
"""

from score_sde.data.clip_folder import clip_folder
from score_sde.data.corrupted import corrupted
from score_sde.data.emoji import emoji
from score_sde.data.encoded import encoded
from score_sde.data.files import read_arrays as read_arrays
from score_sde.data.files import read_images as read_images
from score_sde.data.files import read_mask as read_mask
from score_sde.data.image_folder import folder
from score_sde.data.latents import latents
from score_sde.data.mixture import mixture
from score_sde.data.moving_shapes import moving_shapes
from score_sde.data.no_images import absent, absent_reals
from score_sde.data.npz_arrays import npz
from score_sde.data.npz_reals import npz_reals
from score_sde.data.pipeline import eval_batches as eval_batches
from score_sde.data.pipeline import train_iterator as train_iterator
from score_sde.data.shape_edits import shape_edits
from score_sde.data.shapes import shapes
from score_sde.data.sklearn_digits import digits
from score_sde.data.source import Arrays as Arrays
from score_sde.data.source import Data as Data
from score_sde.data.source import Source as Source
from score_sde.data.source import fingerprint as fingerprint
from score_sde.data.source import gather as gather
from score_sde.data.source import labelled_images as labelled_images
from score_sde.data.source import read_text as read_text
from score_sde.data.tfds_images import tfds

__all__ = [  # the loaders, which a config can name
    "absent",
    "absent_reals",
    "clip_folder",
    "corrupted",
    "digits",
    "emoji",
    "encoded",
    "folder",
    "latents",
    "mixture",
    "moving_shapes",
    "npz",
    "npz_reals",
    "shape_edits",
    "shapes",
    "tfds",
]
