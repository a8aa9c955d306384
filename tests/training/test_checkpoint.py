from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import TINY

from raypose import storage
from raypose.clip import model
from raypose.config import ModelConfig, OptimConfig
from raypose.errors import CheckpointError
from raypose.training import checkpoint, optim


def parts() -> tuple[model.Clip, torch.optim.AdamW]:
    clip = model.build(ModelConfig(backbone="tiny", architectures={"tiny": TINY}))
    optimizer = optim.build(clip.model, OptimConfig())
    clip.model.encode_image(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    return clip, optimizer


def state(epoch: int, score: float | None = None) -> checkpoint.Checkpoint:
    return checkpoint.Checkpoint(
        epoch=epoch,
        step=10 * epoch,
        score=score,
        metrics={"epoch": epoch},
        num_workers=1,
        batch_size=8,
    )


def save(
    url: str, clip: model.Clip, optimizer: torch.optim.Optimizer, at: checkpoint.Checkpoint
) -> str:
    training = {"optimizer": optimizer.state_dict()}
    return checkpoint.save(url, at, clip, clip.model.state_dict(), training)


@pytest.mark.parametrize("place", ["local", "s3"])
def test_save_and_restore(place: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = str(tmp_path) if place == "local" else request.getfixturevalue("bucket")
    clip, optimizer = parts()
    save(url, clip, optimizer, state(1))
    found = checkpoint.latest(url)
    assert found == state(1)
    again, saved = checkpoint.restore(url, found)
    for key, value in clip.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[key])
    fresh = optim.build(again.model, OptimConfig())
    fresh.load_state_dict(saved["optimizer"])

    def moments(of: Any) -> list[torch.Tensor]:
        return [entry["exp_avg"] for entry in of.state_dict()["state"].values()]

    assert all(map(torch.equal, moments(fresh), moments(optimizer)))


def test_a_cut_off_checkpoint_is_passed_over(tmp_path: Path) -> None:
    clip, optimizer = parts()
    for epoch in (1, 2):
        save(str(tmp_path), clip, optimizer, state(epoch))
    storage.delete_file(f"{checkpoint.url_of(str(tmp_path), 20)}/state.json")
    assert checkpoint.latest(str(tmp_path)) == state(1)


def test_prune_keeps_the_best_and_the_last(tmp_path: Path) -> None:
    clip, optimizer = parts()
    for epoch, score in ((1, 0.2), (2, 0.9), (3, 0.5), (4, 0.3)):
        save(str(tmp_path), clip, optimizer, state(epoch, score))
    checkpoint.prune(str(tmp_path))
    found = checkpoint.complete(str(tmp_path))
    assert [kept.epoch for kept in found] == [2, 4]
    assert checkpoint.best(found).epoch == 2
    assert storage.list_folders(f"{tmp_path}/checkpoints") == ["step-0000020", "step-0000040"]


def test_a_run_may_be_looked_at_while_its_checkpoints_come_and_go(tmp_path: Path) -> None:
    def train() -> None:
        for epoch in range(1, 300):
            url = checkpoint.url_of(str(tmp_path), 10 * epoch)
            storage.write_json(f"{url}/state.json", asdict(state(epoch, 1 / epoch)))
            checkpoint.prune(str(tmp_path))

    with ThreadPoolExecutor(1) as trainer:
        done = trainer.submit(train)
        while not done.done():
            checkpoint.complete(str(tmp_path))
        done.result()
    assert [kept.epoch for kept in checkpoint.complete(str(tmp_path))] == [1, 299]


def test_unknown_formats_and_damage(tmp_path: Path) -> None:
    clip, optimizer = parts()
    url = save(str(tmp_path), clip, optimizer, state(1))
    (Path(url) / "training.pt").write_bytes(b"not a state")
    with pytest.raises(CheckpointError, match=r"training\.pt: does not load"):
        checkpoint.restore(str(tmp_path), state(1))
    storage.write_json(f"{url}/state.json", {"format": 99})
    with pytest.raises(CheckpointError, match="format 99 where 2 is known"):
        checkpoint.latest(str(tmp_path))


def test_nothing_hostile_is_unpickled(tmp_path: Path) -> None:
    clip, optimizer = parts()
    url = save(str(tmp_path), clip, optimizer, state(1))

    class Hostile:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "owned",))

    torch.save(Hostile(), Path(url) / "training.pt")
    with pytest.raises(CheckpointError, match="does not load"):
        checkpoint.restore(str(tmp_path), state(1))
    assert not (tmp_path / "owned").exists()
