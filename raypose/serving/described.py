"""The endpoint as a document of Ray Serve's: what a configuration file, KubeRay and REST carry.

Only what differs from the defaults is in it. `args` are `app.Arguments`; nothing here needs Ray.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from raypose import disks
from raypose.config import Config, ServeConfig
from raypose.releases import references

__all__ = [
    "APP",
    "HAPROXY",
    "IMPORT_PATH",
    "application",
    "autoscaling",
    "document",
    "haproxy_in",
    "http_options",
    "model",
    "options_of",
    "proxied",
    "reference_of",
    "settings_of",
]

APP = "raypose"
IMPORT_PATH = "raypose.serving.app:build"
OF_THIS_SIDE = {"url", "port", "proxy", "proxies"}
"""Keys of `serve` that are of Serve as a whole, or of the one who deploys."""
HAPROXY = "RAY_SERVE_ENABLE_HA_PROXY"
HAPROXY_SETTING = "RAY_SERVE_HAPROXY"
FILES = {
    "CONFIG_FILE_LOC": "haproxy.cfg",
    "SOCKET_PATH": "admin.sock",
    "SERVER_STATE_BASE": "",
    "SERVER_STATE_FILE": "server-state",
    "METRICS_SOCKET_PATH": "metrics.sock",
}


GRACE_S = 5.0
"""Beyond our own time limit, whose answer is a line of JSON."""
KEEP_ALIVE_S = 65
"""Longer than the 60 s after which balancers before it close a connection: none is closed under a
request."""


@contextmanager
def proxied(settings: ServeConfig) -> Iterator[None]:
    """Have Serve take connections by HAProxy where that is asked for: before Ray is imported.

    Its files and the ports of its figures are this process's own, unless the environment names
    others: what another left behind is in nobody's way.
    """
    if settings.proxy != "haproxy":
        yield
        return
    os.environ[HAPROXY] = "1"
    # a replica that is to go waits this long for proxies on other nodes to hear of it
    os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "2")
    for name in ("METRICS_PORT", "STATS_PORT"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            os.environ.setdefault(f"{HAPROXY_SETTING}_{name}", str(probe.getsockname()[1]))
    folder = Path(tempfile.mkdtemp(prefix="rp-", dir="/tmp"))  # names of sockets have to be short
    try:
        haproxy_in(folder)
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def haproxy_in(folder: Path) -> None:
    """Have HAProxy, where Serve is to use it, keep its files in a folder that is the user's alone.

    Its sockets are open to all who reach them, and who does may command it.

    Raises:
        StorageError: where the folder is somebody else's.
    """
    disks.make_own(folder)
    for name, file in FILES.items():
        os.environ.setdefault(f"{HAPROXY_SETTING}_{name}", str(folder / file))


def application(config: Config, reference: str) -> dict[str, Any]:
    """Return the application for a release, as Serve's schema has it.

    Args:
        config: says where releases lie, and all of `serve`.
        reference: NAME, NAME@ALIAS or NAME:VERSION, or a place that every node can see.

    Raises:
        ConfigError: where others could reach it without a key.
        RegistryError: where the reference is none.
    """
    config.serve.check_open()
    reference = references.formed(reference)
    settings = config.serve.model_dump(mode="json", exclude_defaults=True, exclude=OF_THIS_SIDE)
    arguments: dict[str, Any] = {"storage": config.storage, "release": reference}
    if settings:
        arguments["serve"] = settings
    # said here, and not by `build` alone, so that a later change of it leaves replicas as they are
    sizes = {"name": model(config.serve), "autoscaling_config": autoscaling(config.serve)}
    return {
        "name": APP,
        "route_prefix": "/",
        "import_path": IMPORT_PATH,
        "args": arguments,
        "deployments": [sizes],
    }


def model(settings: ServeConfig) -> str:
    """Return the name of the deployment that classifies."""
    return "Ingress" if settings.in_one_process else "Classifier"


def autoscaling(settings: ServeConfig) -> dict[str, Any]:
    """Return how Serve grows and shrinks it."""
    return {
        "min_replicas": settings.min_replicas,
        "max_replicas": max(settings.min_replicas, settings.max_replicas),
        "target_ongoing_requests": settings.max_batch_size,
    }


def document(config: Config, reference: str) -> dict[str, Any]:
    """Return the whole configuration of a Serve that holds nothing but the endpoint."""
    return {
        "proxy_location": "HeadOnly" if config.serve.proxies == "head" else "EveryNode",
        "http_options": http_options(config),
        "logging_config": {"enable_access_log": False},
        "applications": [application(config, reference)],
    }


def http_options(config: Config) -> dict[str, Any]:
    """Return where Serve listens, and how long it waits; our own limits come first."""
    return {
        "host": config.serve.host,
        "port": config.serve.port,
        "request_timeout_s": config.serve.request_timeout_s + GRACE_S,
        "keep_alive_timeout_s": KEEP_ALIVE_S,
    }


def options_of(application: dict[str, Any]) -> dict[str, Any]:
    """Return what a configuration says of the deployment that classifies, to be changed."""
    known = application.setdefault("deployments", [])
    name = model(ServeConfig.model_validate(application["args"].get("serve", {})))
    for each in known:
        if each["name"] == name:
            return cast(dict[str, Any], each)
    known.append({"name": name})
    return cast(dict[str, Any], known[-1])


def settings_of(application: Mapping[str, Any]) -> dict[str, Any]:
    """Return what an endpoint was deployed with, other than the defaults, and its size."""
    given = dict(application["args"].get("serve") or {})
    for deployment in application.get("deployments") or []:
        sizes = deployment.get("autoscaling_config") or {}
        given |= {key: sizes[key] for key in ("min_replicas", "max_replicas") if key in sizes}
    if "keys" in given:
        given["keys"] = sorted(given["keys"])
    return given


def reference_of(application: Mapping[str, Any]) -> str:
    """Return the reference that replicas were given."""
    for each in application.get("deployments") or []:
        if (each.get("user_config") or {}).get("release"):
            return str(each["user_config"]["release"])
    arguments = application["args"]
    follow = (arguments.get("serve") or {}).get("follow", "")
    return references.through(str(arguments.get("release", "")), follow)
