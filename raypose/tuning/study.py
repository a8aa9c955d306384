"""From a space of dotted keys to the best recipe: Tune over `training.train`, Optuna choosing.

Each trial trains in its own Tune actor with one worker, so that it starts in seconds; ASHA stops
those that fall behind. Trials are ranked by validation balanced accuracy, never by the loss. What a
caption grammar leaves to the study is asked for trial by trial, a branch's own choices only where
it is taken. The winner is written as an ordinary recipe.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from functools import partial
from typing import Any

import optuna
import yaml
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from raypose import captions, runtime, storage, training
from raypose.captions import grammar, nodes, taxonomy
from raypose.config import Config, Distribution, dump, override, parse_config, sparse
from raypose.console import plural, status
from raypose.data import inputs
from raypose.errors import ConfigError, TrainError
from raypose.training import checkpoint, runs
from raypose.tuning.decoded import Decoded
from raypose.tuning.records import METRIC, TRIALS, WINNER, SearchResult, TrialRecord

__all__ = ["search"]

CPUS_PER_TRIAL = 1.0
GRAMMAR = "captions.grammar"


def search(config: Config) -> SearchResult:
    """Try `search.num_trials` points of `search.space`.

    Raises:
        ConfigError: where there is nothing to search, or nothing to rank by.
        ResourceError: where a trial would wait without end.
        TrainError: where every trial failed; it quotes the first.
    """
    resources = _check(config)
    url = storage.join(config.storage, "searches", config.search_id)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    status(f"searching {', '.join(_keys(config))} in {config.search.num_trials} trials")
    decoded = Decoded()  # ends with this
    results = runtime.interruptible(_tuner(config, resources, decoded, url=url).fit)
    return _conclude(config, results, url=url)


def _check(config: Config) -> dict[str, float]:
    """Refuse what cannot be searched; return the resources of a trial."""
    if not _keys(config):
        raise ConfigError("search.space: empty; give at least one key, such as optim.learning_rate")
    if not config.data.val:
        raise ConfigError("data.val: not set; trials are ranked on a validation set")
    inputs.load(config)
    concurrent = config.search.max_concurrent
    per_trial = {"cpu": CPUS_PER_TRIAL}
    wanted = {"CPU": concurrent * CPUS_PER_TRIAL + 1}  # one decodes
    if runtime.wants_gpu(config.train.use_gpu, count=concurrent):
        per_trial["gpu"] = 1.0
        wanted["GPU"] = float(concurrent)
    runtime.require(
        wanted,
        what=f"search.max_concurrent={concurrent}",
        mend="lower it, or raise cluster.num_cpus where Ray is started here",
    )
    return per_trial


def _tuner(
    config: Config, resources: dict[str, float], decoded: Decoded, *, url: str
) -> tune.Tuner:
    settings = config.search
    fs, path = storage.filesystem(url)
    trial = tune.with_parameters(_trial, document=dump(config), decoded=decoded)
    return tune.Tuner(
        tune.with_resources(trial, resources),
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            search_alg=OptunaSearch(
                space=partial(_draw, config=config), metric=METRIC, mode="max", seed=config.seed
            ),
            scheduler=ASHAScheduler(
                time_attr="epoch",
                max_t=config.optim.epochs,
                grace_period=min(settings.grace_epochs, config.optim.epochs),
            ),
            num_samples=settings.num_trials,
            max_concurrent_trials=settings.max_concurrent,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            # a name of its own each time: what Ray left of an interrupted search is not read
            name=f"tune-{uuid.uuid4().hex[:8]}",
            storage_path=path,
            storage_filesystem=fs,
            verbose=0,
            callbacks=[_TrialLog(settings.num_trials)],
        ),
    )


def _trial(values: dict[str, Any], *, document: dict[str, Any], decoded: Decoded) -> None:
    """Train one point; a trial that was finished before reports what it reached."""
    config = parse_config(document)
    config = _point(config, _values(config, values))
    reported = False

    def report(metrics: dict[str, Any]) -> None:
        nonlocal reported
        reported = True
        tune.report(metrics)

    result = training.train(config, in_process=True, report=report, load=decoded.load)
    if not reported:
        tune.report(result.metrics)


def _point(config: Config, values: Mapping[str, Any]) -> Config:
    """Return the recipe of one trial: the same run wherever it is tried."""
    return override(config, {**values, "name": f"{config.name}-trial", "search": {}})


def _keys(config: Config) -> list[str]:
    """Return the keys that trials differ in.

    Raises:
        CaptionError: where a preset to try is not there.
        ConfigError: where a grammar to try leaves something to the study itself.
    """
    recipes = [config]
    for key in ("captions.preset", GRAMMAR):
        if key in config.search.space:
            ways = config.search.space[key].examples()
            recipes = [override(each, {key: way}) for each in recipes for way in ways]
    open_ends = any(nodes.searched(captions.load(each.captions)) for each in recipes)
    if open_ends and GRAMMAR in config.search.space:
        raise ConfigError(
            f"search.space.{GRAMMAR}: a grammar among several cannot hold search: choices; "
            f"set {GRAMMAR} to one that does, or write sample: instead"
        )
    return [*config.search.space, *([GRAMMAR] if open_ends else [])]


def _draw(trial: optuna.Trial, *, config: Config) -> dict[str, Any]:
    """Ask Optuna for one trial: the keys of the space, then what captions leave open.

    Parameters of a grammar are named by their place in it, such as ``photo.2.0``, so that one
    that lies in a branch not taken is not asked for. The trial is given the settled grammar.
    """
    values = {key: _ask(trial, key, value) for key, value in config.search.space.items()}
    settings = override(config, values).captions
    node = captions.load(settings)
    if not nodes.searched(node):
        return {}
    settled = nodes.bind(
        captions.prune(node, taxonomy.load(config.data.taxonomy)),
        lambda place, ways: trial.suggest_categorical(place, range(ways)),
        place="grammar" if settings.grammar is not None else settings.preset,
    )
    return {GRAMMAR: grammar.format_grammar(settled)}


def _ask(trial: optuna.Trial, key: str, distribution: Distribution) -> Any:
    if distribution.choice is not None:
        return trial.suggest_categorical(key, distribution.choice)
    if distribution.uniform is not None:
        return trial.suggest_float(key, *distribution.uniform)
    if distribution.loguniform is not None:
        return trial.suggest_float(key, *distribution.loguniform, log=True)
    assert distribution.integers is not None
    return trial.suggest_int(key, *distribution.integers)


def _conclude(config: Config, results: tune.ResultGrid, *, url: str) -> SearchResult:
    trials: list[TrialRecord] = [
        {
            "values": _values(config, result.config or {}),
            "score": _best_score(result),
            "epochs": (result.metrics or {}).get("epoch", 0),
            "error": _last_line(result.error),
        }
        for result in results
    ]
    for trial in trials:  # those that were stopped early are not gone on with either
        checkpoint.forget(runs.locate(_point(config, trial["values"])).url)
    scored = [trial for trial in trials if trial["score"] is not None]
    if not scored:
        raise TrainError(f"search {config.name}: every trial failed; first: {trials[0]['error']}")
    best = max(scored, key=lambda trial: trial["score"] or 0.0)
    winner = override(config, {**best["values"], "search": {}})
    recipe = storage.join(url, WINNER)
    text = yaml.safe_dump(sparse(winner), sort_keys=False, allow_unicode=True)
    head = f"# winner of {len(trials)} trials, {METRIC} {best['score']:.4f}\n"
    storage.write_json(storage.join(url, TRIALS), trials)
    storage.write_bytes(recipe, (head + text).encode())
    return SearchResult(
        url=url,
        recipe=recipe,
        config=winner,
        values=best["values"],
        score=best["score"] or 0.0,
        trials=trials,
    )


def _best_score(result: Any) -> float | None:
    frame = result.metrics_dataframe
    if frame is None or METRIC not in frame or not frame[METRIC].notna().any():
        return None
    return float(frame[METRIC].max())


def _format(values: Mapping[str, Any]) -> str:
    return "  ".join(
        f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
        for key, value in values.items()
    )


def _last_line(error: Exception | None) -> str | None:
    return None if error is None else str(error).strip().splitlines()[-1].strip()


def _values(config: Config, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial's values by the keys of a recipe; places in a grammar are left out."""
    return {key: values[key] for key in (*config.search.space, GRAMMAR) if key in values}


class _TrialLog(tune.Callback):
    """Says on the terminal how trials end."""

    def __init__(self, num_trials: int) -> None:
        self.num_trials = num_trials
        self.done = 0

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Print what is tried."""
        status(f"trying    {_format(trial.config)}")

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Print the trial's last score and its values."""
        self._log(trial, f"{METRIC} {trial.last_result.get(METRIC, float('nan')):.3f}")

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        """Print why a trial failed."""
        self._log(trial, f"failed: {_last_line(trial.get_error()) or 'its process died'}")

    def _log(self, trial: Trial, outcome: str) -> None:
        self.done += 1
        epochs = trial.last_result.get("epoch", 0)
        outcome = f"{outcome} after {plural(epochs, 'epoch')}"
        status(f"trial {self.done}/{self.num_trials} {outcome}  {_format(trial.config)}")
