"""Checkpoints whose files are damaged in every way: none is read as if it were whole."""

import json
import os
import random
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from score_sde.errors import CheckpointError
from score_sde.runtime import checkpoint as module
from score_sde.runtime.checkpoint import Checkpoints

# what orbax adds once an item is written: nothing that is restored depends on it
OUTSIDE = ("commit_success.txt", "_CHECKPOINT_METADATA", module.CHECKSUMS)


def state(step):
    """Arrays over the devices and whole, large and small; noise, so that each has its bytes."""
    mesh = Mesh(np.array(jax.devices()), ("devices",))
    spread, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("devices",), ()))
    values = np.random.default_rng(step)
    return {
        "params": jax.device_put(values.normal(size=(16, 300)).astype(np.float32), spread),
        "ema": (jax.device_put(values.normal(size=(7, 40)).astype(np.float32), whole),),
        "step": jax.device_put(jnp.asarray(step, jnp.int32), whole),
    }


ABSTRACT = jax.tree.map(
    lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), state(0)
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A workdir with the checkpoints 1 and 2."""
    workdir = tmp_path_factory.mktemp("saved")
    checkpoints = Checkpoints(workdir)
    for step in (1, 2):
        checkpoints.save(step, state(step), {"position": 100 + step}, {"seed": 0})
    checkpoints.close()
    return workdir


def restored(workdir):
    checkpoints = Checkpoints(workdir)
    try:
        return checkpoints.restore(ABSTRACT)
    finally:
        checkpoints.close()


def is_of(found, step):
    jax.tree.map(np.testing.assert_array_equal, found.state, state(step))
    assert (found.step, found.data) == (step, {"position": 100 + step})


def damaged_in_turn(saved, workdir, damage):
    """For each file of the newest checkpoint: its path, and what is restored when it alone is
    damaged."""
    shutil.copytree(saved, workdir, dirs_exist_ok=True)
    newest = workdir / "checkpoints" / "2"
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    assert len([path for path in files if path.name not in OUTSIDE]) > 10
    for path in files:
        content = path.read_bytes()
        damage(path, content)
        yield path.relative_to(newest), restored(workdir)
        path.write_bytes(content)


def flip(path, content):
    """One bit, at a place that differs from file to file."""
    choose = random.Random(str(path.name))
    changed = bytearray(content)
    changed[choose.randrange(len(changed))] ^= 1 << choose.randrange(8)
    path.write_bytes(changed)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path, content: path.unlink(),
        lambda path, content: path.write_bytes(content[: len(content) // 2]),
        flip,
    ],
    ids=["deleted", "halved", "a bit flipped"],
)
def test_any_damaged_file_is_noticed(saved, tmp_path, capfd, damage):
    """The checkpoint before is taken, with one line; never a traceback, nor other arrays."""
    for path, found in damaged_in_turn(saved, tmp_path, damage):
        out, err = capfd.readouterr()
        assert "Traceback" not in err, path
        if path.name in OUTSIDE and not found.damaged:
            is_of(found, 2)
            continue
        is_of(found, 1)
        assert found.damaged == (2,), path
        lines = [line for line in out.splitlines() if line]
        assert len(lines) == 1
        assert lines[0].startswith(f"checkpoint 2 in {tmp_path / 'checkpoints'} is damaged and")
        if path.name not in OUTSIDE:
            assert str(path) in lines[0]


def without_checksums(saved, workdir):
    shutil.copytree(saved, workdir, dirs_exist_ok=True)
    for path in workdir.rglob(module.CHECKSUMS):
        path.unlink()
    return workdir


def test_a_checkpoint_that_a_training_removes_meanwhile(saved, tmp_path, capfd):
    """Whoever reads has listed the steps 1 and 2 when a training leaves only step 3."""
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    reading, training = Checkpoints(tmp_path), Checkpoints(tmp_path, keep=1)
    assert reading.steps() == [1, 2]
    training.save(3, state(3), {"position": 103}, {"seed": 0})
    training.close()
    assert [path.name for path in (tmp_path / "checkpoints").glob("[0-9]*")] == ["3"]
    found = reading.restore(ABSTRACT)
    reading.close()
    assert (found.step, found.damaged) == (3, ())
    is_of(found, 3)
    assert "damaged" not in "".join(capfd.readouterr())


def test_a_checkpoint_without_checksums_is_read(saved, tmp_path, capfd):
    """Those of earlier versions have none: what orbax itself finds is still skipped."""
    workdir = without_checksums(saved, tmp_path)
    is_of(restored(workdir), 2)
    damaged = 0
    for path, found in damaged_in_turn(workdir, tmp_path / "turn", lambda path, _: path.unlink()):
        is_of(found, 1 if found.damaged else 2)
        damaged += path.parent.name == "d" and bool(found.damaged)
    assert damaged > 1
    capfd.readouterr()


@pytest.mark.parametrize("error", [jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED"), MemoryError()])
def test_memory_that_runs_out_is_no_damage(saved, monkeypatch, error):
    def restore(*arguments, **options):
        raise error

    monkeypatch.setattr(ocp.CheckpointManager, "restore", restore)
    with pytest.raises(type(error)):
        restored(saved)


def test_checksums_are_of_the_files_as_they_lie(saved):
    """By another implementation of CRC-32 (that of zip archives), so that other tools can check."""
    import binascii

    for item in ("state", "data", "config"):
        folder = saved / "checkpoints" / "2" / item
        sums = json.loads((folder / module.CHECKSUMS).read_text())
        files = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
        assert sums.keys() == files - set(OUTSIDE)
        for name, value in sums.items():
            assert value == f"{binascii.crc32((folder / name).read_bytes()):08x}"


def test_a_file_in_the_place_of_the_folder_is_one_line(tmp_path):
    (tmp_path / "checkpoints").write_text("mine")
    with pytest.raises(CheckpointError, match=r"checkpoints is a file, not a folder: .*--workdir"):
        Checkpoints(tmp_path)
    assert (tmp_path / "checkpoints").read_text() == "mine"


def test_a_name_that_is_not_utf8_is_one_line(tmp_path):
    """As Python decodes any other than ASCII with LC_ALL=C and PYTHONUTF8=0."""
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(CheckpointError, match=r"caf\\udce9.* is not UTF-8 .*: set PYTHONUTF8=1"):
        Checkpoints(folder)
    assert not folder.exists()
    checkpoints = Checkpoints(tmp_path / "日本")
    checkpoints.save(1, state(1), {"position": 101}, {})
    checkpoints.close()
    is_of(restored(tmp_path / "日本"), 1)


def test_a_step_is_saved_once(saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    for step in (1, 2):
        checkpoints = Checkpoints(tmp_path)
        checkpoints.save(step, state(9), {"position": 9}, {"seed": 0})
        checkpoints.close()
    is_of(restored(tmp_path), 2)


def test_a_state_of_other_shapes_is_told_in_a_line(saved, tmp_path):
    shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
    wanted = ABSTRACT | {"step": jax.ShapeDtypeStruct((2,), jnp.int32)}
    checkpoints = Checkpoints(tmp_path)
    message = r"1 arrays differ, the first is step \(stored \(\), wanted \(2,\)\)"
    with pytest.raises(CheckpointError, match=message):
        checkpoints.restore(wanted)
    checkpoints.close()


@pytest.mark.parametrize("error", [FileNotFoundError, NotADirectoryError])
@pytest.mark.parametrize("method", ["__init__", "reload"])
def test_one_that_is_removed_while_they_are_listed(method, error, saved, tmp_path, monkeypatch):
    """A training removes its oldest checkpoints. Orbax may have listed one already, when it begins
    and when it looks again after one that cannot be read: both errors were seen at both places."""
    shutil.copytree(saved, tmp_path / "run")
    (tmp_path / "run/checkpoints/2/data/metadata").write_text("cut")
    removed = iter([error("checkpoints/1")])
    plain = getattr(ocp.CheckpointManager, method)

    def disturbed(self, *args, **kwargs):
        for raised in removed:
            raise raised
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(ocp.CheckpointManager, method, disturbed)
    is_of(restored(tmp_path / "run"), 1)
    assert next(removed, None) is None
