"""What a request is refused for before its picture is looked at, and how refusals are told.

Annotations are kept as objects here, as in `app`.
"""

import asyncio
import logging
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send

from raypose.config import ServeConfig
from raypose.errors import BadPicture, CheckpointError
from raypose.serving.batches import Full
from raypose.serving.guard import Guard
from raypose.serving.room import NoRoom, Share

__all__ = ["DOWN", "GONE", "Refused", "body", "check", "check_key", "made", "why"]

GONE = (RayActorError, DeploymentUnavailableError)
"""What a call raises whose replica died, or where there is none."""
DOWN = (*GONE, RayTaskError, BackPressureError, TimeoutError)
"""The same, and of one that does not answer."""
HOT = ("POST", "/v1/classify")
UNREAD = (408, 413)
"""Refusals while the body is still to come: the connection ends with them."""
logger = logging.getLogger("ray.serve")


class Refused(Exception):  # noqa: N818  no error of ours: the request is
    """A request that gets no posture.

    Args:
        status: of HTTP.
        message: one line: what is wrong, and what to do.
        retry_after_s: when to come again.
        closes: whether the connection ends with it, as where the body is still to come.
    """

    def __init__(
        self, status: int, message: str, *, retry_after_s: float = 0.0, closes: bool = False
    ) -> None:
        super().__init__(message)
        self.status, self.retry_after_s = status, retry_after_s
        self.closes = closes or status in UNREAD

    def response(self) -> JSONResponse:
        """Return the answer."""
        after = self.retry_after_s or (1.0 if self.status == 503 else 0.0)
        headers = {"Retry-After": str(math.ceil(after))} if after else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.closes:
            headers["Connection"] = "close"
        return JSONResponse({"error": str(self)}, status_code=self.status, headers=headers)


def made() -> FastAPI:
    """Return an application without routes, whose every refusal is one line of JSON."""
    api = FastAPI(title="raypose", docs_url="/docs", redoc_url=None, redirect_slashes=False)
    api.add_middleware(Hot)
    api.add_exception_handler(HTTPException, _no_route)
    api.add_exception_handler(Refused, _refused)
    return api


class Hot:
    """Takes pictures to classify past FastAPI's routes, whose way costs as much as decoding one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request: see ASGI."""
        if scope["type"] == "http" and (scope["method"], scope["path"]) == HOT:
            ingress: Any = serve.get_replica_context().servable_object
            answer = await ingress.classify(Request(scope, receive))
            await answer(scope, receive, send)
        else:
            await self.app(scope, receive, send)


async def _refused(_: Request, error: Exception) -> JSONResponse:
    """Answer what a route refuses."""
    assert isinstance(error, Refused)
    return error.response()


async def _no_route(_: Request, error: Exception) -> JSONResponse:
    """Answer where there is no such place, or it takes no such method."""
    assert isinstance(error, HTTPException)
    where = "pictures go to POST /v1/classify, and /docs says what there is"
    answer = Refused(error.status_code, f"{error.detail.lower()}; {where}").response()
    answer.headers.update(error.headers or {})  # which methods there are
    return answer


def check_key(request: Request, guard: Guard) -> str:
    """Return whose key a request bears: see `Guard.client`.

    Raises:
        Refused: where it bears none that is known.
    """
    client = guard.client(request.headers)
    if client is None:
        raise Refused(401, "no valid API key; send it as Authorization: Bearer KEY")
    return client


def check(request: Request, guard: Guard, settings: ServeConfig) -> None:
    """Refuse a picture by its headers alone.

    Raises:
        Refused: saying why.
    """
    headers = request.headers
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > settings.max_body_bytes:
        raise _too_large(settings)  # first: of every other refusal the body is still taken in
    wait_s = guard.wait_s(check_key(request, guard))
    if wait_s:
        message = f"more than {settings.limit} requests; try again in {wait_s} s"
        raise Refused(429, message, retry_after_s=wait_s)
    if headers.get("content-encoding", "").strip().lower() not in ("", "identity"):
        raise Refused(415, "send the picture as it is, without Content-Encoding")
    if headers.get("content-type", "").strip().lower().startswith("multipart/"):
        raise Refused(415, "send the picture's bytes as the body, not a form")


async def body(request: Request, settings: ServeConfig, share: Share | None = None) -> bytes:
    """Read a picture's bytes.

    Args:
        request: whose body they are.
        settings: limits.
        share: of the room for bodies, which they are held in; by default there is room for all.

    Raises:
        Refused: where they are none, too many, or do not come.
        ClientDisconnect: where the client leaves.
    """
    parts, size = [], 0
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            async for part in request.stream():
                size += len(part)
                if size > settings.max_body_bytes:
                    raise _too_large(settings)
                if share:
                    share.add(len(part))
                parts.append(part)
    except TimeoutError:
        limit = settings.body_timeout_s
        raise Refused(408, f"the body did not come whole within {limit:g} s; send less") from None
    except NoRoom:
        message = "too many large bodies are held; try again, or send smaller pictures"
        raise Refused(503, message, closes=True) from None
    if not size:
        raise Refused(400, "body is empty; send the bytes of one picture")
    return b"".join(parts)


def _with_a_cure(text: str, cure: str) -> str:
    """Return what is wrong with what to do, where that is not in it."""
    return text if ";" in text else f"{text}; {cure}"


def _too_large(settings: ServeConfig) -> Refused:
    limit = settings.max_body_bytes
    return Refused(413, f"picture is larger than {limit} bytes; send a smaller one")


def why(error: Exception, settings: ServeConfig) -> Refused:
    """Return what a client is told of an error; what is none of its doing goes into the log."""
    match error:
        case Refused():
            return error
        case BadPicture():
            return Refused(400, _with_a_cure(str(error), "send another picture"))
        case CheckpointError():  # of the release that was asked
            return Refused(500, str(error))
        case Full():
            return Refused(503, str(error), retry_after_s=error.retry_after_s)
        case BackPressureError():
            return Refused(503, "too many requests are waiting; try again")
        case _ if isinstance(error, GONE):
            return Refused(503, "the classifier is restarting; try again")
        case TimeoutError():
            return Refused(503, f"no answer within {settings.request_timeout_s:g} s; try again")
        case ClientDisconnect():
            return Refused(499, "the client left")
    logger.error("a picture was not classified", exc_info=error)
    return Refused(500, "the classifier failed; see its log")
