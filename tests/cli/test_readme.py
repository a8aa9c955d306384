from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.commands import parse, shown

from raypose import config
from raypose.cli import main as cli

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = shown(README)


def test_it_is_short_and_shows_every_command() -> None:
    assert len(README.splitlines()) <= 250
    shown = {
        name for name in cli.VERBS if any(f"{c} ".startswith(f"raypose {name} ") for c in COMMANDS)
    }
    assert shown == set(cli.VERBS)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    parse(line)


@pytest.mark.parametrize("path", re.findall(r"\]\(([^)#:]+)\)", README))
def test_links_lead_somewhere(path: str) -> None:
    assert (ROOT / path).exists()


def test_recipes_in_the_text_load(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)
    assert blocks
    for block in blocks:
        path = tmp_path / "recipe.yaml"
        path.write_text(block)
        config.load(str(path))
