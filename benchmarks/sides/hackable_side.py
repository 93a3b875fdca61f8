"""hackable_diffusion: its DiT ("original DiT" blocks) and Unet, its process, loss and DDIM.

The label is embedded beside the time, as for the DiT here; its U-Net reads the time alone.
"""

from __future__ import annotations

from typing import Any

from sides.serve import Side, serve


def make(settings: Any) -> Side:
    """One network, as its notebooks train it, with eps prediction on a linear VP process."""
    import jax
    import jax.numpy as jnp
    from hackable_diffusion import hd

    from sides import jax_parts

    dtype = jnp.dtype(settings.dtype)
    width = settings.width if settings.network == "dit" else 4 * settings.nf
    arch = hd.architecture
    time = arch.SinusoidalTimeEmbedder(activation="silu", embedding_dim=256, num_features=width)
    labels, rules = {}, {"time": "adaptive_norm"}
    if settings.network == "dit":
        labels["label"] = arch.LabelEmbedder(num_classes=settings.num_classes, num_features=width)
        rules["label"] = "adaptive_norm"
    network = hd.diffusion_network.DiffusionNetwork(
        backbone_network=(dit if settings.network == "dit" else unet)(settings, hd, dtype),
        conditioning_encoder=arch.ConditioningEncoder(
            time_embedder=time,
            conditioning_embedders=labels,
            merge_embeddings_fn=arch.SumEmbeddings(),
            conditioning_rules=rules,
        ),
        prediction_type="epsilon",
    )
    shape = (settings.batch, *settings.shape)
    schedule = hd.corruption.schedules.LinearDiffusionSchedule()
    process = hd.corruption.gaussian.GaussianProcess(schedule=schedule)
    span = hd.jax_helpers.SafeSpan(safety_epsilon=1e-3)
    time_law = hd.training.time_sampling.UniformTimeSampler(span=span)
    error = hd.training.gaussian_loss.NoWeightGaussianLoss(prediction_type="epsilon")
    sampler = hd.sampling.sampling.DiffusionSampler(
        time_schedule=hd.sampling.time_scheduling.UniformTimeSchedule(span=span),
        stepper=hd.sampling.gaussian_step_sampler.DDIMStep(
            corruption_process=process, stoch_coeff=0.0
        ),
        num_steps=settings.steps + 1,  # it counts the times, of which the first is the start
        store_trajectory=False,
    )

    def apply(params, time, xt, label, training=False):
        return network.apply(
            {"params": params},
            time=time,
            xt=xt,
            conditioning={"label": label},
            is_training=training,
        )

    def loss(params, key, x, label):
        keys = jax.random.split(key)
        time = time_law(key=keys[0], data_spec=x)
        xt, targets = process.corrupt(key=keys[1], x0=x, time=time)
        found = apply(params, time, xt, label, training=True)
        return jnp.mean(error(preds=found, targets=targets, time=time))

    @jax.jit
    def sample(params, key, label):
        noise = process.sample_from_invariant(key=key, data_spec=jnp.zeros(shape))

        def inference(time, xt, conditioning):
            return apply(params, time, xt, conditioning["label"])

        step, _ = sampler(
            inference_fn=inference, rng=key, initial_noise=noise, conditioning={"label": label}
        )
        return step.xt

    def initial(key):
        conditions = {"label": (settings.batch,)}
        return network.initialize_variables(shape, conditions, key)["params"]

    def forward(params, x):
        time = jnp.full((settings.batch, 1, 1, 1), 0.5)
        return apply(params, time, x, jnp.zeros(settings.batch, jnp.int32))

    params = jax_parts.drawn(jax.eval_shape(initial, jax.random.key(0)))
    return jax_parts.side(settings, params, sample, loss, forward, ("hackable-diffusion", "flax"))


def dit(settings: Any, hd: Any, dtype: Any) -> Any:
    """Its blocks of the paper: layer norm without parameters, gates, biases, GELU."""
    arch = hd.architecture
    patch = (settings.patch_size,) * 2
    blocks = arch.dit_blocks
    block = blocks.DiTBlockAdaLNZero(
        num_heads=settings.num_heads,
        hidden_size=settings.width,
        ffn_type="dense",
        ffn_use_bias=True,
        dtype=dtype,
    )
    return arch.dit.DiT(
        num_blocks=settings.depth,
        block=block,
        encoder=blocks.Patchify(patch_size=patch, embedding_dim=settings.width),
        decoder=blocks.DePatchify(
            patch_size=patch, output_shape=tuple(settings.shape), dtype=dtype
        ),
        absolute_posenc=blocks.PositionalEmbedding(),
        dtype=dtype,
    )


def unet(settings: Any, hd: Any, dtype: Any) -> Any:
    """Of the same channels, blocks and attention as `NCSNpp`."""
    arch = hd.architecture
    levels = len(settings.ch_mult)
    sizes = [settings.shape[0] // 2**i for i in range(levels)]
    return arch.Unet(
        base_channels=settings.nf,
        channels_multiplier=tuple(settings.ch_mult),
        num_residual_blocks=(settings.num_res_blocks,) * levels,
        downsample_fn=arch.AvgPoolDownsample(),
        upsample_fn=arch.ImageResizeUpsample(resize_method="nearest"),
        dropout_rate=(0.0,) * levels,
        bottleneck_dropout_rate=0.0,
        self_attention_bool=tuple(size in settings.attn_resolutions for size in sizes),
        cross_attention_bool=(False,) * levels,
        attention_normalize_qk=False,
        attention_use_rope=False,
        attention_rope_positions_fn=arch.SquareRoPEPositions(),
        attention_num_heads=1,
        attention_head_dim=-1,
        normalization_type=arch.NormalizationType.GROUP_NORM,
        normalization_num_groups=min(settings.nf // 4, 32),
        activation="silu",
        skip_connection_fn=arch.UnnormalizedAddSkip(),
        dtype=dtype,
    )


if __name__ == "__main__":
    serve(make, "hackable_diffusion")
