"""A release behind HTTP, on Ray Serve: ingress (CPU: limits, decoding) → classifier (batches).

``POST /v1/classify`` takes the bytes of one picture and answers with postures and the release that
named them. The ingress decodes, so that a classifier replica on a GPU does nothing but its forward
pass; it retries when a replica dies under a request. Answers never hold tracebacks or pictures.

Annotations are kept as objects in this module: FastAPI reads them in the replica, where its names
are not at hand.
"""

import asyncio
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig
from ray.serve.exceptions import BackPressureError
from ray.serve.handle import DeploymentHandle

from raypose.config import ServeConfig
from raypose.data.transforms import preprocess
from raypose.errors import DataError
from raypose.releases import registry
from raypose.releases.predictor import Prediction, Predictor

__all__ = ["APP", "ATTEMPTS", "Answer", "Classifier", "Ingress", "Spec", "api", "build"]

APP = "raypose"


ATTEMPTS = 3


@dataclass(frozen=True)
class Spec:
    """How the ingress is to prepare pictures for a release."""

    release: str
    image_size: int
    resize: str
    max_pixels: int
    dct_scaled: bool = False


@dataclass(frozen=True)
class Answer:
    """What the classifier says of one picture; `top` is empty where the spec was out of date."""

    spec: Spec
    top: list[Prediction]


@serve.deployment
class Classifier:
    """Holds one release and classifies decoded pictures, many in a pass."""

    def __init__(self, storage: str, settings: ServeConfig) -> None:
        self.storage = storage
        self.predictor: Predictor | None = None
        self.spec = Spec("", 0, "squash", 0)
        self.classify.set_max_batch_size(settings.max_batch_size)
        self.classify.set_batch_wait_timeout_s(settings.batch_wait_s)

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load the release that ``{"release": reference}`` names, beside the one in use."""
        release = registry.resolve(self.storage, user_config["release"])
        if str(release) == self.spec.release:
            return
        with tempfile.TemporaryDirectory() as name:
            predictor = Predictor.load(registry.fetch(release, Path(name)))
        size = predictor.clip.image_size
        predictor.probabilities(np.zeros((1, 3, size, size), dtype=np.uint8))  # it must work
        self.predictor = predictor
        self.spec = Spec(
            release=str(release),
            image_size=size,
            resize=predictor.config.model.resize,
            max_pixels=predictor.config.data.max_pixels,
            dct_scaled=predictor.config.data.dct_scaled,
        )

    def check_health(self) -> None:
        """Fail where no release is loaded; Serve then replaces the replica."""
        if self.predictor is None:
            raise RuntimeError("no release is loaded")

    def describe(self) -> Spec:
        """Return how pictures are to be prepared."""
        return self.spec

    @serve.batch
    async def classify(self, pictures: list[tuple[str, npt.NDArray[np.uint8]]]) -> list[Answer]:
        """Classify pictures prepared for a release, each uint8 (3, S, S).

        Those prepared for another release come back unanswered, with the spec to use.
        """
        assert self.predictor is not None
        fit = [pixels for release, pixels in pictures if release == self.spec.release]
        rows = await asyncio.to_thread(self.predictor.probabilities, np.stack(fit)) if fit else ()
        probabilities = iter(rows)
        return [
            Answer(
                self.spec,
                self.predictor.rank(next(probabilities)) if release == self.spec.release else [],
            )
            for release, _ in pictures
        ]


# defined above the ingress: Serve copies an ingress when it decorates it, with what its handlers
# name at that moment
def _refusal(status: int, message: str) -> JSONResponse:
    headers = {"Retry-After": "1"} if status == 503 else {}
    return JSONResponse({"error": message}, status_code=status, headers=headers)


api = FastAPI(title="raypose", docs_url="/docs", redoc_url=None)


@serve.deployment
@serve.ingress(api)
class Ingress:
    """Speaks HTTP: limits, decoding, retries, and errors in one line of JSON."""

    def __init__(self, classifier: DeploymentHandle, settings: ServeConfig) -> None:
        self.classifier = classifier
        self.settings = settings
        self.spec: Spec | None = None

    @api.get("/healthz")
    async def healthz(self) -> JSONResponse:
        """Answer 200 while a classifier that holds a release answers."""
        try:
            self.spec = await self._ask("describe")
        except (RayActorError, BackPressureError):
            return _refusal(503, "the classifier does not answer; try again in a second")
        return JSONResponse({"status": "ok", "release": self.spec.release})

    @api.post("/v1/classify")
    async def classify(self, request: Request) -> JSONResponse:
        """Classify the picture that is the body: JPEG, PNG, WebP, BMP, GIF or TIFF."""
        started = time.perf_counter()
        content = await self._body(request)
        if content is None:
            limit = self.settings.max_body_bytes
            return _refusal(413, f"picture is larger than {limit} bytes; send a smaller one")
        if not content:
            return _refusal(400, "body is empty; send the bytes of one picture")
        try:
            answer = await self._classify(content)
        except DataError as error:
            return _refusal(400, str(error))
        except BackPressureError:
            return _refusal(503, "too many requests are waiting; try again in a second")
        except (RayActorError, TimeoutError):
            return _refusal(503, "the classifier is restarting; try again in a second")
        best = answer.top[0]
        return JSONResponse(
            {
                "release": answer.spec.release,
                "label": best.label,
                "name": best.name,
                "probability": best.probability,
                "top": [asdict(prediction) for prediction in answer.top],
                "ms": round(1000 * (time.perf_counter() - started), 2),
            }
        )

    async def _classify(self, content: bytes) -> Answer:
        """Prepare a picture and ask for its classes; again where the release has just changed."""
        spec = await self._spec()
        for _ in range(ATTEMPTS):
            pixels = await asyncio.to_thread(
                preprocess,
                content,
                size=spec.image_size,
                resize=spec.resize,  # type: ignore[arg-type]
                max_pixels=spec.max_pixels,
                dct_scaled=spec.dct_scaled,
            )
            answer: Answer = await self._ask("classify", (spec.release, pixels))
            if answer.top:
                return answer
            self.spec = spec = answer.spec
        raise TimeoutError("releases change faster than pictures are prepared")

    async def _spec(self) -> Spec:
        if self.spec is None:
            self.spec = await self._ask("describe")
        return self.spec

    async def _ask(self, method: str, *arguments: Any) -> Any:
        """Call the classifier; a request on a replica that dies goes to another."""
        for attempt in range(ATTEMPTS):
            try:
                return await getattr(self.classifier, method).remote(*arguments)
            except RayActorError:
                if attempt == ATTEMPTS - 1:
                    raise
        raise AssertionError

    async def _body(self, request: Request) -> bytes | None:
        """Read the body, or None where it is over the limit."""
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self.settings.max_body_bytes:
                return None
            parts.append(part)
        return b"".join(parts)


class Arguments(BaseModel):
    """What the application is built from: by `build`, or by Serve from a configuration file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    storage: str
    """Where releases/ lies."""
    release: str
    """NAME, NAME@ALIAS or NAME:VERSION, or a place that every node can see."""
    serve: ServeConfig = ServeConfig()
    """Limits, replicas and batches."""


def build(arguments: Arguments) -> serve.Application:
    """Put ingress and classifier together for one release.

    Raises:
        RegistryError: where there is no such release.
    """
    settings, release = arguments.serve, registry.resolve(arguments.storage, arguments.release)
    classifier = Classifier.options(  # type: ignore[attr-defined]
        user_config={"release": release.url},
        autoscaling_config=AutoscalingConfig(
            min_replicas=settings.min_replicas,
            max_replicas=max(settings.min_replicas, settings.max_replicas),
            target_ongoing_requests=settings.max_batch_size,
        ),
        max_ongoing_requests=2 * settings.max_batch_size,
        max_queued_requests=settings.max_queued_requests,
        ray_actor_options={
            "num_cpus": settings.cpus_per_replica,
            "num_gpus": settings.gpus_per_replica,
        },
    ).bind(arguments.storage, settings)
    app: serve.Application = Ingress.options(  # type: ignore[attr-defined]
        max_ongoing_requests=settings.max_queued_requests,
        ray_actor_options={"num_cpus": 0.5},
    ).bind(classifier, settings)
    return app
