"""The endpoint on a cluster, by Ray Serve's REST interface: it outlives who put it there.

Serve knows one configuration, of all applications; ours is changed within it, and others' stay.
Where a change fails, what was there before is put back, which Serve does not do by itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import requests

from raypose.config import Config, ServeConfig
from raypose.console import one_line, status
from raypose.errors import ConflictError, EndpointError, ResourceError, UsageError
from raypose.releases import registry
from raypose.serving.described import document, options_of, reference_of, settings_of
from raypose.serving.figures import totals
from raypose.serving.rest import (
    FAILED,
    OVERTAKEN,
    PERIOD_S,
    Rest,
    answers,
    check_ours,
    deployed,
    holds,
    is_running,
    ours_in,
    why,
)

__all__ = ["KEY", "Endpoint", "Seen"]

KEY = "RAYPOSE_KEY"
"""In the environment: an API key, for an endpoint that asks for one."""
ANSWER_S = 10.0
UNDER_WAY = ("NOT_STARTED", "DEPLOYING")
"""Words of Serve for what has not run, or for a change of what runs."""


@dataclass(frozen=True)
class Seen:
    """What is known of an endpoint.

    Attributes:
        state: Serve's word, in small letters: running, deploying, deploy_failed …
        message: why.
        release: what it was asked to answer with.
        storage: where that lies.
        replicas: of each its deployment, id, node, state; and, where the endpoint was reached, what
            it answers with: see `worker.Worker.status`.
        url: where it answers; empty where that was not seen from here.
        releases: of each that answers its figures over all replicas: see `figures.totals`.
        settings: of `serve`, as far as they were given; of keys their names alone.
    """

    state: str
    message: str
    release: str
    storage: str
    replicas: list[dict[str, Any]]
    url: str
    releases: dict[str, dict[str, Any]]
    settings: dict[str, Any]


class Endpoint:
    """The endpoint of a cluster.

    Args:
        address: of the cluster's job server, which Serve's REST interface is part of.
        config: says where clients reach the endpoint.

    Raises:
        ResourceError: where nobody answers there.
    """

    def __init__(self, address: str, config: Config) -> None:
        self.rest = Rest(address, config.cluster.max_wait_s)
        self.config = config
        self.trouble = ""
        self.wants_key = False

    @property
    def address(self) -> str:
        """Of the cluster's job server."""
        return self.rest.client.address

    @property
    def url(self) -> str:
        """Where it is reached: `serve.url`, else the job server's host at the port of Serve."""
        if self.config.serve.url:
            return self.config.serve.url
        known = (self.rest.details().get("http_options") or {}).get("port")
        host = urlsplit(self.address).hostname
        return f"http://{host}:{known or self.config.serve.port}"

    def deploy(self, reference: str) -> Seen:
        """Put the endpoint on the cluster, or change it; return when it answers with a real 200.

        Raises:
            EndpointError: where it does not come up; what was there before is put back.
            UsageError: where it would take the keys away from one that asks for them.
            ResourceError: where Serve says that it runs, and it is not reached from here.
        """
        made = document(self.config, reference)
        (application,) = made.pop("applications")
        found = self.rest.details()
        self._check_open(found)
        self._check_keys(found)
        _target(application)
        self._change(application, made, follows=True)
        return self.status()

    def update(self, reference: str) -> Seen:
        """Answer with another release, or follow another alias; no process is started anew.

        Raises:
            EndpointError: where a replica refuses it; what was there before is put back.
            ResourceError: where the endpoint asks for an API key, and there is none: what replicas
                make of it would not be seen; nothing is changed.
        """
        application = self.rest.application()
        registry.resolve(application["args"]["storage"], reference)
        if self._told_by_replicas() is None and self.wants_key:
            raise ResourceError(f"{self.trouble}, so that it is seen whether replicas take this")
        named = options_of(application)
        # the moment makes it another configuration, so that what was refused is looked at again
        named["user_config"] = {"release": reference, "asked_at": time.time()}
        self._change(application, follows=True)
        return self.status()

    def scale(self, least: int | None, most: int | None) -> Seen:
        """Set how many replicas there are at least and at most; those that serve go on.

        Raises:
            UsageError: for less at most than at least.
            EndpointError: where they do not come up.
        """
        application = self.rest.application()
        settings = ServeConfig.model_validate(application["args"].get("serve", {}))
        named = options_of(application)
        known = named.get("autoscaling_config") or {}
        low = known.get("min_replicas", settings.min_replicas) if least is None else least
        high = known.get("max_replicas", settings.max_replicas) if most is None else most
        if most is None and low > high:
            status(f"max={high} becomes {low}, as there are to be no fewer")
            high = low
        if least is None:
            low = min(low, high)
        if low > high:
            raise UsageError(f"min={low} is more than max={high}")
        sizes = {"min_replicas": low, "max_replicas": high}
        goal = {"target_ongoing_requests": settings.max_batch_size}
        named["autoscaling_config"] = {**goal, **known, **sizes}
        self._change(application)
        return self.status()

    def delete(self) -> None:
        """Take the endpoint off the cluster; requests that it holds are answered first."""
        self.rest.application()
        self.rest.put(None)
        self.rest.wait(lambda found: not ours_in(found), "is still being deleted")

    def status(self) -> Seen:
        """Return what is known of it."""
        found = self.rest.ours()
        application = found["deployed_app_config"] or {"args": {}}
        replicas = [
            {
                "deployment": deployment["name"],
                "replica": replica["replica_id"],
                "node": replica.get("node_id") or "",
                "state": replica["state"].lower(),
            }
            for deployment in found["deployments"].values()
            for replica in deployment["replicas"]
        ]
        told = self._told_by_replicas()
        for replica in replicas:
            replica.update((told or {}).get(replica["replica"], {}))
        return Seen(
            state=found["status"].lower(),
            message=why(found) or (self.trouble if told is None else ""),
            release=reference_of(application),
            storage=application["args"].get("storage", ""),
            replicas=replicas,
            url=self.url if told is not None or self.wants_key else "",
            releases=totals(replicas),
            settings=settings_of(application),
        )

    def logs(self) -> dict[str, str]:
        """Return replica → the end of its log."""
        found = self.rest.ours()
        logs = {}
        for deployment in found["deployments"].values():
            for replica in deployment["replicas"]:
                path = (replica.get("log_file_path") or "").lstrip("/")
                if path:
                    logs[f"{deployment['name']} {replica['replica_id']}"] = self.rest.log(
                        replica["node_id"], path
                    )
        return logs

    def _change(
        self,
        application: dict[str, Any],
        options: Mapping[str, Any] | None = None,
        *,
        follows: bool = False,
    ) -> None:
        """Put a configuration and wait until it is in force; where it fails, the last one again.

        One that another overtakes is left as the other made it.

        Args:
            application: ours.
            options: of Serve as a whole.
            follows: wait until replicas answer with what it names, too.
        """
        before = ours_in(self.rest.details())
        self.rest.told = why(before)  # of the change before this one
        self.rest.put(application, options)
        put = deployed(self.rest.wait(deployed, "was not taken"))  # with what Serve adds to it
        if not holds(put, application):
            raise ConflictError(OVERTAKEN)
        try:
            self._settled(put, follows=follows)
        except EndpointError as error:
            raise EndpointError(f"{error}{self._put_back(before, put, options)}") from None

    def _put_back(
        self,
        before: Mapping[str, Any],
        put: Mapping[str, Any],
        options: Mapping[str, Any] | None,
    ) -> str:
        """Put what Serve had of ours before again, where that ran; return what to say of it."""
        last = before.get("deployed_app_config")
        if not last or last == put:
            return ""
        if before["status"] == FAILED or (before["status"] in UNDER_WAY and not answers(before)):
            return "; what was there before did not run yet either, and is not put back"
        self.rest.put(last, options)
        try:
            self.rest.wait(is_running, "does not run")
        except EndpointError:
            return "; what was there before was put back, and does not run yet"
        return "; what was there before is back"

    def _check_open(self, details: Mapping[str, Any]) -> None:
        """Refuse a Serve that runs already and listens for others, where there are no keys."""
        found = (details.get("http_options") or {}).get("host")
        if found:
            self.config.serve.model_copy(update={"host": found}).check_open()

    def _check_keys(self, details: Mapping[str, Any]) -> None:
        """Refuse to put what answers anyone in the place of what asks for API keys."""
        had = (deployed(details).get("args") or {}).get("serve") or {}
        if (had.get("keys") or had.get("keys_env")) and not self.config.serve.has_keys:
            raise UsageError(
                "the endpoint there asks for API keys, and this names none, so that anyone might "
                "ask: give serve.keys or serve.keys_env again, or raypose endpoint delete first"
            )

    def _settled(self, application: Mapping[str, Any], *, follows: bool) -> None:
        """Wait until the application runs, and answers with what it names where that is asked.

        Raises:
            EndpointError: saying why it does not.
            ConflictError: where another was put in its place meanwhile.
        """
        self.rest.wait(is_running, "does not run", application)
        deadline = time.monotonic() + self.config.cluster.max_wait_s
        while follows:
            told, wanted = self._told_by_replicas(), _target(application)
            if told is None:
                release = self._release(deadline)
                if release is None:
                    raise ResourceError(f"the endpoint runs, as Serve says, but {self.trouble}")
                if self.wants_key and release == wanted:
                    status(f"{self.trouble}, for what each replica says")
                    return
            _check_refused(told or {}, wanted)
            if told and all(each.get("release") == wanted for each in told.values()):
                return
            if time.monotonic() > deadline:
                raise EndpointError(f"{self.url}: replicas do not take {wanted}")
            time.sleep(PERIOD_S)
            check_ours(self.rest.details(), application)

    def _release(self, deadline: float) -> str | None:
        """Wait for a 200 and return the release that anyone is told of; None where there is none.

        Just after a start there may be a while of other answers.
        """
        last = min(deadline, time.monotonic() + 3 * ANSWER_S)
        while time.monotonic() < last:
            try:
                answer = requests.get(f"{self.url}/healthz", timeout=ANSWER_S)
                if answer.status_code == requests.codes.ok:
                    return str(answer.json()["release"])
            except (ValueError, LookupError, TypeError):  # of something else that listens there
                return ""
            except requests.RequestException:
                pass
            time.sleep(PERIOD_S)
        return None

    def _told_by_replicas(self) -> dict[str, dict[str, Any]] | None:
        """Return replica → what it says of itself; None where the endpoint is not reached."""
        key = os.environ.get(KEY, "").strip()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        url, self.wants_key = self.url, False
        try:
            answer = requests.get(f"{url}/v1/status", headers=headers, timeout=ANSWER_S)
            self.wants_key = answer.status_code == requests.codes.unauthorized
            if self.wants_key:
                self.trouble = f"{url} wants an API key; set {KEY} to one"
                return None
            answer.raise_for_status()
            return {each["replica"]: each for each in answer.json()["replicas"]}
        except (requests.RequestException, ValueError, LookupError, TypeError):
            self.trouble = f"{url} is not reached from here; say where by serve.url=http://…"
            return None


def _check_refused(told: Mapping[str, Mapping[str, Any]], wanted: str) -> None:
    for replica, each in told.items():
        why = each.get("refused", {}).get(wanted)
        if why:
            raise EndpointError(f"{wanted} is refused by replica {replica}: {one_line(why)}")


def _target(application: Mapping[str, Any]) -> str:
    """Return name and version of what replicas are to answer with by now."""
    return str(registry.resolve(application["args"]["storage"], reference_of(application)))
