"""Arrays of a file, which is closed again."""

import numpy as np


def arrays(path):
    """The arrays of an .npz file by their names."""
    with np.load(path) as file:
        return dict(file)
