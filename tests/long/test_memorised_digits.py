"""A network that is over-fitted to 50 digits, and which of its samples the filter finds."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from score_sde.data import digits, gather
from score_sde.experiment import coding, filters, workdirs
from tests.soak import ROOT

RATE = 0.01
SAMPLES = 400
CONFIG = f"""
from tests import perceptron


def get_config():
    config = perceptron.get_config()
    config.data = "npz(path={{path!r}}, num_values=17)"
    config.net.update(features=(256, 256, 256), embedding_dim=32)
    config.codec.dequantize = False
    config.parametrization = "x0"
    config.objective.weighting = "min_snr(gamma=5.0)"
    config.optim.update(learning_rate=2e-3, schedule="cosine")
    config.train.update(steps=5000, batch_size=64, sample_every=0, checkpoint_every=5000)
    config.train.update(steps_per_call=100, log_every=1000)
    config.sampling.update(solver="dpmpp", grid="log_snr", steps=20)
    config.sampling.update(num_samples={SAMPLES}, batch_size={SAMPLES})
    config.sampling.filters = ("copies(rate={RATE})",)
    return config
"""


@pytest.fixture(scope="module")
def split(tmp_path_factory):
    """A folder with 50 digits for training and 500 for the test, and 950 that nothing has seen."""
    images = gather(digits().train, np.arange(1500))["image"]
    order = np.random.default_rng(2).permutation(1500)
    learnt, test, fresh = np.split(images[order], [50, 550])
    folder = tmp_path_factory.mktemp("memorised")
    np.savez(folder / "digits.npz", train_images=learnt, test_images=test)
    (folder / "config.py").write_text(CONFIG.format(path=str(folder / "digits.npz")))
    return folder, learnt, fresh


def run(folder, modes, *options):
    """`python main.py` on the cores that there are, at full speed."""
    command = ["main.py", "--config", f"{folder}/config.py", "--workdir", str(folder / "runs")]
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_PLATFORMS")}
    subprocess.run(
        [sys.executable, *command, "--mode", modes, *options],
        cwd=ROOT,
        check=True,
        env=environment | {"JAX_PLATFORMS": "cpu"},
    )


def test_samples_of_an_over_fitted_network_are_found(split):
    """Most samples are one of the 50 images, to within 1 of 17 values in each pixel, and the filter
    finds all of these; others are near an image, or between several. Of images that nothing has
    seen about the rate is dropped."""
    folder, learnt, fresh = split
    run(folder, "train,sample", "--config.sampling.filters=()")
    drawn = np.load(folder / "runs/samples.npz")["samples"]
    run(folder, "sample", f"--config.sampling.as_data={folder}/kept")
    (about,) = json.loads((folder / "runs/sample.json").read_text())["filters"].values()
    dropped = about["dropped"]
    assert dropped > 0.95 * SAMPLES

    of_17 = np.rint(drawn / 255 * 16).astype(int)
    apart = np.abs(of_17[:, None] - learnt[None].astype(int)).max(axis=(2, 3, 4)).min(axis=1)
    config = workdirs.stored_config(folder / "runs")
    experiment = workdirs.load(config)
    filter_ = filters.copies(config, experiment, rate=RATE)
    found = ~filter_.shown(drawn, {})
    assert found.sum() == dropped
    assert np.mean(apart <= 1) > 0.5
    assert found[apart <= 1].all()
    new = ~filter_.shown(coding.shown_raw(experiment.codec, fresh), {})
    # three standard deviations: of the threshold's share, and of the new images
    n = filter_.about["held_out"]
    assert new.mean() <= RATE + 3 * np.sqrt(RATE * (1 / n + 1 / len(fresh)))
