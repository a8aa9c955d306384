"""Where runs lie, and what those say that are finished."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from raypose import storage
from raypose.config import Config, dump, read_stored, run_hash_0_1
from raypose.data.shards import manifest_hash
from raypose.errors import DataError, NotFoundError

__all__ = [
    "BASELINES",
    "PROVENANCE",
    "RESULT",
    "Run",
    "TrainResult",
    "baselines",
    "changed_data",
    "finished",
    "locate",
]

RESULT = "result.json"
BASELINES = "baselines.json"
PROVENANCE = "provenance.json"
MEND = "delete it, and give the command again"


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
    try:
        return read_stored(TrainResult, url, what="the result of a run", mend=MEND)
    except NotFoundError:
        return None


def changed_data(config: Config, result: TrainResult) -> str:
    """Say which data sets are no longer those that a finished run was trained on; empty for none.

    Args:
        config: of the run.
        result: of the run.
    """
    before = _read(result, PROVENANCE).get("data")
    found = []
    for split, source in before.items() if isinstance(before, dict) else ():
        try:
            now = manifest_hash(str(getattr(config.data, split, "")))
        except DataError:
            found.append(f"data.{split} is gone")
            continue
        if isinstance(source, dict) and source.get("manifest") != now:
            found.append(f"data.{split} has changed")
    since = f"since {result.run_id} was trained; to train anew, give it another name="
    return f"{' and '.join(found)} {since}" if found else ""


def baselines(result: TrainResult) -> dict[str, Any]:
    """Return what a run was held against, as `evaluation.hold_up` wrote it; empty before that."""
    return _read(result, BASELINES)


def _read(result: TrainResult, name: str) -> dict[str, Any]:
    """Return a document of a run; empty where there is none."""
    url = storage.join(result.url, name)
    try:
        return read_stored(dict[str, Any], url, what=f"a run's {name}", mend=MEND)
    except NotFoundError:
        return {}
