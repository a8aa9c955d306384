"""Connecting to Ray: a running cluster by address, or one of our own on this machine.

Our own listens on 127.0.0.1 alone, has no dashboard, and gets logical CPUs by hand, since a job
that cannot be placed would wait without end. It dies with the process that started it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

import ray
from ray._private import auto_init_hook, ray_constants
from ray._private import worker as ray_worker
from ray._private.node import Node
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypose.config import ClusterConfig
from raypose.console import RAY_JOB, in_context, inherited, status, waiting
from raypose.errors import RayposeError, ResourceError

__all__ = [
    "REFUSED",
    "SETTINGS",
    "UNTOLD",
    "beside_driver",
    "connect",
    "data_level",
    "in_job",
    "interruptible",
    "is_alone",
    "is_local",
    "started",
]

T = TypeVar("T")

UNTOLD = {"RAY_USAGE_STATS_ENABLED": "0"}
"""Nobody is told of what runs here, unless its user says so."""
SETTINGS = {
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "300",  # a busy laptop starts slowly
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # progress is ours to show
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # 2 s are waited out several times a run
    **UNTOLD,
}
REFUSED = (
    "Ray refuses the token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
)
STARTS = 3
"""So often a node is begun on a machine that is too busy."""
SLOW_S = 2.0
"""What fails sooner was not waited for."""
LAST_S = 3.0
"""What is interrupted has this long to end."""
VERBOSE = "RAYPOSE_VERBOSE"
"""In the environment, so that workers know too."""
_PRINT = ray_worker.print_to_stdstream
LOCAL_SETTINGS = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # stays on the loopback
    "RAY_worker_maximum_startup_concurrency": "16",
    "RAY_prestart_worker_first_driver": "0",  # a process for each CPU, of which few are asked for
}


@contextmanager
def connect(config: ClusterConfig, *, verbose: bool = False) -> Iterator[None]:
    """Hold a connection to Ray; what was started here is stopped at the end.

    Raises:
        ResourceError: where no cluster answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    address = _address(config)
    on_loopback = address.startswith(("local", "127."))
    for key, value in (SETTINGS | (LOCAL_SETTINGS if on_loopback else {})).items():
        os.environ.setdefault(key, value)
    if on_loopback:
        # read from the environment when ray is imported, which has happened by now
        ray_constants.ENABLE_RAY_CLUSTER = False
    on_term = signal.getsignal(signal.SIGTERM)
    level = logging.INFO if verbose else logging.ERROR
    for name in ("ray.train", "ray.tune", "ray.serve"):
        logging.getLogger(name).setLevel(level)
    os.environ[VERBOSE] = "1" if verbose else "0"
    logging.getLogger("ray.data").setLevel(data_level())
    auto_init_hook.enable_auto_connect = False  # no Ray but the one connected to here
    _divert_errors(verbose=verbose)
    what = "starting Ray" if address == "local" else f"connecting to Ray at {address}"
    how: dict[str, Any] = {"log_to_driver": verbose, "logging_level": level}
    if address == "local":
        times = STARTS
        how |= {"num_cpus": config.num_cpus, "include_dashboard": False}
    else:
        times = 1
        how |= {"runtime_env": _passed_on()}
    try:
        with waiting(what), _whole() as interrupted:
            started(lambda: ray.init(address=address, **how), times=times, enough=interrupted)
    except RayposeError:
        raise
    except Exception as error:  # Ray raises its very base where it does not come up in time
        if address == "local":
            reason = " ".join(str(error).split())[:200]
            raise ResourceError(
                f"Ray did not start on this machine ({reason}); where it is busy, try again"
            ) from error
        if _refuses_token(address):
            raise ResourceError(f"{address}: {REFUSED}") from None
        reason = " ".join(str(error).split())[:120]
        raise ResourceError(f"{address}: no Ray cluster answers ({reason})") from None
    _terminate_by(on_term)  # Ray's prints a stack and ends the process before all is cleaned up
    try:
        if interrupted():
            raise KeyboardInterrupt
        yield
    finally:
        ray.shutdown()
        _terminate_by(on_term)  # Ray has put the system's in its place, unseen by Python


def started(
    start: Callable[[], T], *, times: int = STARTS, enough: Callable[[], bool] = lambda: False
) -> T:
    """Return what starts a node of Ray's, begun anew where a busy machine was too slow for it.

    Ray waits half a minute for a node, whatever it is told. What fails at once would fail again.

    Args:
        start: begins one.
        times: to begin at most.
        enough: whether it is no longer wanted: it is then not begun anew.
    """
    for _ in range(times - 1):
        begun = time.monotonic()
        try:
            return start()
        except Exception as error:
            if time.monotonic() - begun < SLOW_S:
                raise
            _end_half_started(error)
            if enough():
                raise KeyboardInterrupt from None
            status("Ray did not start in time on this machine: once more …")
    return start()


def _end_half_started(error: Exception) -> None:
    """End the processes of a node that gave up as it started, which would else stay as long as we.

    Nothing but the frames of its error knows the node.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        node = frame.f_locals.get("self")
        if isinstance(node, Node):
            node.kill_all_processes(check_alive=False, allow_graceful=False)
            return


def _divert_errors(*, verbose: bool) -> None:
    """Have what Ray says of its processes go to stderr, and only where all is to be shown.

    It prints that on stdout, whatever `log_to_driver` says, where results are.
    """

    def told(data: dict[str, Any], ignore_prefix: bool) -> None:
        if verbose:
            _PRINT(data | {"is_err": True}, ignore_prefix=ignore_prefix)

    ray_worker.print_to_stdstream = told


def _terminate_by(handler: Any) -> None:
    """Set what SIGTERM does, where this is the thread that may; None is none of Python's."""
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, handler)


def _refuses_token(address: str) -> bool:
    """Tell whether a cluster answers, and wants another token: `ray.init` says less."""
    try:
        GcsClient(address=address).get_all_node_info(timeout=5)
    except AuthenticationError:
        return True
    except Exception:  # whatever else it is has been said already
        return False
    return False


def is_alone() -> bool:
    """Return whether this process uses a Ray that it has started: of one node, which stays."""
    node = ray._private.worker._global_node
    return node is not None and bool(node.is_head())


def is_local(config: ClusterConfig) -> bool:
    """Return whether Ray is one of our own, on this machine."""
    return _address(config) == "local"


def _address(config: ClusterConfig) -> str:
    """Return where Ray is; a job's is the cluster that runs it, whatever its recipe says."""
    if in_job():
        return os.environ.get("RAY_ADDRESS") or "auto"
    return config.named or "local"


def _passed_on() -> dict[str, Any] | None:
    """Return what workers of a cluster elsewhere would not inherit; those of a job have it."""
    return {"env_vars": inherited()} if inherited() and not in_job() else None


def in_job() -> bool:
    """Tell whether this process is the driver of a Ray job."""
    return RAY_JOB in os.environ


@contextmanager
def _whole() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back; yields what tells whether it was pressed. Pressed again, it ends at once.

    While it starts, Ray at times swallows an interrupt, and at others leaves processes behind.
    """
    pressed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return

    def note(signum: int, frame: Any) -> None:
        pressed.append(signum)
        if len(pressed) > 1:
            raise KeyboardInterrupt
        status("stopping as soon as Ray has started; Ctrl-C again ends at once")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


def data_level() -> int:
    """Return the level at which Ray Data logs: it logs what it raises too."""
    return logging.INFO if os.environ.get(VERBOSE) == "1" else logging.CRITICAL


def interruptible(work: Callable[[], T]) -> T:
    """Run what would take Ctrl-C for itself, in a thread of its own, so that Ctrl-C stays ours.

    In the main thread Ray Train and Tune put in handlers that end the process as if all were well,
    and Train leaves its own behind. The work ends before the interrupt goes on, as Ray ends a
    process in whose threads it is used after its shutdown; what waits in Ray is left behind
    after `LAST_S`: the shutdown itself wakes it, and the interrupt is all that it then meets.
    """
    outcome: Future[T] = Future()

    def fill() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # raised again where it is waited for
            outcome.set_exception(error)

    thread = threading.Thread(target=in_context(fill), daemon=True)
    try:
        thread.start()
        return outcome.result()
    except (KeyboardInterrupt, SystemExit):
        _interrupt(thread)
        if thread.ident:
            thread.join(LAST_S)
        raise


def _interrupt(thread: threading.Thread) -> None:
    """Raise KeyboardInterrupt in a thread, as soon as it comes to Python again."""
    ident = ctypes.c_ulong(thread.ident or 0)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(KeyboardInterrupt))


def beside_driver() -> dict[str, Any]:
    """Return options that keep an actor on the node of this process, with whose end it ends too.

    Nodes come and go; what all workers need should go with none of them but the driver's.
    """
    node = ray.get_runtime_context().get_node_id()
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
