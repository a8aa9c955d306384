from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from raypose import config
from raypose.cli import main as cli
from raypose.cli.verbs import ANY, arrange

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
        name for name in cli.VERBS if any(f"{c} ".startswith(f"raypose {name} ") for c in COMMANDS)
    }
    assert shown == set(cli.VERBS)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_parse(line: str) -> None:
    _, *words = shlex.split(line.split(" > ")[0])
    name = " ".join(words[:2]) if " ".join(words[:2]) in cli.VERBS else words[0]
    verb = cli.VERBS[name]
    rest = [word for word in words[len(name.split()) :] if word not in cli.FLAGS]
    call = arrange(verb, rest)
    if ANY in verb.sections:
        recipe = ROOT / call.words[0]
        if recipe.is_file():
            config.load(str(recipe), call.overrides)
        else:
            config.override(config.Config(), call.overrides)


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
