"""dew (`dewml`): its SimpleDiT and Unet, its cosine process and DDIM. They read no label.

dew trains through a `Trainer` with a data set, trackers and checkpoints; the step here is a step of
optax over its network and process. Its U-Net has attention after the last block of a stage, not
after each.
"""

from __future__ import annotations

from typing import Any

from sides.serve import Side, serve


def make(settings: Any, package: str = "dewml") -> Side:
    """With v prediction, as its cosine process has it."""
    import dew
    import jax
    import jax.numpy as jnp
    from dew.diffusion.presets import Cosine
    from dew.sampling.solvers import DDIM

    from sides import jax_parts

    model = network(settings)
    process = Cosine()()
    shape = (settings.batch, *settings.shape)

    x, t = jnp.zeros(shape), jnp.zeros(settings.batch)
    variables = jax.eval_shape(lambda key: model.init(key, x, t), jax.random.key(0))
    variables = jax_parts.drawn(variables)
    params = variables.pop("params")  # what is left are constants

    def predict(params, x, t):
        time = process.schedule.model_time(t)
        return model.apply({"params": params, **variables}, x, time)

    def loss(params, key, x, label):
        keys = jax.random.split(key)
        t = jax.random.randint(keys[0], (settings.batch,), 0, 1000).astype(jnp.float32)
        noise = jax.random.normal(keys[1], x.shape)
        alpha, sigma = process.rates(t, like=x)
        found = predict(params, alpha * x + sigma * noise, t)
        return jnp.mean((found - (alpha * noise - sigma * x)) ** 2)

    @jax.jit
    def sample(params, key, label):
        denoiser = process.denoiser(model, {"params": params, **variables}, {})
        start = process.noise(key, shape)
        return dew.sample(denoiser, start, settings.steps, solver=DDIM(), key=key)

    def forward(params, x):
        return predict(params, x, jnp.full((settings.batch,), 500.0))

    return jax_parts.side(settings, params, sample, loss, forward, (package, "flax"))


def network(settings: Any) -> Any:
    """Of as many channels, blocks and heads as ours."""
    import jax.numpy as jnp
    from dew.nn.attention import Stage
    from dew.nn.backbones.dit import SimpleDiT
    from dew.nn.backbones.unet import Unet

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
    return Unet(
        output_channels=settings.shape[-1],
        emb_features=4 * settings.nf,
        feature_depths=tuple(settings.nf * mult for mult in settings.ch_mult),
        attention_configs=tuple(
            Stage(heads=1) if size in settings.attn_resolutions else None for size in sizes
        ),
        num_res_blocks=settings.num_res_blocks,
        norm_groups=min(settings.nf // 4, 32),
        dtype=dtype,
    )


if __name__ == "__main__":
    serve(make, "dew")
