"""What tests of the endpoint ask it with: loads miss no failure, attacks are as they are called."""

from __future__ import annotations

import io
import itertools
import time
from collections.abc import Callable, Iterator

import pytest
from PIL import Image
from support import hostile, loads
from support.answering import Answer, Server, answering
from support.patience import until

from raypose.data import images
from raypose.errors import BadPicture


@pytest.fixture
def server() -> Iterator[Server]:
    with answering(lambda path, size: (200, {"path": path, "size": size})) as running:
        yield running


def every(nth: int, status: int) -> Callable[[str, int], Answer]:
    """Answers of which each so-and-so-many-th is another."""
    numbers = itertools.count(1)
    return lambda _, size: (status, {}) if next(numbers) % nth == 0 else (200, {"size": size})


def test_a_load_keeps_each_answer() -> None:
    with answering(every(5, 503)) as server:
        load = loads.sent(server.url, [b"a", b"bb"], 40, num_clients=3)
        assert len(load.asked) == len(server.asked) == 40
        assert sorted(each.number for each in load.asked) == list(range(40))
        assert load.counts() == {200: 32, 503: 8}
        assert {each.status for each in load.failed()} == {503}
        assert load.failed(besides=(200, 503)) == []
        assert load.percentile(0.0) <= load.percentile(0.5) <= load.percentile(1.0)
        assert {each.text for each in load.asked if each.status == 200} <= {
            '{"size": 1}',
            '{"size": 2}',
        }


def test_a_load_tries_again_where_it_may() -> None:
    with answering(every(4, 500)) as server:
        load = loads.sent(server.url, [b"a"], 30, num_clients=1, retries=1)
        assert load.failed() == []
        assert sum(each.attempts for each in load.asked) == len(server.asked) == 39
    with answering(every(1, 404)) as server:
        load = loads.sent(server.url, [b"a"], 5, retries=3)
        assert load.counts() == {404: 5}
        assert len(server.asked) == 5  # asking again would not help


def test_a_load_goes_on_while_a_server_does_not_answer(server: Server) -> None:
    with loads.going(server.url, [b"a"], num_clients=2) as load:
        load.wait(20)
        was, server.answer = server.answer, lambda *_: (0, None)
        load.wait(20)
        server.answer = was
        load.wait(20)
    assert {each.status for each in load.failed()} == {0}
    assert load.counts()[200] >= 20
    assert load.failed()[0].text.startswith("RemoteProtocolError")
    assert len(load.failed()) >= 18  # what was under way before
    done = len(load.asked)
    time.sleep(0.05)
    assert len(load.asked) == done


@pytest.mark.parametrize("name", hostile.PICTURES)
def test_hostile_pictures_are_refused(name: str) -> None:
    with pytest.raises(BadPicture):
        images.decode(hostile.PICTURES[name](), max_pixels=25_000_000)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_hostile_bodies_are_what_they_are_called() -> None:
    large = hostile.PICTURES["144 megapixels"]()
    assert len(large) < 20_000
    with pytest.raises(BadPicture, match="header claims 144 megapixels"):
        images.decode(large, max_pixels=25_000_000)
    with Image.open(io.BytesIO(large)) as image:
        image.load()
        assert image.size == (12_000, 12_000)
    assert hostile.PICTURES["10,000 scans"]().count(b"\xff\xda") > 10_000
    assert len(hostile.gzipped(50 << 20)) < 100_000
    assert hostile.multipart(10_000).count(b"--x\r\n") == 10_000


def test_what_is_asked_as_it_should_be_is_answered(server: Server) -> None:
    for reply in (
        hostile.post(f"{server.url}/a", b"x" * 1000),
        hostile.declared(f"{server.url}/a", 200_000),
        hostile.squeezed(f"{server.url}/a", 1 << 20),
        hostile.in_parts(f"{server.url}/a", 10),
    ):
        assert reply.status == 200
        assert f'"size": {reply.sent}' in reply.answer


def test_a_large_body_is_not_sent_on_after_a_no(server: Server) -> None:
    """The server here does not read what is in pieces: it answers at once, and closes."""
    reply = hostile.chunked(server.url)
    assert reply.status in (0, 200)  # a reset may outrun the answer
    assert reply.sent < hostile.HUGE


def test_slow_ones_end_by_themselves(server: Server) -> None:
    reply = hostile.slow_body(server.url, pause_s=0.01, size=30)
    assert (reply.status, reply.sent) == (200, 30)
    reply = hostile.endless_headers(server.url, pause_s=0.01, for_s=60.0)
    assert reply.status == 431  # too many


def test_clients_that_leave(server: Server) -> None:
    hostile.leave(server.url, b"x" * 5000)
    hostile.leave(server.url, b"x" * 5000, share=0.5)
    until(lambda: (len(server.asked), server.left) == (1, 1))
