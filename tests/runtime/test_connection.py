"""What uses Ray has ended when an interrupt goes on to the shutdown of Ray."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from raypose import runtime


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_work_ends_before_the_interrupt_goes_on(number: signal.Signals) -> None:
    ended = threading.Event()

    def work() -> None:
        try:
            os.kill(os.getpid(), number)  # the main thread takes it, which waits
            while True:
                time.sleep(0.01)
        finally:
            ended.set()

    def leave(signum: int, frame: object) -> None:
        raise SystemExit(signum)

    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, leave)
    try:
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            runtime.interruptible(work)
        assert ended.is_set()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def test_what_the_work_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        runtime.interruptible(lambda: 1 / 0)
    assert runtime.interruptible(lambda: 3) == 3
