"""Partial results: found again, or begun anew."""

import numpy as np
import pytest

from score_sde.runtime import resumable
from score_sde.runtime.resumable import Partial


def test_what_was_kept_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(resumable, "EVERY", 0.0)
    place = Partial(tmp_path, "work", {"about": 1})
    assert (place.load(), place.result) == (None, None)
    place.save(values=np.arange(3))
    np.testing.assert_array_equal(
        Partial(tmp_path, "work", {"about": 1}).load()["values"], [0, 1, 2]
    )
    assert Partial(tmp_path, "work", {"about": 2}).load() is None
    place.finish({"mean": 1.0})
    assert place.load() is None
    assert Partial(tmp_path, "work", {"about": 1}).result == {"mean": 1.0}
    place.remove()
    assert not list(tmp_path.iterdir())


def test_writes_are_rare_and_the_order_of_keys_does_not_matter(tmp_path, monkeypatch):
    place = Partial(tmp_path, "work", {"a": 1, "b": 2})
    place.save(values=np.arange(3))
    assert place.load() is None
    monkeypatch.setattr(resumable, "EVERY", 0.0)
    place.save(values=np.arange(3))
    assert Partial(tmp_path, "work", {"b": 2, "a": 1}).load() is not None


@pytest.mark.parametrize(
    "content", [b'{"mean": 1.', b"\xff\xfe", b"", b"null", b"[1]", b"[" * 9999]
)
def test_a_damaged_result_is_made_anew(tmp_path, capsys, content):
    place = Partial(tmp_path, "work", {})
    place.finish({"mean": 1.0})
    (file,) = (tmp_path / "partial").iterdir()
    file.write_bytes(content)
    assert place.result is None
    out = capsys.readouterr().out
    assert out.startswith(f"{file} is damaged, it ")
    assert out.endswith(": starting that part anew\n")
    assert out.count("\n") == 1
    place.finish({"mean": 2.0})
    assert place.result == {"mean": 2.0}


def test_what_a_killed_process_left_is_removed(tmp_path):
    place, other = (Partial(tmp_path, name, {}) for name in ("work", "other"))
    place.finish({})
    other.finish({})
    (file,) = (tmp_path / "partial").glob("work-*.json")
    half = file.with_name(f".{file.name}.0123.tmp")
    half.touch()
    place.remove()
    assert not half.exists()
    assert other.result == {}
    other.remove()
    assert not list(tmp_path.iterdir())
