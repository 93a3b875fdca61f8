"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write into, which replaces `path` when the block ends.

    If the block raises or the process is killed, `path` stays as it was.

    Raises:
      OSError: it cannot be written; its `filename` is `path`.
    """
    path = Path(path)
    # a name of its own: processes of several hosts may write the same file at the same time
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())  # else the name may reach the disk before the content
        temporary.replace(path)
    except OSError as error:
        if error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes UTF-8, as `replacing` does."""
    with replacing(path) as file:
        file.write(text.encode())
