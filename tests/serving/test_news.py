"""What `raypose serve` says of releases while it runs: what replicas say, and only while they may.

The replicas are workers here, which look when they are told to; Ray Serve is not asked.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.variants import altered, broken

from raypose import config, storage
from raypose.config import Config
from raypose.errors import CheckpointError
from raypose.releases import registry
from raypose.releases.registry import Release
from raypose.serving import endpoint
from raypose.serving.endpoint import Endpoint
from raypose.serving.worker import Worker


class Here(Endpoint):
    """Two replicas that follow production, and a canary."""

    workers: tuple[Worker, ...] = ()
    num_asked = 0

    def _asked(self) -> list[dict[str, Any]]:
        self.num_asked += 1
        return [each.status() for each in self.workers]

    def look(self) -> None:
        for each in self.workers:
            each.main.look()
            if each.canary:
                each.canary.look()

    def settle(self) -> list[str]:
        """Have all look; what is said then, with which all is said."""
        self.look()
        news = self.news()
        before = self.num_asked
        assert (self.news(), self.num_asked) == ([], before)
        return news


@pytest.fixture
def root(trained: Config, bucket: str, tmp_path: Path) -> str:
    first = registry.resolve(trained.storage, "tiny")
    registry.publish(bucket, "tiny", registry.fetch(first, tmp_path / "first"))
    registry.promote(bucket, "tiny:v1")
    return bucket


@pytest.fixture
def first(root: str) -> Release:
    return registry.resolve(root, "tiny")


@pytest.fixture
def here(trained: Config, root: str, first: Release) -> Here:
    settings = config.override(trained, {"serve.canary": "next", "serve.poll_s": 3600.0}).serve
    follows = {"release": ("tiny", "production"), "canary": ("tiny", "next")}
    made = Here("http://127.0.0.1:8000", str(first), "Classifier", root, follows)

    async def begun() -> tuple[Worker, ...]:
        workers = Worker(root, settings), Worker(root, settings)
        for each in workers:
            await each.point("tiny")
        return workers

    made.workers = asyncio.run(begun())
    (said,) = made.news()
    assert said.startswith("tiny@next cannot be read, and what answers stays: ")
    return made


def test_a_canary_that_is_promoted_is_told_again(here: Here, root: str, first: Release) -> None:
    """That all replicas hold it as canary says nothing of those who answer with it."""
    other = altered(root, first, note="canary")
    registry.promote(root, str(other), alias="next")
    told = ["tiny@next can be read again", f"{other} is answered with, as canary"]
    assert here.settle() == told
    registry.promote(root, str(other))
    assert here.news() == []
    assert here.settle() == [f"{other} is answered with"]


def test_what_lacks_a_file_is_told_once_it_is_taken(here: Here, root: str, first: Release) -> None:
    other = altered(root, first, note="mirrored")
    place = storage.join(other.url, "classifier.safetensors")
    content = storage.read_bytes(place)
    storage.delete_file(place)
    registry.promote(root, str(other))
    here.look()
    (said,) = here.news()
    assert said.startswith(f"{other} is refused: classifier.safetensors: not found")
    storage.write_bytes(place, content)
    assert here.settle() == [f"{other} is answered with"]


def test_what_is_broken_is_told_once(here: Here, root: str, first: Release) -> None:
    bad = broken(root, first)
    registry.promote(root, str(bad))
    (said,) = here.settle()
    assert said.startswith(f"{bad} is refused: ")
    assert here.settle() == []


def test_the_last_that_is_told_is_what_answers(here: Here, root: str, first: Release) -> None:
    """An alias goes to and fro while replicas are behind."""
    here.settle()
    other = altered(root, first, note="other")
    registry.promote(root, str(other))
    here.look()
    registry.rollback(root, "tiny")
    registry.promote(root, str(first))
    registry.promote(root, str(other))
    assert here.news() == [f"{other} is answered with"]
    registry.rollback(root, "tiny")
    assert here.news() == []
    assert here.settle() == [f"{first} is answered with"]


def test_replicas_that_are_gone_are_no_news(here: Here, root: str, first: Release) -> None:
    other = altered(root, first, note="other")
    workers, here.workers = here.workers, ()
    registry.promote(root, str(other))
    assert here.news() == []
    here.workers = workers
    assert here.settle() == [f"{other} is answered with"]


def test_an_alias_that_cannot_be_read_is_told_once(here: Here, root: str) -> None:
    place = storage.join(root, "releases/tiny/aliases/production.json")
    content = storage.read_bytes(place)
    storage.write_bytes(place, b"[")
    (said,) = here.settle()
    assert said.startswith("tiny@production cannot be read, and what answers stays: ")
    assert here.settle() == []
    storage.write_bytes(place, content)
    assert here.settle() == ["tiny@production can be read again"]


def test_a_pinned_release_that_is_broken_is_named(root: str, first: Release) -> None:
    bad = broken(root, first)
    with pytest.raises(CheckpointError, match=rf"^{bad}: "):
        endpoint._proven(root, str(bad))
