"""Serve a folder to this machine."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ["make_server", "serving"]


class _Handler(SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        # The page of the next run has the same address.
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing: a page is some forty requests."""


def make_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Make a server of a folder, for this machine only.

    Parameters
    ----------
    port : int
        0 for any that is free.

    Raises
    ------
    OSError
        If the port is in use.
    """
    handler = functools.partial(_Handler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    return server


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder while a block runs, and give its address."""
    server = make_server(folder, 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
