"""Several clients that ask again and again while a test does something to what answers them.

    with loads.going(url, [picture], num_clients=4) as load:
        kill_a_replica()
        load.wait(200)
    assert load.failed() == []

A client asks again only once it has an answer: `num_clients` requests are under way at most.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

from support.patience import PATIENCE_S

PAUSE_S = 0.1
MOST_REQUESTS = 20_000
"""That one load sends, whatever a test forgets to stop."""


@dataclass(frozen=True)
class Asked:
    """One request: the last of its attempts."""

    number: int
    status: int
    """0 where no answer came."""
    seconds: float
    """All attempts together."""
    began: float
    """By `time.monotonic`."""
    text: str
    """The answer, or why there is none."""
    attempts: int = 1


class Load:
    """What has been asked so far."""

    def __init__(
        self, url: str, contents: Sequence[bytes], *, retries: int, timeout_s: float, key: str
    ) -> None:
        self.url, self.contents = url, contents
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}
        self.retries, self.timeout_s = retries, timeout_s
        self.asked: list[Asked] = []
        self.over = threading.Event()
        self.numbers = itertools.count()
        self.told = threading.Condition()

    def failed(self, *, besides: Sequence[int] = (200,)) -> list[Asked]:
        """Return the requests whose status is none of these."""
        return [each for each in self.asked if each.status not in besides]

    def counts(self) -> dict[int, int]:
        """Status → how many requests got it."""
        return dict(Counter(each.status for each in self.asked))

    def percentile(self, share: float) -> float:
        """Seconds that a share of the requests stayed under."""
        spent = sorted(each.seconds for each in self.asked)
        return spent[min(len(spent) - 1, int(share * len(spent)))]

    def wait(self, num: int, *, within_s: float = PATIENCE_S) -> None:
        """Wait until so many more requests than now are done."""
        self.until(len(self.asked) + num, within_s=within_s)

    def until(self, num: int, *, within_s: float = PATIENCE_S) -> None:
        """Wait until so many requests in all are done."""
        with self.told:
            came = self.told.wait_for(lambda: len(self.asked) >= num, within_s)
        assert came, f"{len(self.asked)} of {num} requests are done in {within_s:g} s"

    def answers(self, words: str, *, within_s: float = PATIENCE_S) -> None:
        """Wait until an answer to a request that begins from now on holds some words."""
        now = time.monotonic()

        def came() -> bool:
            return any(words in each.text for each in self.asked[-50:] if each.began >= now)

        with self.told:
            assert self.told.wait_for(came, within_s), f"no answer holds {words}"

    def ask(self, client: httpx.Client, number: int) -> Asked:
        """Ask once, and as often again as is allowed where the answer is a 5xx or none."""
        began, content = time.monotonic(), self.contents[number % len(self.contents)]
        for attempt in range(1, self.retries + 2):
            try:
                answer = client.post(self.url, content=content)
                status, text = answer.status_code, answer.text
            except httpx.HTTPError as error:
                status, text = 0, f"{type(error).__name__}: {error}"
            if 0 < status < 500 or attempt > self.retries or self.over.is_set():
                break
            self.over.wait(0.05 * 2 ** (attempt - 1))
        return Asked(number, status, time.monotonic() - began, began, text[:500], attempt)

    def work(self, num: int, pause_s: float) -> None:
        """Ask, as one client, until all are asked or the load is over."""
        with httpx.Client(timeout=self.timeout_s, headers=self.headers) as client:
            while not self.over.is_set() and (number := next(self.numbers)) < num:
                done = self.ask(client, number)
                with self.told:
                    self.asked.append(done)
                    self.told.notify_all()
                self.over.wait(pause_s)


@contextmanager
def going(
    url: str,
    contents: Sequence[bytes],
    *,
    num_clients: int = 4,
    num: int = MOST_REQUESTS,
    pause_s: float = PAUSE_S,
    retries: int = 0,
    timeout_s: float = 60.0,
    key: str = "",
) -> Iterator[Load]:
    """Post contents in turn until the block ends, which waits for what is under way.

    Args:
        url: to post to.
        contents: bodies.
        num_clients: that ask at a time, a connection each.
        num: requests at most.
        pause_s: of each client between requests: what a test does meanwhile needs a CPU, too.
        retries: of a request that got a 5xx or no answer, with growing pauses.
        timeout_s: of one attempt.
        key: of the API, where the endpoint asks for one.
    """
    load = Load(url, contents, retries=retries, timeout_s=timeout_s, key=key)
    most = min(num, MOST_REQUESTS)
    clients = [
        threading.Thread(target=load.work, args=(most, pause_s), daemon=True)
        for _ in range(num_clients)
    ]
    for client in clients:
        client.start()
    try:
        yield load
    finally:
        load.over.set()
        for client in clients:
            client.join()


def sent(url: str, contents: Sequence[bytes], num: int, **how: float) -> Load:
    """Post so many without a pause and return what came of them: see `going`."""
    with going(url, contents, num=num, pause_s=0.0, **how) as load:  # type: ignore[arg-type]
        load.until(num, within_s=PATIENCE_S)
    return load
