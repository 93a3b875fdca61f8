"""Features of images: Inception and its conventions against the codes that they come from."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from PIL import Image

from score_sde.evaluation.metrics import features, inception, resizing
from score_sde.evaluation.metrics.summary import features_dim
from tests.golden.make_inception import draw
from tests.stored import arrays

PEERS = arrays(Path(__file__).parent.parent / "golden" / "metrics_peers.npz")


def shown(*shape):
    return jax.ShapeDtypeStruct((1, *shape), jnp.uint8)


def test_pixels():
    assert features_dim(features.pixels(), shown(4, 5, 3)) == (60, 0)
    image = jnp.arange(60, dtype=jnp.uint8).reshape(1, 4, 5, 3)
    out = features.pixels()(image)
    np.testing.assert_allclose(out.pool[0], np.arange(60) / 255, rtol=1e-6)
    assert out.pool.dtype == jnp.float32
    assert out.probs.shape == (1, 0)


# Sizes


def resized(image, method, size):
    image = np.asarray(image, np.float32)
    return np.asarray(resizing.resize(jnp.asarray(image)[None], method, size))[0]


def test_resizing_of_torch():
    for name, size in (("enlarged", 12), ("shrunk", 4)):
        ours = resized(PEERS["small"], "pytorch", size)
        np.testing.assert_allclose(ours, PEERS[name], atol=1e-4)  # of 255


@pytest.mark.parametrize("size", [3, 12])
def test_resizing_of_tensorflow_1(size):
    image = PEERS["small"].astype(np.float64)
    height, width, _ = image.shape
    truth = np.empty((size, size, 3))
    for i in range(size):
        for j in range(size):
            y, x = i * height / size, j * width / size
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = image[top, left] + (x - left) * (image[top, right] - image[top, left])
            lower = image[bottom, left] + (x - left) * (image[bottom, right] - image[bottom, left])
            truth[i, j] = upper + (y - top) * (lower - upper)
    np.testing.assert_allclose(resized(image, "tensorflow", size), truth, atol=1e-4)


@pytest.mark.parametrize("size", [3, 8, 12])
def test_resizing_of_clean_fid(size):
    channels = [Image.fromarray(PEERS["small"][..., c]) for c in range(3)]
    assert {image.mode for image in channels} == {"F"}
    method = Image.Resampling.BICUBIC
    truth = np.stack([np.asarray(c.resize((size, size), method)) for c in channels], axis=-1)
    np.testing.assert_allclose(resized(PEERS["small"], "clean", size), truth, atol=1e-4)


@pytest.mark.parametrize("method", resizing.METHODS)
def test_images_of_the_right_size_stay(method):
    image = PEERS["small"][:, :7]
    np.testing.assert_allclose(resized(image, method, 7), image, atol=1e-4)


def test_what_inception_sees_of_clean_fid():
    x = features.prepared(jnp.asarray(PEERS["images"][:1]), "clean", 128.0)[0, ::13, ::13]
    truth = PEERS["cleaned"]
    assert truth.min() == 0  # where the cubic goes beyond black and white
    assert truth.max() == 255
    np.testing.assert_allclose(x, truth / 128 - 1, atol=1e-6)


def test_what_inception_sees():
    image = jnp.array([[[[0], [255]]]], jnp.uint8)  # grey, two pixels in a row
    for method, center in (("pytorch", 127.5), ("tensorflow", 128.0), ("clean", 128.0)):
        x = np.asarray(features.prepared(image, method, center))[0]
        # equal rows and channels; a product may round each by where it lies in a vector
        rows = np.repeat(x[:1, :, :1], 3, axis=-1).repeat(299, axis=0)
        np.testing.assert_allclose(x, rows, rtol=0, atol=4 * np.finfo(np.float32).eps)
        ends = {"pytorch": (-1, 1), "tensorflow": (-1, 255 / 128 - 1)}
        if method in ends:
            np.testing.assert_allclose(x[0, [0, -1], 0], ends[method], atol=1e-6)
    with pytest.raises(ValueError, match="1 or 3 channels, not 2"):
        features.prepared(jnp.zeros((1, 4, 4, 2), jnp.uint8), "clean", 128.0)


# Inception


@pytest.fixture(scope="module")
def weights():
    return {name: draw(name, shape) for name, shape in inception.expected().items()}


def test_inception_of_pytorch_fid(weights, monkeypatch):
    counts = {"Conv2d_1a_3x3.bn.num_batches_tracked": np.array(0)}
    monkeypatch.setattr(inception.torch_file, "read", lambda path: weights | counts)
    pool, logits = PEERS["pool"], PEERS["logits"].astype(np.float64)
    mesh = Mesh(np.array(jax.devices()[:3]), ("data",))
    together = jnp.asarray(PEERS["images"])
    spread = jax.device_put(together, NamedSharding(mesh, PartitionSpec("data")))
    for logit_bias, images in ((True, together), (False, spread)):
        extractor = features.inception("weights.pth", logit_bias=logit_bias)
        out = extractor(images)
        assert out.pool.sharding.device_set == images.sharding.device_set
        # the images are 0.03 from each other
        np.testing.assert_allclose(out.pool, pool, atol=1e-5)
        p = np.exp(logits if logit_bias else logits - weights["fc.bias"])
        np.testing.assert_allclose(out.probs, p / p.sum(axis=1, keepdims=True), rtol=1e-4)
    assert features_dim(extractor, shown(32, 32, 3)) == (2048, 1008)


@pytest.mark.parametrize(
    ("resize", "center"), [("pytorch", 127.5), ("tensorflow", 128.0), ("clean", 128.0)]
)
def test_range_that_the_network_sees_by_default(weights, monkeypatch, resize, center):
    """pytorch-fid has 2 x/255 - 1, the FID paper's code and clean-fid have (x - 128)/128."""
    monkeypatch.setattr(inception.torch_file, "read", lambda path: weights)
    monkeypatch.setattr(features, "_inception", lambda method, center, *_: (method, center))
    images = jnp.zeros((1, 4, 4, 3), jnp.uint8)
    assert features.inception("weights.pth", resize)(images) == (resize, center)
    assert features.inception("weights.pth", resize, center=100.0)(images) == (resize, 100.0)


def test_weights_that_do_not_fit(weights):
    stem = "Conv2d_1a_3x3.conv.weight"
    state = weights | {"AuxLogits.fc.bias": np.zeros(3), stem: np.zeros((32, 1, 3, 3))}
    del state["Mixed_7c.branch_pool.bn.running_var"]
    with pytest.raises(ValueError) as error:
        inception.params_of(state)
    assert str(error.value) == (
        "does not fit the network: Mixed_7c.branch_pool.bn.running_var is missing; "
        "AuxLogits.fc.bias is left over; "
        f"{stem} has shape (32, 1, 3, 3), not (32, 3, 3, 3)"
    )
    with pytest.raises(ValueError, match=r"bias is missing; .*; and 462 more$"):
        inception.params_of({})
    with pytest.raises(ValueError, match="not finite"):
        inception.params_of(weights | {"fc.bias": np.full(1008, np.nan, np.float32)})
    with pytest.raises(ValueError, match="holds a list"):
        inception.params_of([])


def test_files_that_are_not_there_or_not_weights(tmp_path):
    with pytest.raises(ValueError, match=r"w\.pth cannot be read \(No such file.*download pt_inc"):
        features.inception(tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes(b"no weights")
    with pytest.raises(ValueError, match=r"w\.pth is damaged"):
        features.inception(tmp_path / "w.pth")
    with pytest.raises(ValueError, match="one of pytorch, tensorflow, clean"):
        features.inception(tmp_path / "w.pth", resize="bilinear")
