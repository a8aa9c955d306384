from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from raypose import storage
from raypose.errors import RegistryError
from raypose.releases import documents, registry, shelf


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    local = str(tmp_path / "root")
    return local if request.param == "local" else request.getfixturevalue("bucket")


def folder(tmp_path: Path, content: str) -> Path:
    made = tmp_path / f"release-{content}"
    (made / "deep").mkdir(parents=True, exist_ok=True)
    (made / "weights").write_text(content)
    (made / "deep/card.md").write_text("card")
    return made


def test_publish_resolve_promote_roll_back(root: str, tmp_path: Path) -> None:
    one = registry.publish(root, "yoga", folder(tmp_path, "1"))
    two = registry.publish(root, "yoga", folder(tmp_path, "2"))
    assert registry.publish(root, "yoga", folder(tmp_path, "1")) == one
    assert one.version.startswith("v1-")
    assert two.version.startswith("v2-")
    assert registry.resolve(root, "yoga:v1") == one
    assert registry.resolve(root, str(two)) == two
    with pytest.raises(RegistryError, match='alias "production" is not set; run: raypose promote'):
        registry.resolve(root, "yoga")
    registry.promote(root, "yoga:v1")
    assert registry.resolve(root, "yoga") == one
    with pytest.raises(RegistryError, match="has no earlier version to go back to"):
        registry.rollback(root, "yoga")
    registry.promote(root, "yoga:v2")
    registry.promote(root, "yoga:v2")
    assert registry.resolve(root, "yoga@production") == two
    assert registry.rollback(root, "yoga") == one
    assert registry.resolve(root, "yoga") == one
    assert registry.overview(root) == [
        {"release": str(one), "aliases": ["production"]},
        {"release": str(two), "aliases": []},
    ]


def test_who_published_when(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began = datetime.now(UTC).replace(microsecond=0)
    for who in ("anna", "bert"):
        monkeypatch.setenv("RAYPOSE_OWNER", who)
        made = registry.publish(root, "yoga", folder(tmp_path, who))
    again = registry.publish(root, "yoga", folder(tmp_path, "anna"))  # hers already
    rows = {row["release"]: row for row in registry.described(root)}
    assert [row["owner"] for row in rows.values()] == ["anna", "bert"]
    assert all(began <= datetime.fromisoformat(row["at"]) for row in rows.values())
    assert rows[str(again)]["owner"] == "anna"
    storage.write_bytes(storage.join(made.url, "MANIFEST.json"), b"{")  # hides no other
    assert [row["owner"] for row in registry.described(root)] == ["anna", ""]


def test_fetch_gives_the_files_back(root: str, tmp_path: Path) -> None:
    release = registry.publish(root, "yoga", folder(tmp_path, "1"))
    back = registry.fetch(release, tmp_path / "back")
    assert (back / "weights").read_text() == "1"
    assert (back / "deep/card.md").read_text() == "card"
    storage.write_bytes(storage.join(release.url, "weights"), b"changed")
    with pytest.raises(RegistryError, match="weights is not what was published"):
        registry.fetch(release, tmp_path / "again")


def test_a_half_written_release_is_none(root: str, tmp_path: Path) -> None:
    release = registry.publish(root, "yoga", folder(tmp_path, "1"))
    storage.delete_file(storage.join(release.url, "MANIFEST.json"))
    with pytest.raises(RegistryError, match='no release "yoga"'):
        registry.resolve(root, "yoga:v1")
    assert registry.publish(root, "yoga", folder(tmp_path, "1")) == release
    assert registry.resolve(root, "yoga:v1") == release


def test_wrong_references(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")  # beside which there is no x
    with pytest.raises(RegistryError, match="nothing is published there"):
        registry.resolve(root, "yoga")
    registry.publish(root, "yoga", folder(tmp_path, "1"))
    with pytest.raises(RegistryError, match=r'no release "yogi".*did you mean "yoga"'):
        registry.resolve(root, "yogi")
    with pytest.raises(RegistryError, match="yoga:v7: no such version; there are: v1-"):
        registry.resolve(root, "yoga:v7")
    for wrong in ("", "../x", "a/b", "yo ga"):
        with pytest.raises(RegistryError, match="not a name"):
            registry.resolve(root, wrong)
    with pytest.raises(RegistryError, match="not a name"):
        registry.promote(root, "yoga:v1", alias="../../x")


def test_a_manifest_cannot_point_outside(tmp_path: Path) -> None:
    root = str(tmp_path / "root")
    files = {"../evil": storage.sha256(b"x")}
    version = f"v1-{documents.content_of(files)}"  # a stranger can reckon, too
    url = storage.join(root, "releases/yoga/versions", version)
    release = registry.Release("yoga", version, url)
    storage.write_bytes(storage.join(release.url, "../evil"), b"x")
    manifest = documents.Manifest(name="yoga", version=version, files=files)
    storage.write_json(storage.join(url, "MANIFEST.json"), manifest.model_dump(mode="json"))
    with pytest.raises(RegistryError, match="points out of the release"):
        registry.fetch(release, tmp_path / "back")
    assert not (tmp_path / "evil").exists()


def test_a_place_is_a_release(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = registry.publish(root, "yoga", folder(tmp_path, "1"))
    assert release.is_local == (not storage.is_s3(root))
    assert registry.resolve("", release.url) == release
    assert registry.resolve("", f"{release.url}/") == release
    back = registry.fetch(release, tmp_path / "kept/back")
    copy = registry.Release("yoga", release.version, str(back))
    assert copy.is_local
    assert registry.resolve(root, str(back)) == copy
    assert registry.resolve(root, back) == copy
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(back.parent)
    for reference in ("./back", "./back/", "../kept/back", "~/kept/back", "../kept/./back", "back"):
        assert registry.resolve("", reference) == copy
        assert registry.resolve("nowhere", reference) == copy
    monkeypatch.chdir(tmp_path)
    assert registry.resolve("", "kept/back") == copy
    monkeypatch.chdir(back)
    assert registry.resolve("", ".") == copy


def test_a_fetched_copy_is_what_it_was_made_of(root: str, tmp_path: Path) -> None:
    release = registry.publish(root, "yoga", folder(tmp_path, "1"))
    back = registry.fetch(release, tmp_path / "back")
    again = registry.fetch(registry.resolve("", str(back)), tmp_path / "again")
    names = {str(path.relative_to(again)) for path in again.rglob("*") if path.is_file()}
    assert names == {"weights", "deep/card.md", "MANIFEST.json"}
    for name in names:
        assert (again / name).read_bytes() == storage.read_bytes(storage.join(release.url, name))
    assert registry.publish(root, "yoga", again) == release
    (back / "weights").write_text("changed")
    with pytest.raises(RegistryError, match=f"{release}: weights is not what was published"):
        registry.fetch(registry.resolve("", str(back)), tmp_path / "third")


def test_the_registry_wins_over_a_folder_of_that_name(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = registry.publish(root, "yoga", folder(tmp_path, "1"))
    registry.promote(root, "yoga:v1")
    here = tmp_path / "here"
    copy = registry.fetch(release, here / "yoga")
    monkeypatch.chdir(here)
    assert registry.resolve(root, "yoga") == release
    assert registry.resolve(root, "./yoga").url == str(copy)
    other = str(tmp_path / "other")
    registry.publish(other, "boat", folder(tmp_path, "2"))
    assert registry.resolve(other, "yoga").url == str(copy)


def test_a_folder_of_an_older_demo(tmp_path: Path) -> None:
    made = tmp_path / "release"
    (made / "deep").mkdir(parents=True)
    (made / "deep/other").write_text("not of the release")
    (made / "config.json").write_text(json.dumps({"name": "demo", "seed": 3}))
    with pytest.raises(RegistryError, match=r"no release: it lacks MANIFEST\.json"):
        registry.resolve("", str(made))
    (made / "classifier.safetensors").write_text("features")
    found = registry.resolve("", str(made))
    assert found == registry.Release("demo", "local", str(made))
    back = registry.fetch(found, tmp_path / "back")
    assert {path.name for path in back.iterdir()} == {"config.json", "classifier.safetensors"}
    assert (back / "classifier.safetensors").read_text() == "features"
    (made / "config.json").write_text(json.dumps({"name": "../demo"}))
    with pytest.raises(
        RegistryError, match=r"config\.json: not the settings of a release \(name: .*pattern"
    ):
        registry.resolve("", str(made))


def test_places_that_hold_no_release(
    root: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RegistryError, match="yoga: no such folder, and no storage to look in"):
        registry.resolve("", "yoga")
    for absent in ("./none", "/none", "~/none", "none/none"):
        with pytest.raises(RegistryError, match="not a name, and no such folder; give NAME, "):
            registry.resolve("", absent)
    with pytest.raises(RegistryError, match=f"{bucket}/x: no release: it lacks MANIFEST"):
        registry.resolve("", f"{bucket}/x")
    (tmp_path / "demo/release").mkdir(parents=True)
    with pytest.raises(RegistryError) as caught:
        registry.resolve(root, "demo")
    assert str(caught.value) == (
        f'demo: no release "demo" in {root}; nothing is published there; '
        "nor is the folder here: demo: no release: it lacks MANIFEST.json"
    )
    for name in ("config.json", "classifier.safetensors"):
        (tmp_path / "demo/release" / name).write_text('{"name": "demo"}')
    with pytest.raises(RegistryError, match=f"did you mean {tmp_path}/demo/release"):
        registry.resolve("", "./demo")
    with pytest.raises(RegistryError, match="a file, not the folder of a release"):
        registry.resolve("", str(tmp_path / "demo/release/config.json"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "EOF while parsing"),
        ("[]", "Input should be an object"),
        ("\udcff", "Invalid JSON"),
        ('{"format": "raypose-shards/1"}', "format: Input should be 'raypose-release/1'"),
        ("{name}", "version: Field required"),
        ("{version}", "version: String should match pattern"),
        ("{files}", "files.weights: String should match pattern"),
    ],
)
def test_a_malformed_manifest_is_one_line(
    root: str, tmp_path: Path, content: str, reason: str
) -> None:
    release = registry.publish(root, "yoga", folder(tmp_path, "1"))
    place = storage.join(release.url, "MANIFEST.json")
    document = storage.read_json(place)
    changed = {
        "{name}": {key: value for key, value in document.items() if key != "version"},
        "{version}": {**document, "version": "../v1"},
        "{files}": {**document, "files": {"weights": "0"}},
    }.get(content)
    text = json.dumps(changed) if changed else content
    storage.write_bytes(place, text.encode("utf-8", "surrogateescape"))
    for ask in (
        lambda: registry.resolve("", release.url),
        lambda: registry.fetch(release, tmp_path / "back"),
    ):
        with pytest.raises(
            RegistryError, match=rf"MANIFEST\.json: not the manifest of a release \(.*{reason}"
        ) as e:
            ask()
        assert "\n" not in str(e.value)


@pytest.mark.parametrize("document", [{}, {"version": 3}, {"version": "../../x", "at": ""}, []])
def test_a_malformed_alias_is_one_line(root: str, tmp_path: Path, document: object) -> None:
    registry.publish(root, "yoga", folder(tmp_path, "1"))
    place = storage.join(root, "releases/yoga/aliases/production.json")
    storage.write_json(place, document)
    message = r"production\.json: not the alias of a release \(.*and run: raypose promote yoga:V"
    for ask in (
        lambda: registry.resolve(root, "yoga"),
        lambda: registry.promote(root, "yoga:v1"),
    ):
        with pytest.raises(RegistryError, match=message) as caught:
            ask()
        assert "\n" not in str(caught.value)


def test_a_malformed_alias_hides_no_release(
    root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nor those of other names, nor does it keep anyone from publishing."""
    one = registry.publish(root, "yoga", folder(tmp_path, "1"))
    registry.promote(root, "yoga:v1", alias="good")
    other = registry.publish(root, "other", folder(tmp_path, "2"))
    storage.write_bytes(storage.join(root, "releases/yoga/aliases/bad.json"), b"x")
    assert registry.overview(root) == [
        {"release": str(other), "aliases": []},
        {"release": str(one), "aliases": ["good"]},
    ]
    said = capsys.readouterr().err
    assert "left out: " in said
    assert "bad.json: not the alias of a release" in said


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "other"}, "its MANIFEST.json is that of other:v1-"),
        ({"version": "v1-00000000"}, "its MANIFEST.json is that of yoga:v1-00000000"),
        ({"files": {"weights": "0" * 64}}, "are not those that it was named after"),
        ({"files": {}}, "files: Dictionary should have at least 1 item"),
        ({"files": {"x" * 5000: "0" * 64}}, "at most 255 characters"),
        ({"files": {"a\0b": "0" * 64}}, "should match pattern"),
    ],
)
def test_a_manifest_of_something_else_is_refused(
    root: str, tmp_path: Path, changes: dict[str, object], reason: str
) -> None:
    """A version is a hash of its files, so that they can be held against it."""
    release = registry.publish(root, "yoga", folder(tmp_path, "1"))
    place = storage.join(release.url, "MANIFEST.json")
    storage.write_json(place, {**storage.read_json(place), **changes})
    for ask in (
        lambda: registry.fetch(release, tmp_path / "back"),
        lambda: shelf.fetched(release, tmp_path / "shelf"),
    ):
        with pytest.raises(RegistryError, match=reason) as caught:
            ask()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["weights", "MANIFEST.json", "../../aliases/production.json"])
def test_a_pipe_is_not_waited_for(tmp_path: Path, file: str) -> None:
    root = str(tmp_path / "root")
    release = registry.publish(root, "yoga", folder(tmp_path, "1"))
    registry.promote(root, "yoga:v1")
    place = Path(release.url, file)
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(RegistryError, match=r"is no file; delete it|its weights is no file"):
        registry.fetch(registry.resolve(root, "yoga"), tmp_path / "back")


@pytest.mark.parametrize("name", ["yoga:v1", "yoga@production", "yoga@"])
def test_only_an_alias_is_rolled_back(root: str, tmp_path: Path, name: str) -> None:
    registry.publish(root, "yoga", folder(tmp_path, "1"))
    registry.promote(root, "yoga:v1")
    with pytest.raises(RegistryError, match=f"{name}: .*give yoga, and alias=ALIAS"):
        registry.rollback(root, name)


def test_an_alias_of_a_version_that_is_gone(root: str, tmp_path: Path) -> None:
    one = registry.publish(root, "yoga", folder(tmp_path, "1"))
    registry.publish(root, "yoga", folder(tmp_path, "2"))
    registry.promote(root, "yoga:v1")
    storage.delete_folder(one.url)
    with pytest.raises(RegistryError, match=f"points at {one.version}, which is gone; there are"):
        registry.resolve(root, "yoga")
    with pytest.raises(RegistryError, match="not a name"):
        registry.resolve(root, "yoga@../../x")


def test_aliases_belong_to_a_registry(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = registry.publish(root, "yoga", folder(tmp_path, "1"))
    copy = registry.fetch(release, tmp_path / "here/boat")
    for reference in (str(copy), "boat"):
        monkeypatch.chdir(copy.parent)
        with pytest.raises(RegistryError, match=f"lies at {copy}, which is no release of {root}"):
            registry.promote(root, reference)
    for place in (str(copy), "./boat", release.url):
        with pytest.raises(RegistryError, match="a place has no aliases; give the name"):
            registry.rollback(root, place)
    assert registry.overview(root) == [{"release": str(release), "aliases": []}]
    assert registry.promote(root, release.url) == release  # the place of an entry is that entry
    assert registry.resolve(root, "yoga") == release
