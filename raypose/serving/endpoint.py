"""An endpoint on this machine: started, waited for until it answers, ended with the block."""

import json
import socket
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve._private.constants import SERVE_CONTROLLER_NAME, SERVE_NAMESPACE
from ray.serve.config import HTTPOptions
from ray.serve.exceptions import RayServeException

from raypose.config import Config
from raypose.console import one_line, status, waiting
from raypose.errors import CheckpointError, EndpointError, RayposeError, RegistryError
from raypose.releases import references, registry
from raypose.serving import holding
from raypose.serving.app import Arguments, build
from raypose.serving.described import APP, http_options, model
from raypose.serving.figures import REFUSALS, TAKEN, UNPROVEN
from raypose.serving.rest import why

__all__ = ["READY_S", "Endpoint", "check_alone", "running"]

READY_S = 120.0


@dataclass
class Endpoint:
    """A running endpoint.

    Attributes:
        url: where it answers.
        release: what it began to answer with.
        model: of the deployment that classifies.
        storage: where releases/ lies.
        follows: key of `TAKEN` → name and alias that is followed for it.
        told: release → what was last said of it: see `news`.
        settled: what the aliases pointed at when all replicas had said what they make of it.
        unread: aliases that could not be read the last time.
    """

    url: str
    release: str
    model: str
    storage: str
    follows: Mapping[str, tuple[str, str]]
    told: dict[str, str] = field(init=False)
    settled: dict[str, str] | None = None
    unread: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Begin with what is said where it starts."""
        self.told = {self.release: f"is {TAKEN['release']}"}

    def news(self) -> list[str]:
        """Return what changed since this was last asked: a release that is taken, or refused.

        Replicas are asked only while there may be news: to Serve that is a request like any other,
        and who is asked again and again never rests (`serve.min_replicas=0`).
        """
        wanted, news = self._wanted()
        if wanted != self.settled:
            self.settled = None
            replicas = self._asked()
            if replicas and all(_has_judged(each, wanted) for each in replicas):
                self.settled = wanted
            news += self._new(replicas) if replicas else []
        return news

    def _asked(self) -> list[dict[str, Any]]:
        """Return what all replicas say of themselves; nothing where they are busy, or rest."""
        try:
            told = serve.get_deployment_handle(self.model, APP).broadcast("status")
            return [each for each in told.results(timeout_s=5) if isinstance(each, dict)]
        except (RayError, RayServeException, TimeoutError):
            return []

    def _wanted(self) -> tuple[dict[str, str], list[str]]:
        """Return what the aliases point at by now, and what is new about reading them."""
        found, news, unread = {}, [], set()
        for key, (name, alias) in self.follows.items():
            place = f"{name}@{alias}"
            try:
                found[key] = str(registry.pointed(self.storage, name, alias))
            except RayposeError as error:
                unread.add(place)
                if place not in self.unread:
                    news.append(f"{place} cannot be read, and what answers stays: {error}")
        news += [f"{place} can be read again" for place in sorted(self.unread - unread)]
        self.unread = unread
        return found, news

    def _new(self, replicas: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return what replicas say that was not said before."""
        found: dict[str, str] = {}
        for key, what in reversed(TAKEN.items()):
            found |= {each[key]: f"is {what}" for each in replicas if each.get(key)}
        for each in replicas:
            for key, what in reversed(REFUSALS.items()):
                found |= {name: f"is {what}: {why}" for name, why in each.get(key, {}).items()}
        news = [f"{name} {what}" for name, what in found.items() if self.told.get(name) != what]
        self.told = found
        return news


def _has_judged(replica: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """Tell whether a replica took what it is to follow, or refused it for good."""
    refusals = dict(zip(TAKEN, REFUSALS, strict=True))
    awaited = replica.get("awaited", ())
    return all(
        replica.get(key) == name or (name in replica.get(refusals[key], {}) and name not in awaited)
        for key, name in wanted.items()
    )


@contextmanager
def running(config: Config, reference: str) -> Iterator[Endpoint]:
    """Serve a release until the block ends; needs a connection to Ray.

    Raises:
        RegistryError: where there is no such release.
        CheckpointError: where it does not load; nothing is deployed then.
        EndpointError: where the port is taken, the cluster has an endpoint already, or this one
            does not answer.
    """
    config.serve.check_open()
    reference = references.through(reference, config.serve.follow)
    release = _proven(config.storage, reference)
    host, port = config.serve.host, _free_port(config.serve.host, config.serve.port)
    check_alone()
    followed = registry.followed(config.storage, reference)
    arguments = Arguments(
        storage=config.storage,
        release=reference if followed else release.url,  # an alias as such, all else by its place
        serve=config.serve,
    )
    canary = (release.name, config.serve.canary) if config.serve.canary else None
    follows = {key: each for key, each in zip(TAKEN, (followed, canary), strict=True) if each}
    url = f"http://{host}:{port}"
    endpoint = Endpoint(url, str(release), model(config.serve), config.storage, follows)
    ours = not _serves()
    with waiting("starting Ray Serve"):
        _start(HTTPOptions(**{**http_options(config), "host": host, "port": port}))
    try:
        with waiting(f"starting the endpoint for {release}"):
            _deploy(arguments, endpoint)
            _await_ready(endpoint)
        yield endpoint
    finally:
        serve.delete(APP)
        if ours and not serve.status().applications:
            serve.shutdown()  # the next may listen elsewhere; others' Serve stays


def _proven(root: str, reference: str) -> registry.Release:
    """Return the release that is to be served, tried before anything starts.

    Where an alias points at one that is broken it is the last good one before, as replicas do it.
    """
    wanted = registry.resolve(root, reference)
    try:
        _, has_golden = holding.proven(wanted, device="cpu")
        if not has_golden:
            status(f"{wanted} is {UNPROVEN}")
        return wanted
    except (CheckpointError, RegistryError) as error:
        followed = registry.followed(root, reference)
        reason = str(error).removeprefix(f"{wanted}: ")
        for earlier in registry.earlier(root, *followed) if followed else []:
            with suppress(CheckpointError, RegistryError):
                holding.proven(earlier, device="cpu")
                status(f"{wanted} is refused: {reason}; serving {earlier}, which was there before")
                return earlier
        raise type(error)(f"{wanted}: {reason}") from error


def check_alone() -> None:
    """Refuse to take the place of an endpoint that runs on the Ray that is connected to.

    Raises:
        EndpointError: where there is one.
    """
    if _serves() and APP in serve.status().applications:
        raise EndpointError(
            "an endpoint of raypose runs on this cluster already, and would be replaced; change it "
            "by raypose endpoint update, take it away by raypose endpoint delete, or serve on "
            "this machine alone: unset RAY_ADDRESS and cluster.address"
        )


def _serves() -> bool:
    """Tell whether Serve runs already on the Ray that is connected to."""
    try:
        ray.get_actor(SERVE_CONTROLLER_NAME, namespace=SERVE_NAMESPACE)
    except ValueError:
        return False
    return True


def _start(options: HTTPOptions) -> None:
    """Start Serve where it does not run.

    Raises:
        EndpointError: where what takes connections does not come up.
    """
    try:
        serve.start(http_options=options)
    except (RayError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise EndpointError(
            f"{options.host}:{options.port}: Ray Serve did not start ({reason}); where the "
            "machine is busy, try again"
        ) from error


def _deploy(arguments: Arguments, endpoint: Endpoint) -> None:
    """Hand the application to Serve, and wait until it says that it runs.

    Raises:
        EndpointError: where no replica comes up.
    """
    try:
        serve.run(build(arguments), name=APP, route_prefix="/", logging_config=_QUIET)
    except RuntimeError as error:
        raise EndpointError(
            f"{endpoint.url}: the endpoint does not start ({_reason() or one_line(str(error))})"
        ) from error


def _reason() -> str:
    """Return what Serve says of what does not run; empty where it says nothing."""
    found = serve.status().applications.get(APP)
    return why(asdict(found)) if found else ""


_QUIET = {"log_level": "ERROR", "enable_access_log": False}


def _free_port(host: str, port: int) -> int:
    """Return the port where it is free, or any free one for 0."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise EndpointError(
                f"{host}:{port}: cannot be bound ({error.strerror}); set serve.port=0 for any"
            ) from None
        return int(probe.getsockname()[1])


def _await_ready(endpoint: Endpoint) -> None:
    """Wait for a real 200."""
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{endpoint.url}/healthz", timeout=5) as answer:
                if json.load(answer)["release"]:  # an alias may have moved meanwhile
                    return
        except (OSError, ValueError):
            time.sleep(0.2)
    reason = _reason()
    raise EndpointError(
        f"{endpoint.url}: the endpoint did not answer in {READY_S:g} s"
        + (f" ({reason})" if reason else "")
        + "; a Serve that was running before keeps the address it has"
    )
