"""cluster/Dockerfile: what goes in, with which versions, and who runs it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.clusters import (
    CLUSTER,
    DOCKERFILE,
    ROOT,
    aws,
)


def instructions(text: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with what follows each, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(word, " ".join(rest.split())) for word, rest in pairs]


def test_hadolint_finds_nothing() -> None:
    tool = Path(sys.executable).with_name("hadolint")
    if not tool.exists():
        pytest.skip("hadolint is not installed: it has no wheel for every machine")
    done = subprocess.run(
        [tool, CLUSTER / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_image_is_made_of_what_is_here() -> None:
    found = instructions(DOCKERFILE)
    bases = [rest for word, rest in found if word == "FROM"]
    assert all(re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", base) for base in bases)
    let_in = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()
    copied = {each for word, rest in found if word == "COPY" for each in rest.split()[:-1]}
    assert copied == let_in
    assert all((ROOT / each).exists() for each in copied)
    assert not any(word in {"ADD", "ENTRYPOINT"} for word, _ in found)


def test_the_image_holds_the_versions_that_were_tested() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    runs = [rest for word, rest in instructions(DOCKERFILE) if word == "RUN"]
    installs = re.findall(r"pip install ([^&]+)", " && ".join(runs))
    assert installs
    for words in map(shlex.split, installs):
        assert words[words.index("-c") + 1] == "constraints.txt"
        assert "--upgrade" not in words
    (ours,) = re.findall(r"'\.\[([\w,]+)\]'", DOCKERFILE)
    assert {"serve", "cluster"} <= set(ours.split(",")) <= set(extras)
    assert any(Requirement(each).name == "ray" for each in extras["cluster"])


def test_the_image_runs_as_nobody_and_fetches_nothing() -> None:
    found = dict(instructions(DOCKERFILE))  # the last of each word counts
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", found["USER"])
    assert "/api/healthz" in found["HEALTHCHECK"]
    assert found["CMD"] == '["raypose", "--help"]'
    assert "RAY_AUTH_MODE=token" in found["ENV"]
    starting = [
        found["CMD"],
        *aws()["head_start_ray_commands"],
        *aws()["worker_start_ray_commands"],
    ]
    assert not any(re.search(r"\b(pip|apt|curl|wget|git)\b", line) for line in starting)


def requirements(wanted: Requirement, seen: set[tuple[str, str]]) -> None:
    """Add what a package needs, installed here, with the extra by which it is asked for."""
    for extra in wanted.extras or {""}:
        if (canonicalize_name(wanted.name), extra) in seen:
            continue
        seen.add((canonicalize_name(wanted.name), extra))
        for text in metadata.requires(wanted.name) or ():
            each = Requirement(text)
            if each.marker is None or each.marker.evaluate({"extra": extra}):
                requirements(each, seen)


def test_all_that_the_image_installs_has_a_version() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    known = {canonicalize_name(line.partition("==")[0]) for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    seen: set[tuple[str, str]] = set()
    taken = ("train", "serve", "track", "lora", "cluster")
    for text in [*project["dependencies"], *(each for name in taken for each in extras[name])]:
        if not text.startswith("raypose["):
            requirements(Requirement(text), seen)
    assert len(seen) > 100
    assert {name for name, _ in seen} <= known
