"""The page on a port: to this machine alone by default, and with no request to any other."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from score_sde.app.studio import Studio
from score_sde.errors import ConfigError

MOST = "20mb"  # of a picture that is uploaded
# gradio's page names scripts and fonts of other hosts; the browser is told not to ask for them
POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)


def check_address(host: str, public: bool) -> None:
    """Raises a ConfigError of a host that other machines may reach, unless that is allowed."""
    if not (_is_local(host) or public):
        raise ConfigError(
            f"--host {host} lets other machines use this model, without a password: add --public "
            "if that is meant; or leave --host out, and forward the port with ssh -L"
        )


@contextlib.contextmanager
def serve(studio: Studio, host: str, port: int, public: bool) -> Iterator[str]:
    """Serves the page until the end of the `with`; its address.

    Raises:
      ConfigError: gradio is not installed, or the port is taken.
    """
    gradio = _gradio()
    from score_sde.app import look, page

    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("jax._src.debugging").setLevel(logging.CRITICAL)  # of runs that are stopped
    with tempfile.TemporaryDirectory() as cache:
        os.environ["GRADIO_TEMP_DIR"] = cache
        blocks = page.build(studio, free=_is_local(host))
        try:
            _, address, _ = blocks.launch(
                server_name=host,
                server_port=port,
                share=False,
                quiet=True,
                prevent_thread_lock=True,
                ssr_mode=False,
                enable_monitoring=False,
                footer_links=[],
                max_file_size=MOST,
                allowed_paths=[str(studio.root.absolute())],
                app_kwargs={"middleware": _middleware(host), "openapi_url": None},
                theme=look.theme(gradio),
                css=look.CSS,
            )
        except OSError as error:
            raise ConfigError(f"--port {port} of {host} cannot be used: {error}") from error
        try:
            yield address
        finally:
            blocks.close(verbose=False)


def _gradio() -> Any:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio
    except ImportError as error:
        raise ConfigError(
            f"--mode app needs gradio ({error}): pip install 'score_sde[app]'"
        ) from error
    return gradio


def _is_local(host: str) -> bool:
    """Whether only this machine reaches a host."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _middleware(host: str) -> list[Any]:
    """Which names the page answers to, so that another site cannot pass for it by its DNS; and the
    headers of every answer."""
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    names = ["127.0.0.1", "localhost", "[::1]"] if _is_local(host) else ["*"]
    return [Middleware(TrustedHostMiddleware, allowed_hosts=names), Middleware(_Headers)]


class _Headers:
    """Adds headers to every answer, and holds none of it back."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                own = [(b"content-security-policy", POLICY), (b"referrer-policy", "no-referrer")]
                own += [(b"x-content-type-options", "nosniff")]
                message = {
                    **message,
                    "headers": [*message["headers"], *((k, v.encode()) for k, v in own)],
                }
            await send(message)

        await self.app(scope, receive, with_headers)
