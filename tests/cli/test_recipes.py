from __future__ import annotations

from pathlib import Path

import pytest

from raypose import captions, config
from raypose.captions import taxonomy
from raypose.errors import ConfigError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "jobs/recipes").glob("*.yaml")), ids=str)
def test_recipes_load(path: Path) -> None:
    made = config.load(str(path))
    if not made.data.taxonomy.endswith(".yaml"):  # which a user makes
        captions.check(captions.load(made.captions), taxonomy.load(made.data.taxonomy))
    assert path.read_text().startswith("#"), "a recipe says what it is for"


def test_shipped_recipes_go_by_name() -> None:
    for path in (ROOT / "jobs/recipes").glob("*.yaml"):
        assert config.load(path.stem) == config.load(str(path))
    with pytest.raises(ConfigError, match='labtop: no such recipe; did you mean "laptop"'):
        config.load("labtop")
