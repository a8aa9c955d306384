"""Backends: they answer as torch does, are refused where they cannot be had, chosen by proof."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models import COCA, NORMED, TINY
from support.releases import make

from raypose.errors import CheckpointError, RegistryError, UsageError
from raypose.releases import choosing, golden, graphs
from raypose.releases.backends import NAMES, Maker, OpenVino, Torch, lacking
from raypose.releases.documents import BACKENDS, Admission, Backends
from raypose.releases.predictor import Predictor


@pytest.fixture
def release(tmp_path: Path) -> Path:
    made = make(tmp_path / "made")
    golden.write(Predictor.load(made, device="cpu"), made, side=32)
    return made


def pixels(predictor: Predictor) -> np.ndarray:
    return np.stack([predictor.pixels(file) for file in golden.pictures(32)])


def admit(release: Path, *names: str) -> None:
    held = {name: Admission(admitted=True) for name in names}
    (release / BACKENDS).write_text(Backends(backends=held).model_dump_json())


@pytest.mark.parametrize("architecture", [TINY, NORMED, COCA], ids=["vit", "convolutions", "coca"])
def test_openvino_answers_as_torch_does(architecture: dict[str, object], tmp_path: Path) -> None:
    mirror = architecture is TINY
    scales = (0.75, 1.0) if architecture is NORMED else (1.0,)
    ways = {"mirror": mirror, "channels_last": not mirror, "scales": scales}
    release = make(tmp_path, architecture=architecture, **ways)
    exact = Predictor.load(release, device="cpu")
    golden.write(exact, release, side=32)
    fast = Predictor.load(release, backend="openvino")
    assert isinstance(fast.backend, OpenVino)
    assert golden.prove(fast, release)
    shown = pixels(exact)
    for size in (1, 2, 5):
        expected = exact.logits(shown[:size])
        found = fast.logits(shown[:size])
        assert found.dtype == expected.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-4)
        np.testing.assert_allclose(
            fast.probabilities(shown[:size]), exact.probabilities(shown[:size]), atol=1e-5
        )
    features = fast.backend(torch.from_numpy(shown))
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(len(shown)))


def test_a_converted_tower_is_kept_for_the_next_process(
    release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = {"device": "cpu", "backend": "openvino", "kept": tmp_path / "kept"}
    first = Predictor.load(release, **how)  # type: ignore[arg-type]
    expected = first.logits(pixels(first))

    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("it is converted again")

    (place,) = (tmp_path / "kept").iterdir()
    with monkeypatch.context() as patched:
        patched.setattr(torch.export, "export", refuse)
        again = Predictor.load(release, **how)  # type: ignore[arg-type]
        np.testing.assert_allclose(again.logits(pixels(again)), expected, atol=1e-5)
        weights = place / "graph.bin"
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
        with pytest.raises(CheckpointError, match="converted again"):
            Predictor.load(release, **how)  # type: ignore[arg-type]
    third = Predictor.load(release, **how)  # type: ignore[arg-type]
    np.testing.assert_allclose(third.logits(pixels(third)), expected, atol=1e-5)
    assert list((tmp_path / "kept").iterdir()) == [place]
    assert graphs.read(place) is not None


def test_torch_needs_the_whole_tower_once(release: Path) -> None:
    predictor = Predictor.load(release, device="cpu")
    assert isinstance(predictor.backend, Torch)
    again = pickle.loads(pickle.dumps(predictor))
    np.testing.assert_array_equal(again.logits(pixels(again)), predictor.logits(pixels(predictor)))
    low = Predictor.load(release, backend="torch_bf16")
    travelled = pickle.loads(pickle.dumps(low))
    np.testing.assert_array_equal(travelled.logits(pixels(low)), low.logits(pixels(low)))


def test_what_cannot_be_had_is_told_in_a_line(
    release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match='no "openvin"; did you mean "openvino"'):
        Predictor.load(release, backend="openvin")
    if lacking("openvino_bf16"):
        with pytest.raises(UsageError, match="openvino_bf16 cannot be had: this CPU does not"):
            Predictor.load(release, backend="openvino_bf16")
    with pytest.raises(UsageError, match="torch_bf16 computes on a CPU, not on cuda"):
        Predictor.load(release, backend="torch_bf16").to(torch.device("cuda"))
    monkeypatch.setitem(sys.modules, "openvino", None)  # as Python marks what is not to be found
    with pytest.raises(UsageError, match=r"not installed; pip install 'raypose\[cpu\]'"):
        Predictor.load(release, backend="openvino")
    admit(release, "torch", "openvino")
    assert Predictor.load(release, device="cpu", backend="auto").backend.name == "torch"


def test_a_tower_that_openvino_does_not_take_is_told(release: Path) -> None:
    predictor = Predictor.load(release, device="cpu")

    class Branching(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            mean = images.mean()
            return images.flatten(1)[:, :16] * (mean if mean > 0 else mean + 1)

    predictor.clip.model.visual = Branching()
    with pytest.raises(CheckpointError, match="openvino: does not take this image tower"):
        Maker(predictor.clip, predictor.config.model).make("openvino")


def test_auto_takes_what_is_admitted_and_proven(
    release: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def loaded() -> Predictor:
        return Predictor.load(release, device="cpu", backend="auto", threads=1)

    assert loaded().backend.name == "torch"  # published before there were others
    admit(release, "torch", "torch_bf16", "of_a_later_version")
    expected = ["torch"] if lacking("torch_bf16") else ["torch", "torch_bf16"]
    assert choosing.admitted(release) == expected
    admit(release, "torch", "openvino")
    assert loaded().backend.name in ("torch", "openvino")
    assert "the fastest here of torch" in capsys.readouterr().err
    other = Predictor.load(make(tmp_path / "other", seed=1), device="cpu")
    golden.write(other, release, side=32)
    assert loaded().backend.name == "torch"
    assert "backend openvino is left out" in capsys.readouterr().err
    (release / BACKENDS).write_text("{}")
    with pytest.raises(RegistryError, match="not the backends of a release"):
        loaded()


def test_names_are_known() -> None:
    assert next(name for name in NAMES if not lacking(name)) == "torch"
    with pytest.raises(ValueError, match="of_a_later_version"):
        lacking("of_a_later_version")
