"""What a search leaves behind: one record a trial, and what it came to; read without Ray or Optuna.

Records are the truth: whoever goes on with a search, shows it or draws it reads them and nothing
else. Each is written whole, over the one that was seen, so that an orphan of a driver that was
killed cannot write over its successor's. A thousand that have ended become one file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from raypose import storage
from raypose.config import Config, Stored, load, parse_stored, read_stored
from raypose.console import status
from raypose.errors import ConflictError, DataError, NotFoundError, StorageError, did_you_mean

__all__ = [
    "METRIC",
    "OUTCOME",
    "SEARCH",
    "WINNER",
    "Entry",
    "Finals",
    "Outcome",
    "Paired",
    "Records",
    "Search",
    "SearchResult",
    "State",
    "Trial",
    "best",
    "finished",
    "locate",
    "names",
    "pace",
    "read_outcome",
    "read_search",
    "read_trials",
]

METRIC = "val_balanced_accuracy"
"""By which trials are ranked."""
SEARCH = "search.json"
OUTCOME = "outcome.json"
WINNER = "winner.yaml"
TRIALS = "trials"
BLOCK = 1000
"""Trials whose records become one file once all have ended."""
MEND = "delete it, and give the search again"

State = Literal["running", "finished", "stopped", "failed"]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Trial(Stored):
    """The record of a trial."""

    number: Annotated[int, Field(ge=0)]
    """From 0, in the order of their beginning; it stays a trial's own over interruptions."""
    state: State = "running"
    """running, finished (all its epochs), stopped (by early stopping or a limit), failed."""
    values: dict[str, Any]
    """Dotted key → value: what its recipe says other than the search's."""
    params: dict[str, Any] = {}
    """Optuna's parameter → value; differs from `values` in captions, whose choices it names."""
    distributions: dict[str, str] = {}
    """Optuna's parameter → its distribution, as Optuna writes it."""
    parent: str = ""
    """Whence its values came where no sampler drew them: default, captions, or SEARCH#NUMBER."""
    run: str = ""
    """Id of its run, in the search's own runs/."""
    rung: Annotated[int, Field(ge=0)] = 0
    """Rungs of early stopping that it has passed."""
    scores: dict[int, Finite] = {}
    """Epoch, from 1 → score."""
    seconds: Annotated[float, Field(ge=0, le=1e11)] = 0.0
    """Spent on it, over all attempts."""
    costs: dict[str, Finite] = {}
    """What it took over all attempts; see `training.costs.COSTS`."""
    began: Annotated[float, Field(ge=0, le=1e11)] = 0.0
    """Seconds since 1970."""
    attempt: Annotated[int, Field(ge=1)] = 1
    """Raised each time that it is gone on with."""
    error: str = ""
    """Why it failed, in one line."""

    @property
    def score(self) -> float | None:
        """The best over its epochs; None before there is one, and where it failed."""
        return max(self.scores.values(), default=None) if self.state != "failed" else None

    @property
    def epochs(self) -> int:
        """Epochs that it has been scored after."""
        return max(self.scores, default=0)

    def summary(self) -> dict[str, Any]:
        """Return what others are told of it: number, state, values, score, epochs, error, …."""
        return {
            "number": self.number,
            "state": self.state,
            "values": self.values,
            "score": self.score,
            "epochs": self.epochs,
            "rung": self.rung,
            "seconds": round(self.seconds, 3),
            "costs": self.costs,
            "parent": self.parent,
            "run": self.run,
            "error": self.error or None,
        }


class Search(Stored):
    """What is known of a search before it ends."""

    id: str
    name: str
    owner: str = ""
    """For whom it was begun."""
    config: dict[str, Any]
    """Its recipe, the whole document."""
    base: str = ""
    """Hash of the recipe less the search: equal where scores may be compared."""
    attempt: Annotated[int, Field(ge=1)] = 1
    """Times that it was begun or gone on with."""
    began: Annotated[float, Field(ge=0, le=1e11)] = 0.0
    """Seconds since 1970."""
    seconds: Annotated[float, Field(ge=0, le=1e11)] = 0.0
    """Spent on it, over all attempts."""
    notes: list[str] = []
    """What was said of it that explains its results: choices given up, limits reached."""


class Entry(Stored):
    """What was trained with several seeds at the end of a search."""

    label: str
    number: int | None = None
    """Of its trial; None where it was none."""
    values: dict[str, Any] = {}
    val_scores: list[Finite] = []
    """Of each seed, on the validation set: by their mean the winner is chosen."""
    scores: list[Finite] = []
    """Of each seed, on the pictures that `Finals.data` names."""
    mean: Finite
    sd: Finite = 0.0
    interval: tuple[Finite, Finite]
    """Of the mean, at 95 %."""


class Paired(Stored):
    """A comparison, picture by picture."""

    label: str
    ours: str = ""
    theirs: str = ""
    difference: Finite
    interval: tuple[Finite, Finite]
    p: Finite


class Finals(Stored):
    """The best of a search over several seeds, beside the recipe as it was and plain captions."""

    seeds: list[int]
    data: str
    """The pictures on which they were compared."""
    chose: bool = True
    """Whether these pictures chose the winner."""
    num_trials: int = 0
    """That the search had made by then."""
    entries: list[Entry] = []
    paired: list[Paired] = []
    sentences: list[str] = []


class Outcome(Stored):
    """What a search came to, written at its end."""

    number: int
    """Of the best trial."""
    values: dict[str, Any]
    score: float
    num_trials: int
    """That were asked for."""
    over: str = ""
    """The limit that ended it before all its trials; empty for none."""
    finals: Finals | None = None
    notes: list[str] = []
    """What may be concluded, sentence by sentence."""


@dataclass(frozen=True)
class SearchResult:
    """A finished search.

    Attributes:
        url: where it lies.
        recipe: location of the winner.
        config: the winner.
        values: its keys of the space.
        score: its validation balanced accuracy.
        trials: of each trial what `Trial.summary` says.
        notes: what may be concluded, sentence by sentence.
    """

    url: str
    recipe: str
    config: Config
    values: dict[str, Any]
    score: float
    trials: list[dict[str, Any]]
    notes: list[str]


class Records:
    """The records of a search that is under way, written by its one driver."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.trials = read_trials(url)
        self._tags: dict[int, str] = {}
        self._late: set[int] = set()

    def claim(self, number: int) -> Trial:
        """Take over a trial that another driver left running, as the next attempt.

        Raises:
            ConflictError: where that driver still writes.
        """
        place = _place(self.url, number)
        content, tag = storage.read_tagged(place)
        found = parse_stored(Trial, content, place, what="the record of a trial", mend=MEND)
        self._tags[number] = tag
        return self.write(found, attempt=found.attempt + 1)

    def write(self, trial: Trial, **changes: Any) -> Trial:
        """Change a record and write it; return it.

        While storage does not answer it is kept, and written with the next.

        Raises:
            ConflictError: where another driver has taken the trial over.
        """
        trial = trial.model_copy(update=changes)
        self.trials[trial.number] = trial
        late, self._late = self._late | {trial.number}, set()
        for number in sorted(late):
            self._put(self.trials[number])
        return trial

    def _put(self, trial: Trial) -> None:
        content = trial.model_dump_json(exclude_defaults=True, indent=2) + "\n"
        tag = self._tags.get(trial.number, "")
        place = _place(self.url, trial.number)
        try:
            self._tags[trial.number] = storage.write_bytes(place, content.encode(), instead_of=tag)
        except ConflictError:
            raise ConflictError(
                f"{place}: was taken over by another search of the same recipe; this one ends"
            ) from None
        except StorageError as error:
            told = f"{error}; the record is kept, and written with the next"
            status(told, level="warning")
            self._late.add(trial.number)

    def compact(self) -> None:
        """Put each whole thousand of records into one file, once all of them have ended."""
        folder = storage.join(self.url, TRIALS)
        alone = {name for name in storage.list_files(folder) if name.endswith(".json")}
        for first in range(0, len(self.trials) - BLOCK + 1, BLOCK):
            block = [self.trials.get(number) for number in range(first, first + BLOCK)]
            ended = [trial for trial in block if trial is not None and trial.state != "running"]
            files = [name for name in map(_name, range(first, first + BLOCK)) if name in alone]
            if len(ended) < BLOCK or not files:
                continue
            lines = (trial.model_dump_json(exclude_defaults=True) + "\n" for trial in ended)
            name = f"{first:06d}-{first + BLOCK - 1:06d}.jsonl"
            storage.write_bytes(storage.join(folder, name), "".join(lines).encode())
            with ThreadPoolExecutor(16) as pool:
                list(pool.map(lambda name: storage.delete_file(storage.join(folder, name)), files))


def locate(root: str, search_id: str) -> str:
    """Return where a search lies, given its id, or its name: the newest of that name.

    Raises:
        DataError: where there is none.
    """
    known = names(root)
    if search_id in known:
        return storage.join(root, "searches", search_id)
    near = [name for name in known if name.rpartition("-")[0] == search_id]
    if len(near) == 1:
        return storage.join(root, "searches", near[0])
    if near:
        places = [storage.join(root, "searches", name) for name in near]
        newest = max(places, key=_began)
        listed = ", ".join(near)
        status(f"{search_id}: of {listed} the newest, {newest.rpartition('/')[2]}")
        return newest
    hint = did_you_mean(search_id, known)
    raise DataError(
        f"{search_id}: no such search in {root}{hint}; raypose searches list shows them"
    )


def _began(url: str) -> float:
    """Return when a search began; 0 where that cannot be read."""
    try:
        return read_search(url).began
    except DataError:
        return 0.0


def names(root: str) -> list[str]:
    """Return the ids of the searches in a storage root."""
    return storage.list_folders(storage.join(root, "searches"))


def read_search(url: str) -> Search:
    """Return what is known of a search.

    Raises:
        DataError: where it was not made by this version, or is damaged.
    """
    return read_stored(Search, storage.join(url, SEARCH), what="a search", mend=MEND)


def read_outcome(url: str) -> Outcome | None:
    """Return what a search came to; None before its end."""
    try:
        return read_stored(Outcome, storage.join(url, OUTCOME), what="an outcome", mend=MEND)
    except NotFoundError:
        return None


def read_trials(url: str) -> dict[int, Trial]:
    """Return number → record of all trials of a search, in their order."""
    folder = storage.join(url, TRIALS)
    files = storage.list_files(folder)
    blocks = _blocks(files)
    found: dict[int, Trial] = {}
    for name in blocks:
        place = storage.join(folder, name)
        found |= {trial.number: trial for trial in _lines(storage.read_bytes(place), place)}
    alone = [name for name in files if _number(name) is not None and _number(name) not in found]
    with ThreadPoolExecutor(16) as pool:
        read = list(pool.map(lambda name: _read(storage.join(folder, name)), alone))
    if None in read or _blocks(storage.list_files(folder)) != blocks:
        return read_trials(url)  # records were put into a block as they were listed, or read
    found |= {trial.number: trial for trial in read if trial is not None}
    return dict(sorted(found.items()))


def best(trials: Iterable[Trial]) -> list[Trial]:
    """Return those that have a score, the best first; of equals the first."""
    scored = [trial for trial in trials if trial.score is not None]
    return sorted(scored, key=lambda trial: (-(trial.score or 0.0), trial.number))


def pace(config: Config) -> float | None:
    """Return the seconds from one trial to the next in a search so far; None before the first."""
    url = storage.join(config.storage, "searches", config.search_id)
    try:
        known = read_search(url)
    except NotFoundError:
        return None
    ended = [trial for trial in read_trials(url).values() if trial.state != "running"]
    spent = known.seconds or sum(trial.seconds for trial in ended)
    return spent / len(ended) if ended and spent else None


def finished(config: Config) -> SearchResult | None:
    """Return the result of a search that has made its trials, or None."""
    url = storage.join(config.storage, "searches", config.search_id)
    outcome, wanted = read_outcome(url), config.search
    if outcome is None or outcome.num_trials < wanted.num_trials:
        return None
    still = (f"search.max_hours={wanted.max_hours}", f"search.stop_at={wanted.stop_at}")
    if outcome.over and outcome.over not in still:
        return None  # the limit that ended it is gone, or another
    if wanted.finalists and outcome.finals is None and not outcome.over:
        return None
    return result_of(url, outcome, read_trials(url))


def result_of(url: str, outcome: Outcome, trials: Mapping[int, Trial]) -> SearchResult:
    """Return the result of a search from what lies in its folder."""
    recipe = storage.join(url, WINNER)
    return SearchResult(
        url=url,
        recipe=recipe,
        config=load(recipe),
        values=outcome.values,
        score=outcome.score,
        trials=[trial.summary() for trial in trials.values()],
        notes=outcome.notes,
    )


def _place(url: str, number: int) -> str:
    return storage.join(url, TRIALS, _name(number))


def _blocks(files: Iterable[str]) -> list[str]:
    return [name for name in files if name.endswith(".jsonl")]


def _name(number: int) -> str:
    return f"{number:06d}.json"


def _number(name: str) -> int | None:
    stem, _, ending = name.partition(".")
    return int(stem) if ending == "json" and stem.isdecimal() else None


def _read(url: str) -> Trial | None:
    """Return a record; None where it was put into a block meanwhile."""
    try:
        found = read_stored(Trial, url, what="the record of a trial", mend=MEND)
    except NotFoundError:
        return None
    if found.number != _number(url.rpartition("/")[2]):
        raise DataError(f"{url}: is the record of trial {found.number}; {MEND}")
    return found


def _lines(content: bytes, url: str) -> Iterable[Trial]:
    try:
        return [Trial.model_validate_json(line) for line in content.splitlines()]
    except ValidationError:
        raise DataError(f"{url}: not the records of trials; {MEND}") from None
