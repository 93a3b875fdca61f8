"""Mode app: a page in the browser to sample, compare and edit with a trained model."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from score_sde.app.serving import check_address, serve
from score_sde.app.studio import Studio
from score_sde.runtime.signals import ending_in_order

ONE_PROCESS = True


def app(
    config: ConfigDict,
    workdir: Path,
    again: Sequence[str] = ("python", "main.py"),
    host: str = "127.0.0.1",
    port: int = 7860,
    public: bool = False,
) -> dict[str, Any]:
    """Serves a page on http://HOST:PORT/ until Ctrl-C. Every figure is a folder, DIR/app/NUMBER,
    with what mode `sample` or `edit` writes and the command that writes it again.

    again: the command of this model, for those commands.
    public: whether hosts other than this machine may be bound to. There is no password: whoever
        reaches the port may sample. They can choose what the page offers, and name no files.

    Raises:
      ConfigError: the host is not this machine, and `public` is not set; or the port is taken, or
        gradio is not installed. CheckpointError, DataError.
    """
    check_address(host, public)
    studio = Studio(config, workdir, again)
    with serve(studio, host, port, public) as address:
        print(f"the page is at {address} (Ctrl-C ends it)", flush=True)
        with ending_in_order() as signals, contextlib.suppress(KeyboardInterrupt):
            while signals.heard() is None:
                threading.Event().wait(0.5)
    return {"address": address, "figures": len([*studio.root.glob("[0-9]*")])}
