"""The rules of the house that a tool can hold: style, types, layers, sizes."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for name in ("raypose", "serve") for path in ROOT.glob(f"{name}/**/*.py"))


@pytest.mark.parametrize(
    "command",
    [["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"], ["lint-imports"]],
    ids=" ".join,
)
def test_tools_find_nothing(command: list[str]) -> None:
    tool = Path(sys.executable).with_name(command[0])
    done = subprocess.run(
        [tool, *command[1:]], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_small(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            body = node.end_lineno - node.lineno + 1
            assert body <= 60, f"{path.name}: {node.name} has {body} lines"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_names_are_listed(path: Path) -> None:
    tree = ast.parse(path.read_text())
    definitions = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, definitions) and not node.name.startswith("_")
    }
    listed = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
    ]
    if path.name != "__init__.py":
        assert listed, f"{path.name} has no __all__"
        assert set(listed[0]) <= defined | {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        } | {
            alias.name
            for block in tree.body
            if isinstance(block, ast.With)  # in which a library is loaded in a way of our own
            for node in block.body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }


HOMES = {
    "ray.data": {"raypose/data/reader.py"},
    "ray.train": {"raypose/training/workers.py"},
    "ray.tune": {f"raypose/tuning/{name}.py" for name in ("callbacks", "study", "trial")},
    "ray.serve": {f"raypose/serving/{name}.py" for name in ("app", "endpoint", "http")},
    "open_clip": {"raypose/clip/libraries.py"},
    "timm": {"raypose/clip/libraries.py"},
}
"""Library → the files that may import it."""


def imported(path: Path) -> set[str]:
    """Modules that a file imports by their full names, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def test_each_library_has_one_home() -> None:
    for library, homes in HOMES.items():
        users = {
            str(path.relative_to(ROOT))
            for path in SOURCES
            if any(f"{name}.".startswith(f"{library}.") for name in imported(path))
        }
        assert users == homes, library


@pytest.mark.parametrize("folder", sorted(ROOT.glob("raypose/*/")), ids=lambda path: path.name)
def test_wings_say_what_they_are_for(folder: Path) -> None:
    if folder.name == "__pycache__":
        return
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text()))
    assert text, folder
    assert f"{folder.name}/" in (ROOT / "docs/architecture.md").read_text()


def test_pages_link_to_what_is_there() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]
    assert len(pages) >= 6
    for page in pages:
        for path in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / path).exists(), f"{page.name}: {path}"


def test_constraints_hold_names_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(line.count("==") == 1 and "://" not in line for line in lines)
    assert {"torch==2.14.1", "torchvision==0.29.1"} <= set(lines)
