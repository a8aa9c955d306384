from __future__ import annotations

from pathlib import Path

import pytest

from raypose import captions, config
from raypose.captions import taxonomy

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "jobs/recipes").glob("*.yaml")), ids=str)
def test_recipes_load(path: Path) -> None:
    made = config.load(str(path))
    captions.check(captions.load(made.captions), taxonomy.load(made.data.taxonomy))
    assert path.read_text().startswith("#"), "a recipe says what it is for"
