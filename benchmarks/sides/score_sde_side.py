"""score_sde: `score_sde.nets` with a DDIM sampler, and the training step of its mode `train`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import command  # noqa: F401  (the way to score_sde and configs)

from sides.serve import Side, serve, versions

FIELDS = {
    "dit": ("patch_size", "width", "depth", "num_heads", "num_classes", "freq_shift", "dropout"),
    "unet": ("nf", "ch_mult", "num_res_blocks", "attn_resolutions", "dropout"),
}


def fields(settings: Any) -> dict[str, Any]:
    """Those of the network."""
    found = {name: getattr(settings, name) for name in FIELDS[settings.network]}
    found = {name: tuple(v) if isinstance(v, list) else v for name, v in found.items()}
    return found | {"dtype": settings.dtype}


def make(settings: Any) -> Side:
    """The sampler needs nets, models and solvers alone; the training step the rest."""
    import jax
    import jax.numpy as jnp

    from score_sde import sampling, solvers
    from score_sde.models import parametrization
    from score_sde.models.model import Model
    from score_sde.nets.dit import DiT
    from score_sde.nets.ncsnpp import NCSNpp
    from score_sde.processes import VP
    from score_sde.runtime import mesh
    from score_sde.sampling import grids
    from sides import jax_parts

    mesh.use_cores(settings.batch)
    devices = mesh.make(1)
    net = {"dit": DiT, "unet": NCSNpp}[settings.network](**fields(settings))
    model = Model(net, VP(), parametrization.eps(c_noise=parametrization.time(scale=999.0)))
    x = jax.ShapeDtypeStruct((settings.batch, *settings.shape), jnp.float32)
    label = jnp.zeros(settings.batch, jnp.int32)
    cond = {"label": label} if settings.network == "dit" else {}
    shapes = jax.eval_shape(lambda key, x: model.init(key, x, cond), jax.random.key(0), x)
    params = jax.device_put(jax_parts.drawn(shapes), mesh.whole(devices))
    times = grids.log_snr(model.sde, settings.steps)

    @functools.partial(jax.jit, out_shardings=mesh.spread(devices))
    def sample(params, key, cond):
        start = model.sde.prior_sample(key, x.shape)
        start = jax.lax.with_sharding_constraint(start, mesh.spread(devices))
        denoiser = model.denoiser(params, cond)
        return sampling.sample(key, solvers.ddim(model.sde), denoiser, start, times).x

    cond = jax.device_put(cond, mesh.spread(devices))

    def facts() -> dict[str, Any]:
        def forward(params, x):
            return model.network(params, x, jnp.array(0.5), cond)

        count = jax_parts.operations(forward, params, x) // settings.batch
        about = {"parameters": jax_parts.size(params), "operations": count}
        return about | {"versions": versions("jax", "flax"), "devices": jax.device_count()}

    training = functools.cache(lambda: trainer(settings))

    def draw() -> int:
        jax.block_until_ready(sample(params, jax.random.key(1), cond))
        return 1

    def prepare() -> int:
        training()
        return 1

    runs = {"sampler": draw, "preparation": prepare, "training step": lambda: training()()}
    return Side(runs, facts, jax_parts.device_peak)


def trainer(settings: Any) -> Callable[[], int]:
    """A call of the compiled step: encoding, loss, gradient, clip, Adam, average."""
    import jax
    import numpy as np

    from configs import base
    from score_sde.data import absent_reals
    from score_sde.experiment import build
    from score_sde.experiment.base import net_fields
    from score_sde.experiment.program import compiled_step
    from score_sde.nets.dit import DiT
    from score_sde.nets.ncsnpp import NCSNpp

    names = {"dit": ("dit.DiT", DiT), "unet": ("ncsnpp.NCSNpp", NCSNpp)}
    config = base.get_config()
    config.net = net_fields(*names[settings.network], **fields(settings))
    config.codec = {"name": "reals", "part": "latent", "std": 1.0, "medium": "maps"}
    config.train.batch_size = settings.batch
    config.optim.learning_rate = 1e-4
    classes = getattr(settings, "num_classes", 1)
    data = absent_reals(shape=tuple(settings.shape), num_classes=classes)
    experiment = build.build_experiment(config, data)
    count = 1 if jax.default_backend() == "cpu" else 10
    rng = np.random.default_rng(1)
    x = rng.standard_normal((count, settings.batch, *settings.shape), np.float32)
    raw = {"latent": x, "label": np.zeros(x.shape[:2], np.int32)}
    raw = jax.device_put(raw, experiment.sharded(axis=1))
    state = [build.initial_state(config, experiment)]
    step = compiled_step(config, experiment, count)

    def train():
        state[0], metrics = step(jax.random.key(0), state[0], raw)
        jax.block_until_ready(metrics)
        return count

    return train


if __name__ == "__main__":
    serve(make, "score_sde")
