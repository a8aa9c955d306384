from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.contexts import InMemory, batch, recipe, spread

from raypose import storage
from raypose.config import Config
from raypose.errors import RayposeError
from raypose.training import checkpoint, finish, loop, saver, state

BATCHES = [batch([4 * k + j for j in range(4)]) for k in range(3)]


def built(config: Config, url: str) -> tuple[InMemory, Any, Any]:
    context = InMemory(BATCHES)
    trainer, progress = loop.prepare(config, context, run_url=url, num_rows=12)
    return context, trainer, progress


def weights_of(url: str, step: int) -> dict[str, torch.Tensor]:
    (found,) = [one for one in checkpoint.complete(url) if one.step == step]
    return dict(checkpoint.restore(url, found)[0].model.state_dict())


@pytest.mark.parametrize("method", ["full", "lora"])
def test_what_is_written_is_the_state_of_the_step(tmp_path: Path, method: str) -> None:
    """Though training goes on while it is written, in the buffers of the one before."""
    url = str(tmp_path)
    context, trainer, progress = built(recipe(**{"optim.method": method}), url)
    expected: dict[int, dict[str, torch.Tensor]] = {}
    with saver.saving(context, url) as writer:
        for step in range(1, 5):
            trainer.train_step(BATCHES[step % 3], epoch=0)
            state.save(trainer, progress, None, {}, saver=writer)
            if method == "full":
                tensors = {**trainer.clip.model.state_dict(), **trainer.ema.mean}
                expected[step] = {name: value.clone() for name, value in tensors.items()}
    kept = {found.step for found in checkpoint.complete(url)}
    assert 4 in kept
    for step in kept & expected.keys():
        for name, value in weights_of(url, step).items():
            assert torch.equal(value, expected[step][name]), name
    last = checkpoint.latest(url)
    assert last is not None
    _, saved = checkpoint.restore(url, last)
    moments = [entry["exp_avg"] for entry in saved["optimizer"]["state"].values()]
    held = [entry["exp_avg"] for entry in trainer.optimizer.state_dict()["state"].values()]
    assert all(map(torch.equal, moments, held))


def test_buffers_are_kept(tmp_path: Path) -> None:
    context, trainer, progress = built(recipe(), str(tmp_path))
    with saver.saving(context, str(tmp_path)) as writer:
        places = []
        for _ in range(2):
            trainer.train_step(BATCHES[0], epoch=0)
            state.save(trainer, progress, None, {}, saver=writer)
            writer.wait()
            places.append({key: value.data_ptr() for key, value in writer._buffers.items()})
    assert places[0] == places[1]
    assert writer.waited > 0


def test_one_checkpoint_is_behind_at_most(tmp_path: Path) -> None:
    context, trainer, progress = built(recipe(), str(tmp_path))
    with saver.saving(context, str(tmp_path)) as writer:
        for step in range(1, 4):
            trainer.train_step(BATCHES[0], epoch=0)
            state.save(trainer, progress, None, {}, saver=writer)
            written = {found.step for found in checkpoint.complete(str(tmp_path))}
            assert step == 1 or step - 1 in written
    assert 3 in {found.step for found in checkpoint.complete(str(tmp_path))}


def test_what_cannot_be_written_ends_the_run_in_one_line(tmp_path: Path) -> None:
    """At the next checkpoint, or at the end; what was written before stays."""
    url = str(tmp_path / "run")
    context, trainer, progress = built(recipe(), url)

    def go_on() -> None:
        with saver.saving(context, url) as writer:
            trainer.train_step(BATCHES[0], epoch=0)
            state.save(trainer, progress, None, {}, saver=writer)

    go_on()
    Path(url, "checkpoints/step-0000002").write_text("in the way")
    with pytest.raises(RayposeError, match="run/checkpoints"):
        go_on()
    last = checkpoint.latest(url)
    assert last is not None
    assert last.step == 1


def failing(folder: str) -> str:
    config = recipe(**{"train.checkpoint_steps": 1, "optim.epochs": 2, "optim.batch_size": 4})
    Path(folder, "checkpoints").mkdir(exist_ok=True)
    Path(folder, "checkpoints/step-0000001").touch()
    context = InMemory([batch([0, 1]), batch([2, 3])])
    try:
        loop.train_worker(config, context, run_url=folder, num_rows=8)
    except RayposeError as error:
        return str(error)
    return "ended"


def test_all_ranks_hear_of_what_one_could_not_write(tmp_path: Path) -> None:
    told = spread(failing, str(tmp_path))
    assert len(set(told)) == 1
    assert "step-0000001" in told[0]


def test_ends_of_epochs_hold_weights_alone_where_steps_have_their_own_interval(
    tmp_path: Path,
) -> None:
    config = recipe(**{"train.checkpoint_steps": 2, "optim.epochs": 3, "data.val": "memory"})
    whole, cut = str(tmp_path / "whole"), str(tmp_path / "cut")
    loop.train_worker(config, InMemory(BATCHES), run_url=whole, num_rows=12)
    found = checkpoint.complete(whole)
    assert all(one.resumable for one in found if one.step % 2 == 0)
    by_step = {one.step: one for one in found}
    assert 9 in by_step
    assert not by_step[9].resumable
    sizes = {
        step: storage.stat(f"{checkpoint.url_of(whole, step)}/training.pt").size  # type: ignore[union-attr]
        for step in by_step
    }
    assert sizes[9] * 5 < sizes[8]
    last = checkpoint.latest(whole)
    assert last is not None
    assert (last.step, last.epoch, last.epoch_step) == (8, 2, 2)
    # cut off after its last epoch, a run goes on from the last that holds all, to the same end
    loop.train_worker(config, InMemory(BATCHES), run_url=cut, num_rows=12)
    loop.train_worker(config, InMemory(BATCHES), run_url=cut, num_rows=12)
    for name, value in weights_of(whole, 9).items():
        assert torch.equal(value, weights_of(cut, 9)[name]), name
    finish.finish(config, InMemory(BATCHES), run_url=cut)
    assert storage.exists(f"{cut}/final/final.json")


def test_a_step_that_is_written_again_is_there_meanwhile(tmp_path: Path) -> None:
    """As at the end of an epoch whose last step was a checkpoint: a kill then loses nothing."""
    url = str(tmp_path)
    context, trainer, progress = built(recipe(), url)
    trainer.train_step(BATCHES[0], epoch=0)
    with saver.saving(context, url) as writer:
        state.save(trainer, progress, None, {}, saver=writer)
        writer.wait()
        place = Path(checkpoint.url_of(url, 1), "open_clip_model.safetensors")
        place.unlink()
        place.mkdir()  # it cannot be written again, as if it was cut off there
        state.save(trainer, progress, 0.5, {}, saver=writer)
        with pytest.raises(RayposeError):
            writer.wait()
    assert [found.step for found in checkpoint.complete(url)] == [1]
