"""Imported ADM networks in the modes: sampling with their learned variance, and as a guide."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import adm as recipes
from score_sde import published
from score_sde.config import build
from score_sde.errors import CheckpointError, ConfigError
from score_sde.experiment import samplers, workdirs
from score_sde.modes.import_ import import_
from score_sde.published import adm
from tests import torch_zip
from tests.command import main
from tests.published.test_adm import golden, untold, weights


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Workdirs of an unconditional U-Net and of a classifier."""
    root = tmp_path_factory.mktemp("adm")
    for case in ("heads", "classifier"):
        torch_zip.save(root / f"{case}.pt", weights(case))
        import_(config_of(root, case), root / case, root / f"{case}.pt")
    return root


def config_of(root, case):
    config = recipes.get_config(str(root / f"{case}.pt"))
    config.net.update(untold(case))
    config.data.num_classes = 10
    return config


def test_the_denoiser_is_that_of_the_public_code(runs):
    """eps is the first half of the golden output, and the labels are those of the chain."""
    arrays = golden("heads")
    trained = workdirs.restore(config_of(runs, "heads"), runs / "heads")
    sde = trained.experiment.model.sde
    x, t = jnp.asarray(arrays["x"], jnp.float32), jnp.asarray(arrays["t"] / 999, jnp.float32)
    denoiser = trained.experiment.objective.result(trained.params, None)
    x_0 = jax.jit(denoiser)(x, t)
    bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[arrays["t"]][:, None, None, None]
    truth = (arrays["x"] - np.sqrt(1 - bar) * arrays["output"][..., :3]) / np.sqrt(bar)
    error = np.abs(np.asarray(x_0) - truth).max((1, 2, 3)) / np.abs(truth).max((1, 2, 3))
    assert (error < 1e-4).all()
    assert trained.experiment.objective.gives == "moments"
    assert type(sde).__name__ == "DDPM"


def test_an_imported_classifier_guides(runs):
    """D + scale sigma^2/alpha grad ln p(label | x), clipped, with the gradient of the file's own
    network; and the variance is that of the unguided network."""
    config = config_of(runs, "heads")
    guidance = f'classifier(workdir="{runs / "classifier"}", scale=2.0)'
    config.sampling.guidance = guidance
    trained = workdirs.restore(config, runs / "heads")
    experiment, sde = trained.experiment, trained.experiment.model.sde
    net = build("nets", adm.describe(runs / "classifier.pt").net | untold("classifier"))
    judge = published.load(runs / "classifier.pt", net, (16, 16, 3)).params
    label, steps = jnp.array([3, 9, 1]), jnp.array([20, 300, 700])
    x, t = jnp.asarray(golden("heads")["x"], jnp.float32), (steps / 999).astype(jnp.float32)

    @jax.jit
    def both(of_cond, params):
        cond = {"label": label}
        plain = experiment.objective.result(params, cond)

        def log_prob(x):
            logits = net.apply({"params": judge}, x, steps.astype(jnp.float32))
            return jnp.sum(jax.nn.log_softmax(logits)[jnp.arange(3), label])

        gain = (sde.sigma(t) ** 2 / sde.alpha(t))[:, None, None, None]
        guided = jnp.clip(plain(x, t) + 2 * gain * jax.grad(log_prob)(x), -1, 1)
        truth = jnp.concatenate([guided, plain(x, t, t - 1e-3)[..., 3:]], axis=-1)
        return of_cond(params, cond)(x, t, t - 1e-3), truth, plain(x, t)

    ours, truth, plain = both(samplers.build_denoiser(config, experiment), trained.params)
    np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=1e-5)
    assert np.abs(np.clip(plain, -1, 1) - ours[..., :3]).max() > 1e-2


def test_import_and_sample_in_one_command(runs, tmp_path):
    code, out, err = main(
        *("--mode", "import,sample", "--config", f"configs/adm.py:{runs / 'heads.pt'}"),
        *("--source", str(runs / "heads.pt"), "--workdir", str(tmp_path)),
        *("--config.net.head_dim=0", "--config.sampling.grid=respaced(name='3')"),
        *("--config.sampling.steps=2", "--config.sampling.num_samples=8"),
    )
    assert code == 0, err
    assert "guided-diffusion, U-Net" in out
    samples = np.load(tmp_path / "samples.npz")["samples"]
    assert samples.shape == (8, 16, 16, 3)
    assert samples.std() > 10


def test_a_variance_that_nobody_learnt(runs):
    config = config_of(runs, "heads")
    config.objective = {
        "name": "denoising",
        "time_law": "grid_points(num_steps=1000)",
        "weighting": "simple",
    }
    experiment = workdirs.load(config)
    with pytest.raises(
        ConfigError,
        match=r"asks for the variance of a step, which a network of objective\.name='denoising'",
    ):
        samplers.build_sampler(config, experiment, 8)
    learnt = config_of(runs, "heads")
    learnt.sampling.window = 2
    with pytest.raises(ValueError, match=r"asks for moments: use sampling\.sample"):
        samplers.build_sampler(learnt, workdirs.load(learnt), 8)(
            workdirs.restore(learnt, runs / "heads").params, jax.random.key(0)
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"out.2.bias": np.full(6, np.nan, np.float32)}, "weights that are not finite, the first"),
        ({"extra": np.zeros(3, np.float32)}, "does not fit the network: extra is left over"),
        ({"out.2.bias": np.zeros(3, np.float32)}, r"out_conv/bias has shape \(3,\), not \(6,\)"),
    ],
)
def test_sources_that_are_refused(change, message, runs, tmp_path):
    config = config_of(runs, "heads")
    torch_zip.save(tmp_path / "wrong.pt", weights("heads") | change)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match=message) as error:
        import_(config, tmp_path / "run", tmp_path / "wrong.pt")
    assert len(str(error.value).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before
