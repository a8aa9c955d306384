"""What Ray Serve says of an application, and what is refused before it is asked for anything."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import ray
from support.answering import answering

from raypose import config
from raypose.errors import UsageError
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
