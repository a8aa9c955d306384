"""Ray Serve by its REST interface: one configuration of all applications, of which ours is one."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, cast

from raypose.console import one_line, status
from raypose.errors import ConflictError, EndpointError, NotFoundError
from raypose.runtime.jobs import Client
from raypose.serving.described import APP

__all__ = [
    "FAILED",
    "OVERTAKEN",
    "PERIOD_S",
    "Rest",
    "answers",
    "check_ours",
    "deployed",
    "holds",
    "is_running",
    "ours_in",
    "why",
]

FAILED = "DEPLOY_FAILED"
"""Serve's word for a configuration that came to nothing."""
PERIOD_S = 0.5
"""Between looks at what changes."""
OVERTAKEN = (
    "the endpoint: another change came after this one, and is in force; raypose endpoint status "
    "shows it"
)
APPLICATIONS = "/api/serve/applications/"
LOG_LINES = "1000"


class Rest:
    """What is asked of the Serve of a cluster.

    Args:
        address: of the cluster's job server, which Serve's REST interface is part of.
        max_wait_s: for what Serve does.

    Raises:
        ResourceError: where nobody answers there.

    Attributes:
        told: the last that Serve said while it was waited for; it is not said again.
    """

    def __init__(self, address: str, max_wait_s: float) -> None:
        self.client = Client(address)
        self.max_wait_s = max_wait_s
        self.told = ""

    def details(self) -> dict[str, Any]:
        """Return what Serve says of itself and of each application."""
        return cast(dict[str, Any], self.client.request("GET", APPLICATIONS).json())

    def ours(self) -> dict[str, Any]:
        """Return what Serve says of our application.

        Raises:
            NotFoundError: where it is not there.
        """
        found = ours_in(self.details())
        if not found:
            raise NotFoundError(
                f"{self.client.address}: has no endpoint of raypose; raypose deploy makes one"
            )
        return found

    def application(self) -> dict[str, Any]:
        """Return the configuration that our application was deployed by, to be changed.

        Raises:
            NotFoundError: where there is none.
        """
        application = self.ours()["deployed_app_config"]
        if not application:
            raise NotFoundError(
                f"{self.client.address}: the endpoint there was not put by a configuration; "
                "raypose deploy replaces it"
            )
        return copy.deepcopy(cast(dict[str, Any], application))

    def put(
        self, application: dict[str, Any] | None, options: Mapping[str, Any] | None = None
    ) -> None:
        """Put a configuration of ours, or none; what others have stays.

        Args:
            application: ours.
            options: of Serve as a whole, where it does not run yet.
        """
        details = self.details()
        others = [
            each["deployed_app_config"]
            for name, each in details["applications"].items()
            if name != APP and each.get("deployed_app_config")
        ]
        kept = {k: details[k] for k in ("proxy_location", "http_options") if details.get(k)}
        ours = [application] if application else []
        body = {**(options or {}), **kept, "applications": [*others, *ours]}
        self.client.request("PUT", APPLICATIONS, body=body)

    def wait(
        self,
        done: Callable[[dict[str, Any]], object],
        lasts: str,
        application: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Wait for what Serve says of the applications, and return it.

        Args:
            done: takes what it says.
            lasts: what it is that takes long.
            application: ours, as it was put, where it is to stay that.

        Raises:
            EndpointError: where ours has failed, or takes too long.
            ConflictError: where another was put in its place meanwhile.
        """
        deadline = time.monotonic() + self.max_wait_s
        while True:
            found = self.details()
            if application:
                check_ours(found, application)
            if done(found):
                return found
            ours = ours_in(found)
            message = why(ours)
            if ours.get("status") == FAILED:
                raise EndpointError(f"the endpoint was not deployed: {message}")
            if message and message != self.told:
                self.told = message
                status(message)
            if time.monotonic() > deadline:
                raise EndpointError(f"the endpoint {lasts}: {message or 'see endpoint status'}")
            time.sleep(PERIOD_S)

    def log(self, node: str, path: str) -> str:
        """Return the end of a replica's log."""
        answer = self.client.request(
            "GET", "/api/v0/logs/file", node_id=node, filename=path, lines=LOG_LINES
        )
        text: str = answer.text
        return text.removeprefix("1")  # Ray's mark of a stream that is whole


def ours_in(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Serve says of our application, out of all; empty where it is not there."""
    return found["applications"].get(APP) or {}


def why(application: Mapping[str, Any]) -> str:
    """Return what Serve says of an application: of a replica that failed its error alone."""
    if application.get("status") == "RUNNING":
        return _short(application.get("message"))
    of_parts = [part.get("message") for part in (application.get("deployments") or {}).values()]
    for text in of_parts:
        lines = [line.strip() for line in (text or "").splitlines()]
        errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b.*:", line)]
        if errors:
            return one_line(errors[-1][:500]).removeprefix("raypose.errors.")
    # of replicas that find no room deployments alone tell
    return next(filter(None, map(_short, [application.get("message"), *of_parts])), "")


def _short(text: str | None) -> str:
    return one_line(" ".join((text or "").split())[:300])


def is_running(found: dict[str, Any]) -> bool:
    """Tell whether our application runs."""
    return ours_in(found).get("status") == "RUNNING"


def answers(application: Mapping[str, Any]) -> bool:
    """Tell whether anything of an application runs, whatever becomes of the rest."""
    return any(
        replica["state"] == "RUNNING"
        for deployment in (application.get("deployments") or {}).values()
        for replica in deployment["replicas"]
    )


def deployed(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of ours that Serve goes by; empty where there is none."""
    return ours_in(found).get("deployed_app_config") or {}


def check_ours(found: Mapping[str, Any], application: Mapping[str, Any]) -> None:
    """Refuse a configuration of ours that is not as it was put.

    Raises:
        ConflictError: where it is not.
    """
    if deployed(found) != application:
        raise ConflictError(OVERTAKEN)


def holds(found: Any, asked: Any) -> bool:
    """Tell whether a document says all that another does."""
    if isinstance(asked, Mapping):
        return isinstance(found, Mapping) and all(
            key in found and holds(found[key], value) for key, value in asked.items()
        )
    if isinstance(asked, list):
        return len(found) == len(asked) and all(map(holds, found, asked))
    return bool(found == asked)
