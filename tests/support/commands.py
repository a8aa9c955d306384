"""The installed command, run as a user runs it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import yaml

from raypose import config
from raypose.config import Config


def run(raypose: str, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [raypose, *words], capture_output=True, text=True, timeout=300, cwd=cwd, check=False
    )


def recipe_file(folder: Path, made: Config) -> str:
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump(config.sparse(made)))
    return str(path)
