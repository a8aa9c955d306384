"""What all files under cluster/, and the pages about them, have in common."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from packaging.version import Version
from support import kustomize
from support.clusters import (
    CLUSTER,
    FILES,
    FOLDERS,
    FRONT_IMAGE,
    KUBERAY,
    ROOT,
    aws,
    built,
    clusters,
    pinned,
    pods,
    walk,
)
from support.commands import parse, shown

import raypose


def test_one_image_and_one_ray_everywhere() -> None:
    image = f"registry.example.com/raypose:{raypose.__version__}"
    for path in FILES:
        for found in re.findall(r"\S*raypose:\d\S*", path.read_text()):
            assert found in {image, f"raypose:{raypose.__version__}"}, path
    assert aws()["docker"]["image"] == image
    for folder in FOLDERS:
        found = {
            container["image"]
            for each in built(folder)
            for pod in pods(each)
            for container in pod["containers"]
        }
        assert found == {image, FRONT_IMAGE}
        assert {each["rayVersion"] for each in clusters(folder)} == {pinned("ray")}
    assert Version(pinned("ray")) >= Version("2.60")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CLUSTER)))
def test_files_hold_no_secret_and_open_no_door(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|eyJ[\w-]{20}", text)
    assert not re.search(r"RAY_AUTH_TOKEN=|SECRET_ACCESS_KEY: *\S|auth_token: *\S", text)
    assert "LoadBalancer" not in text
    assert "NodePort" not in text
    if path.suffix == ".yaml" and path.name != "aws-account.yaml":
        for each in yaml.safe_load_all(text):
            for inner in each if isinstance(each, list) else [each]:
                assert inner.get("kind") not in {"Secret", "Ingress"}
                if inner.get("kind") == "Service":
                    assert inner["spec"]["type"] == "ClusterIP"


def commands() -> list[str]:
    """Return each raypose command in cluster/ and in the pages about it."""
    found = [
        line
        for page in ("cluster-aws.md", "cluster-kubernetes.md")
        for line in shown((ROOT / "docs" / page).read_text())
    ]
    documents = [each for path in KUBERAY.rglob("*.yaml") for each in kustomize.documents(path)]
    documents.append(yaml.safe_load((CLUSTER / "aws.yaml").read_text()))
    within = [list(each.values()) if isinstance(each, dict) else each for each in walk(documents)]
    for text in (one for values in within for one in values if isinstance(one, str)):
        parts = re.split(r"[;&|>]+", text)
        words = [part.strip().removeprefix("nohup ") for part in parts]
        found += [word for word in words if word.startswith("raypose ")]
    return sorted(set(found))


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line: str) -> None:
    parse(line)


def test_pages_name_files_and_objects_that_there_are() -> None:
    for page in ("cluster-aws.md", "cluster-kubernetes.md"):
        text = (ROOT / "docs" / page).read_text()
        for path in re.findall(r"(?<![\w/])cluster/[\w./-]+", text):
            assert (ROOT / path.rstrip("./")).exists(), path
        for name in re.findall(r"(?:service|raycluster|rayservice|job|rayjob)[/ ]([a-z-]+)", text):
            if name.endswith("-svc"):
                assert name in {"train-head-svc", "raypose-serve-svc"}, name
        assert f"raypose:{raypose.__version__}" in text
        assert page in (ROOT / "docs/index.md").read_text()
