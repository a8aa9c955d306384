"""What Ray Serve says of an application, and what is refused before it is asked for anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray
from support.answering import answering

from raypose import config
from raypose.errors import ResourceError, UsageError
from raypose.serving import described
from raypose.serving.remote import Endpoint
from raypose.serving.rest import why

HASH = "0" * 64
ROOM = "Deployment 'Endpoint' has 2 replicas that have taken more than 30s to be scheduled."


@pytest.mark.parametrize(
    ("status", "message", "of_parts", "expected"),
    [
        ("DEPLOYING", "", [ROOM], ROOM),
        ("DEPLOYING", "", [None, ROOM], ROOM),
        ("DEPLOYING", "of the whole", [ROOM], "of the whole"),
        ("DEPLOY_FAILED", "failed", [f"{ROOM}\nValueError: broken"], "ValueError: broken"),
        ("DEPLOY_FAILED", "", ["raypose.errors.DataError: torn"], "DataError: torn"),
        ("RUNNING", "", [ROOM], ""),
        ("DEPLOYING", None, [], ""),
    ],
)
def test_why_it_is_as_it_is(
    status: str, message: str | None, of_parts: list[str | None], expected: str
) -> None:
    parts = {str(number): {"message": text} for number, text in enumerate(of_parts)}
    assert why({"status": status, "message": message, "deployments": parts}) == expected


@pytest.fixture
def keyed(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The job server of a cluster whose endpoint asks for keys."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ours: dict[str, Any] = {
        "status": "RUNNING",
        "deployed_app_config": {"args": {"serve": {"keys": {"clinic": HASH}}}},
    }
    said = {
        "version": "4",
        "ray_version": ray.__version__,
        "ray_commit": "",
        "http_options": {"host": "127.0.0.1", "port": 8000},
        "applications": {"raypose": ours},
    }
    with answering(lambda path, size: (200, said)) as server:
        yield server.url
        assert {method for method, _ in server.asked} == {"GET"}


def test_no_deploy_takes_the_keys_away(keyed: str) -> None:
    with pytest.raises(UsageError, match="the endpoint there asks for API keys, and this names"):
        Endpoint(keyed, config.Config()).deploy("postures")


def test_settings_are_shown_and_of_keys_their_names_alone() -> None:
    arguments = {"serve": {"keys": {"b": HASH, "a": HASH}, "limit": "9/minute"}}
    sizes = {"min_replicas": 0, "max_replicas": 3, "target_ongoing_requests": 16}
    told = described.settings_of(
        {"args": arguments, "deployments": [{"autoscaling_config": sizes}]}
    )
    assert told == {
        "keys": ["a", "b"], "limit": "9/minute", "min_replicas": 0, "max_replicas": 3
    }  # fmt: skip


def test_nothing_is_changed_that_could_not_be_followed(
    monkeypatch: pytest.MonkeyPatch, trained: config.Config
) -> None:
    """An endpoint that asks for keys tells what became of an update to who has one alone."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.delenv("RAYPOSE_KEY", raising=False)
    arguments = {"storage": trained.storage, "release": "tiny", "serve": {"keys": {"a": HASH}}}
    ours = {"status": "RUNNING", "deployed_app_config": {"args": arguments}}
    said = {"version": "4", "ray_version": ray.__version__, "ray_commit": ""}
    details = {**said, "applications": {"raypose": ours}}
    with answering(lambda path, _: (401, {}) if path == "/v1/status" else (200, details)) as server:
        asked = config.override(trained, {"serve.url": server.url})
        with pytest.raises(ResourceError, match="wants an API key; set RAYPOSE_KEY to one"):
            Endpoint(server.url, asked).update("tiny:v1")
        assert {method for method, _ in server.asked} == {"GET"}
