"""A search over a cluster: `ray.tune` carries out its course, here, in `callbacks` and in `trial`.

Each trial trains in its own Tune actor, which goes on to the next, so that one starts in a part of
a second; with several workers a trial, in a Train group. What is drawn, goes on or is given up is
the `course`'s to say, and what is true is in the records.
"""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import ray
import yaml
from ray import tune
from ray.tune.execution import class_cache
from ray.tune.experiment import Trial as TuneTrial

from raypose import config as documents
from raypose import runtime, storage
from raypose.clip import hub
from raypose.config import Config, dump, override, space, sparse
from raypose.console import about, owner, plural, status
from raypose.data import claims, inputs
from raypose.errors import ConfigError, NotFoundError, TrainError
from raypose.training import checkpoint, heap
from raypose.tuning import finals, latency, records, trial, warming
from raypose.tuning.callbacks import CourseScheduler, CourseSearcher
from raypose.tuning.course import Course
from raypose.tuning.decoded import Decoded
from raypose.tuning.records import (
    METRIC,
    OUTCOME,
    SEARCH,
    WINNER,
    Outcome,
    Records,
    Search,
    SearchResult,
    result_of,
)
from raypose.tuning.watching import watching

__all__ = ["search"]

SETTINGS = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # records are ours
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_THRESHOLD_S": "60",
    "TUNE_MAX_PENDING_TRIALS_PG": "1",
}


_OF_TUNE = {"CPU": "cpu", "GPU": "gpu"}
"""Names that Tune has for resources of its own."""


def search(config: Config) -> SearchResult:
    """Try `search.num_trials` points of `search.space`, or go on with it where it was left.

    Raises:
        ConfigError: where there is nothing to search, or nothing to rank by.
        ResourceError: where a trial would wait without end.
        ConflictError: where another makes this search.
        TrainError: where every trial failed; it says why most did.
    """
    keys, needs = _check(config)
    url = storage.join(config.storage, "searches", config.search_id)
    for key, value in SETTINGS.items():
        os.environ.setdefault(key, value)
    with (
        about(search=config.search_id),
        claims.hold(url, what=config.search_id) as still_ours,
        closing(Decoded()) as decoded,
    ):
        known = _begin(config, url)
        found = Records(url)
        course = Course(config, found, url=url, before_s=known.seconds)
        warming.warm(config, course, url)
        if course.num_left and not course.over:
            status(f"searching {', '.join(keys)}: {plural(course.num_left, 'trial')} to go")
            _run(config, course, needs, decoded, url=url)
        if course.lost:
            raise course.lost
        still_ours()
        course.close()
        found.compact()
        seconds = {"seconds": course.seconds, "notes": [*known.notes, *course.notes]}
        known = known.model_copy(update=seconds)
        storage.write_json(storage.join(url, SEARCH), known.model_dump(mode="json"))

        def run(recipe: Config, finals_course: Course) -> None:
            _run(recipe, finals_course, needs, decoded, url=url)
            if finals_course.lost:
                raise finals_course.lost

        return _conclude(config, course, run, url=url, still_ours=still_ours)


def _check(config: Config) -> tuple[list[str], dict[str, float]]:
    """Refuse what cannot be searched; return the keys, and the resources of a trial."""
    keys = inputs.check_search(config)
    documents.prove(config)
    inputs.load(config)
    concurrent = config.search.max_concurrent or 1
    count = config.train.least_workers
    gpus = 0.0
    if runtime.wants_gpu(config.train.use_gpu, count=math.ceil(config.search.gpus_per_trial)):
        gpus = config.search.gpus_per_trial if count == 1 else 1.0
    each = config.train.needs(gpus)
    what = f"search.max_concurrent={concurrent}"
    runtime.make_room(each, concurrent * count, config.cluster, what=what, who=config.search_id)
    return keys, {resource: count * amount for resource, amount in each.items()}


def _begin(config: Config, url: str) -> Search:
    """Note that a search begins, or is gone on with."""
    try:
        known = records.read_search(url)
        known = known.model_copy(update={"attempt": known.attempt + 1, "config": dump(config)})
        status(f"going on with {config.search_id}")
    except NotFoundError:
        known = Search(
            id=config.search_id,
            name=config.name,
            owner=owner(),
            config=dump(config),
            base=config.base_id,
            began=time.time(),
        )
    storage.write_json(storage.join(url, SEARCH), known.model_dump(mode="json"))
    return known


def _run(
    config: Config, course: Course, needs: dict[str, float], decoded: Decoded, *, url: str
) -> None:
    """Have Tune make the trials.

    It lets one go without a word where an actor could not be used again: that one begins anew.
    """
    for _ in range(1 + config.search.max_failures):
        _fit(config, course, needs, decoded, url=url)
        if course.lost or not course.running:
            return
        course.take_back()
    raise TrainError(
        f"search {config.name}: trials did not come to their end; given again, it goes on"
    )


def _fit(
    config: Config, course: Course, needs: dict[str, float], decoded: Decoded, *, url: str
) -> None:
    together = config.train.num_workers != 1
    work = tune.with_parameters(
        trial.run, document=dump(config), url=url, decoded=decoded, kept=_kept(config)
    )
    # Train asks for its workers itself
    held = {_OF_TUNE.get(name, name): amount for name, amount in needs.items()}
    held = {"cpu": 0.01} if together else held
    reasons: dict[str, str] = {}
    environment = {} if together or "GPU" in needs else heap.ENVIRONMENT
    # what Tune keeps of itself is read by nobody: it stays here, and goes
    with tempfile.TemporaryDirectory() as folder, watching(course), _given(environment):
        tuner = tune.Tuner(
            tune.with_resources(work, held),
            tune_config=tune.TuneConfig(
                search_alg=CourseSearcher(course, _room(config, needs), reasons),
                scheduler=CourseScheduler(course, url, reasons),
                num_samples=-1,
                reuse_actors=not together,
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=folder,
                failure_config=tune.FailureConfig(max_failures=config.search.max_failures),
                verbose=0,
            ),
        )
        runtime.interruptible(tuner.fit)


@contextmanager
def _given(environment: Mapping[str, str]) -> Iterator[None]:
    """Have Tune start its actors with variables; it knows but its own, and takes no others."""
    known = class_cache.DEFAULT_ENV_VARS
    before = dict(known)
    known.update(environment)
    try:
        yield
    finally:
        known.clear()
        known.update(before)


def _kept(config: Config) -> dict[str, str]:
    """Have the weights of each backbone on storage; return backbone → where.

    One that cannot be had is left to its trials, which say why, and are given up.
    """
    found: dict[str, str] = {}
    names = space.values(config.search.space, "model.backbone") or [config.model.backbone]
    for name in map(str, names):
        try:
            place = hub.keep(config.model.model_copy(update={"backbone": name}), config.storage)
        except ConfigError as error:
            status(str(error))
            continue
        if place:
            found[name] = place
    return found


def _name(of: TuneTrial) -> str:
    return f"trial-{of.config[trial.NUMBER]:06d}"


def _room(config: Config, needs: dict[str, float]) -> Callable[[], int]:
    """Return what tells how many trials may run now: its share of the cluster as it is now."""
    state = {"at": -math.inf, "room": 1}

    def room() -> int:
        if time.monotonic() - state["at"] < 1.0:
            return int(state["room"])
        there = ray.cluster_resources()
        slots = min(
            (there.get(name, 0.0) - (name == "CPU")) / amount for name, amount in needs.items()
        )
        cores = runtime.at_once()
        if cores and "GPU" not in needs:
            slots = min(slots, max(1.0, cores / needs["CPU"]))
        slots = config.search.max_concurrent or slots
        state.update(at=time.monotonic(), room=max(1, int(slots / max(1, Decoded.count()))))
        return int(state["room"])

    return room


def _conclude(
    config: Config,
    course: Course,
    run: Callable[[Config, Course], None],
    *,
    url: str,
    still_ours: Callable[[], None],
) -> SearchResult:
    """Write down the winner, and what may be concluded."""
    trials = course.records.trials
    ended = [storage.join(url, "runs", t.run) for t in trials.values() if t.state != "running"]
    with ThreadPoolExecutor(16) as pool:  # thousands of requests to S3
        list(pool.map(checkpoint.forget, ended))
    ranked = records.best(trials.values())
    if not ranked:
        raise _scoreless(config, course)
    latency.measure(config, ranked, url)
    held = _finals(config, course, ranked, run, url=url)
    first = _first(ranked, held)
    winner = override(config, {**first.values, "search": {}})
    outcome = Outcome(
        number=first.number,
        values=first.values,
        score=first.score or 0.0,
        num_trials=config.search.num_trials,
        over=course.over if course.over.startswith("search.") else "",
        finals=held,
        notes=[*course.notes, *(held.sentences if held else ())],
    )
    text = yaml.safe_dump(sparse(winner), sort_keys=False, allow_unicode=True)
    head = f"# winner of {len(trials)} trials, {METRIC} {first.score:.4f}\n"
    still_ours()
    storage.write_bytes(storage.join(url, WINNER), (head + text).encode())
    storage.write_json(storage.join(url, OUTCOME), outcome.model_dump(mode="json"))
    return result_of(url, outcome, trials)


def _scoreless(config: Config, course: Course) -> TrainError:
    """Return why there is no winner."""
    if not course.commonest():
        return TrainError(
            f"search {config.name}: {course.over} was reached before a trial had a score; raise it"
        )
    return TrainError(f"search {config.name}: every trial failed; most: {course.commonest()}")


def _finals(
    config: Config,
    course: Course,
    ranked: Sequence[records.Trial],
    run: Callable[[Config, Course], None],
    *,
    url: str,
) -> records.Finals | None:
    """Return the finals of a search, those of before where none are held now."""
    before = records.read_outcome(url)
    if not config.search.finalists or course.over.startswith("search.max_hours"):
        return before.finals if before else None

    return finals.hold(config, ranked, url, run)


def _first(ranked: Sequence[records.Trial], held: records.Finals | None) -> records.Trial:
    """Return the winner: the best on the mean of seeds where these were tried."""
    known = [entry for entry in held.entries if entry.number is not None] if held else []
    number = ranked[0].number
    if known and held and held.num_trials >= len(ranked):
        number = int(max(known, key=lambda one: statistics.fmean(one.val_scores)).number or 0)
    return next(trial for trial in ranked if trial.number == number)
