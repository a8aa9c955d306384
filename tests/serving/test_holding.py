"""What a replica takes, what it refuses, and what stays meanwhile."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from support.pictures import encoded, photo
from support.variants import altered, broken, promoted, without

from raypose import config, storage
from raypose.config import Config
from raypose.errors import CheckpointError, RayposeError, RegistryError, StorageError
from raypose.releases import golden, registry, shelf
from raypose.releases.predictor import Predictor
from raypose.serving import endpoint, holding
from raypose.serving.figures import UNPROVEN
from raypose.serving.holding import Holder
from raypose.serving.http import why
from raypose.serving.worker import Worker

PICTURE = encoded(photo())


@pytest.fixture
def mine(trained: Config, bucket: str, tmp_path: Path) -> Config:
    """A registry of the test's own, with a release in production."""
    first = registry.resolve(trained.storage, "tiny")
    registry.publish(bucket, "tiny", registry.fetch(first, tmp_path / "first"))
    registry.promote(bucket, "tiny:v1")
    return config.override(trained, {"storage": bucket, "serve.poll_s": 0.1})


def held(holder: Holder) -> str:
    return holder.held.release if holder.held else ""


def test_an_alias_is_followed_and_a_version_is_not(mine: Config) -> None:
    first = registry.resolve(mine.storage, "tiny")
    second = altered(mine.storage, first, note="second")
    following, pinned = (Holder(mine.storage, mine.serve) for _ in range(2))
    following.point("tiny")
    pinned.point(str(first))
    assert (following.follows, pinned.follows) == ("tiny@production", "")
    registry.promote(mine.storage, str(second))
    for holder in (following, pinned):
        holder.look()
    assert (held(following), held(pinned)) == (str(second), str(first))
    registry.rollback(mine.storage, "tiny")
    following.look()
    assert held(following) == str(first)


def test_what_is_broken_is_refused_by_name(mine: Config) -> None:
    first = registry.resolve(mine.storage, "tiny")
    holder = Holder(mine.storage, mine.serve)
    holder.point("tiny@production")
    mixed = broken(mine.storage, first)
    lacking = without(mine.storage, first, "taxonomy.json")
    torn = altered(mine.storage, first, note="torn")
    storage.write_bytes(storage.join(torn.url, "open_clip_model.safetensors"), b"torn")
    reasons = {
        mixed: "are not what was published",
        lacking: "not a whole release",
        torn: "open_clip_model.safetensors is not what was published",
    }
    for release, reason in reasons.items():
        registry.promote(mine.storage, str(release))
        holder.look()
        assert held(holder) == str(first)
        assert reason in holder.refused[str(release)]
        assert "\n" not in holder.refused[str(release)]
        assert "/" not in holder.refused[str(release)]  # nor where it lies, here or on S3
    good = altered(mine.storage, first, note="good")
    registry.promote(mine.storage, str(good))
    holder.look()
    assert held(holder) == str(good)


def test_a_release_that_would_prove_itself_by_what_is_no_number_is_refused(mine: Config) -> None:
    first = registry.resolve(mine.storage, "tiny")
    for value in (float("nan"), float("inf")):
        bad = broken(mine.storage, first, logits=value)
        holder = Holder(mine.storage, mine.serve)
        with pytest.raises(RegistryError, match=r"golden\.safetensors: of another form"):
            holder.point(str(bad))


def test_a_disk_that_is_full_bans_no_release(mine: Config) -> None:
    first = registry.resolve(mine.storage, "tiny")
    other = altered(mine.storage, first, note="later")
    full = [True]

    def load(release: registry.Release, settings: config.ServeConfig) -> holding.Held:
        if full and release == other:
            raise OSError(28, "No space left on device")
        return holding.loaded(release, settings)

    holder = Holder(mine.storage, mine.serve, load=load)
    holder.point("tiny")
    registry.promote(mine.storage, str(other))
    holder.look()
    assert (held(holder), holder.refused) == (str(first), {})
    assert "No space left on device" in holder.trouble
    full.clear()
    holder.look()
    assert (held(holder), holder.trouble) == (str(other), "")


def test_a_canary_is_of_the_name_that_is_served_and_may_come_later(
    mine: Config, tmp_path: Path
) -> None:
    first = registry.resolve(mine.storage, "tiny")
    registry.publish(mine.storage, "other", registry.fetch(first, tmp_path / "copy"))
    registry.promote(mine.storage, "other:v1")

    async def run() -> None:
        settings = mine.serve.model_copy(update={"canary": "next", "poll_s": 0.05})
        worker = Worker(mine.storage, settings)
        await worker.point("tiny")
        found = worker.status()
        assert (found["canary"], 'alias "next" is not set' in found["trouble"]) == ("", True)
        registry.promote(mine.storage, "tiny:v1", alias="next")
        while not (found := worker.status())["canary"]:
            await asyncio.sleep(0.05)
        assert (found["canary"], found["trouble"]) == (str(first), "")
        assert (found["follows"], found["canary_follows"]) == ("tiny@production", "tiny@next")
        await worker.point("other")
        assert worker.status()["canary"] == ""

    asyncio.run(run())


def test_a_refused_release_is_not_loaded_again_and_again(mine: Config) -> None:
    first = registry.resolve(mine.storage, "tiny")
    tries: list[str] = []

    def load(release: registry.Release, settings: config.ServeConfig) -> holding.Held:
        tries.append(str(release))
        return holding.loaded(release, settings)

    holder = Holder(mine.storage, mine.serve, load=load)
    holder.point("tiny")
    bad = broken(mine.storage, first)
    with promoted(mine.storage, str(bad)):
        for _ in range(3):
            holder.look()
    assert tries == [str(first), str(bad)]


def test_a_replica_that_starts_at_a_broken_release_takes_the_one_before(mine: Config) -> None:
    first = registry.resolve(mine.storage, "tiny")
    bad = broken(mine.storage, first)
    registry.promote(mine.storage, str(bad))
    holder = Holder(mine.storage, mine.serve)
    holder.point("tiny")
    assert held(holder) == str(first)
    assert str(bad) in holder.refused
    alone = Holder(mine.storage, mine.serve)
    with pytest.raises(RegistryError, match="are not what was published"):
        alone.point(str(bad))


def test_a_replica_that_starts_takes_the_last_that_is_good(mine: Config) -> None:
    """However many that are not were promoted after it."""
    first = registry.resolve(mine.storage, "tiny")
    bad = [broken(mine.storage, first, turn=turn) for turn in (1, 2, 3)]
    for release in bad:
        registry.promote(mine.storage, str(release))
    told: list[str] = []
    holder = Holder(mine.storage, mine.serve, tell=told.append)
    holder.point("tiny")
    assert held(holder) == str(first)
    assert {*holder.refused} == {str(release) for release in bad}
    assert f"{bad[0]} is refused, too; starting with {first}, which was there before" in told


def test_a_laptop_starts_with_the_last_that_is_good_too(mine: Config) -> None:
    first = registry.resolve(mine.storage, "tiny")
    bad = [broken(mine.storage, first, turn=turn) for turn in (1, 2)]
    for release in bad:
        registry.promote(mine.storage, str(release))
    assert endpoint._proven(mine.storage, "tiny") == first
    with pytest.raises(CheckpointError, match="are not what was published"):
        endpoint._proven(mine.storage, str(bad[0]))  # a version is what it is


def test_trouble_is_told_once(mine: Config) -> None:
    first = registry.resolve(mine.storage, "tiny")
    later = altered(mine.storage, first, note="unread")
    told: list[str] = []

    def load(release: registry.Release, settings: config.ServeConfig) -> holding.Held:
        if release == later:
            raise StorageError("does not answer")
        return holding.loaded(release, settings)

    holder = Holder(mine.storage, mine.serve, load=load, tell=told.append)
    holder.point("tiny")
    with promoted(mine.storage, str(later)):
        for _ in range(3):
            holder.look()
            assert holder.trouble == f"{later}: does not answer"
    holder.look()
    assert holder.trouble == ""
    assert told == [f"{first} is answered with", f"{later}: does not answer"]


def test_what_has_no_golden_pictures_is_said_to_be_unproven(mine: Config) -> None:
    first = registry.resolve(mine.storage, "tiny")
    bare = without(mine.storage, first, golden.FILE)
    told: list[str] = []

    async def run() -> tuple[bool, bool]:
        worker = Worker(mine.storage, mine.serve, tell=told.append)
        await worker.point(str(bare))
        unproven = worker.status()["proven"]
        await worker.point(str(first))
        return unproven, worker.status()["proven"]

    assert asyncio.run(run()) == (False, True)
    assert f"{bare} is answered with, {UNPROVEN}" in told


def test_an_answer_that_is_no_number_is_refused_and_spoils_nothing(mine: Config) -> None:
    async def run() -> None:
        worker = Worker(mine.storage, mine.serve)
        await worker.point("tiny")
        assert worker.main.held
        good = worker.main.held.predictor.classifier.clone()
        worker.main.held.predictor.classifier.fill_(float("nan"))
        with pytest.raises(CheckpointError, match="the model's answer is no number") as error:
            await worker.classify(PICTURE)
        refused = why(error.value, mine.serve)
        assert (refused.status, refused.response().status_code) == (500, 500)
        worker.main.held.predictor.classifier.copy_(good)
        await worker.classify(PICTURE)
        (figures,) = worker.status()["releases"].values()
        assert figures["answers"] == 1
        json.dumps(worker.status(), allow_nan=False)

    asyncio.run(run())


def test_storage_that_does_not_answer_changes_nothing(
    mine: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = Holder(mine.storage, mine.serve)
    holder.point("tiny")
    before = held(holder)
    alias = storage.join(mine.storage, "releases/tiny/aliases/production.json")
    content = storage.read_bytes(alias)
    storage.write_bytes(alias, b"{")
    holder.look()
    assert held(holder) == before
    assert "production.json" in holder.trouble
    storage.write_bytes(alias, content)
    holder.look()
    assert holder.trouble == ""


def test_a_request_is_answered_by_one_release(mine: Config) -> None:
    """Also where another is taken while it is decoded; what a canary says bears its name."""
    first = registry.resolve(mine.storage, "tiny")
    other = altered(mine.storage, first, note="canary")
    registry.promote(mine.storage, str(other), alias="next")

    async def run(share: float) -> tuple[set[str], dict[str, int]]:
        settings = mine.serve.model_copy(update={"canary": "next", "canary_share": share})
        worker = Worker(mine.storage, settings)
        await worker.point("tiny")
        answers = await asyncio.gather(*(worker.classify(PICTURE) for _ in range(40)))
        found = worker.status()
        assert found["canary"] == str(other)
        counts = {name: each["answers"] for name, each in found["releases"].items()}
        return {answer.release for answer in answers}, counts

    named, counts = asyncio.run(run(0.5))
    assert named == {str(first), str(other)}
    assert sum(counts.values()) == 40
    assert asyncio.run(run(0.0)) == ({str(first)}, {str(first): 40})


def test_a_canary_that_is_broken_gets_nothing(mine: Config) -> None:
    first = registry.resolve(mine.storage, "tiny")
    bad = broken(mine.storage, first)
    registry.promote(mine.storage, str(bad), alias="next")

    async def run() -> None:
        settings = mine.serve.model_copy(update={"canary": "next", "canary_share": 1.0})
        told: list[str] = []
        worker = Worker(mine.storage, settings, tell=told.append)
        await worker.point("tiny")
        assert (await worker.classify(PICTURE)).release == str(first)
        found = worker.status()
        assert (list(found["canary_refused"]), found["refused"]) == ([str(bad)], {})
        assert [line for line in told if line.startswith(f"canary: {bad} is refused: ")]

    asyncio.run(run())


def test_a_release_is_fetched_once_and_checked_each_time(mine: Config, tmp_path: Path) -> None:
    first = registry.resolve(mine.storage, "tiny")
    folder = shelf.fetched(first, tmp_path / "shelf")
    assert golden.prove(Predictor.load(folder, device="cpu"), folder)
    whole = (folder / "classifier.safetensors").read_bytes()
    url = storage.join(first.url, "classifier.safetensors")
    storage.write_bytes(url, b"changed meanwhile")
    assert shelf.fetched(first, tmp_path / "shelf") == folder  # it is not read again
    (folder / "classifier.safetensors").write_bytes(b"written over")
    with pytest.raises(RegistryError, match=r"classifier\.safetensors is not what was published"):
        shelf.fetched(first, tmp_path / "shelf")
    storage.write_bytes(url, whole)
    assert (shelf.fetched(first, tmp_path / "shelf") / url.split("/")[-1]).read_bytes() == whole


def test_a_shelf_that_others_can_write_to_is_not_used(mine: Config, tmp_path: Path) -> None:
    first = registry.resolve(mine.storage, "tiny")
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(RayposeError, match="is not this user's alone"):
        shelf.fetched(first, tmp_path / "open")


def test_old_releases_leave_the_shelf(mine: Config, tmp_path: Path) -> None:
    first = registry.resolve(mine.storage, "tiny")
    for number in range(shelf.KEPT + 2):
        last = shelf.fetched(altered(mine.storage, first, note=str(number)), tmp_path / "shelf")
        shelf.beside(last).mkdir()
    left = [path for path in (tmp_path / "shelf").iterdir() if path.is_dir()]
    assert len(left) == 2 * shelf.KEPT
    assert {last, shelf.beside(last)} <= {*left}
    locks = {path.with_suffix("") for path in (tmp_path / "shelf").glob("*.lock")}
    assert {*left} == locks | {shelf.beside(path) for path in locks}


def test_a_file_that_comes_later_makes_a_release_whole(mine: Config) -> None:
    """As where a store is mirrored: first the alias, then one file after another."""
    first = registry.resolve(mine.storage, "tiny")
    later = altered(mine.storage, first, note="mirrored")
    told: list[str] = []
    holder = Holder(mine.storage, mine.serve, tell=told.append)
    holder.point("tiny@production")
    registry.promote(mine.storage, str(later))
    for name in ("taxonomy.json", "MANIFEST.json"):
        place = storage.join(later.url, name)
        content = storage.read_bytes(place)
        storage.delete_file(place)
        for _ in range(3):
            holder.look()
        assert held(holder) == str(first)
        assert f"{name}: not found" in holder.refused[str(later)]
        storage.write_bytes(place, content)
    holder.look()
    assert (held(holder), holder.refused) == (str(later), {})
    assert [line for line in told if line.startswith(f"{later} is refused")] == [
        f"{later} is refused: {name}: not found; check the path"
        for name in ("taxonomy.json", "MANIFEST.json")
    ]


def test_a_file_that_comes_torn_is_not_waited_for(mine: Config) -> None:
    first = registry.resolve(mine.storage, "tiny")
    later = altered(mine.storage, first, note="torn")
    tried: list[registry.Release] = []

    def load(release: registry.Release, settings: config.ServeConfig) -> holding.Held:
        tried.append(release)
        return holding.loaded(release, settings)

    holder = Holder(mine.storage, mine.serve, load=load)
    holder.point("tiny@production")
    registry.promote(mine.storage, str(later))
    place = storage.join(later.url, "taxonomy.json")
    storage.delete_file(place)
    holder.look()
    storage.write_bytes(place, b"torn")
    for _ in range(3):
        holder.look()
    assert "taxonomy.json is not what was published" in holder.refused[str(later)]
    assert tried == [first, later, later]
