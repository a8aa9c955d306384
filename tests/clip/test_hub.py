from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from support.models import TINY
from support.patience import PATIENCE_S

from raypose import config, storage
from raypose.clip import hub, model
from raypose.config import ModelConfig

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
        check=True, timeout=PATIENCE_S,
    )  # fmt: skip
    tries = [line for line in done.stderr.splitlines() if "http://127.0.0.1:9 does not" in line]
    assert [line.rsplit(": ", 1)[1] for line in tries] == ["try 1 of 3", "try 2 of 3", "try 3 of 3"]
    assert "ViT-B-32-256/datacomp_s34b_b86k are not on this machine" in done.stdout
    assert "Traceback" not in done.stderr


def test_weights_of_a_hub_are_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    architectures = {"tiny": TINY}
    made = model.build(ModelConfig(backbone="tiny", architectures=architectures))
    cache, revision = tmp_path / "hub", "0123456789abcdef0123456789abcdef01234567"
    snapshot = cache / "models--somebody--tiny/snapshots" / revision
    model.save(made, snapshot)
    (cache / "models--somebody--tiny/refs").mkdir()
    (cache / "models--somebody--tiny/refs/main").write_text(revision)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    recipe = config.parse_config({"model": {"backbone": "hf-hub:somebody/tiny"}})
    root = str(tmp_path / "store")
    url = hub.keep(recipe.model, root)
    origin = storage.read_json(f"{url}/{hub.ORIGIN}")
    assert origin["revision"] == revision
    weights = storage.read_bytes(f"{url}/{model.WEIGHTS_FILE}")
    assert origin["sha256"] == storage.sha256(weights)
    shutil.rmtree(cache)
    assert hub.keep(recipe.model, root) == url
    kept = config.override(recipe, {"model.kept": url})
    assert kept.run_id == config.override(kept, {"model.kept": None}).run_id
    tokens = made.tokenize(["tree pose"])
    again = model.build(kept.model)
    assert torch.equal(again.model.encode_text(tokens), made.model.encode_text(tokens))
    assert hub.keep(ModelConfig(backbone="tiny", architectures=architectures), root) == ""
