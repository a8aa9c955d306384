"""Converted towers on a node: OpenVINO takes long to make one, and every replica needs it.

One is known by its place, of a release and of the versions that made it, and is held against its
hashes when it is read. What is not whole is made again.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from raypose import storage

__all__ = ["keep", "read"]

FILES = ("graph.xml", "graph.bin")
SUMS = "sums.json"


def read(place: Path) -> Any | None:
    """Return the graph that is kept in a folder; None where there is none, or not all of it."""
    import openvino

    try:
        sums = json.loads((place / SUMS).read_bytes())
        whole = sums == _sums(place)
    except (OSError, ValueError):
        return None
    return openvino.Core().read_model(place / FILES[0]) if whole else None


def keep(graph: Any, place: Path) -> None:
    """Keep a graph, whole or not at all: without room the next process makes it again."""
    import openvino

    with suppress(OSError, RuntimeError):
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as name:
            made = Path(name) / "made"
            openvino.save_model(graph, made / FILES[0], compress_to_fp16=False)
            (made / SUMS).write_text(json.dumps(_sums(made)))
            shutil.rmtree(place, ignore_errors=True)  # what is there is not whole
            os.replace(made, place)


def _sums(place: Path) -> dict[str, str]:
    return {file: storage.sha256((place / file).read_bytes()) for file in FILES}
