"""FlaxDiff: its SimpleDiT and Unet, its cosine schedule and DDIM sampler, which is a loop in Python
over compiled network calls.

Its U-Net needs a text, here one token of zeros, and has attention after the last block of a stage.
It needs attention in the last stage, where ours has none.
Its trainer wants a data set and a tracker; the step here is a step of optax over its network.
"""

from __future__ import annotations

from typing import Any

from sides.serve import Side, serve


def make(settings: Any) -> Side:
    """With eps prediction."""
    import jax
    import jax.numpy as jnp
    from flaxdiff.inputs import DiffusionInputConfig
    from flaxdiff.predictors import EpsilonPredictionTransform
    from flaxdiff.samplers.ddim import DDIMSampler
    from flaxdiff.schedulers import CosineNoiseScheduler, get_coeff_shapes_tuple

    from sides import jax_parts

    model = network(settings)
    shape = (settings.batch, *settings.shape)
    schedule = CosineNoiseScheduler(1000)
    text = [] if settings.network == "dit" else [jnp.zeros((settings.batch, 1, 64))]
    inputs = DiffusionInputConfig(
        sample_data_key="image", sample_data_shape=tuple(settings.shape), conditions=[]
    )
    sampler = DDIMSampler(model, schedule, EpsilonPredictionTransform(), inputs)

    def predict(params, x, t):
        return model.apply(params, *schedule.transform_inputs(x, t), *text)

    def loss(params, key, x, label):
        keys = jax.random.split(key)
        t = jax.random.randint(keys[0], (settings.batch,), 0, 1000)
        noise = jax.random.normal(keys[1], x.shape)
        alpha, sigma = schedule.get_rates(t, get_coeff_shapes_tuple(x))
        return jnp.mean((predict(params, alpha * x + sigma * noise, t) - noise) ** 2)

    def sample(params, key, label):
        return sampler.generate_samples(
            params,
            settings.batch,
            settings.shape[0],
            diffusion_steps=settings.steps,
            priors=jax.random.normal(key, shape),
            model_conditioning_inputs=text,
        )

    def forward(params, x):
        return predict(params, x, jnp.full((settings.batch,), 500))

    x, t = jnp.zeros(shape), jnp.zeros(settings.batch)
    shapes = jax.eval_shape(lambda key: model.init(key, x, t, *text), jax.random.key(0))
    params = jax_parts.drawn(shapes)
    return jax_parts.side(settings, params, sample, loss, forward, ("flaxdiff", "flax"))


def network(settings: Any) -> Any:
    """Of as many channels, blocks and heads as ours."""
    import jax.numpy as jnp
    from flaxdiff.models.simple_dit import SimpleDiT
    from flaxdiff.models.simple_unet import Unet

    dtype = jnp.dtype(settings.dtype)
    if settings.network == "dit":
        return SimpleDiT(
            output_channels=settings.shape[-1],
            patch_size=settings.patch_size,
            emb_features=settings.width,
            num_layers=settings.depth,
            num_heads=settings.num_heads,
            dtype=dtype,
        )
    sizes = [settings.shape[0] // 2**i for i in range(len(settings.ch_mult))]
    # its middle has the attention of the last stage, and must have one
    attends = [size in settings.attn_resolutions or size == sizes[-1] for size in sizes]
    return Unet(
        output_channels=settings.shape[-1],
        emb_features=4 * settings.nf,
        feature_depths=tuple(settings.nf * mult for mult in settings.ch_mult),
        attention_configs=tuple({"heads": 1, "dtype": dtype} if a else None for a in attends),
        num_res_blocks=settings.num_res_blocks,
        norm_groups=min(settings.nf // 4, 32),
        dtype=dtype,
    )


if __name__ == "__main__":
    serve(make, "flaxdiff")
