"""Where runs lie, and what those say that are finished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from raypose import storage
from raypose.config import Config, dump, run_hash_0_1

__all__ = ["BASELINES", "RESULT", "Run", "TrainResult", "baselines", "finished", "locate"]

RESULT = "result.json"
BASELINES = "baselines.json"


class Run(NamedTuple):
    """The id of a run, and where it lies."""

    id: str
    url: str


@dataclass(frozen=True)
class TrainResult:
    """A finished run.

    Attributes:
        run_id: name and hash of its document.
        url: where it lies.
        checkpoint: where its final model lies: the best checkpoint's, see `finish`.
        metrics: of that checkpoint's epoch, those of validation being the final model's.
    """

    run_id: str
    url: str
    checkpoint: str
    metrics: dict[str, Any]


def locate(config: Config, *, root: str = "") -> Run:
    """Return where the run of a document lies, or will lie.

    A run that raypose 0.1 began keeps the id that it got there.

    Args:
        config: the document.
        root: the storage root, where it is not the document's.
    """
    folder = storage.join(root or config.storage, "runs")
    current = Run(config.run_id, storage.join(folder, config.run_id))
    former_id = f"{config.name}-{run_hash_0_1(dump(config))}"
    former = Run(former_id, storage.join(folder, former_id))
    began_before = not storage.exists(current.url) and storage.exists(former.url)
    return former if began_before else current


def finished(config: Config) -> TrainResult | None:
    """Return the result of a run that is done, or None."""
    url = storage.join(locate(config).url, RESULT)
    return TrainResult(**storage.read_json(url)) if storage.exists(url) else None


def baselines(result: TrainResult) -> dict[str, Any]:
    """Return what a run was held against, as `evaluation.hold_up` wrote it; empty before that."""
    url = storage.join(result.url, BASELINES)
    return dict(storage.read_json(url)) if storage.exists(url) else {}
