from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CODE = """
from raypose.clip import hub
from raypose.config import ModelConfig
from raypose.errors import ConfigError
hub.fetch(ModelConfig(backbone="tiny", architectures={"tiny": {}}))
hub.fetch(ModelConfig(backbone="ViT-B-32"))  # without weights: nothing to fetch
try:
    hub.fetch(ModelConfig())
except ConfigError as error:
    print(error)
"""


def test_a_hub_that_does_not_answer_is_asked_a_few_times(tmp_path: Path) -> None:
    there = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env={**os.environ, **there}, capture_output=True, text=True,
        check=True, timeout=120,
    )  # fmt: skip
    tries = [line for line in done.stderr.splitlines() if "http://127.0.0.1:9 does not" in line]
    assert [line.rsplit(": ", 1)[1] for line in tries] == ["try 1 of 3", "try 2 of 3", "try 3 of 3"]
    assert "ViT-B-32-256/datacomp_s34b_b86k are not on this machine" in done.stdout
    assert "Traceback" not in done.stderr
