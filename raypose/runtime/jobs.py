"""Jobs: commands that a cluster carries out, whether or not who handed them over is still there.

The cluster's job server runs whatever it is sent, so that a token guards it; its log is one stream,
in which `console.RESULT` marks the lines of a result. Nothing here knows what a command does.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import requests
from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from raypose.config import document_hash
from raypose.console import JOB, inherited, status, waiting
from raypose.errors import NotFoundError, ResourceError, StorageError, UsageError, did_you_mean
from raypose.runtime.addresses import job_server
from raypose.runtime.resources import Standing

__all__ = ["Client", "Job", "Parcel", "token"]

PERIOD_S = 1.0
TIMEOUT_S = (10.0, 60.0)
"""For a connection, and for an answer."""
STOP_S = 60.0
TELL_S = 15.0
"""Between lines that say that a job has not begun."""
PATIENCE_S = 120.0
"""How long a job server that was there may be gone, before a follower gives up."""
GOING = ("pending", "running")
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Parcel:
    """What is handed over.

    Attributes:
        command: words that raypose is called with there.
        files: name → content, in the folder where it is called.
        metadata: what the job is, for lists: ``verb``, ``name``, ``run``, ``storage``, ``user``.
        env: environment variables that go along.
        labels: that the node of the driver must bear.
    """

    command: tuple[str, ...]
    files: Mapping[str, bytes] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The same for the same command over the same files; values of variables do not count."""
        held = {name: content.decode("latin-1") for name, content in self.files.items()}
        digits = document_hash([self.command, held, sorted(self.env)])
        words = (self.metadata.get("verb", "job"), self.metadata.get("name", ""), digits[:8])
        return "-".join(_NOT_IN_IDS.sub("-", word).strip("-") for word in words if word)


@dataclass(frozen=True)
class Job:
    """One job, as its server tells it.

    Attributes:
        id: of its submission.
        state: pending, running, stopped, succeeded or failed.
        metadata: see `Parcel`.
        entrypoint: its command.
        message: why it is in its state.
        began: seconds since 1970; 0 where it has not.
        seconds: it has run.
        exit_code: of its command; None while it runs, or where it was ended otherwise.
    """

    id: str
    state: str
    metadata: Mapping[str, str]
    entrypoint: str
    message: str
    began: float
    seconds: float
    exit_code: int | None

    @property
    def going(self) -> bool:
        """Whether it has not ended."""
        return self.state in GOING

    @property
    def outcome(self) -> int:
        """The exit code that tells how it ended: of its command, or 143 where it was stopped."""
        if self.exit_code is not None:  # one below 0 is the signal that ended it
            return self.exit_code if self.exit_code >= 0 else 128 - self.exit_code
        return {"succeeded": 0, "stopped": 143}.get(self.state, 1)


def token() -> str:
    """Return the token that job servers ask for; empty where none is set.

    RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token, as Ray has it.
    """
    if given := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return _plain(given, "RAY_AUTH_TOKEN")
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = Path(named) if named else Path.home() / ".ray" / "auth_token"
    try:
        return _plain(path.read_text(errors="replace").strip(), str(path))
    except OSError as error:
        if named:
            raise UsageError(
                f"RAY_AUTH_TOKEN_PATH: {named}: {(error.strerror or str(error)).lower()}"
            ) from None
        return ""


def _plain(text: str, where: str) -> str:
    """Refuse what no token is: it would be no header of a request."""
    if text and not re.fullmatch(r"[!-~]+", text):
        raise UsageError(f"{where}: holds no token: more than one word, or odd characters")
    return text


class _Patient(JobSubmissionClient):  # type: ignore[misc]
    """Waits no longer for an answer than one takes; Ray's own waits without end."""

    def _do_request(self, *arguments: Any, **more: Any) -> Any:
        return super()._do_request(*arguments, **{"timeout": TIMEOUT_S, **more})


class Client:
    """A cluster's job server.

    Args:
        address: http://host:port, or https.

    Raises:
        UsageError: for another kind of address.
        ResourceError: where none answers, or it refuses the token.
    """

    def __init__(self, address: str) -> None:
        self.address = job_server(address)
        held = token()
        headers = {"Authorization": f"Bearer {held}"} if held else {}
        with self._told(), waiting(f"asking {self.address}"):
            self._client = _Patient(self.address, headers=headers)
        self._headers = headers

    def jobs(self) -> list[Job]:
        """Return all jobs that were submitted, the newest first."""
        with self._told():
            found = self._client.list_jobs()
        jobs = [_job(each) for each in found if each.submission_id]
        return sorted(jobs, key=lambda job: -job.began)

    def standing(self) -> Standing:
        """Return what its cluster has; what of it is free once the autoscaler has counted that."""
        known = self._asked("/api/v0/nodes", limit="10000", detail="1")["result"]["result"]
        alive = [node["resources_total"] for node in known if node["state"] == "ALIVE"]
        total: Counter[str] = Counter()
        for resources in alive:
            total.update(resources)
        told = self._asked("/api/cluster_status").get("clusterStatus") or {}
        usage = (told.get("loadMetricsReport") or {}).get("usage") or {}
        free = {name: has - used for name, (used, has) in usage.items()}
        return Standing(len(alive), dict(total), free)

    def _asked(self, path: str, **query: str) -> dict[str, Any]:
        found: dict[str, Any] = self.request("GET", path, **query).json()["data"]
        return found

    def request(self, method: str, path: str, *, body: Any = None, **query: str) -> Any:
        """Ask the same server for more than jobs; return its answer, which is a good one."""
        with self._told():
            answer = requests.request(
                method,
                f"{self.address}{path}",
                params=query,
                json=body,
                headers=self._headers,
                timeout=TIMEOUT_S,
            )
            answer.raise_for_status()
        return answer

    def find(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            NotFoundError: where there is none of that name, with the nearest.
        """
        if not re.fullmatch(r"[\w.-]+", job_id):
            raise UsageError(f"{job_id!r}: no id of a job; see raypose jobs list")
        with self._told():
            try:
                return _job(self._client.get_job_info(job_id))
            except RuntimeError as error:
                if "404" not in str(error) and "does not exist" not in str(error):
                    raise
        near = did_you_mean(job_id, [job.id for job in self.jobs()])
        raise NotFoundError(f"{job_id}: no such job at {self.address}{near}; see raypose jobs list")

    def submit(self, parcel: Parcel) -> tuple[str, bool]:
        """Hand a parcel over; where the same one is being carried out already, that is meant.

        Returns:
            The job's id, and whether it is new.
        """
        for number in range(1, 1000):
            job_id = parcel.id if number == 1 else f"{parcel.id}-{number}"
            try:
                there = self.find(job_id)
            except NotFoundError:
                there = None
            if there is None and self._submitted(parcel, job_id):
                return job_id, True
            if there is None or there.going:  # another was quicker
                return job_id, False
        raise ResourceError(f"{parcel.id}: was submitted a thousand times; raypose jobs list")

    def _submitted(self, parcel: Parcel, job_id: str) -> bool:
        """Submit under a name; False where it is taken by now."""
        with tempfile.TemporaryDirectory(prefix="raypose-job-") as folder, self._told():
            for name, content in parcel.files.items():
                (Path(folder) / name).write_bytes(content)
            try:
                self._client.submit_job(
                    entrypoint=shlex.join(parcel.command),
                    submission_id=job_id,
                    runtime_env={
                        "working_dir": folder,
                        "env_vars": {**inherited(), **parcel.env, JOB: job_id},
                    },
                    metadata=dict(parcel.metadata),
                    entrypoint_label_selector=dict(parcel.labels) or None,
                )
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise
                return False
        return True

    def follow(self, job_id: str, write: Callable[[str], None]) -> Job:
        """Write a job's log, from its beginning, until it ends; a lost connection is made anew.

        Raises:
            ResourceError: where the server is gone for longer than `PATIENCE_S`.
        """
        told, gone, begun = 0, 0.0, time.monotonic()
        job = self.find(job_id)
        while True:
            try:
                if job.state == "pending":  # it has no log yet
                    begun = _tell_pending(job, begun)
                else:
                    told = asyncio.run(self._tail(job_id, told, write))
                job = self._patiently(job_id)
            except (aiohttp.ClientError, OSError, RuntimeError, StorageError):
                job = self._patiently(job_id)
                if job.going and not gone:
                    gone = time.monotonic()
                    status(f"the log of {job_id} is cut off; trying again")
                if not job.going or time.monotonic() - gone > PATIENCE_S:
                    status(f"the log of {job_id} cannot be read to its end")
                    return self.wait(job_id)
            if not job.going:
                write(self.log(job_id)[told:])  # what a stream that ended early has left out
                return job
            time.sleep(PERIOD_S)

    def _patiently(self, job_id: str) -> Job:
        """Return a job, from a server that may be gone for a while.

        Raises:
            ResourceError: where it is gone for longer than `PATIENCE_S`.
        """
        gone = 0.0
        while True:
            try:
                return self.find(job_id)
            except (ResourceError, StorageError) as error:
                if not gone:
                    gone = time.monotonic()
                    status(f"{error}; trying again")
                if time.monotonic() - gone > PATIENCE_S:
                    raise ResourceError(
                        f"{self.address}: no answer for {PATIENCE_S:.0f} s; the job may go on: "
                        f"raypose jobs logs {job_id}"
                    ) from None
                time.sleep(PERIOD_S)

    async def _tail(self, job_id: str, told: int, write: Callable[[str], None]) -> int:
        """Write what comes after so many characters; return how many there are now."""
        seen = 0
        try:
            async for text in self._client.tail_job_logs(job_id):
                seen += len(text)
                if seen > told:
                    write(text[max(0, len(text) - (seen - told)) :])
                    told = seen
        except (aiohttp.ClientError, RuntimeError):
            if seen == 0:
                raise
        return told

    def log(self, job_id: str) -> str:
        """Return a job's log so far."""
        self.find(job_id)
        with self._told():
            return str(self._client.get_job_logs(job_id))

    def wait(self, job_id: str) -> Job:
        """Return a job when it has ended."""
        while (job := self._patiently(job_id)).going:
            time.sleep(PERIOD_S)
        return job

    def stop(self, job_id: str) -> Job:
        """Stop a job, and return it when it has ended: it is asked to, and killed after 3 s.

        Raises:
            ResourceError: where it does not end; Ray stops none that has not begun.
        """
        if self.find(job_id).going:
            with self._told():
                self._client.stop_job(job_id)
        asked = time.monotonic()
        while (job := self._patiently(job_id)).going:
            if time.monotonic() - asked > STOP_S:
                why = f"did not end within {STOP_S:.0f} s; see raypose jobs show"
                if job.state == "pending":
                    why = (
                        "is pending still; Ray stops no job before it begins; it ends by itself "
                        "where no node can take it"
                    )
                raise ResourceError(f"{job_id}: {why}")
            time.sleep(PERIOD_S)
        return job

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Tell in a line what a server answers."""
        try:
            yield
        except AuthenticationError:
            held = "refuses the token" if token() else "wants a token"
            raise ResourceError(
                f"{self.address}: the job server {held}; set RAY_AUTH_TOKEN, or "
                "RAY_AUTH_TOKEN_PATH to a file that holds it"
            ) from None
        except requests.Timeout:
            raise ResourceError(f"{self.address}: does not answer in time") from None
        except requests.HTTPError as error:
            raise ResourceError(f"{self.address}: no job server of Ray's ({error})") from None
        except (ConnectionError, requests.ConnectionError):
            source = "; RAYPOSE_JOBS names it" if os.environ.get("RAYPOSE_JOBS") else ""
            raise ResourceError(
                f"{self.address}: no job server answers{source}; is the cluster up?"
            ) from None
        except (AttributeError, KeyError, TypeError, ValueError, requests.RequestException):
            raise ResourceError(f"{self.address}: no job server of Ray's answers there") from None
        except RuntimeError as error:
            said = " ".join(str(error).split())
            if "Version check" in said:
                raise ResourceError(f"{self.address}: no job server of Ray's") from None
            if "404" in said or "already exists" in said or "does not exist" in said:
                raise
            raise StorageError(f"{self.address}: {said[:200]}") from None


def _tell_pending(job: Job, last: float) -> float:
    """Say now and then that a job has not begun; return when it was said last."""
    now = time.monotonic()
    if now - last < TELL_S:
        return last
    status(f"{job.id} waits for a node to begin on: {job.message}")
    return now


def _job(found: Any) -> Job:
    began = (found.start_time or 0) / 1000
    ended = (found.end_time or 0) / 1000 or time.time()
    return Job(
        id=found.submission_id,
        state=str(getattr(found.status, "value", found.status)).lower(),
        metadata=dict(found.metadata or {}),
        entrypoint=found.entrypoint,
        message=" ".join((found.message or "").partition(", last available logs")[0].split()),
        began=began,
        seconds=max(0.0, ended - began) if began else 0.0,
        exit_code=found.driver_exit_code,
    )
