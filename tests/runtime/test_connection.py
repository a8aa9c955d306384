"""What uses Ray has ended when an interrupt goes on to the shutdown of Ray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.patience import PATIENCE_S

from raypose import runtime
from raypose.runtime import connection

# in a process of its own: a runner of tests has plans of its own with signals
INTERRUPTED = """
import os, signal, sys, threading, time
from raypose import runtime

number = int(sys.argv[1])
ended = threading.Event()


def work():
    try:
        os.kill(os.getpid(), number)  # the main thread takes it, which waits
        while True:
            time.sleep(0.01)
    finally:
        ended.set()


def leave(signum, frame):
    raise SystemExit(signum)


signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGTERM, leave)
try:
    runtime.interruptible(work)
except (KeyboardInterrupt, SystemExit) as error:
    print(type(error).__name__, ended.is_set())
"""


@pytest.mark.parametrize(("number", "raised"), [(2, "KeyboardInterrupt"), (15, "SystemExit")])
def test_work_ends_before_the_interrupt_goes_on(number: int, raised: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", INTERRUPTED, str(number)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.returncode, done.stdout) == (0, f"{raised} True\n"), done.stderr


CLOSED = """
import os, signal, time
from ray._common.usage import usage_lib
from raypose import config, runtime

signal.signal(signal.SIGTERM, signal.default_int_handler)
with runtime.connect(config.ClusterConfig(num_cpus=2)):
    assert not usage_lib.usage_stats_enabled(), "others are told of what runs here"
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
except KeyboardInterrupt:
    print("cleaned up")
"""


@pytest.mark.own
def test_a_handler_is_there_again_once_ray_has_gone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLOSED], capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert (done.returncode, done.stdout) == (0, "cleaned up\n"), done.stderr


def test_what_the_work_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        runtime.interruptible(lambda: 1 / 0)
    assert runtime.interruptible(lambda: 3) == 3


BUSY = """
import os, signal, sys, threading, time
from support.processes import descendants
from raypose import config, runtime
import ray
from ray._private.services import RAYLET_EXECUTABLE


def hold_first():
    while not (found := descendants(RAYLET_EXECUTABLE)):
        time.sleep(0.005)
    os.kill(found[0], signal.SIGSTOP)
    held.append(found[0])
    if "interrupt" in sys.argv:
        os.kill(os.getpid(), signal.SIGINT)


def there():
    return os.path.exists(f"/proc/{held[0]}/exe")


held = []
threading.Thread(target=hold_first, daemon=True).start()
try:
    with runtime.connect(config.ClusterConfig(num_cpus=2)):
        print(ray.get(ray.remote(lambda: 3).remote()), len(held), there())
except KeyboardInterrupt:
    print("interrupted", there())
"""


def busy(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BUSY, *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )


@pytest.mark.own
def test_ray_is_started_again_where_the_machine_was_too_slow() -> None:
    """And what had half started is gone."""
    done = busy()
    assert (done.returncode, done.stdout) == (0, "3 1 False\n"), done.stderr
    assert done.stderr.count("once more") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.own
def test_ray_is_not_started_again_where_that_is_no_longer_wanted() -> None:
    done = busy("interrupt")
    assert (done.returncode, done.stdout) == (0, "interrupted False\n"), done.stderr
    assert "stopping as soon as Ray has started" in done.stderr
    assert "once more" not in done.stderr


def test_what_ray_says_of_its_processes_is_kept_from_results(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray._private import worker

    said = {"lines": ["Task failed. There are retries"], "pid": "raylet", "is_err": False}
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    for verbose, told in ((False, ""), (True, "Task failed")):
        connection._divert_errors(verbose=verbose)
        worker.print_to_stdstream(said, ignore_prefix=False)
        output = capsys.readouterr()
        assert output.out == ""
        assert told in output.err
        assert bool(told) == bool(output.err)
