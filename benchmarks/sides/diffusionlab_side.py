"""diffusionlab: its DiT (equinox), its linear VP process and DDIM, a loop in Python that is
compiled whole here.

Its DiT takes patches as they are, and no label; its perceptrons have three layers, so that it has
more parameters and operations.
"""

from __future__ import annotations

from typing import Any

from sides.serve import Side, serve


def make(settings: Any) -> Side:
    """With eps prediction."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    from diffusionlab.models.dit import DiT
    from diffusionlab.processes.gaussian import VPLinear
    from diffusionlab.sampling.base import sample as run
    from diffusionlab.sampling.continuous import DDMSampler

    from sides import jax_parts

    side, _, channels = settings.shape
    patch = settings.patch_size
    tokens, numbers = (side // patch) ** 2, patch**2 * channels
    process = VPLinear((tokens, numbers))

    def build(key):
        return DiT(
            input_dim=numbers,
            output_dim=numbers,
            hidden_dim=settings.width,
            num_layers=settings.depth,
            num_heads=settings.num_heads,
            head_dim=settings.width // settings.num_heads,
            mlp_dim=4 * settings.width,
            max_seq_len=tokens,
            time_emb_dim=256,
            cond_dim=settings.width,
            prediction_kind="eps",
            activation=jax.nn.gelu,
            max_period=10_000.0,
            key=key,
        )

    shapes, rest = eqx.partition(
        eqx.filter_eval_shape(build, jax.random.key(0)),
        lambda leaf: isinstance(leaf, jax.ShapeDtypeStruct),
    )
    params = jax_parts.drawn(shapes)

    def predict(params, x, t):
        return eqx.combine(params, rest)(x, None, t, None, None)

    def loss(params, key, x, label):
        keys = jax.random.split(key)
        x = x.reshape(settings.batch, tokens, numbers)
        t = jax.random.uniform(keys[0], (settings.batch,), minval=1e-3)
        noise = jax.random.normal(keys[1], x.shape)
        alpha, sigma = (f(t)[:, None, None] for f in (process.alpha, process.sigma))
        return jnp.mean((predict(params, alpha * x + sigma * noise, t).value - noise) ** 2)

    times = [jnp.full((settings.batch,), t) for t in jnp.linspace(1, 1e-3, settings.steps + 1)]

    @jax.jit
    def sample(params, key, label):
        def predictor(x, s, t, cond, aux):
            return predict(params, x, t)

        return run(key, DDMSampler(process), predictor, settings.batch, times, None, [])

    def forward(params, x):
        x = x.reshape(settings.batch, tokens, numbers)
        return predict(params, x, jnp.full((settings.batch,), 0.5)).value

    return jax_parts.side(settings, params, sample, loss, forward, ("diffusionlab", "equinox"))


if __name__ == "__main__":
    serve(make, "diffusionlab")
