"""The U-Net of the tokens of an image."""

import jax
import numpy as np
import pytest

from score_sde.config import build

FIELDS = {"nf": 8, "ch_mult": (1, 1), "num_res_blocks": 1, "attn_resolutions": (2,), "dropout": 0.0}


def test_tokens_row_by_row_are_an_image_of_one_hot_vectors():
    """4 x 6 tokens of 5 values: the output is that of the network of images, bit for bit."""
    image = jax.random.normal(jax.random.key(0), (2, 4, 6, 5))
    noise = np.array([0.2, 0.7], np.float32)
    of_images = build("nets", {"name": "ncsnpp.NCSNpp", **FIELDS})
    of_tokens = build("nets", {"name": "token_grid.TokenNCSNpp", "height": 4, **FIELDS})
    tokens = image.reshape(2, 24, 5)
    params = of_tokens.init(jax.random.key(1), tokens, noise)["params"]
    params = jax.tree.map(lambda a: a + 0.1, params)  # its last layer begins at 0
    wanted = of_images.apply({"params": params}, image, noise)
    found = of_tokens.apply({"params": params}, tokens, noise)
    np.testing.assert_array_equal(found.reshape(wanted.shape), wanted)
    assert np.std(wanted) > 0.01


def test_a_number_of_tokens_without_so_many_rows_is_refused():
    net = build("nets", {"name": "token_grid.TokenNCSNpp", "height": 5, **FIELDS})
    with pytest.raises(ValueError, match=r"24 tokens cannot be 5 rows: set net\.height"):
        net.init(jax.random.key(0), np.zeros((2, 24, 5), np.float32), np.zeros(2, np.float32))
