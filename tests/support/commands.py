"""The installed command, run as a user runs it; and commands that pages show."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from raypose import config
from raypose.cli import main as cli
from raypose.cli.verbs import ANY, arrange
from raypose.config import Config
from raypose.console import JOB, LOG
from support.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]


def run(raypose: str, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [raypose, *words], capture_output=True, text=True, timeout=PATIENCE_S, cwd=cwd, check=False
    )


def told(stderr: str) -> list[str]:
    """Return what was said but for what a slow machine was waited for."""
    waited = re.compile(r"(?!\w*Error: ).*( …( +\d+ s)?|: \d+\.\d s)")
    return [line for line in stderr.splitlines() if line.strip() and not waited.fullmatch(line)]


def read(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """Return the lines of JSON that were told on stderr since the last look."""
    return parsed(capsys.readouterr().err)


def parsed(told: str) -> list[dict[str, Any]]:
    """Return what lines of JSON say."""
    return [json.loads(line) for line in told.splitlines()]


def tell_as_json(changed: pytest.MonkeyPatch) -> None:
    """Have what is told on stderr be lines of JSON."""
    changed.setenv(LOG, "json")
    changed.delenv(JOB, raising=False)
    changed.delenv("RAYPOSE_QUIET", raising=False)


def recipe_file(folder: Path, made: Config) -> str:
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump(config.sparse(made)))
    return str(path)


def shown(text: str) -> list[str]:
    """Return the raypose commands in the shell blocks of a page."""
    return [
        line.split("  #")[0].strip()
        for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, flags=re.DOTALL)
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith("raypose ")
    ]


def parse(line: str) -> None:
    """Give a command to raypose's own parser, its recipe included where that is at hand."""
    _, *words = shlex.split(line.split(" > ")[0])
    name = " ".join(words[:2]) if " ".join(words[:2]) in cli.VERBS else words[0]
    verb = cli.VERBS[name]
    rest = [word for word in words[len(name.split()) :] if word not in cli.FLAGS]
    call = arrange(verb, rest)
    if ANY in verb.sections:
        recipe = call.words[0]
        if (ROOT / recipe).is_file() or (ROOT / f"jobs/recipes/{recipe}.yaml").is_file():
            config.load(str(ROOT / recipe) if "/" in recipe else recipe, call.overrides)
        else:
            config.override(Config(), call.overrides)
