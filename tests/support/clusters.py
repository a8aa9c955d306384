"""What the files under cluster/ hold, read once for their tests."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from support import kustomize

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERAY = CLUSTER / "kuberay"
FOLDERS = ["base", "overlays/dev", "overlays/prod"]
FILES = sorted(path for path in CLUSTER.rglob("*") if path.is_file())
AWS = CLUSTER / "aws.yaml"
DOCKERFILE = (CLUSTER / "Dockerfile").read_text()
FRONT_IMAGE = "haproxy:3.2.24-alpine"
DRIVERS = {"raypose.io/role": "driver"}
TRAINERS = {"raypose.io/role": "trainer", "ray.io/market-type": "spot"}


@functools.cache
def built(folder: str) -> list[dict[str, Any]]:
    return kustomize.build(KUBERAY / folder)


def one(kind: str, folder: str = "base", *, name: str = "") -> dict[str, Any]:
    (found,) = [
        each
        for each in built(folder)
        if each["kind"] == kind and name in ("", each["metadata"]["name"])
    ]
    return copy.deepcopy(found)


def pinned(package: str) -> str:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return next(line.partition("==")[2] for line in lines if line.startswith(f"{package}=="))


def walk(value: Any) -> Iterator[Any]:
    """Yield a value and all within it."""
    yield value
    for each in value.values() if isinstance(value, dict) else value:
        if isinstance(each, dict | list):
            yield from walk(each)


def pods(found: Any) -> list[dict[str, Any]]:
    """Return the specifications of pods in an object."""
    return [each for each in walk(found) if isinstance(each, dict) and "containers" in each]


def clusters(folder: str) -> list[dict[str, Any]]:
    return [
        one("RayCluster", folder)["spec"],
        one("RayService", folder)["spec"]["rayClusterConfig"],
    ]


def aws() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(AWS.read_text())
    return found
