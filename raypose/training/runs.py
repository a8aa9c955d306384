"""Where runs lie, and what those say that are finished."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import Field

from raypose import storage
from raypose.config import Config, Stored, dump, read_stored, run_hash_0_1
from raypose.console import status
from raypose.data.shards import manifest_hash
from raypose.errors import DataError, NotFoundError, did_you_mean
from raypose.releases import registry
from raypose.training import tracking
from raypose.training.costs import added

__all__ = [
    "BASELINES",
    "PROVENANCE",
    "RESULT",
    "Run",
    "TrainResult",
    "baselines",
    "beside",
    "changed_data",
    "clean",
    "finished",
    "locate",
    "overview",
    "remove",
    "show",
    "unfinished",
]

RESULT = "result.json"
BASELINES = "baselines.json"
PROVENANCE = "provenance.json"
Form = TypeVar("Form")
MEND = "delete it, and give the command again"
READERS = 16
"""Runs that are looked into side by side: each is a few small files, perhaps far away."""


class _Origin(Stored):
    """What of a run's provenance says whose it is."""

    run_id: str = ""
    owner: str = ""
    began: Annotated[float, Field(ge=0, le=1e11)] = 0.0


class _Result(Stored):
    """What of a run's result says how it came out."""

    metrics: dict[str, Any] = {}


class _State(Stored):
    """What of a checkpoint's state says how far it is."""

    epoch: Annotated[int, Field(ge=0)] = 0


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


def beside(config: Config) -> dict[str, list[str]]:
    """Return the finished runs of a document's name: id → keys in which its recipe is another."""
    folder, mine = storage.join(config.storage, "runs"), dict(_leaves(dump(config)))
    found = {}
    for run_id in storage.list_folders(folder):
        url = storage.join(folder, run_id)
        named = run_id.startswith(f"{config.name}-") and run_id != config.run_id
        if named and storage.exists(storage.join(url, RESULT)):
            other = dict(_leaves(_read(url, "config.json")))
            found[run_id] = [key for key in mine if other.get(key, mine[key]) != mine[key]]
    return found


def _leaves(document: Mapping[str, Any], start: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{start}{key}.")
        else:
            yield start + key, value


def changed_data(config: Config, result: TrainResult) -> str:
    """Say which data sets are no longer those that a finished run was trained on; empty for none.

    Args:
        config: of the run.
        result: of the run.
    """
    before = _read(result.url, PROVENANCE).get("data")
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
    return _read(result.url, BASELINES)


def overview(root: str) -> list[dict[str, Any]]:
    """Return every run in a storage root, by its id.

    Returns:
        For each run, url, finished, epochs done, its owner, when it began (seconds since 1970; 0
        where that is not known), bytes, those of its parts, `costs.COSTS`, and the releases that
        were made of it.
    """
    folder = storage.join(root, "runs")
    releases = _releases(root)
    found = [Run(name, storage.join(folder, name)) for name in storage.list_folders(folder)]
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(lambda run: _described(run, releases), found))


def unfinished(root: str) -> list[dict[str, Any]]:
    """Return the runs of a storage root that have no result yet, the last to be written first.

    Returns:
        For each run, url, epochs done, and when it was last written to, in seconds since 1970.
    """
    folder = storage.join(root, "runs")
    found = []
    for name in storage.list_folders(folder):
        run = Run(name, storage.join(folder, name))
        if storage.exists(storage.join(run.url, RESULT)):
            continue
        files = dict(storage.walk(run.url))
        written = max((stat.mtime_ns for stat in files.values()), default=0) / 1e9
        try:
            epochs = max((_epochs(run, file) for file in files), default=0)
        except DataError as error:  # one that is damaged hides no other
            status(str(error))
            epochs = 0
        found.append({"run": name, "url": run.url, "epochs": epochs, "written": written})
    return sorted(found, key=lambda row: -row["written"])


def show(root: str, run_id: str) -> dict[str, Any]:
    """Return what `overview` says of a run, with its figures and its recipe.

    Raises:
        DataError: where there is no such run.
    """
    found = _described(_named(root, run_id), _releases(root))
    if found["damaged"]:
        return {**found, "metrics": {}, "config": {}}
    result = _read_as(_Result, found["url"], RESULT)
    return {**found, "metrics": result.metrics, "config": _read(found["url"], "config.json")}


def remove(root: str, run_id: str, *, force: bool = False) -> int:
    """Delete a run and return its bytes; releases made of it hold what they need themselves.

    Args:
        root: the storage root.
        run_id: of the run.
        force: also where a release was made of it, which then cannot be made again.

    Raises:
        DataError: where there is no such run, or a release was made of it.
    """
    run = _named(root, run_id)
    found = _described(run, _releases(root))
    if found["releases"] and not force:
        raise DataError(
            f"{run_id}: {', '.join(found['releases'])} was made of it; it stays as it is without "
            "the run, but cannot be made anew: give force=true to delete it"
        )
    # first: half a run is none that is finished
    storage.delete_file(storage.join(run.url, RESULT))
    storage.delete_folder(run.url)
    return int(found["bytes"])


def clean(root: str) -> dict[str, int]:
    """Delete what no run needs any more, and return the bytes of it by run.

    That is the checkpoints of finished runs, whose final model lies beside them, and what Ray left.
    """
    freed: dict[str, int] = {}
    folder = storage.join(root, "runs")
    for run_id in storage.list_folders(folder):
        url = storage.join(folder, run_id)
        names = [name for name in storage.list_folders(url) if name.startswith("ray-")]
        names += ["checkpoints"] if storage.exists(storage.join(url, RESULT)) else []
        for name in names:
            place = storage.join(url, name)
            size = sum(max(0, stat.size) for _, stat in storage.walk(place))
            storage.delete_folder(place)
            if size:
                freed[run_id] = freed.get(run_id, 0) + size
    return freed


def _named(root: str, run_id: str) -> Run:
    known = storage.list_folders(storage.join(root, "runs"))
    if run_id not in known:
        near = did_you_mean(run_id, known)
        raise DataError(f"{run_id}: no such run in {root}{near}; raypose runs list shows them")
    return Run(run_id, storage.join(root, "runs", run_id))


def _described(run: Run, releases: dict[str, list[str]]) -> dict[str, Any]:
    parts: dict[str, int] = {}
    files = dict(storage.walk(run.url))
    for name, stat in files.items():
        part = name.split("/")[0]
        parts[part] = parts.get(part, 0) + max(0, stat.size)
    found: dict[str, Any] = {
        "run": run.id,
        "url": run.url,
        "owner": "",
        "began": 0.0,
        "finished": RESULT in files,
        "epochs": 0,
        **added(()),
        "bytes": sum(parts.values()),
        "parts": parts,
        "releases": releases.get(run.id, []),
        "damaged": "",
    }
    try:
        return found | _told(run, files)
    except DataError as error:  # it is there all the same, hides no other, and may be deleted
        return {**found, "damaged": str(error)}


def _told(run: Run, files: Iterable[str]) -> dict[str, Any]:
    """Return what a run says of itself: whose it is, how far it is, and what it took."""
    origin = _read_as(_Origin, run.url, PROVENANCE)
    result = _read_as(_Result, run.url, RESULT)
    lines = [] if result.metrics else tracking.read(storage.join(run.url, tracking.FILE))
    epochs = max((_epochs(run, name) for name in files), default=0)
    told = {"owner": origin.owner, "began": origin.began, "epochs": epochs}
    return told | added(lines or [result.metrics])


def _epochs(run: Run, name: str) -> int:
    """Return the epochs of which a file of a run tells; 0 where it tells of none."""
    if not name.endswith("/state.json"):
        return 0
    return _read_as(_State, run.url, name).epoch


def _releases(root: str) -> dict[str, list[str]]:
    """Return run id → the releases that were made of it, as far as their provenance is whole."""
    found: dict[str, list[str]] = {}
    for row in registry.overview(root):
        release = registry.resolve(root, row["release"])
        try:
            run_id = _read_as(_Origin, release.url, PROVENANCE).run_id
        except DataError as error:
            status(str(error))
            continue
        found.setdefault(run_id, []).append(row["release"])
    return found


def _read(url: str, name: str) -> dict[str, Any]:
    """Return a document of a run, or of a release; empty where there is none."""
    return _read_as(dict[str, Any], url, name)


def _read_as(form: type[Form], url: str, name: str) -> Form:
    """Return a document of a run, or of a release; one that is not there as if it were empty."""
    place = storage.join(url, name)
    try:
        return read_stored(form, place, what=f"a run's {name}", mend=MEND)
    except NotFoundError:
        return form()
