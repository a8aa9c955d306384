from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from raypose import config
from raypose.cli import main as cli
from raypose.cli.request import parse

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", README, flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("raypose ")
]


def test_it_is_short_and_shows_every_command() -> None:
    assert len(README.splitlines()) <= 250
    shown = {
        name for name in cli.COMMANDS if any(c.startswith(f"raypose {name}") for c in COMMANDS)
    }
    assert shown == set(cli.COMMANDS)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    _, *words = shlex.split(line.split(" > ")[0])
    name = " ".join(words[:2]) if " ".join(words[:2]) in cli.COMMANDS else words[0]
    command = cli.COMMANDS[name]
    flags = frozenset(word for word in words if word.startswith("-"))
    assert flags <= {"--json", "--verbose", *command.flags}
    rest = [word for word in words[len(name.split()) :] if word not in flags]
    request = parse(name, command, rest, flags)
    if "RECIPE" in command.words:
        recipe = ROOT / request.words[0]
        overrides = config.parse_assignments(request.assignments)
        if recipe.is_file():
            config.load(str(recipe), overrides)
        else:
            config.override(config.Config(), overrides)


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
