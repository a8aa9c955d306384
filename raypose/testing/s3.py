"""An S3 server in this process, on 127.0.0.1 and in memory: for the demo, tests and benchmarks."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from raypose.testing.faults import Faults

__all__ = ["embedded_s3"]


@contextmanager
def embedded_s3(faults: Faults | None = None) -> Iterator[str]:
    """Run an S3 server on 127.0.0.1, in memory, and point the standard variables at it.

    All such servers of a process hold the same objects.

    Args:
        faults: of the server; by default it serialises conditional writes, and has none.
    """
    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)  # no line for each request
    app = (faults or Faults()).wrap(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True, request_handler=_Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    ours = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "raypose",
        "AWS_SECRET_ACCESS_KEY": "raypose",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {key: os.environ.get(key) for key in [*ours, "AWS_ENDPOINT_URL_S3", "AWS_PROFILE"]}
    for key in before:
        os.environ.pop(key, None)
    os.environ.update(ours)
    try:
        yield endpoint
    finally:
        for key, value in before.items():
            os.environ.pop(key, None)
            if value is not None:
                os.environ[key] = value
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(MotoRequestHandler):  # type: ignore[misc]  # moto says nothing of types
    """Says nothing of requests, nor of those that were cut off on purpose."""

    def log(self, *args: Any) -> None:
        """Say nothing."""
