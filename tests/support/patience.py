"""How tests wait: for as long as the slowest of machines may take, so that none hangs on speed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from typing import Any

__all__ = ["PATIENCE_S", "until"]

PATIENCE_S = 600.0


def until(what: Callable[[], Any], *processes: subprocess.Popen[Any], every_s: float = 0.1) -> Any:
    """Return the first true value of something.

    Args:
        what: looked at again and again.
        processes: that have to run meanwhile; one that is waited for in vain is killed, and what
            it said, where it says so into a pipe, told.
        every_s: seconds between two looks.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not (found := what()):
        late = time.monotonic() > deadline
        for process in processes:
            if late:
                process.kill()
            assert process.poll() is None, process.communicate()
        assert not late, "waited in vain"
        time.sleep(every_s)
    return found
