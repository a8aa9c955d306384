from __future__ import annotations

from pathlib import Path

import pytest

from raypose import storage
from raypose.errors import RegistryError
from raypose.releases import registry


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


def test_wrong_references(root: str, tmp_path: Path) -> None:
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
    release = registry.publish(root, "yoga", folder(tmp_path, "1"))
    evil = storage.join(release.url, "../evil")
    storage.write_bytes(evil, b"x")
    manifest = storage.read_json(storage.join(release.url, "MANIFEST.json"))
    manifest["files"] = {"../evil": storage.sha256(b"x")}
    storage.write_json(storage.join(release.url, "MANIFEST.json"), manifest)
    with pytest.raises(RegistryError, match="points out of the release"):
        registry.fetch(release, tmp_path / "back")
    assert not (tmp_path / "evil").exists()
