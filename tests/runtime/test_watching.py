"""What a run tells of itself: loss by noise level, memory, pictures, event files, a trace."""

import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

from score_sde.errors import NonFiniteError
from score_sde.media.images import images
from score_sde.modes.train import train
from score_sde.processes import EDM, VP
from score_sde.runtime import metrics_log, profiler
from score_sde.training import objective, time_law
from score_sde.training.optimizer import NORM_DECAY, recent_norm
from tests.modes.test_train import equal, final_state, rows, small

COUNT = 5


def by_level(law, sde, n, loss_of):
    """The loss of n examples that depends on t alone, and its metrics."""

    def losses(params, key, batch, training):
        t = law.sample(key, sde, n)
        return objective.Loss(loss_of(t), t)

    mean = objective.mean(losses, objective.noise_levels(law, sde, COUNT))
    loss, metrics = jax.jit(mean)({}, jax.random.key(0), {}, objective.Training())
    assert metrics.pop("loss") == loss
    return float(loss), {name.split("/")[1]: np.array(part) for name, part in metrics.items()}


def test_a_loss_of_the_noise_level_lands_in_its_level():
    """The log-SNR as loss, with ln(sigma) ~ N(m, s^2): fifths of a normal law have means in closed
    form, those of a uniform one by quadrature."""
    n, m, s = 50_000, -1.2, 1.2
    edm, vp = EDM(t_min=1e-6, t_max=1e6), VP(t_min=1e-3)
    edges = stats.norm.ppf(np.linspace(0, 1, COUNT + 1))
    fifths = -2 * (m - s * COUNT * np.diff(stats.norm.pdf(edges)))
    t = np.linspace(vp.t_min, vp.t_max, COUNT * 2000 + 1, dtype=np.float32)
    middles = jnp.asarray((t[1:] + t[:-1]) / 2)
    for law, sde, truth in (
        (time_law.log_normal(m, s, stratified=True), edm, fifths),
        (
            time_law.uniform(stratified=True),
            vp,
            np.asarray(vp.log_snr(middles)).reshape(COUNT, -1).mean(axis=1),
        ),
    ):
        loss, parts = by_level(law, sde, n, sde.log_snr)
        assert sorted(parts, key=lambda name: int(name[0])) == list(parts)
        part, share = np.array(list(parts.values())).T
        np.testing.assert_allclose(share, 1 / COUNT, atol=1.5 / n)
        # the draws are even to 1/n, so the error is that of the two at the edges
        np.testing.assert_allclose(part / share, truth, atol=2e-3)
        np.testing.assert_allclose(part.sum(), loss, rtol=1e-5)
        for name, mean in zip(parts, part / share, strict=True):
            low, high = map(float, name.split("log_snr_")[1].split("_to_"))
            assert low < mean < high


def test_a_level_without_examples_adds_nothing_and_hides_nothing():
    law, sde = time_law.uniform(), VP()
    levels = objective.noise_levels(law, sde, COUNT)
    t = jnp.array([0.1, 0.5, 0.5, 0.9])
    split = levels.split(objective.Loss(jnp.array([1.0, 2.0, jnp.nan, 4.0]), t))
    truth = [[0.25, 0.25], [0, 0], [np.nan, 0.5], [0, 0], [1.0, 0.25]]
    np.testing.assert_array_equal(np.array(list(split.values())), truth)


def test_rows_divide_sums_by_counts():
    """Of four steps, the second skipped: 3 examples of 4 in all of the first level, 1 of the
    second, none of the third."""
    columns = {
        "loss": np.array([1.0, np.nan, 2.0, 6.0], np.float32),
        "loss_by_level/0": np.array([[1.0, 1.0], [np.nan, 0.5], [0.0, 0.0], [6.0, 1.0]]),
        "loss_by_level/1": np.array([[0.0, 0.0], [0.0, 0.5], [2.0, 1.0], [0.0, 0.0]]),
        "loss_by_level/2": np.zeros((4, 2)),
        "skipped": np.array([0.0, 1.0, 0.0, 0.0]),
    }
    row = metrics_log.means(columns, 4)
    assert row == {"loss": 3.0, "loss_by_level/0": 3.5, "loss_by_level/1": 2.0, "skipped": 1.0}
    columns["skipped"][:] = 0
    with pytest.raises(NonFiniteError, match="the loss became nan at step 2"):
        metrics_log.means(columns, 4)


def events(workdir):
    """The events of the one file of a run: records of length, checksum, content, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    (file,) = (workdir / "tensorboard").iterdir()
    content = file.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Eight steps, with a row of each and samples of the second, fourth and sixth."""
    workdir = tmp_path_factory.mktemp("run")
    train(small(**{"train.log_every": 1, "train.sample_every": 2}), workdir)
    return workdir


def test_event_files_hold_the_rows_and_the_samples(run):
    scalars, pictures = {}, {}
    for event in events(run):
        for value in event.summary.value:
            if value.HasField("image"):
                pictures[event.step] = value.image.encoded_image_string
            else:
                scalars.setdefault(event.step, {})[value.tag] = value.simple_value
    written = rows(run)
    assert [row["step"] for row in written] == list(range(1, 9))
    for row in written:
        told = scalars[row.pop("step")]
        assert told == {key: np.float32(value) for key, value in row.items()}
        assert {"gradient_norm", "learning_rate", "images_per_second", "host_peak_bytes"} <= set(
            row
        )
        assert sum(key.startswith("loss_by_level/") for key in row) == COUNT
    assert pictures == {n: (run / f"samples_{n}.png").read_bytes() for n in (2, 4, 6)}
    assert (run / "loss_by_level.png").stat().st_size > 0
    peak = [row["host_peak_bytes"] for row in written]
    assert peak == sorted(peak)
    # the arrays alone, and the memory of this machine
    assert 1e8 < peak[-1] < 1e12


def test_samples_over_time_are_the_first_rows(run):
    overview = np.asarray(Image.open(run / "samples_over_time.png").convert("L"))
    grids = [np.asarray(Image.open(run / f"samples_{n}.png").convert("L")) for n in (2, 4, 6)]
    height = (overview.shape[0] - 3) // 3
    for i, grid in enumerate(grids):
        top = grid[3:height]
        found = overview[i * height + 3 : (i + 1) * height, -grid.shape[1] :]
        np.testing.assert_array_equal(found, top)
    # as many as are wanted: the first and the last among them
    many = {n: run / f"samples_{2 + n % 3 * 2}.png" for n in range(100)}
    images().over_time(run / "many.png", many, 64, (8, 8, 1))
    with Image.open(run / "many.png") as overview:
        assert overview.height == 12 * height + 3


def test_a_trace_is_written_and_changes_no_bit(run, tmp_path, capsys):
    train(small(), tmp_path, profile=True)
    assert "a trace of calls 3 to 5" in capsys.readouterr().out
    for suffix in (".xplane.pb", ".trace.json.gz"):
        (file,) = (tmp_path / "profile").rglob(f"*{suffix}")
        assert file.stat().st_size > 1000
    ours, truth = final_state(small(), tmp_path), final_state(small(), run)
    equal(ours.state, truth.state)
    with profiler.traced(tmp_path / "short") as traced:
        traced(lambda: (0, 0))()
    assert "nothing was traced: 1 calls" in capsys.readouterr().out


def test_the_recent_norm_is_that_of_the_rows(tmp_path):
    """The root of the mean square of the norms after clipping, the k-th before the last weighted by
    the decay to the k."""
    config = small(**{"train.spike": 1e6, "train.log_every": 1})
    train(config, tmp_path)
    state = final_state(config, tmp_path).state
    norms = [min(row["gradient_norm"], config.optim.clip) for row in rows(tmp_path)]
    weights = NORM_DECAY ** np.arange(8)[::-1]
    norm, updates = recent_norm(state.opt_state)
    truth = np.sqrt(np.average(np.square(norms), weights=weights))
    np.testing.assert_allclose(norm, truth, rtol=1e-4)  # 1 - decay^8 in float32
    assert updates == 8
