"""The shelf of a node, where many fetch and tidy up at once."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from raypose import storage
from raypose.releases import documents, shelf
from raypose.releases.registry import MANIFEST, Release

FILES = ("README.md", "a.bin", "b.bin")


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> list[Release]:
    """More small ones than stay on a shelf."""
    root = tmp_path_factory.mktemp("registry")
    made = []
    for number in range(shelf.KEPT + 3):
        content = f"release {number}".encode()
        files = dict.fromkeys(FILES, storage.sha256(content))
        version = f"v{number + 1}-{documents.content_of(files)}"
        release = Release("tiny", version, f"{root}/{number}")
        folder = Path(release.url)
        folder.mkdir()
        for name in FILES:
            (folder / name).write_bytes(content)
        document = {
            "format": "raypose-release/1", "name": release.name, "version": version,
            "files": files,
        }  # fmt: skip
        (folder / MANIFEST).write_text(json.dumps(document))
        made.append(release)
    return made


@pytest.mark.parametrize("turn", range(12))
def test_what_was_used_last_stays_however_many_tidy_up(
    releases: list[Release], tmp_path: Path, turn: int
) -> None:
    """Else a process loads from a folder that another has just deleted."""
    place = tmp_path / "shelf"

    def fetch(number: int) -> Path:
        return shelf.fetched(releases[number % len(releases)], place)

    with ThreadPoolExecutor(4) as pool:
        fetched = set(pool.map(fetch, range(6 * len(releases))))
    left = [folder for folder in fetched if folder.exists()]
    assert len(left) >= shelf.KEPT
    whole = {*FILES, MANIFEST}
    assert all({path.name for path in folder.iterdir()} == whole for folder in left)
    known = {path.name for path in place.iterdir() if path.suffix != ".lock"}
    assert known == {folder.name for folder in left}  # nothing half there
    assert len(list(place.glob("*.lock"))) <= shelf.KEPT + 4  # one for each that fetched beside
