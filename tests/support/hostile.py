"""Requests as those send them who mean harm, or know no better: bodies, and ways to send them.

Sockets are used as they are, since no client library would do these things. None holds a large body
in memory, and all end by themselves.
"""

from __future__ import annotations

import gzip
import http.client
import io
import select
import socket
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from PIL import Image

from support.pictures import encoded, photo, png, scans

PIECE = bytes(1 << 16)
HUGE = 300 << 20
"""Bytes of a body that nobody should take."""


@dataclass(frozen=True)
class Reply:
    """What came of a request."""

    status: int
    """0 where the connection was closed, or nothing came."""
    answer: str
    """The body, or why there is none."""
    seconds: float
    sent: int
    """Bytes that went out after the head."""


def post(
    url: str, content: bytes, headers: Mapping[str, str] | None = None, *, source: str = ""
) -> Reply:
    """Send one body whole."""
    told = {"Content-Length": str(len(content)), **(headers or {})}
    return exchange(url, head(url, told), [content], source=source)


def declared(url: str, size: int = HUGE, *, pause_s: float = 0.0) -> Reply:
    """Send a body of zeros whose Content-Length says how large it is, until told not to."""
    first = head(url, {"Content-Length": str(size)})
    return exchange(url, first, zeros(size), pause_s=pause_s)


def chunked(url: str, size: int = HUGE, *, pause_s: float = 0.0) -> Reply:
    """Send a body of zeros that does not say how large it is, until told not to."""
    parts = ended((b"%x\r\n%b\r\n" % (len(part), part) for part in zeros(size)), b"0\r\n\r\n")
    return exchange(url, head(url, {"Transfer-Encoding": "chunked"}), parts, pause_s=pause_s)


def slow_body(url: str, *, pause_s: float = 1.0, for_s: float = 60.0, size: int = 100_000) -> Reply:
    """Send a body byte by byte with pauses, until cut off or for so long."""
    parts = [b"\xff"] * min(size, int(for_s / pause_s))
    return exchange(url, head(url, {"Content-Length": str(size)}), parts, pause_s=pause_s)


def endless_headers(
    url: str, *, pause_s: float = 1.0, for_s: float = 60.0, source: str = ""
) -> Reply:
    """Send one header after another with pauses, until cut off or for so long."""
    first = head(url, {}).removesuffix(b"\r\n")
    parts = (b"X-%d: a\r\n" % number for number in range(int(for_s / pause_s)))
    return exchange(url, first, parts, pause_s=pause_s, source=source)


def squeezed(url: str, size: int = HUGE) -> Reply:
    """Send zeros in gzip, some thousandth of what a server holds that unpacks them."""
    return post(url, gzipped(size), {"Content-Encoding": "gzip"})


def in_parts(url: str, num: int = 10_000) -> Reply:
    """Send a form of so many parts."""
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    return post(url, multipart(num), kind)


def leave(url: str, content: bytes, *, share: float = 1.0, after_s: float = 0.0) -> None:
    """Send a share of a body, and go without waiting for an answer."""
    with connected(url) as connection:
        connection.sendall(head(url, {"Content-Length": str(len(content))}))
        connection.sendall(content[: int(share * len(content))])
        time.sleep(after_s)


def megapixels() -> bytes:
    """A whole PNG of 144 megapixels in 17 KB."""
    row = bytes(1 + 12_000 // 8)
    return png(12_000, 12_000, 1, 0, row * 12_000)


PICTURES: dict[str, Callable[[], bytes]] = {
    "144 megapixels": megapixels,
    "10,000 scans": lambda: scans(10_000),
    "strip": lambda: encoded(Image.new("L", (1, 60_000)), "PNG"),
    "cut off": lambda: encoded(photo())[:700],
    "no picture": lambda: b"<html>",
    "nothing": lambda: b"",
}
"""Bodies that are no pictures to classify."""


def gzipped(size: int) -> bytes:
    """Zeros in gzip, made piece by piece."""
    packer = zlib.compressobj(9, wbits=31)
    packed = b"".join(packer.compress(part) for part in zeros(size)) + packer.flush()
    assert gzip.GzipFile(fileobj=io.BytesIO(packed)).read(10) == bytes(10)
    return packed


def multipart(num: int) -> bytes:
    """A form of so many parts, ended as it should."""
    part = '--x\r\nContent-Disposition: form-data; name="{}"\r\n\r\na\r\n'
    return "".join([*map(part.format, range(num)), "--x--\r\n"]).encode()


def zeros(size: int) -> Iterator[bytes]:
    """Yield zeros in pieces."""
    for start in range(0, size, len(PIECE)):
        yield PIECE[: size - start]


def ended(parts: Iterable[bytes], last: bytes) -> Iterator[bytes]:
    """Yield parts and then the last."""
    yield from parts
    yield last


def head(url: str, headers: Mapping[str, str], *, method: str = "POST") -> bytes:
    """The head of a request, its empty line included."""
    place = urlsplit(url)
    told = {"Host": place.netloc, **headers}
    lines = [f"{method} {place.path or '/'} HTTP/1.1", *(f"{key}: {told[key]}" for key in told)]
    return "\r\n".join([*lines, "", ""]).encode()


def connected(url: str, *, source: str = "") -> socket.socket:
    """Open a connection, from an address of this machine where one is named."""
    place = urlsplit(url)
    assert place.hostname
    assert place.port
    here = (source, 0) if source else None
    return socket.create_connection((place.hostname, place.port), 10, source_address=here)


def exchange(
    url: str,
    first: bytes,
    parts: Iterable[bytes],
    *,
    pause_s: float = 0.0,
    source: str = "",
    wait_s: float = 60.0,
) -> Reply:
    """Send a head and parts until an answer or an end comes, and read it.

    Args:
        url: whom to connect to.
        first: sent at once.
        parts: of the body, each made when it is its turn.
        pause_s: before each part.
        source: address to come from.
        wait_s: for an answer after the last part.
    """
    began, sent = time.monotonic(), 0
    try:
        connection = connected(url, source=source)
    except ConnectionError as error:
        return Reply(0, f"{type(error).__name__}: {error}", time.monotonic() - began, 0)
    with connection:
        with suppress(OSError):  # whoever has cut us off may have said why
            connection.sendall(first)
            for part in parts:
                if select.select([connection], [], [], pause_s)[0]:
                    break
                connection.sendall(part)
                sent += len(part)
        connection.settimeout(wait_s)
        reply = read(connection)
    return replace(reply, seconds=time.monotonic() - began, sent=sent)


def read(connection: socket.socket) -> Reply:
    """Read one answer."""
    response = http.client.HTTPResponse(connection, method="POST")
    try:
        response.begin()
        return Reply(response.status, response.read(1 << 16).decode(errors="replace"), 0.0, 0)
    except (OSError, http.client.HTTPException) as error:
        return Reply(0, f"{type(error).__name__}: {error}", 0.0, 0)
    finally:
        response.close()
