"""What operators do to an endpoint, and what happens to it, while it is asked again and again.

Replicas that classify in processes of their own: nothing that is done here may cost a request.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import ImageOps
from ray import serve as ray_serve
from support import loads
from support.patience import until
from support.pictures import encoded, photo
from support.processes import descendants
from support.variants import altered, broken, promoted

from raypose import config, serving
from raypose.config import Config
from raypose.releases import registry
from raypose.serving import app, described

PICTURES = [encoded(photo()), encoded(ImageOps.mirror(photo()))]
CLASSIFIER = "ray::ServeReplica:raypose:Classifier"
INGRESS = "ray::ServeReplica:raypose:Ingress"
SETTINGS = {
    "serve.port": 0,
    "serve.processes": "two",
    "serve.poll_s": 0.5,
    "serve.cpus_per_replica": 0.25,
    "serve.min_replicas": 2,
    "serve.max_replicas": 2,
}


@pytest.fixture(scope="module")
def living(own: Config) -> Iterator[serving.Endpoint]:
    with serving.running(config.override(own, SETTINGS), "tiny@production") as endpoint:
        yield endpoint


def statuses(endpoint: serving.Endpoint) -> list[dict[str, Any]]:
    """Return what both replicas say, once they do."""

    def both() -> Any:
        answer = httpx.get(f"{endpoint.url}/v1/status", timeout=60)
        found = answer.json()["replicas"] if answer.status_code == 200 else []
        return found if len(found) == 2 else None

    found: list[dict[str, Any]] = until(both)
    return found


def going(endpoint: serving.Endpoint, **how: Any) -> Any:
    return loads.going(f"{endpoint.url}/v1/classify", PICTURES, **how)


def ended(pids: list[int]) -> bool:
    """Whether these processes are gone: one that was killed stays a moment in lists."""
    return not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_a_classifier_that_is_killed_costs_no_request(
    living: serving.Endpoint, campaign_round: int
) -> None:
    with going(living) as load:
        load.wait(20)
        (first, *_), before = descendants(CLASSIFIER), len(descendants(CLASSIFIER))
        os.kill(first, signal.SIGKILL)
        load.wait(60)
        until(lambda: ended([first]) and len(descendants(CLASSIFIER)) == before)
        load.wait(20)
    assert load.failed() == []


def test_an_ingress_that_is_killed_costs_nothing_to_those_who_ask_again(
    living: serving.Endpoint, campaign_round: int
) -> None:
    with going(living, retries=6) as load:
        load.wait(20)
        (first, *_), before = descendants(INGRESS), len(descendants(INGRESS))
        os.kill(first, signal.SIGKILL)
        load.wait(60)
        until(lambda: ended([first]) and len(descendants(INGRESS)) == before)
        load.wait(20)
    assert load.failed() == []


def test_an_ingress_that_hands_on_holds_no_torch(living: serving.Endpoint) -> None:
    """Nor once it has answered: it starts sooner, and holds less."""
    for _ in range(10):
        answer = httpx.post(f"{living.url}/v1/classify", content=PICTURES[0], timeout=60)
        assert answer.status_code == 200
    holds = {
        name: {"libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in descendants(name)}
        for name in (INGRESS, CLASSIFIER)
    }
    assert holds == {INGRESS: {False}, CLASSIFIER: {True}}


def test_a_release_that_is_promoted_is_taken_by_all(
    living: serving.Endpoint, own: Config, campaign_round: int
) -> None:
    first = registry.resolve(own.storage, "tiny")
    other = altered(own.storage, first, note="living")
    pids = descendants(CLASSIFIER)
    with going(living) as load:
        load.answers(str(first))
        with promoted(own.storage, str(other)):
            until(lambda: {each["release"] for each in statuses(living)} == {str(other)})
            load.answers(str(other))
        until(lambda: {each["release"] for each in statuses(living)} == {str(first)})
    assert load.failed() == []
    named = {each.text.partition('"release":"')[2].partition('"')[0] for each in load.asked}
    assert named == {str(first), str(other)}
    assert descendants(CLASSIFIER) == pids  # no process was started for it


def test_a_broken_release_is_refused_by_all(
    living: serving.Endpoint, own: Config, campaign_round: int
) -> None:
    first = registry.resolve(own.storage, "tiny")
    bad = broken(own.storage, first, turn=2)
    until(lambda: not living.news() and bool(living.settled))
    said: list[str] = []
    with going(living) as load:
        with promoted(own.storage, str(bad)):
            until(lambda: all(str(bad) in each["refused"] for each in statuses(living)))
            until(lambda: bool(said.extend(living.news()) or said))
            load.wait(20)
    assert load.failed() == []
    assert [line.partition(": ")[0] for line in said] == [f"{bad} is refused"]
    assert not any(str(bad) in each.text for each in load.asked)
    for each in statuses(living):
        assert "are not what was published" in each["refused"][str(bad)]
        assert each["release"] == str(first)


def test_who_has_nothing_new_to_say_is_not_asked(
    living: serving.Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To be asked is a request, and keeps an endpoint from its rest."""
    until(lambda: not living.news() and bool(living.settled))

    def refuse(*_: object) -> None:
        raise AssertionError("replicas are asked")

    monkeypatch.setattr(ray_serve, "get_deployment_handle", refuse)
    assert living.news() == []


def test_ten_times_too_many(living: serving.Endpoint, own: Config) -> None:
    """Those it takes wait for a bounded time; the rest are told at once; then all is as before."""
    tight = {**SETTINGS, "serve.max_queued_requests": 8, "serve.max_batch_size": 4}
    settings = config.override(own, tight).serve
    arguments = app.Arguments(storage=own.storage, release="tiny", serve=settings)
    ray_serve.run(app.build(arguments), name=described.APP, route_prefix="/")
    statuses(living)
    load = loads.sent(f"{living.url}/v1/classify", PICTURES, 600, num_clients=160)
    assert set(load.counts()) <= {200, 503}
    assert load.counts()[200] > 0
    refused = [each for each in load.asked if each.status == 503]
    assert refused
    assert all("too many requests" in each.text or "backpressure" in each.text for each in refused)
    after = loads.sent(f"{living.url}/v1/classify", PICTURES, 20, num_clients=2)
    assert after.counts() == {200: 20}
