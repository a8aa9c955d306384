from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raypose import captions, config
from raypose.captions import taxonomy
from raypose.cli.main import main
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


def test_pictures_in_two_places_are_told(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scored where it was trained a model says nothing; of two labels of a copy one is wrong."""
    folder, data = tmp_path / "folder", str(tmp_path / "data")
    labels = [path.name for path in sorted((pictures / "val").iterdir())[:2]]
    for label in labels:
        shutil.copytree(pictures / "val" / label, folder / label)
    copied = next((folder / labels[0]).iterdir())
    shutil.copy(copied, folder / labels[1] / "copy.jpg")
    assert main(["shards", "build", str(folder), data]) == 0
    capsys.readouterr()
    assert main(["shards", "dedupe", data]) == 0
    told = capsys.readouterr().err
    assert "1 near-duplicate under another label, such as" in told
    assert all(f"({label})" in told for label in labels)
    assert main(["shards", "dedupe", data, f"{data}/../data"]) == 2
    assert "a data set is given twice" in capsys.readouterr().err
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"name: r\ndata: {{train: {data}, val: {data}, taxonomy: synthetic12}}\n")
    assert main(["check", str(recipe)]) == 0
    assert "data.val: holds pictures of data.train" in capsys.readouterr().err
    assert main(["check", str(recipe), "data.val="]) == 0
    assert "holds pictures" not in capsys.readouterr().err
