"""A small HTTP server in this process that stands for what answers, and keeps what it is asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]
"""Status, or 0 to close without a word, and what becomes JSON."""


class Server(ThreadingHTTPServer):
    """Answers a path and the size of a body with what a function says."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer: Callable[[str, int], Answer]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer = answer
        self.asked: list[tuple[str, str]] = []
        """Method and path of each request."""
        self.left = 0
        """Requests whose client left before it had sent all."""

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"http://{self.place}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep silent: clients here leave as they like."""


class Handler(BaseHTTPRequestHandler):
    """Reads a whole body of a known size; one whose size is not told is not read."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16  # an answer in one piece: two would wait for the first to be acknowledged
    server: Server

    def do_GET(self) -> None:
        self.respond(0)

    def do_POST(self) -> None:
        wanted = int(self.headers.get("Content-Length", 0))
        size = 0
        while size < wanted and (part := self.rfile.read1(min(1 << 16, wanted - size))):
            size += len(part)
        if size < wanted:
            self.server.left += 1
            self.close_connection = True
            return
        if "Content-Length" not in self.headers:
            self.close_connection = True
        self.respond(size)

    def respond(self, size: int) -> None:
        self.server.asked.append((self.command, self.path))
        status, document = self.server.answer(self.path, size)
        if not status:
            self.close_connection = True
            return
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Keep silent."""


@contextmanager
def answering(answer: Callable[[str, int], Answer]) -> Iterator[Server]:
    """Run a server until the block ends."""
    with Server(answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
