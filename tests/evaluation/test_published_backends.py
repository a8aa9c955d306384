"""What publishing writes to prove a release: the same each time, and told by `releases show`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raypose import evaluation
from raypose.cli.main import main
from raypose.config import Config
from raypose.releases import documents, golden, registry
from raypose.releases.documents import BACKENDS, Backends
from raypose.releases.predictor import Predictor


def test_backends_are_held_against_torch_where_asked(
    trained: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = registry.resolve(trained.storage, "tiny")
    assert evaluation.publish(trained) == plain
    release = evaluation.publish(trained, backends=True)
    assert release != plain
    assert evaluation.publish(trained, backends=True) == release
    folder = registry.fetch(release, tmp_path / "release")
    found = documents.read(Backends, str(folder / BACKENDS), mend="publish it again")
    assert found.admitted[:1] == ["torch"]
    assert "openvino" in found.admitted
    predictor = Predictor.load(folder, device="cpu", backend="openvino")
    assert golden.prove(predictor, folder)
    before = json.loads((registry.fetch(plain, tmp_path / "plain") / BACKENDS).read_text())
    assert before["backends"]["openvino"]["why"].endswith("the image tower is small")
    capsys.readouterr()
    assert main(["releases", "show", str(release), f"storage={trained.storage}"]) == 0
    said = capsys.readouterr().out
    assert "backend torch: the reference" in said
    assert "backend openvino: admitted: of 36 pictures 0.0% changed class, no logit by" in said
