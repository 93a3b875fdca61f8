"""Files are written whole or not at all."""

import threading

import pytest

from score_sde.runtime.atomic import replacing, write_text


def test_a_file_is_replaced_when_it_is_whole(tmp_path):
    path = tmp_path / "file"
    for content in (b"first", b"second"):
        before = path.read_bytes() if path.exists() else None
        with replacing(path) as file:
            file.write(content)
            file.flush()
            assert (path.read_bytes() if path.exists() else None) == before
        assert path.read_bytes() == content
    write_text(path, "日本 ²")
    assert path.read_bytes() == "日本 ²".encode()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, OSError(28, "No space left"), KeyboardInterrupt])
def test_what_ends_early_leaves_what_was_there(error, tmp_path):
    path = tmp_path / "file"
    path.write_text("before")

    def write():
        with replacing(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error if isinstance(error, type) else OSError) as raised:
        write()
    assert [p.read_text() for p in tmp_path.iterdir()] == ["before"]
    if isinstance(raised.value, OSError):
        assert raised.value.filename == str(path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    (tmp_path / "file").touch()
    for folder, error in (("none", FileNotFoundError), ("file", NotADirectoryError)):
        path = tmp_path / folder / "result"
        with pytest.raises(error) as raised:
            write_text(path, "text")
        assert raised.value.filename == str(path)


def test_two_who_write_at_once_do_not_mix(tmp_path):
    path, both = tmp_path / "file", threading.Barrier(2)

    def write(letter):
        with replacing(path) as file:
            both.wait(10)
            file.write(letter * 100_000)
            both.wait(10)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in (b"a" * 100_000, b"b" * 100_000)
    assert list(tmp_path.iterdir()) == [path]
