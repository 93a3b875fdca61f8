"""Clouds, voxels and molecules go through the modes like images: training that goes on, samples as
files, evaluation and likelihood."""

import json
import math

import jax
import numpy as np
import pytest
import trimesh

from score_sde.config import build
from score_sde.data.harmonic import cluster
from score_sde.experiment import samplers
from score_sde.experiment.workdirs import restore
from score_sde.modes.evaluate import evaluate
from score_sde.modes.likelihood import likelihood
from score_sde.modes.sample import sample
from score_sde.modes.train import train
from tests.experiment.test_configs import ROOT, load
from tests.modes.test_train import equal, final_state


def small(steps=4):
    config = load(ROOT / "solids.py").get_config()
    config.data.update({"points": 16, "train": 64, "test": 8})
    config.net.update({"width": 16, "depth": 1, "num_heads": 2})
    config.train.update({"steps": steps, "batch_size": 16, "checkpoint_every": 2, "log_every": 2})
    config.train.sample_every = 0
    config.sampling.update({"num_samples": 10, "batch_size": 8, "steps": 4, "files": 3})
    config.likelihood.update({"batch_size": 8, "rtol": 1e-2, "atol": 1e-2})
    config.evaluate.parts = ("loss", "likelihood", "copies")
    config.evaluate.num_samples = 8
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("solids")
    train(small(), workdir)
    return workdir


def test_a_run_that_stopped_goes_on_bit_for_bit(run, tmp_path):
    train(small(2), tmp_path)
    train(small(4), tmp_path)
    equal(final_state(small(), tmp_path).state, final_state(small(), run).state)


def test_samples_are_clouds_and_files(run):
    sample(small(), run)
    with np.load(run / "samples.npz") as file:
        samples, labels = file["samples"], file["labels"]
    assert samples.shape == (10, 16, 3)
    assert set(labels) <= set(range(5))
    files = sorted((run / "samples").iterdir())
    assert [file.name for file in files] == [f"{i:07d}.ply" for i in range(3)]
    for file, cloud in zip(files, samples, strict=False):
        np.testing.assert_array_equal(trimesh.load(file).vertices, cloud)
    assert (run / "samples.png").stat().st_size > 1000


def test_loss_likelihood_and_copies(run):
    evaluate(small(), run)
    found = json.loads((run / "evaluate.json").read_bytes())
    assert set(found) >= {"loss", "likelihood", "copies"}
    own = likelihood(small(), run)
    assert own["num_examples"] == 8
    assert own["nats"] == pytest.approx(found["likelihood"]["nats"], rel=1e-4)


def test_permuted_noise_gives_permuted_samples(run):
    """Through the whole sampler, with trained weights: within rounding of a few steps."""
    config = small()
    config.sampling.labels = (2,)
    trained = restore(config, run)
    draw = samplers.build_sampler(config, trained.experiment, 8)
    noise = 80 * jax.random.normal(jax.random.key(1), (8, 16, 3))
    order = np.random.default_rng(0).permutation(16)
    shown = draw(trained.params, jax.random.key(0), 0, noise).shown
    permuted = draw(trained.params, jax.random.key(0), 0, noise[:, order]).shown
    np.testing.assert_allclose(permuted, shown[:, order], atol=1e-5 * np.max(np.abs(shown)))
    assert np.max(np.abs(permuted - shown)) > 0.01


def test_the_likelihood_of_molecules_has_the_right_dimensions(tmp_path):
    """Springs between all pairs: EDM's network begins as the exact denoiser of such a Gaussian, so
    a training of no size gives the closed form of every test example, over std."""
    config = load(ROOT / "molecules.py").get_config()
    config.data = {"name": "harmonic", "springs": "all", "train": 64, "test": 16}
    config.codec = {"name": "centred", "std": 5**-0.5}
    config.net.update({"width": 8, "depth": 1, "positions": "none"})
    config.optim.learning_rate = 1e-12
    config.train.update({"steps": 1, "batch_size": 8, "sample_every": 0})
    config.likelihood.batch_size = 16
    train(config, tmp_path)
    found = likelihood(config, tmp_path)["nats"]
    raw = build("data", config.data.to_dict()).test.parts["points"]
    truth = np.mean(cluster(5, "all", 1.0).log_density(raw)) + 12 * math.log(5**-0.5)
    assert found == pytest.approx(truth, abs=0.01)
