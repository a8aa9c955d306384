"""A release behind HTTP, on Ray Serve; built by `build` from arguments of one kind.

``POST /v1/classify`` takes the bytes of one picture and answers with postures and the release that
named them. A replica of `Ingress` speaks HTTP. On a CPU it classifies too, in the same process,
with no hop between; with GPUs it hands the bytes to a replica of `Classifier`, and on to another
where that one dies. Answers never hold tracebacks or pictures.

Annotations are kept as objects in this module: FastAPI reads them in the replica, where its names
are not at hand.
"""

import asyncio
import logging
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import ray
from fastapi import Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.handle import DeploymentHandle

from raypose.config import ServeConfig
from raypose.errors import BadPicture, CheckpointError
from raypose.releases import references, registry
from raypose.releases.predictions import Answer
from raypose.runtime.meters import Meters
from raypose.serving import http
from raypose.serving.batches import Full
from raypose.serving.described import APP, autoscaling
from raypose.serving.guard import Guard
from raypose.serving.room import Room

if TYPE_CHECKING:
    from raypose.serving.worker import Worker

__all__ = ["ATTEMPTS", "Arguments", "Classifier", "Ingress", "api", "build"]

ATTEMPTS = 3
"""Classifiers that may die under a request."""
ON_ONE_LOOP = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0"}
"""Has Serve call us on its own event loop: two fewer hops between threads a request, which is a
quarter more requests a second. All that would block it is in threads of ours."""


logger = logging.getLogger("ray.serve")  # a replica's own log


class Arguments(BaseModel):
    """What the application is built from: by `build`, or by Serve from a configuration file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    storage: str
    """Where releases/ lies."""
    release: str
    """NAME, NAME@ALIAS or NAME:VERSION, or a place that every node can see."""
    serve: ServeConfig = ServeConfig()
    """Limits, replicas, batches and keys."""


def _worker(storage: str, settings: ServeConfig) -> "Worker":
    """Return what classifies; torch comes with it, so that it is loaded only where that is done."""
    from raypose.serving.worker import Worker

    return Worker(storage, settings, logger.info)


def _whereabouts() -> dict[str, str]:
    """Return which replica this is, and where."""
    replica = serve.get_replica_context().replica_id.unique_id
    return {"replica": replica, "node": ray.get_runtime_context().get_node_id()}


@serve.deployment
class Classifier:
    """Classifies for replicas of `Ingress`, where these do not themselves."""

    def __init__(self, storage: str, settings: ServeConfig) -> None:
        self.worker = _worker(storage, settings)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Answer with what ``{"release": reference}`` means."""
        await self.worker.point(user_config["release"])

    async def check_health(self) -> None:
        """Fail where no release is loaded; Serve then replaces the replica."""
        if not self.worker.ready:
            raise RuntimeError("no release is loaded")

    async def classify(self, content: bytes) -> Answer | BadPicture | CheckpointError | Full:
        """Return what the release says of a picture, or why nothing: Serve wraps what is raised."""
        try:
            return await self.worker.classify(content)
        except (BadPicture, CheckpointError, Full) as error:
            return error

    async def status(self) -> dict[str, Any]:
        """Return what this replica answers with."""
        return {**_whereabouts(), **self.worker.status()}

    async def release(self) -> str:
        """Return the name and version of that."""
        return self.worker.release


class Remote:
    """Classifiers in processes of their own, behind a handle of Serve's."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self.handle = handle

    async def classify(self, content: bytes) -> Answer:
        """Classify by any of them; where that one dies, by another."""
        for attempt in range(ATTEMPTS):
            try:
                answer: Answer | Exception = await self.handle.classify.remote(content)
            except http.GONE:
                if attempt == ATTEMPTS - 1:
                    raise
                await asyncio.sleep(0.1 * attempt)
                continue
            if isinstance(answer, Exception):
                raise answer
            return answer
        raise AssertionError

    async def statuses(self) -> list[dict[str, Any]]:
        """Return what each answers with."""
        return await _all(self.handle)

    async def release(self) -> str:
        """Return what one of them answers with."""
        return str(await self.handle.release.remote())


class Local:
    """The classifier of this process."""

    def __init__(self, worker: "Worker") -> None:
        self.worker = worker
        self.classify = worker.classify

    async def statuses(self) -> list[dict[str, Any]]:
        """Return what each replica answers with, this one and its like."""
        return await _all(serve.get_deployment_handle("Ingress", APP))

    async def release(self) -> str:
        """Return what this one answers with."""
        return self.worker.release


async def _all(handle: DeploymentHandle) -> list[dict[str, Any]]:
    """Return the status of each replica of a deployment."""
    found = await handle.broadcast("status").results_async()
    return sorted((each for each in found if isinstance(each, dict)), key=lambda s: s["replica"])


api = http.made()


@serve.deployment
@serve.ingress(api)
class Ingress:
    """Speaks HTTP: keys, limits, and errors in one line of JSON."""

    def __init__(
        self, storage: str, settings: ServeConfig, classifier: DeploymentHandle | None = None
    ) -> None:
        self.settings = settings
        self.guard = Guard(settings)
        self.room = Room(settings.max_held_bytes)
        self.meters = Meters()
        self.worker = None if classifier else _worker(storage, settings)
        self.classifier: Local | Remote = (
            Remote(classifier) if classifier else Local(self.worker)  # type: ignore[arg-type]
        )

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Answer with what ``{"release": reference}`` means, where this process classifies."""
        if self.worker is not None:
            await self.worker.point(user_config["release"])

    async def check_health(self) -> None:
        """Fail where no release is loaded; Serve then replaces the replica."""
        if self.worker is not None and not self.worker.ready:
            raise RuntimeError("no release is loaded")

    async def status(self) -> dict[str, Any]:
        """Return what this replica answers with."""
        return {**_whereabouts(), **(self.worker.status() if self.worker else {})}

    @api.head("/healthz", include_in_schema=False)
    @api.get("/healthz")
    async def healthz(self) -> JSONResponse:
        """Answer 200 while a classifier that holds a release answers."""
        try:
            async with asyncio.timeout(self.settings.request_timeout_s):
                release = await self.classifier.release()
        except http.DOWN:
            message = "the classifier does not answer; try again in a second"
            raise http.Refused(503, message) from None
        return JSONResponse({"status": "ok", "release": release})

    @api.get("/v1/status", include_in_schema=False)
    async def replicas(self, request: Request) -> JSONResponse:
        """Tell of each replica which release it answers with, which it refused, and figures."""
        http.check_key(request, self.guard)
        try:
            return JSONResponse({"replicas": await self.classifier.statuses()})
        except http.DOWN:
            message = "a replica does not answer; try again in a second"
            raise http.Refused(503, message) from None

    @api.post("/v1/classify")
    async def classify(self, request: Request) -> JSONResponse:
        """Classify the picture that is the body: JPEG, PNG, WebP, BMP, GIF or TIFF."""
        started = time.perf_counter()
        try:
            http.check(request, self.guard, self.settings)
            async with asyncio.timeout(self.settings.request_timeout_s):
                with self.room.share() as share:
                    content = await http.body(request, self.settings, share)
                    answer = await self.classifier.classify(content)
        except Exception as error:  # each is told in its own way
            refused = http.why(error, self.settings)
            status = str(refused.status)
            self.meters.tell("raypose_serve_requests", 1, release="", status=status)
            return refused.response()
        best, seconds = answer.top[0], time.perf_counter() - started
        self.meters.tell("raypose_serve_requests", 1, release=answer.release, status="200")
        self.meters.tell("raypose_serve_s", seconds, release=answer.release)
        return JSONResponse(
            {
                "release": answer.release,
                "label": best.label,
                "name": best.name,
                "probability": best.probability,
                "top": [asdict(prediction) for prediction in answer.top],
                "ms": round(1000 * seconds, 2),
            }
        )


def build(arguments: Arguments) -> serve.Application:
    """Put the application together for one release, or what an alias points at.

    Raises:
        ConfigError: where others could reach it without a key.
        RegistryError: where there is no such release.
    """
    settings = arguments.serve
    reference = references.through(arguments.release, settings.follow)
    settings.check_open()
    registry.resolve(arguments.storage, reference)
    user_config = {"release": reference}
    model = _grown(
        settings,
        num_cpus=settings.cpus_per_replica,
        num_gpus=settings.gpus_per_replica,
        user_config=user_config,
    )
    given = (arguments.storage, settings)
    if settings.in_one_process:
        model["ray_actor_options"]["runtime_env"] = {"env_vars": ON_ONE_LOOP}
        return _bound(Ingress, model, *given)
    front = _grown(settings, num_cpus=0.5, num_gpus=0.0, user_config=None)
    return _bound(Ingress, front, *given, _bound(Classifier, model, *given))


def _bound(deployment: Any, options: dict[str, Any], *arguments: Any) -> serve.Application:
    bound: serve.Application = deployment.options(**options).bind(*arguments)
    return bound


def _grown(
    settings: ServeConfig,
    *,
    num_cpus: float,
    num_gpus: float,
    user_config: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the options of a deployment: replicas, queues, and how it ends."""
    options: dict[str, Any] = {
        "autoscaling_config": AutoscalingConfig(**autoscaling(settings)),
        "max_ongoing_requests": settings.max_queued_requests,
        "max_queued_requests": settings.max_queued_requests,
        "backpressure_config": BackpressureConfig(status_code=503, retry_after_s=1.0),
        "graceful_shutdown_timeout_s": settings.request_timeout_s,
        "ray_actor_options": {"num_cpus": num_cpus, "num_gpus": num_gpus},
    }
    if settings.max_replicas_per_node:
        options["max_replicas_per_node"] = settings.max_replicas_per_node
    if user_config is not None:
        options["user_config"] = user_config
    return options
