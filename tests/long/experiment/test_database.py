"""A retrieval model in a workdir: the database of training, and another one."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.spatial import cKDTree

from configs import digits_retrieval
from score_sde.data import digits, gather
from score_sde.errors import ConfigError, DataError
from score_sde.experiment import build, digests, requests, workdirs
from score_sde.modes.encode import encode
from score_sde.modes.sample import sample
from score_sde.runtime.checkpoint import Checkpoints
from tests.stored import arrays

OTHER = "neighbours(k=4, database='folder(path=\"{}\", image_size=8, channels=1)')"


def tiny(**changes):
    config = digits_retrieval.get_config()
    config.net.update(width=16, depth=1, num_heads=1)
    config.sampling.update(solver="ddim", grid="uniform", steps=2, num_samples=8, batch_size=8)
    config.sampling.update(t_min=None, guidance=None)
    config.update_from_flattened_dict(changes)
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pictures, and a workdir of random parameters: those of a start say nothing."""
    folder, rng = tmp_path_factory.mktemp("retrieval"), np.random.default_rng(0)
    (folder / "pictures").mkdir()
    for i in range(12):
        noise = rng.integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"pictures/{i:02d}.png")
    config, workdir = tiny(), folder / "trained"
    experiment = workdirs.load(config)
    state = build.initial_state(config, experiment)
    leaves, tree = jax.tree.flatten(jax.device_get(state.params))
    random = [a + 0.2 * rng.normal(size=a.shape).astype(a.dtype) for a in leaves]
    params = jax.tree.unflatten(tree, random)
    workdir.mkdir()
    workdirs.store_config(config, workdir)
    digests.store(experiment, workdir)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(1, state.replace(params=params, ema=(params,) * len(state.ema)), None, {})
    checkpoints.close()
    return folder


def drawn(config, folder):
    sample(config, folder / "trained")
    return arrays(folder / "trained" / "samples.npz")["samples"]


def test_training_leaves_out_the_example_itself():
    """The database is the training images; those of the test have all of their neighbours."""
    experiment, data = build.build_experiment(tiny()), digits()
    images = {split: gather(getattr(data, split), np.arange(40)) for split in ("train", "test")}
    known = gather(data.train, np.arange(len(data.train)))["image"].reshape(-1, 64) / 8 - 1.0
    tree, prepare = cKDTree(np.unique(known, axis=0)), jax.jit(experiment.prepare)
    for split, skip in (("train", 1), ("test", 0)):
        found = prepare(jax.random.key(0), images[split])["cond"]["context"]
        queries = images[split]["image"].reshape(40, 64) / 8 - 1.0
        distances = tree.query(queries, 5)[0][:, skip : 4 + skip]
        assert distances.min() > 0
        away = np.linalg.norm(np.asarray(found, np.float64) - queries[:, None], axis=-1)
        np.testing.assert_allclose(away, distances, rtol=1e-5)


def test_another_database_draws_other_samples(folder):
    """The workdir keeps the digest of the database of training, and takes another. The same one by
    its name changes nothing."""
    stored = json.loads((folder / "trained/frozen.json").read_bytes())
    for spec in ("neighbours(k=4)", "neighbours(k=4, database='digits')"):
        assert workdirs.load(tiny(conditioner=spec)).conditioner.digests == stored
    own = drawn(tiny(), folder)
    found = drawn(tiny(conditioner=OTHER.format(folder / "pictures")), folder)
    assert np.all(np.any(found != own, axis=(1, 2, 3)))
    with pytest.raises(ConfigError, match="holds another model"):
        drawn(tiny(conditioner="neighbours(k=3)"), folder)


def test_encoded_examples_have_the_same_neighbours(tmp_path):
    """Without a search; and of this database alone."""
    encode(tiny(**{"encode.batch_size": 300}), tmp_path)
    config = tiny(conditioner="neighbours(k=4, database='digits')")
    config.data = f"encoded(path='{tmp_path}/encoded')"
    whole, stored = workdirs.load(tiny()), workdirs.load(config)
    for split in ("train", "test"):
        own, found = (gather(getattr(e.data, split), np.arange(9)) for e in (whole, stored))
        del found["image"]
        conds = whole.conditioner.encode(own), stored.conditioner.encode(found)
        # equally near digits may change places, by the rounding of two programs
        x = np.asarray(whole.conditioner.compared(own["image"]))[:, None]
        far = [np.sum((np.asarray(cond["context"]) - x) ** 2, axis=2) for cond in conds]
        np.testing.assert_allclose(far[1], far[0], atol=1e-4)
    config.conditioner = f"neighbours(k=4, database=\"encoded(path='{tmp_path}/encoded')\")"
    assert workdirs.load(config).conditioner.digests == stored.conditioner.digests
    (tmp_path / "few").mkdir()
    for i in range(8):
        Image.fromarray(np.full((8, 8), 30 * i, np.uint8)).save(tmp_path / f"few/{i}.png")
    config.conditioner = OTHER.format(tmp_path / "few")
    with pytest.raises(ConfigError, match="made with another database"):
        workdirs.load(config)


def test_queries_are_the_images_of_a_user_in_turn(folder):
    config = tiny(**{"sampling.images": str(folder / "pictures")})
    request = requests.build_request(config, workdirs.load(config))
    numbers = jnp.array([0, 1, 13])
    raw = request(jax.random.split(jax.random.key(0), 3), numbers)
    shown = [np.asarray(Image.open(folder / f"pictures/{i:02d}.png")) for i in (0, 1, 1)]
    np.testing.assert_array_equal(raw["image"][..., 0], np.round(np.stack(shown) * (16 / 255)))


def test_the_database_has_the_values_of_the_data_set(folder):
    """Pictures of 256 values are compared as digits of 17; a tenth of them is for the test."""
    conditioner: Any = workdirs.load(
        tiny(conditioner=OTHER.format(folder / "pictures"))
    ).conditioner
    files = [folder / f"pictures/{i:02d}.png" for i in range(12) if i not in (0, 10)]
    shown = np.stack([np.asarray(Image.open(path)) for path in files])
    assert conditioner.rows.max() <= 16
    np.testing.assert_array_equal(conditioner.rows[..., 0], np.round(shown * (16 / 255)))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data.augment": "flip"}, ConfigError, "set data.augment='none'"),
        ({"conditioner": "neighbours(k=2000)"}, ConfigError, "k=2000 needs 2001 different images"),
        ({"conditioner": "neighbours(part='picture')"}, ConfigError, "no part 'picture'"),
        (
            {"conditioner": "neighbours(database='folder(path=\"gone\", image_size=8)')"},
            DataError,
            "gone is not a folder",
        ),
        ({"net.context_features": 32}, ConfigError, "set it to 0 or 64"),
    ],
)
def test_mistakes_are_told(changes, error, message):
    with pytest.raises(error, match=message):
        workdirs.load(tiny(**changes))
