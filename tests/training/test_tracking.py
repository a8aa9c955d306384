from __future__ import annotations

from pathlib import Path

import pytest

from raypose.errors import DataError
from raypose.training import tracking


def test_lines_and_resume(tmp_path: Path) -> None:
    url = str(tmp_path / "metrics.jsonl")
    first = tracking.Tracker(url)
    for epoch in (1, 2, 3):
        first.add({"epoch": epoch, "loss": 1.0 / epoch})
        first.write()
    resumed = tracking.Tracker(url, resume_epoch=3)
    resumed.add({"epoch": 3, "loss": 9.0})
    resumed.write()
    assert [line["loss"] for line in tracking.read(url)] == [1.0, 0.5, 9.0]


def test_no_file_and_a_broken_one(tmp_path: Path) -> None:
    assert tracking.read(str(tmp_path / "none")) == []
    (tmp_path / "bad").write_text("{")
    with pytest.raises(DataError, match="not JSON lines"):
        tracking.read(str(tmp_path / "bad"))
