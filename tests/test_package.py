"""What is installed: one package, with all that it reads, and light without extras."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from support.patience import PATIENCE_S

from raypose.releases import registry

BLOCKER = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Blocker())
"""
RUN = "import sys; from raypose.cli.main import main; sys.exit(main())"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def required(wanted: list[str], found: set[str]) -> set[str]:
    """The distributions of some requirements, without extras, and all that these need."""
    for line in wanted:
        name = normal(re.split(r"[^\w.-]", line)[0])
        if "extra ==" in line or name in found:
            continue
        found.add(name)
        try:
            required(metadata.requires(name) or [], found)
        except metadata.PackageNotFoundError:  # for another system or Python
            continue
    return found


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of an install without extras: nothing else can be imported."""
    (info,) = wheel.glob("*.dist-info")
    allowed = required(metadata.PathDistribution(info).requires or [], {"raypose"})
    assert "torch" not in allowed
    blocked = {
        module
        for module, owners in metadata.packages_distributions().items()
        if not allowed & {normal(owner) for owner in owners}
    }
    assert {"torch", "ray", "open_clip", "moto", "matplotlib"} <= blocked
    folder = tmp_path_factory.mktemp("base")
    (folder / "sitecustomize.py").write_text(f"BLOCKED = {blocked!r}\n{BLOCKER}")
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{wheel}"}


def command(base: dict[str, str], folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", RUN, *words]
    return subprocess.run(
        line, env=base, cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def names(wheel: Path) -> Iterator[str]:
    for path in wheel.rglob("*"):
        if path.is_file():
            yield path.relative_to(wheel).as_posix()


def test_the_wheel_holds_one_package_with_all_it_reads(wheel: Path) -> None:
    found = set(names(wheel))
    tops = {name.partition("/")[0] for name in found}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"raypose"}
    for name in ("synthetic12", "work", "yoga66", "yoga82"):
        assert f"raypose/captions/taxonomies/{name}.yaml" in found
    for path in (Path(__file__).parents[1] / "jobs/recipes").glob("*.yaml"):
        assert (wheel / "raypose/recipes" / path.name).read_bytes() == path.read_bytes()
    assert "raypose/py.typed" in found


def test_a_base_install_packs_and_looks_things_over(
    base: dict[str, str], pictures: Path, tmp_path: Path
) -> None:
    folder, _ = tmp_path / "release", (tmp_path / "release").mkdir()
    (folder / "metrics.json").write_text("{}")
    release = registry.publish(str(tmp_path / "store"), "yoga", folder)
    for words, expected in (
        (["--help"], "raypose: recognise human postures"),
        (["taxonomy", "init", str(pictures / "train")], "Tree_Pose"),
        (["taxonomy", "check", "yoga82"], "yoga82: 82 classes"),
        (["captions", "check", "words", "taxonomy=work"], "holds for"),
        (["captions", "sample", "photo", "taxonomy=synthetic12"], "a photo of a person in"),
        (["shards", "build", str(pictures / "val"), "val"], "packed 36 pictures of 12 classes"),
        (["shards", "verify", "val"], "val: whole; 36 pictures"),
        (["shards", "dedupe", "val"], "pictures in"),
        (["shards", "show", "val", "out=look.html"], "look.html"),
        (["synthesize", "drawn", "per_class=1", "taxonomy=synthetic12"], "drew 12 pictures"),
        (["releases", "storage=store"], str(release)),
        (["promote", f"{release}", "storage=store"], "yoga@production is"),
    ):
        done = command(base, tmp_path, *words)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


def test_what_wants_an_extra_names_it(base: dict[str, str], pictures: Path, tmp_path: Path) -> None:
    assert command(base, tmp_path, "shards", "build", str(pictures / "val"), "val").returncode == 0
    recipe = tmp_path / "r.yaml"
    recipe.write_text("data: {train: val, taxonomy: synthetic12}\n")
    for words, extra in ((["train", "r.yaml"], "train"), (["demo"], "demo")):
        done = command(base, tmp_path, *words)
        assert done.returncode == 1
        lines = done.stderr.strip().splitlines()
        assert re.fullmatch(rf"\w+ is not installed: pip install 'raypose\[{extra}\]'", lines[-1])


def test_wings_are_imported_without_what_is_heavy(base: dict[str, str], wheel: Path) -> None:
    wings = [path.parent.name for path in (wheel / "raypose").glob("*/__init__.py")]
    code = f"import {', '.join(f'raypose.{wing}' for wing in wings)}"
    subprocess.run([sys.executable, "-c", code], env=base, check=True)
