"""Distances between sets of images: against closed forms, loops and other libraries' numbers."""

import itertools
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from score_sde.evaluation.metrics import summary
from score_sde.evaluation.metrics.frechet import factor, frechet, frechet_distance, trace_of_root
from score_sde.evaluation.metrics.inception_score import inception_score
from score_sde.evaluation.metrics.kernel import kernel_distance
from score_sde.evaluation.metrics.neighbours import precision_recall
from score_sde.evaluation.metrics.summary import Features
from score_sde.evaluation.metrics.wasserstein import sliced_wasserstein
from tests.stored import arrays

PEERS = arrays(Path(__file__).parent.parent / "golden" / "metrics_peers.npz")
rng = np.random.default_rng(0)


def of(pool, probs=None, splits=2, capacity=10_000, start=0, step=100_000):
    """The summary of images with these features, in batches of `step`."""
    pool = np.asarray(pool, np.float32)
    probs = np.zeros((len(pool), 0)) if probs is None else np.asarray(probs)
    features = Features(pool, probs.astype(np.float32))
    s = summary.empty(pool.shape[1], probs.shape[1], splits, capacity)
    for i in range(0, len(pool), step):
        part = jax.tree.map(lambda a, i=i: jnp.asarray(a[i : i + step]), features)
        n = len(part.pool)
        s = summary.update(s, part, start + np.arange(i, i + n), np.ones(n, bool))
    return s


def assert_same(a, b):
    """Bit for bit in the reservoir, 1e-12 in the sums."""
    a, b = jax.device_get((a, b))
    for x, y in zip(a.reservoir, b.reservoir, strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(x, y)
    for x, y in zip(jax.tree.leaves(a[:2]), jax.tree.leaves(b[:2]), strict=True):
        assert x.dtype == y.dtype == np.float64
        np.testing.assert_allclose(x, y, rtol=1e-12, atol=1e-12 * np.abs(x).max(initial=0))


# Summaries

N, D, K, SPLITS, CAPACITY = 503, 5, 3, 4, 60
POOL = (100 + rng.standard_normal((N, D))).astype(np.float32)  # far from 0: sums of squares fail
PROBS = rng.dirichlet(np.full(K, 0.3), N).astype(np.float32)


@pytest.fixture(scope="module")
def whole():
    return of(POOL, PROBS, SPLITS, CAPACITY)


def splitmix(index):
    """SplitMix64 as its authors print it, on Python's integers."""
    z = (index + 0x9E3779B97F4A7C15) % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def test_hash():
    # the first three outputs of the generator for seed 0, whose counter goes up by this number
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [splitmix(i * 0x9E3779B97F4A7C15 % 2**64) for i in range(3)] == published


def test_summary_of_everything_at_once(whole):
    pool, probs = POOL.astype(np.float64), PROBS.astype(np.float64)
    moments, scores, reservoir = jax.device_get(whole)
    assert moments.count == N
    np.testing.assert_allclose(moments.mean, pool.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.scatter / (N - 1), np.cov(pool.T), rtol=1e-9)
    for split in range(SPLITS):
        p = probs[split::SPLITS]
        assert scores.count[split] == len(p)
        np.testing.assert_allclose(scores.probs[split], p.sum(axis=0), rtol=1e-12)
        entropy = -scipy.stats.entropy(p / p.sum(axis=1, keepdims=True), axis=1).sum()
        np.testing.assert_allclose(scores.negentropy[split], entropy, rtol=1e-6)
    order = sorted(range(N), key=splitmix)[:CAPACITY]
    np.testing.assert_array_equal(reservoir.priority, np.array([*map(splitmix, order)], np.uint64))
    np.testing.assert_array_equal(summary.kept(whole), POOL[order])


def test_numbers_beyond_32_bits():
    s = of(POOL, PROBS, SPLITS, CAPACITY, start=2**40)
    order = sorted(range(N), key=lambda i: splitmix(2**40 + i))[:CAPACITY]
    np.testing.assert_array_equal(summary.kept(s), POOL[order])


def test_any_order_any_batches_any_tree_and_a_pause(whole, tmp_path):
    generator = np.random.default_rng(1)
    order = generator.permutation(N)
    parts = np.array_split(order, [7, 8, 90, 200, 201, 420])
    size = 256
    summaries = []
    for part in parts:
        s = summary.empty(D, K, SPLITS, CAPACITY)
        for batch in np.array_split(part, 2):
            index = np.concatenate([batch, generator.integers(0, N, size - len(batch))])
            mask = np.arange(size) < len(batch)
            pool, probs = POOL[index], PROBS[index]
            pool[~mask], probs[~mask] = np.nan, np.inf
            shuffle = generator.permutation(size)
            rows = (a[shuffle] for a in (pool, probs, index, mask))
            pool, probs, index, mask = map(jnp.asarray, rows)
            s = summary.update(s, Features(pool, probs), index, mask)
            summary.save(tmp_path / "s.npz", s, {"images": "some"})
            s, about = summary.load(tmp_path / "s.npz")
            assert about == {"images": "some"}
        summaries.append(s)
    while len(summaries) > 1:
        i, j = generator.choice(len(summaries), 2, replace=False)
        merged = summary.merge(summaries[i], summaries[j])
        summaries = [s for k, s in enumerate(summaries) if k not in (i, j)] + [merged]
    assert_same(summaries[0], whole)
    assert_same(summary.merge(summary.empty(D, K, SPLITS, CAPACITY), whole), whole)
    assert [p.name for p in tmp_path.iterdir()] == ["s.npz"]


def test_eight_devices_are_as_one(whole):
    mesh = Mesh(np.array(jax.devices()), ("data",))
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    s = summary.empty(D, K, SPLITS, CAPACITY)
    for i in range(0, N, 256):
        index = np.arange(i, i + 256)
        rows = (POOL[index % N], PROBS[index % N], index, index < N)
        pool, probs, index, mask = jax.device_put(rows, sharding)
        s = summary.update(s, Features(pool, probs), index, mask)
    assert all(a.sharding.is_fully_replicated for a in jax.tree.leaves(s))
    assert_same(s, whole)


def test_size_does_not_grow(whole):
    sizes = [a.nbytes for a in jax.tree.leaves(summary.empty(D, K, SPLITS, CAPACITY))]
    assert [a.nbytes for a in jax.tree.leaves(whole)] == sizes
    twice = summary.merge(whole, of(POOL, PROBS, SPLITS, CAPACITY, start=N))
    assert [a.nbytes for a in jax.tree.leaves(twice)] == sizes
    assert float(twice.moments.count) == 2 * N


def test_one_host_is_gathered(whole):
    assert_same(summary.gather(whole), whole)


def test_two_hosts(tmp_path):
    pool, probs, index = POOL[:64], PROBS[:64], np.arange(64, dtype=np.int32)
    mask = index < 61
    np.savez(tmp_path / "images.npz", pool=pool, probs=probs, index=index, mask=mask)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    script = Path(__file__).parent.parent / "summary_of_two_hosts.py"
    environment = os.environ | {"XLA_FLAGS": "", "PYTHONPATH": str(script.parent.parent)}
    processes = [
        subprocess.Popen(
            [sys.executable, script, str(i), address, tmp_path],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    truth = of(pool[mask], probs[mask], splits=4, capacity=20)
    for name in ("gathered_0", "gathered_1", "spread_0", "spread_1"):
        assert_same(summary.load(tmp_path / f"{name}.npz")[0], truth)


def test_reservoir_is_a_uniform_sample():
    # of 40 sets of 250 images, 50 each: a tenth of the images holds 200 of them on average
    kept = [
        summary.kept(of(np.arange(250.0)[:, None], capacity=50, start=250 * s))[:, 0]
        for s in range(40)
    ]
    counts = np.bincount((np.concatenate(kept) // 25).astype(int), minlength=10)
    deviation = np.sqrt(2000 * 0.1 * 0.9 * (1 - 50 / 250))
    assert np.max(np.abs(counts - 200)) < 3.5 * deviation


def test_what_does_not_fit_a_summary(whole):
    ones = np.ones(2, bool)
    features = Features(jnp.zeros((2, D + 1)), jnp.zeros((2, K)))
    with pytest.raises(ValueError, match="another extractor"):
        summary.update(whole, features, np.arange(2), ones)
    with pytest.raises(ValueError, match="two kinds"):
        summary.merge(whole, of(POOL, PROBS, SPLITS, CAPACITY + 1))
    with pytest.raises(ValueError, match="examples in common"):
        summary.merge(whole, whole)


def test_several_processes_may_save_one_file_at_once(whole, tmp_path, monkeypatch):
    """Also those of several hosts, which may have the same number."""
    path, write = tmp_path / "s.npz", np.savez

    def beside(*args, **arrays):
        monkeypatch.setattr(np, "savez", write)
        summary.save(path, whole, {"by": "another"})
        write(*args, **arrays)

    monkeypatch.setattr(np, "savez", beside)
    summary.save(path, whole, {"by": "one"})
    assert list(tmp_path.iterdir()) == [path]
    assert summary.load(path)[1] == {"by": "one"}


def test_damaged_files(whole, tmp_path):
    path = tmp_path / "s.npz"
    with pytest.raises(FileNotFoundError):
        summary.load(path)
    with pytest.raises(TypeError):  # and nothing is left behind
        summary.save(path, whole, {"images": object()})
    assert not list(tmp_path.iterdir())
    summary.save(path, whole, {})
    content = path.read_bytes()
    for damaged in (b"", content[:1000], content[:-10], b"PK" + bytes(100)):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"s\.npz is damaged or is no summary") as error:
            summary.load(path)
        assert "\n" not in str(error.value)
    np.savez(path, images=np.zeros(3))
    with pytest.raises(ValueError, match="is no summary"):
        summary.load(path)
    summary.save(path, whole._replace(scores=whole.scores._replace(count=np.zeros(1))), {})
    with pytest.raises(ValueError, match="is no summary"):
        summary.load(path)


# The Frechet distance


def test_frechet_of_pytorch_fid():
    names = ("mean_a", "cov_a", "mean_b", "cov_b")
    value = frechet_distance(*(PEERS[name] for name in names))
    np.testing.assert_allclose(value, PEERS["frechet"], rtol=1e-10)


def covariance(seed, n, d=6):
    return np.cov(np.random.default_rng(seed).standard_normal((n, d)), rowvar=False)


@pytest.mark.parametrize("n", [1, 4, 50])  # images of 6 dimensions: rank 0, 3 and 6
def test_factor(n):
    cov = covariance(1, n) if n > 1 else np.zeros((6, 6))
    assert factor(cov).shape == (6, min(n - 1, 6))
    np.testing.assert_allclose(factor(cov) @ factor(cov).T, cov, atol=1e-14)
    np.testing.assert_allclose(trace_of_root(cov, np.zeros((6, 6))), 0, atol=0)


def test_trace_of_root_of_scipy():
    a, b = covariance(1, 50), 3 * covariance(2, 50)
    np.testing.assert_allclose(trace_of_root(a, b), np.trace(scipy.linalg.sqrtm(a @ b)), rtol=1e-10)


@pytest.mark.parametrize(("n", "m"), [(4, 3), (3, 50), (50, 4)])
def test_trace_of_root_of_singular_matrices(n, m):
    a, b = covariance(1, n), covariance(2, m)
    root = scipy.linalg.sqrtm(a + 0j)
    truth = np.trace(scipy.linalg.sqrtm(root @ b @ root)).real
    np.testing.assert_allclose(trace_of_root(a, b), truth, atol=1e-6)  # SciPy's error at rank < d
    # diagonal matrices in another basis, whose root is known
    basis = np.linalg.qr(np.random.default_rng(3).standard_normal((6, 6)))[0]
    x, y = np.array([4.0, 9, 0, 1e-4, 0, 2]), np.array([1.0, 0, 7, 4e-4, 0, 8])
    rotated = ((basis * v) @ basis.T for v in (x, y))
    np.testing.assert_allclose(trace_of_root(*rotated), np.sqrt(x * y).sum(), rtol=1e-12)


def test_frechet_of_a_set_and_itself():
    for n in (3, 200):  # fewer images than dimensions, and more
        s = of(POOL[:n])
        assert abs(frechet(s, s)) < 1e-11


def test_frechet_is_of_means_and_unbiased_covariances():
    sets = [np.asarray(part, np.float64) for part in (POOL[:7], POOL[7:12])]
    moments = [f(x) for x in sets for f in (lambda x: x.mean(axis=0), lambda x: np.cov(x.T))]
    truth = frechet_distance(*moments)
    np.testing.assert_allclose(frechet(*map(of, sets)), truth, rtol=1e-10)


def test_frechet_of_gaussians():
    mean, std = np.array([0.3, -0.2, 0.0]), np.array([1.0, 0.5, 2.0])
    truth = np.sum(mean**2) + np.sum((std - 1) ** 2)
    values = []
    for seed in range(8):
        generator = np.random.default_rng(seed)
        a, b = generator.standard_normal((2, 20_000, 3))
        values.append(frechet(of(a), of(mean + std * b)))
    # the bias, of order d^2 / n = 5e-4, is far beneath the error of this mean of eight
    error = np.std(values, ddof=1) / np.sqrt(8)
    assert error < truth / 100
    assert abs(np.mean(values) - truth) < 3 * error


def test_frechet_needs_two_finite_images():
    with pytest.raises(ValueError, match="at least two examples, not 1"):
        frechet(of(POOL[:1]), of(POOL))
    with pytest.raises(ValueError, match="not finite"):
        frechet(of(POOL), of(np.full((3, D), np.nan)))


@pytest.mark.parametrize("part", ["mean", "scatter"])
def test_frechet_needs_finite_moments(part):
    """One of them alone is not finite."""
    pool = of(POOL)
    moments = pool.moments._replace(**{part: np.full_like(getattr(pool.moments, part), np.inf)})
    with pytest.raises(ValueError, match="not finite"):
        frechet(of(POOL), pool._replace(moments=moments))


# The Inception Score


def test_inception_score_of_tables():
    pool = np.zeros((6, 1))
    certain = np.eye(3)[[0, 0, 1, 1, 2, 2]]  # each class once in each of two splits
    np.testing.assert_allclose(inception_score(of(pool, certain)), (3, 0), atol=1e-12)
    same = np.tile([0.5, 0.25, 0.25], (6, 1))
    np.testing.assert_allclose(inception_score(of(pool, same)), (1, 0), atol=1e-12)
    # splits of images 0, 2, 4 and 1, 3, 5: exp of ln 2 - (ln 2) / 3 at p = 1/2 of 1, 0, 1/2; and 1
    table = [[1, 0], [0.5, 0.5], [0, 1], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]]
    scores = 2 ** (2 / 3), 1
    expected = np.mean(scores), np.std(scores)
    np.testing.assert_allclose(inception_score(of(pool, table)), expected, rtol=1e-12)
    # a third split has no images
    np.testing.assert_allclose(inception_score(of(pool[:2], certain[1:3], splits=3)), (1, 0))


def test_inception_score_needs_classes():
    with pytest.raises(ValueError, match="with classes"):
        inception_score(of(POOL))
    with pytest.raises(ValueError, match="at least one example"):
        inception_score(summary.empty(D, K))


# The kernel distance


def test_kernel_distance_of_clean_fid():
    value, _ = kernel_distance(of(PEERS["x"]), of(PEERS["y"]))
    np.testing.assert_allclose(value, PEERS["kernel"], rtol=1e-6)


def test_kernel_distance_of_a_loop():
    generator = np.random.default_rng(2)
    x, y = generator.standard_normal((9, 3)), generator.standard_normal((7, 3)) + 1
    x, y = (summary.kept(of(a)).astype(np.float64) for a in (x, y))

    def mmd(x, y):
        def mean(a, b, same):
            pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if i != j or not same]
            return np.mean([(a[i] @ b[j] / 3 + 1) ** 3 for i, j in pairs])

        return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)

    without = [[mmd(np.delete(x, i, 0), y) for i in range(9)]]
    without += [[mmd(x, np.delete(y, i, 0)) for i in range(7)]]
    std = np.sqrt(sum((len(w) - 1) * np.var(w) for w in without))
    value, error = kernel_distance(of(x), of(y))
    np.testing.assert_allclose((value, error), (mmd(x, y), std), rtol=1e-5)


def test_kernel_distance_of_gaussians():
    # in one dimension the kernel is sum_r C(3, r) x^r y^r, so MMD^2 compares three moments
    def moments(mean, std):
        return np.array([mean, mean**2 + std**2, mean**3 + 3 * mean * std**2])

    difference = moments(0.2, 1.0) - moments(-0.1, 1.3)
    truth = np.array([3, 3, 1]) @ difference**2
    x, y = np.random.default_rng(3).standard_normal((2, 3000, 1))
    value, error = kernel_distance(of(0.2 + x), of(-0.1 + 1.3 * y))
    assert error < truth / 4
    assert abs(value - truth) < 3 * error


def test_kernel_distance_of_equals_and_its_error():
    generator = np.random.default_rng(4)
    sets = generator.standard_normal((50, 2, 64, 4))
    values, errors = np.transpose([kernel_distance(of(a), of(b)) for a, b in sets])
    spread = np.std(values, ddof=1)
    assert abs(np.mean(values)) < 3 * spread / np.sqrt(50)  # unbiased
    # the jackknife errs on the large side, most where the distributions are equal
    assert 0.9 * spread < np.sqrt(np.mean(errors**2)) < 2 * spread


def test_kernel_distance_needs_three_images():
    with pytest.raises(ValueError, match="not 2 and 503"):
        kernel_distance(of(POOL[:2]), of(POOL))


# Neighbours


def test_the_border_of_a_ball_belongs_to_it():
    data, samples = (np.array([row]).T for row in ([-4.0, 0, 4], [-12.0, -8, 8, 12]))
    # balls of the data reach by 4 to one sample each, but for that at 0; those of samples alike
    measures = precision_recall(of(data), of(samples), k=1, k_density=1)
    np.testing.assert_allclose(measures, (1 / 2, 2 / 3, 1 / 2, 2 / 3))


def test_precision_and_recall_by_hand():
    # on a line, k = 1: balls of the data [-1, 1], [0, 2], [7, 13]; of the samples about 0.5 and 1.5
    # [-0.5, 1.5] and [0.5, 2.5], about 20 [1.5, 38.5]
    data, samples = ([[0.0], [1], [10]], [[0.5], [1.5], [20]])
    data[2] = [4.0]  # its ball: [1, 7]
    result = precision_recall(of(data), of(samples), k=1, k_density=2)
    assert result.precision == pytest.approx(2 / 3)  # not 20
    assert result.recall == 1  # 0 and 1 in the first ball, 4 in the last
    # balls to the second neighbour: [-4, 4], [-2, 4], [0, 8]: 0.5 and 1.5 are in all three
    assert result.density == pytest.approx(6 / 3 / 2)
    assert result.coverage == 1
    far = precision_recall(of(data), of(np.array(samples) + 100), k=1, k_density=2)
    assert far[:1] + far[2:] == (0, 0, 0)


def test_precision_and_recall_of_equals():
    s = of(POOL)
    result = precision_recall(s, s)
    assert (result.precision, result.recall, result.coverage) == (1, 1, 1)


@pytest.mark.parametrize(("n", "m"), [(300, 280), (60, 300)])  # more than a block, and less
def test_precision_and_recall_of_a_loop(n, m):
    generator = np.random.default_rng(5)
    x, y = generator.standard_normal((n, 3)), 0.8 * generator.standard_normal((m, 3)) + 0.5
    result = precision_recall(of(x), of(y))

    def radii(a, k):
        return [sorted(np.linalg.norm(a - p, axis=1))[k] for p in a]  # the 0th is the point

    balls, wide, balls_y = radii(x, 3), radii(x, 5), radii(y, 3)
    distance = np.linalg.norm(x[:, None] - y[None], axis=-1)
    truth = (
        np.mean([any(distance[i, j] <= balls[i] for i in range(n)) for j in range(m)]),
        np.mean([any(distance[i, j] <= balls_y[j] for j in range(m)) for i in range(n)]),
        sum(distance[i, j] <= wide[i] for i in range(n) for j in range(m)) / (5 * m),
        np.mean([min(distance[i]) <= wide[i] for i in range(n)]),
    )
    assert 0 < min(truth) < max(truth) < 1.5
    np.testing.assert_allclose(result, truth, rtol=1e-6)


def test_precision_and_recall_need_neighbours():
    with pytest.raises(ValueError, match="too few to have neighbours 3 and 5"):
        precision_recall(of(POOL[:5]), of(POOL))


# The sliced Wasserstein distance


@pytest.mark.parametrize(("n", "m"), [(4, 6), (5, 5), (7, 1), (9, 3)])
def test_sliced_wasserstein_on_a_line(n, m, x64):
    generator = np.random.default_rng(6)
    a, b = generator.standard_normal((n, 1)), generator.standard_normal((m, 1))
    common = np.lcm(n, m)  # sets of one size, each point several times
    pairs = (np.sort(np.repeat(x, common // len(x))) for x in (a, b))
    truth = np.sqrt(np.mean(np.subtract(*pairs) ** 2))
    value = sliced_wasserstein(jax.random.key(0), jnp.asarray(a), jnp.asarray(b), 2)
    np.testing.assert_allclose(value, truth, rtol=1e-12)
    for order in itertools.islice(itertools.permutations(range(common)), 200 * (common <= 6)):
        other = np.repeat(b, common // m)[list(order)] - np.repeat(a, common // n)
        assert np.sqrt(np.mean(other**2)) > truth - 1e-12


def test_sliced_wasserstein_of_shifted_samples():
    a = np.random.default_rng(7).standard_normal((50, 3)).astype(np.float32)
    shift = np.array([1.0, 2.0, 2.0], np.float32)
    b = np.repeat(a, 2, axis=0) + shift
    value = sliced_wasserstein(jax.random.key(0), jnp.asarray(a), jnp.asarray(b), 4000)
    # the mean square of a direction's share of the shift is |shift|^2 / 3; of its square the
    # variance is 4/45 |shift|^4
    error = 9 * np.sqrt(4 / 45 / 4000)
    assert abs(float(value) ** 2 - 9 / 3) < 3 * error
