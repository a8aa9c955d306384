from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import Request

from raypose.config import ServeConfig
from raypose.errors import BadPicture
from raypose.serving import guard, http
from raypose.serving.batches import Full
from raypose.serving.room import OWN_BYTES, NoRoom, Room

KEY = guard.made()
PART = bytes(OWN_BYTES // 2)
KEYS = {"clinic": guard.digest(KEY)}


def asked(headers: dict[str, str] | None = None, *parts: bytes) -> Request:
    """A request as a server hands it on."""
    raw = [(k.lower().encode(), v.encode()) for k, v in (headers or {}).items()]
    given = [{"type": "http.request", "body": p, "more_body": True} for p in parts]
    bodies = iter([*given, {"type": "http.request", "body": b""}])

    async def receive() -> dict[str, object]:
        return next(bodies)

    return Request({"type": "http", "method": "POST", "path": "/", "headers": raw}, receive)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Encoding": "gzip"}, 415),
        ({"Content-Encoding": "GZIP"}, 415),
        ({"Content-Encoding": "identity, gzip"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=x"}, 415),
        ({"Content-Type": " Multipart/Form-Data; boundary=x"}, 415),
        ({"Content-Length": "101"}, 413),
        ({"Content-Length": "-1"}, 413),
        ({"Content-Length": "1e1"}, 413),
    ],
)
def test_some_are_refused_by_their_headers(headers: dict[str, str], status: int) -> None:
    settings = ServeConfig(max_body_bytes=100)
    with pytest.raises(http.Refused) as refused:
        http.check(asked(headers), guard.Guard(settings), settings)
    assert refused.value.status == status


def test_what_is_too_large_is_refused_before_a_key_is_asked_for() -> None:
    """Of every other refusal the body is taken in still, which a stranger must not make long."""
    settings = ServeConfig(max_body_bytes=100, keys=KEYS)
    for size, status in (("101", 413), ("100", 401)):
        with pytest.raises(http.Refused) as refused:
            http.check(asked({"Content-Length": size}), guard.Guard(settings), settings)
        assert refused.value.status == status


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Encoding": ""},
        {"Content-Encoding": "Identity"},
        {"Content-Type": "image/jpeg", "Content-Length": "100"},
    ],
)
def test_others_are_not(headers: dict[str, str]) -> None:
    settings = ServeConfig(max_body_bytes=100)
    http.check(asked(headers), guard.Guard(settings), settings)


def test_keys_come_before_limits() -> None:
    settings = ServeConfig(keys=KEYS, limit="1/hour")
    watched = guard.Guard(settings)
    for _ in range(3):
        with pytest.raises(http.Refused, match="no valid API key") as refused:
            http.check(asked(), watched, settings)
        assert refused.value.response().headers["www-authenticate"] == "Bearer"
    mine = asked({"Authorization": f"Bearer {KEY}"})
    http.check(mine, watched, settings)
    with pytest.raises(http.Refused, match="more than 1/hour") as refused:
        http.check(mine, watched, settings)
    answer = refused.value.response()
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 3000


def test_bodies() -> None:
    settings = ServeConfig(max_body_bytes=100)
    assert asyncio.run(http.body(asked({}, b"ab", b"", b"c"), settings)) == b"abc"
    for parts, status in (((), 400), ((b"x" * 60, b"x" * 60), 413)):
        with pytest.raises(http.Refused) as refused:
            asyncio.run(http.body(asked({}, *parts), settings))
        assert refused.value.status == status

    class Slow(Request):
        async def stream(self) -> AsyncIterator[bytes]:
            yield b"x"
            await asyncio.sleep(60)

    hasty = ServeConfig(body_timeout_s=0.1)
    with pytest.raises(http.Refused, match=r"within 0.1 s") as refused:
        asyncio.run(http.body(Slow({"type": "http", "headers": []}), hasty))
    assert refused.value.status == 408
    assert refused.value.response().headers["connection"] == "close"


def test_errors_are_told_in_a_line_that_gives_nothing_away(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = ServeConfig(request_timeout_s=7)
    for error, status, message in (
        (BadPicture("x: damaged"), 400, "damaged"),
        (Full(12.4), 503, "try again in 12 s"),
        (TimeoutError(), 503, "within 7 s"),
        (ValueError("secret"), 500, "see its log"),
    ):
        answer = http.why(error, settings).response()
        assert answer.status_code == status
        assert message in bytes(answer.body).decode()
        assert b"secret" not in answer.body
        assert ("retry-after" in answer.headers) == (status == 503)
    assert http.why(Full(12.4), settings).response().headers["retry-after"] == "13"
    assert "secret" in caplog.text


def test_where_there_is_nothing_it_is_said_in_the_same_form() -> None:
    api = http.made()

    @api.get("/here")
    async def here() -> str:
        return "yes"

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=api)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            calls = (("GET", "/none"), ("GET", "/here/"), ("POST", "/here"))
            return [await client.request(*call) for call in calls]

    none, slash, method = asyncio.run(ask())
    assert (none.status_code, slash.status_code, method.status_code) == (404, 404, 405)
    for answer in (none, slash, method):
        assert "POST /v1/classify" in answer.json()["error"]
    assert method.headers["allow"] == "GET"


def test_what_is_beyond_a_share_of_ones_own_is_counted() -> None:
    async def run() -> None:
        room = Room(3 * OWN_BYTES)
        with room.share() as first, room.share() as second:
            for share in (first, second):
                share.add(OWN_BYTES // 2)
                share.add(OWN_BYTES)
            assert room.taken == OWN_BYTES
            first.add(2 * OWN_BYTES)
            with pytest.raises(NoRoom):
                second.add(1)
            assert room.taken == 3 * OWN_BYTES
            with room.share() as third:
                third.add(OWN_BYTES)  # its own
        assert room.taken == 0

    asyncio.run(run())


def test_a_body_without_room_is_refused_and_leaves_the_others_theirs() -> None:
    async def run() -> None:
        settings = ServeConfig(max_held_bytes=2 * OWN_BYTES)
        room = Room(settings.max_held_bytes)
        with room.share() as share:
            assert len(await http.body(asked(None, *[PART] * 6), settings, share)) == 6 * len(PART)
            with pytest.raises(http.Refused, match="too many large bodies") as refused:
                with room.share() as other:
                    await http.body(asked(None, *[PART] * 3), settings, other)
            answer = refused.value.response()
            assert (answer.status_code, answer.headers["connection"]) == (503, "close")
            assert answer.headers["retry-after"] == "1"
            with room.share() as other:
                assert await http.body(asked(None, PART), settings, other) == PART
        assert room.taken == 0

    asyncio.run(run())
