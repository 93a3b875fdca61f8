"""The autoencoder against symmetries and itself; tests/published has diffusers' numbers."""

import math

import jax
import jax.numpy as jnp
import pytest

from score_sde.models import parametrization
from score_sde.models.model import Model
from score_sde.nets.autoencoder import AutoencoderKL
from score_sde.processes import VP

TINY = {"channels": 8, "num_res_blocks": 0, "groups": 4, "latent_channels": 2}


def test_a_model_has_the_parameters_of_both_halves():
    """The network alone knows how many channels its image has."""
    net = AutoencoderKL(**TINY, ch_mult=(1, 2), in_channels=1)
    model = Model(net, VP(), parametrization.x0(parametrization.time()))
    x = jax.ShapeDtypeStruct((4, 8, 8, 1), jnp.float32)
    params = jax.eval_shape(lambda key: model.init(key, x), jax.random.key(0))
    assert set(params) == {"encoder", "decoder", "quant_conv", "post_quant_conv"}
    assert params["decoder"]["out_conv"]["kernel"].shape == (3, 3, 8, 1)
    plain = net.clone(quant_convs=False, mid_attention=False)
    fewer = jax.eval_shape(lambda key: model._replace(net=plain).init(key, x), jax.random.key(0))
    count, rest = (sum(map(math.prod, _shapes(tree))) for tree in (params, fewer))
    # 1x1 convolutions of 4 and 2 channels; 4 layers and a norm of 16 channels, in each half
    assert count - rest == (4 + 1) * 4 + (2 + 1) * 2 + 2 * (4 * (16 + 1) * 16 + 2 * 16)


def _shapes(tree):
    return [leaf.shape for leaf in jax.tree.leaves(tree)]


def test_what_makes_no_sense():
    for fields, message in (
        ({"remat": "some"}, "remat='some' is none of"),
        ({"ch_mult": ()}, r"ch_mult=\(\) has no stage"),
    ):
        with pytest.raises(ValueError, match=message):
            AutoencoderKL(**fields)
    net = AutoencoderKL(**TINY, ch_mult=(1, 1, 1))
    with pytest.raises(ValueError, match="images of 8x6 cannot be halved 2 times"):
        jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 6, 3)))
