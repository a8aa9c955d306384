"""An S3 server in this process, on 127.0.0.1 and in memory: for the demo, tests and benchmarks."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from moto.server import ThreadedMotoServer

__all__ = ["embedded_s3"]


@contextmanager
def embedded_s3() -> Iterator[str]:
    """Run an S3 server on 127.0.0.1, in memory, and point the standard variables at it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line for each request
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
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
        server.stop()
