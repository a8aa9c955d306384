"""A cluster of several nodes on one machine, for trying out what a real one does, and for tests.

A keeper, a process of its own, starts head and nodes on 127.0.0.1 with a token, holds them, and
ends them with itself; what it is asked comes over a socket in its folder, sealed with the token.
Logical CPUs are slots for processes, not cores.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import Any

from ray._private.utils import get_ray_address_file, read_ray_address, write_ray_address

from raypose.errors import ResourceError, TrainError, UsageError
from raypose.runtime.connection import UNTOLD, started
from raypose.runtime.leaving import drain_node

LOCAL_SETTINGS = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
"""Else Ray takes the loopback for the address of the machine."""

__all__ = ["Nodes", "default_folder"]

TOKEN, SOCKET, LOG, ENDED, LOCK = "token", "socket", "keeper.log", "ended", "lock"
METRICS = "prom_metrics_service_discovery.json"
"""Written by Ray's head into its folder: where Prometheus finds figures."""
START_S = 180.0
STORE_BYTES = 256 << 20
"""Of the object store of a node."""
FIRST_PORT = 8265


def default_folder() -> Path:
    """Return where the cluster of this user is kept, by the XDG base directories."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "raypose" / "cluster"


class Nodes:
    """The cluster that a keeper holds in a folder.

    Args:
        folder: of its socket, its token and its log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def up(
        self,
        num_nodes: int,
        *,
        num_cpus: int = 4,
        labels: Mapping[str, str] | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> dict[str, Any]:
        """Start a head and nodes, or as many nodes as are missing; see `show` for what returns.

        Args:
            num_nodes: with the head.
            num_cpus: logical CPUs of each.
            labels: of nodes that are new; the head bears none of them.
            resources: of nodes that are new, beside CPUs.
        """
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(self.folder / LOCK, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # another `up` may be starting it
            if not self.is_up:
                self._start(num_cpus)
        there = self.show()
        for _ in range(num_nodes - len(there["nodes"])):
            self.add(num_cpus=num_cpus, labels=labels, resources=resources)
        return self.show()

    def _start(self, num_cpus: int) -> None:
        for name in (SOCKET, ENDED):
            (self.folder / name).unlink(missing_ok=True)
        token = self.folder / TOKEN
        token.unlink(missing_ok=True)
        with os.fdopen(os.open(token, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
        words = [sys.executable, "-m", "raypose.runtime.nodes", str(self.folder), str(num_cpus)]
        with open(self.folder / LOG, "wb") as log:
            keeper = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=_environment(token),
            )
        deadline = time.monotonic() + START_S
        while not self.is_up:
            if keeper.poll() is not None or time.monotonic() > deadline:
                if keeper.poll() is None:
                    keeper.terminate()
                last = (self.folder / LOG).read_text(errors="replace").strip().splitlines()[-1:]
                raise ResourceError(
                    f"the cluster did not start: {' '.join(last)[:200]}; see {self.folder / LOG}"
                )
            time.sleep(0.2)

    @property
    def is_up(self) -> bool:
        """Whether a keeper answers."""
        if not (self.folder / SOCKET).exists():
            return False
        try:
            self._ask({"do": "show"})
        except (OSError, EOFError, AuthenticationError):
            return False
        return True

    def show(self) -> dict[str, Any]:
        """Return ``address`` of Ray, ``jobs`` of the job server, ``token`` (a path), ``nodes``.

        Of each node, its number, 0 for the head, and the process id of its raylet.
        """
        return self._answered({"do": "show"})

    def add(
        self,
        *,
        num_cpus: int = 4,
        labels: Mapping[str, str] | None = None,
        resources: Mapping[str, float] | None = None,
    ) -> int:
        """Have a node join; return its number."""
        asked = {"num_cpus": num_cpus, "labels": dict(labels or {}), "resources": resources or {}}
        return int(self._answered({"do": "add", **asked})["number"])

    def remove(self, number: int, *, graceful: bool = False) -> None:
        """Take a node away, by default as where its machine is lost."""
        self._answered({"do": "remove", "number": number, "graceful": graceful})

    def drain(self, number: int, *, deadline_s: float) -> None:
        """Say that a node is to be taken back, as a spot notice does; nothing new begins on it."""
        self._answered({"do": "drain", "number": number, "deadline_s": deadline_s})

    def down(self) -> None:
        """End all that the keeper started, and itself."""
        with suppress(OSError, EOFError):
            self._ask({"do": "stop"})
        deadline = time.monotonic() + 60
        while not (self.folder / ENDED).exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        (self.folder / TOKEN).unlink(missing_ok=True)

    def environment(self) -> dict[str, str]:
        """Return the variables by which commands come to it."""
        found = self.show()
        return {
            "RAYPOSE_JOBS": found["jobs"],
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": found["token"],
        }

    def _answered(self, asked: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = self._ask(asked)
        except (OSError, EOFError, AuthenticationError):
            raise UsageError(f"{self.folder}: no cluster is up there; raypose cluster up") from None
        if "error" in answer:
            raise TrainError(answer["error"])
        return answer

    def _ask(self, asked: dict[str, Any]) -> dict[str, Any]:
        key = (self.folder / TOKEN).read_bytes()
        with Client(str(self.folder / SOCKET), family="AF_UNIX", authkey=key) as connection:
            connection.send_bytes(json.dumps(asked).encode())  # no pickle, whoever answers
            answer: dict[str, Any] = json.loads(connection.recv_bytes())
        return answer


class _Keeper:
    """Starts and ends nodes; it runs in a process of its own."""

    def __init__(self, folder: Path, num_cpus: int) -> None:
        from ray.cluster_utils import Cluster

        self.folder = folder
        self.cluster = Cluster()
        self.nodes: dict[int, Any] = {}
        self.count = 0
        # Unix sockets have short names; nodes that share a folder pull files from under each other
        self.place = tempfile.mkdtemp(prefix="raypose-")
        self.add(num_cpus, {}, {}, include_dashboard=True, dashboard_port=_free(FIRST_PORT))

    def add(
        self, num_cpus: int, labels: dict[str, str], resources: dict[str, float], **more: Any
    ) -> int:
        folder = f"{self.place}/{self.count}"
        with _unmentioned():
            self.nodes[self.count] = started(
                lambda: self.cluster.add_node(
                    node_ip_address="127.0.0.1",
                    num_cpus=num_cpus,
                    object_store_memory=STORE_BYTES,
                    labels=labels,
                    resources=resources,
                    dashboard_agent_listen_port=0,
                    temp_dir=folder,
                    **more,
                )
            )
        # drivers of jobs look here first, and else for any Ray that there is on the machine
        write_ray_address(self.cluster.gcs_address, folder)
        self.count += 1
        return self.count - 1

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        what = asked.pop("do")
        if what == "add":
            return {"number": self.add(**asked)}
        if what in ("remove", "drain"):
            number = asked["number"]
            if number == 0 or number not in self.nodes:
                return {"error": f"node {number}: there is none, or it is the head"}
            if what == "drain":
                self.drain(self.nodes[number].node_id, asked["deadline_s"])
            else:
                self.cluster.remove_node(self.nodes.pop(number), allow_graceful=asked["graceful"])
        return {
            "address": self.cluster.gcs_address,
            "jobs": f"http://{self.cluster.webui_url}",
            "token": str(self.folder / TOKEN),
            "metrics": f"{self.place}/0/{METRICS}",
            "nodes": [
                {"number": number, "raylet": node.all_processes["raylet"][0].process.pid}
                for number, node in sorted(self.nodes.items())
            ],
            "pid": os.getpid(),
        }

    def drain(self, node_id: str, deadline_s: float) -> None:
        drain_node(self.cluster.gcs_address, node_id, deadline_s, "it is taken back")

    def serve(self) -> None:
        """Do what is asked until it is to stop."""
        key = (self.folder / TOKEN).read_bytes()
        with Listener(str(self.folder / SOCKET), family="AF_UNIX", authkey=key) as listener:
            while True:
                try:
                    with listener.accept() as connection:
                        if not self._serve_one(connection):
                            return
                except (AuthenticationError, EOFError, OSError, ValueError):
                    continue

    def _serve_one(self, connection: Connection) -> bool:
        asked = json.loads(connection.recv_bytes())
        if asked.get("do") == "stop":
            connection.send_bytes(b"{}")
            return False
        connection.send_bytes(json.dumps(self.answer(asked)).encode())
        return True


def _environment(token: Path) -> dict[str, str]:
    """Return the variables of a keeper, which Ray reads as it is imported, and its jobs inherit."""
    named = ("RAY_AUTH_TOKEN", "RAY_ADDRESS", "RAYPOSE_JOBS")
    here = {key: value for key, value in os.environ.items() if key not in named}
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{here.get('PATH', '')}"  # this raypose
    ours = {"PATH": path, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    return {**UNTOLD, **here, **ours, **LOCAL_SETTINGS}


@contextmanager
def _unmentioned() -> Iterator[None]:
    """Leave the address of the machine's Ray, which all who name none attach to, as it was."""
    before = read_ray_address()
    try:
        yield
    finally:
        if before:
            write_ray_address(before)
        else:
            Path(get_ray_address_file(None)).unlink(missing_ok=True)


def _free(first: int) -> int:
    """Return a port that is free, the first where it is."""
    for port in (first, 0):
        with socket.socket() as probe:
            with suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise ResourceError("no port is free")


def _keep(folder: Path, num_cpus: int) -> None:
    """Hold a cluster until it is asked, or told by SIGTERM, to end it."""
    keeper = _Keeper(folder, num_cpus)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # after Ray has put in its own
    try:
        keeper.serve()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        keeper.cluster.shutdown()
        shutil.rmtree(keeper.place, ignore_errors=True)
        (folder / SOCKET).unlink(missing_ok=True)
        (folder / ENDED).touch()


if __name__ == "__main__":
    _keep(Path(sys.argv[1]), int(sys.argv[2]))
