"""One HTML page of a search that needs nothing beside it, made from its records alone.

Everything in it stands in the records: it is made of a search that runs as of one that has ended.
Where there are many trials plots show a part of them, and say so.
"""

from __future__ import annotations

import html
import random
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution

from raypose import metrics, storage
from raypose.console import one_line, plural
from raypose.errors import DataError
from raypose.pages import markup, plots
from raypose.tuning import charts, importances, records
from raypose.tuning.charts import Row
from raypose.tuning.journal import quiet, to_study
from raypose.tuning.overview import Overview, differences, table_order
from raypose.tuning.records import Trial

__all__ = ["search_page"]

GRAMMARS, LATENCY = "grammars.json", "latency.json"
MAX_ROWS = 500
"""Trials in the table."""
MAX_POINTS = 1000
MAX_CURVES = 200
"""Trials in a plot that is a line for each."""
MAX_AXES = 8
MAX_WAYS = 12
"""Values of a key that are told apart."""
MAX_GRAMMARS = 30
MAX_VALUE = 60
"""Characters of a value in the table."""


def escape(text: str) -> str:
    """Return a text as it may stand in a page: records come from strangers."""
    return html.escape(one_line(text))


def search_page(seen: Overview) -> str:
    """Return the page of a search.

    Args:
        seen: of `overview.look`.
    """
    scored = [trial for trial in seen.trials.values() if trial.score is not None]
    ended = [trial for trial in scored if trial.state != "running"]
    parts = [_head(seen)]
    with charts.drawing(), quiet():
        if scored and seen.best is not None:
            parts += [
                markup.section("How it went", _history(scored, seen.best)),
                markup.section("Early stopping", _rungs(seen, seen.best)),
            ]
        parts += [
            markup.section("What decides the score", _importances(ended)),
            _where(ended),
            _captions(seen, scored),
            _latencies(seen, scored),
            _finals(seen),
        ]
    parts.append(markup.section("Trials, best first", _table(seen)))
    return markup.page(seen.search.id, "".join(parts), style=markup.REPORT + STYLE)


def _head(seen: Overview) -> str:
    """Return what it came to, in a few sentences."""
    best = seen.best
    texts = [f"{seen.url}: {seen.state}. {seen.told}; {_took(seen)}."]
    if best is None or best.score is None:
        texts.append("No trial has a score yet.")
    else:
        kind = "The winner" if seen.outcome else "The best so far"
        texts.append(
            f"{kind} is trial {best.number}: balanced accuracy {best.score:.4f} on validation, by "
            "which it was chosen: that is above what it will be on other pictures."
        )
    notes = [*seen.search.notes, *(seen.outcome.notes if seen.outcome else ())]
    failed = next((trial for trial in seen.trials.values() if trial.state == "failed"), None)
    if failed is not None:
        notes.append(f"first failure: trial {failed.number}: {failed.error or 'not said why'}")
    head = "".join(f"<p>{escape(text)}</p>" for text in texts)
    return head + _changes(seen, best) + _told(notes)


def _took(seen: Overview) -> str:
    hours = f"{seen.hours:.1f} hours" if seen.hours >= 1 else f"{60 * seen.hours:.1f} minutes"
    return f"{plural(seen.epochs, 'epoch', 'epochs')} trained in {hours} of trials"


def _changes(seen: Overview, best: Trial | None) -> str:
    """Return in what the best differs from the search's own recipe."""
    if best is None:
        return ""
    changed = differences(seen.search, best.values)
    rows = "".join(
        f"<tr><td>{escape(key)}<td>{escape(_shown(old))}<td>{escape(_shown(new))}"
        for key, (old, new) in changed.items()
    )
    if not rows:
        return "<p>It differs in nothing from the search's own recipe.</p>"
    head = "<tr><th>key<th>the search's recipe<th>the best"
    return f"<div class=wide><table class='plain words'>{head}{rows}</table></div>"


def _history(scored: Sequence[Trial], best: Trial) -> str:
    shown = _thinned(scored, MAX_POINTS, best)
    left_out = _left_out(len(scored) - len(shown))
    return left_out + plots.svg(charts.history_plot(shown, best))


def _rungs(seen: Overview, best: Trial) -> str:
    curves = [trial for trial in seen.trials.values() if trial.scores]
    shown = _thinned(curves, MAX_CURVES, best)
    passed = max(trial.rung for trial in curves)
    text = f"<p class=note>At most {plural(passed, 'rung')} passed.</p>" if passed else ""
    text += _left_out(len(curves) - len(shown))
    return text + plots.svg(charts.rungs_plot(shown, best))


def _importances(ended: Sequence[Trial]) -> str:
    """Return how much each parameter decides, with intervals."""
    if len(ended) < importances.FEWEST:
        return _told(
            [
                f"{plural(len(ended), 'trial')} with a score: too few to say, "
                f"{importances.FEWEST} are wanted."
            ]
        )
    found = importances.importances(ended)
    if not found:
        return _told(["The records hold no parameters."])
    rows = [Row(each.name, each.mean, each.interval) for each in found[:MAX_GRAMMARS]]
    note = (
        "Share of each parameter in whether a trial is among the best (PED-ANOVA), over trials "
        "that finished and that were stopped, each by its best score: mean and 95 % of "
        "100 draws of the trials. Intervals that overlap tell no order."
    )
    return _told([note]) + plots.svg(charts.row_plot(rows, "importance"))


def _where(ended: Sequence[Trial]) -> str:
    """Return where trials lie in the space, by Optuna's own plots."""
    shown = _thinned(ended, MAX_CURVES * 2, None)
    # a trial that was stopped has a score too, and Optuna draws those alone that are complete
    study = to_study("trials", [trial.model_copy(update={"state": "finished"}) for trial in shown])
    names = _params(study)
    if len(shown) < 2 or not names:
        return ""
    notes = ["Dark lines have high scores; None stands where a trial lacks a parameter."]
    if len(names) > MAX_AXES:
        notes.append(f"{plural(len(names) - MAX_AXES, 'parameter')} more that fewer trials have.")
    wide = plots.svg(charts.parallel_plot(study, names[:MAX_AXES]))
    numeric = [name for name in names if _is_numeric(study, name)][:MAX_AXES]
    slices = "".join(plots.svg(charts.slice_plot(study, name)) for name in numeric)
    keys = sorted({key for trial in ended for key in trial.values} - {*numeric})
    for key in [key for key in keys if not key.startswith("captions.")][:MAX_AXES]:
        slices += _ways(key, ended)
    body = f"<div class=wide><div class=matrix>{wide}</div></div><div class=pair>{slices}</div>"
    left_out = _left_out(len(ended) - len(shown))
    return markup.section("Where trials lie", f"{_told(notes)}{left_out}{body}")


def _params(study: optuna.Study) -> list[str]:
    """Return the parameters that take more than one value, those of most trials first."""
    values: dict[str, list[Any]] = defaultdict(list)
    for trial in study.get_trials(deepcopy=False):
        for name, value in trial.params.items():
            values[name].append(value)
    several = [name for name, found in values.items() if len(set(found)) > 1]
    return sorted(several, key=lambda name: -len(values[name]))


def _is_numeric(study: optuna.Study, name: str) -> bool:
    """Tell whether a parameter is a number wherever it is one."""
    found = (trial.distributions.get(name) for trial in study.get_trials(deepcopy=False))
    return not any(isinstance(each, CategoricalDistribution) for each in found)


def _captions(seen: Overview, scored: Sequence[Trial]) -> str:
    """Return what captions did: in the stage before training, and over trials."""
    body = _grammars(_optional(seen.url, GRAMMARS))
    keys = sorted({key for trial in scored for key in trial.values if key.startswith("captions.")})
    drawn = "".join(_ways(key, scored) for key in keys)
    if drawn:
        note = (
            "Over trials, which differ in other keys as well: each, their mean, and from three on "
            "its 95 % interval."
        )
        body += f"{_told([note])}<div class=pair>{drawn}</div>"
    return markup.section("What captions do", body) if body else ""


def _grammars(found: Mapping[str, Any]) -> str:
    """Return the figures of grammars without training; controls stand in another colour."""
    listed = [each for each in found.get("grammars", ()) if isinstance(each.get("score"), float)]
    if not listed:
        return ""
    listed.sort(key=lambda each: -each["score"])
    rows = [
        Row(
            str(each.get("label") or each.get("grammar") or ""),
            each["score"],
            each.get("interval"),
            color=plots.ORANGE if each.get("is_control") else plots.BLUE,
        )
        for each in listed[:MAX_GRAMMARS]
    ]
    over = f" on {plural(found['num_pictures'], 'picture')}" if found.get("num_pictures") else ""
    by = f" by {found['backbone']}" if found.get("backbone") else ""
    notes = [found.get("sentence"), found.get("note")]
    notes.append(f"Without training{by}{over}; controls, which say nothing of a pose, in orange.")
    if len(listed) > len(rows):
        notes.append(f"{plural(len(listed) - len(rows), 'grammar')} more that are worse.")
    texts = "".join(
        f"<tr><td>{escape(str(each.get('label', '')))}<td>{escape(str(each.get('grammar', '')))}"
        f"<td>{each['score']:.4f}"
        for each in listed[:MAX_GRAMMARS]
    )
    table = f"<table class=words><tr><th>grammar<th>text<th>score{texts}</table>"
    return (
        _told(note for note in notes if note)
        + plots.svg(charts.row_plot(rows, "balanced accuracy"))
        + f"<details><summary>Their texts</summary><div class=wide>{table}</div></details>"
    )


def _ways(key: str, scored: Sequence[Trial]) -> str:
    """Return scores by the values of a key, the best first; nothing where it has one value."""
    found: dict[str, list[float]] = defaultdict(list)
    for trial in scored:
        if key in trial.values and trial.score is not None:
            found[_shown(trial.values[key])].append(trial.score)
    most = sorted(found, key=lambda way: -len(found[way]))[:MAX_WAYS]
    if len(most) < 2 or len(found) > len(scored) / 2:  # nearly each trial has its own
        return ""
    rows = [_row(f"{way} ({plural(len(found[way]), 'trial')})", found[way]) for way in most]
    rows.sort(key=lambda row: -row.value)
    return plots.svg(charts.row_plot(rows, f"balanced accuracy by {charts.clip(key)}"))


def _row(label: str, scores: Sequence[float]) -> Row:
    mean = sum(scores) / len(scores)
    around = metrics.of_mean(scores)["interval"] if len(scores) > 2 else None
    return Row(label, mean, around, scores[:MAX_CURVES])


def _latencies(seen: Overview, scored: Iterable[Trial]) -> str:
    """Return score against latency, where the latencies of backbones are known."""
    known = {
        name: float(each["ms"])
        for name, each in _optional(seen.url, LATENCY).items()
        if isinstance(each, Mapping) and isinstance(each.get("ms"), int | float)
    }
    own = str(differences(seen.search, {"model.backbone": None})["model.backbone"][0])
    points: dict[str, tuple[float, float]] = {}
    for trial in records.best(scored):
        name = str(trial.values.get("model.backbone", own))
        if name in known:
            points.setdefault(name, (known[name], trial.score or 0.0))
    if not points:
        return ""
    front = charts.front((name, ms, score) for name, (ms, score) in points.items())
    rows = "".join(
        f"<tr><td>{escape(name)}<td>{points[name][0]:.1f}<td>{points[name][1]:.4f}"
        for name in front
    )
    table = f"<table class=words><tr><th>backbone<th>ms a picture<th>score{rows}</table>"
    note = "The best trial of each backbone; in orange those that none is both faster and better."
    drawn = plots.svg(charts.latency_plot(points, front))
    return markup.section(
        "Score and latency", f"{_told([note])}{drawn}<div class=wide>{table}</div>"
    )


def _finals(seen: Overview) -> str:
    """Return the best over several seeds, beside what they are held against."""
    found = seen.outcome.finals if seen.outcome else None
    if found is None or not found.entries:
        return ""
    rows = [Row(each.label, each.mean, list(each.interval), each.scores) for each in found.entries]
    seeds = ", ".join(str(seed) for seed in found.seeds)
    chose = "These chose the winner." if found.chose else "These chose nothing."
    note = f"Seeds {seeds}, scored on {found.data}: each, their mean, its 95 % interval. "
    lines = "".join(
        f"<tr><td>{escape(each.label)}<td>{each.mean:.4f}<td>{_between(each.interval)}"
        for each in found.entries
    )
    tables = f"<table class=words><tr><th>entry<th>mean<th>95 %{lines}</table>"
    pairs = "".join(
        f"<tr><td>{escape(each.label)}<td>{each.difference:+.4f}<td>{_between(each.interval)}"
        f"<td>{each.p:.3g}"
        for each in found.paired
    )
    if pairs:
        tables += f"<table class=words><tr><th>paired<th>difference<th>95 %<th>p{pairs}</table>"
    drawn = plots.svg(charts.row_plot(rows, "balanced accuracy"))
    body = f"{_told([note + chose])}{drawn}<div class=wide>{tables}</div>"
    return markup.section("Finals", body)


def _between(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.4f} to {interval[1]:.4f}"


def _table(seen: Overview) -> str:
    """Return the trials, with a column for each key that they differ in."""
    ordered = table_order(seen.trials)
    shown = ordered[:MAX_ROWS]
    keys = list(dict.fromkeys(key for trial in shown for key in trial.values))
    head = "".join(f"<th>{escape(key)}" for key in keys)
    rows = "".join(_line(trial, keys, seen.best) for trial in shown)
    more = len(ordered) - len(shown)
    note = _told([f"{plural(more, 'trial')} more are left out."]) if more else ""
    return (
        f"{note}<div class='wide tall'><table class=trials><tr><th>trial<th>state<th>score"
        f"<th>epochs<th>rung<th>seconds{head}<th>error{rows}</table></div>"
    )


def _line(trial: Trial, keys: Sequence[str], best: Trial | None) -> str:
    kind = " class=main" if best is not None and trial.number == best.number else ""
    score = "–" if trial.score is None else f"{trial.score:.4f}"
    values = "".join(
        f"<td>{escape(charts.clip(_shown(trial.values[key]), MAX_VALUE))}"
        if key in trial.values
        else "<td>"
        for key in keys
    )
    return (
        f"<tr{kind}><td>{trial.number}<td>{trial.state}<td>{score}<td>{trial.epochs}"
        f"<td>{trial.rung}<td>{trial.seconds:.0f}{values}<td class=error>{escape(trial.error)}"
    )


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _told(notes: Iterable[str]) -> str:
    return "".join(f"<p class=note>{escape(note)}</p>" for note in notes)


def _left_out(count: int) -> str:
    return _told([f"{plural(count, 'trial')} more are not drawn."]) if count > 0 else ""


def _thinned(trials: Sequence[Trial], most: int, winner: Trial | None) -> list[Trial]:
    """Return some of many trials in their order: the best quarter of them, and others by chance."""
    if len(trials) <= most:
        return list(trials)
    kept = {trial.number for trial in records.best(trials)[: most // 4]}
    kept |= {winner.number} if winner else set()
    others = [trial.number for trial in trials if trial.number not in kept]
    kept |= {*random.Random(0).sample(others, most - len(kept))}
    return [trial for trial in trials if trial.number in kept]


def _optional(url: str, name: str) -> dict[str, Any]:
    """Return a document of the search's folder; an empty one where it is absent or no document."""
    try:
        found = storage.read_json(storage.join(url, name))
    except DataError:
        return {}
    return found if isinstance(found, dict) else {}


STYLE = """
.tall{max-height:640px;overflow-y:auto}.trials{font-size:12px}
.trials td:nth-child(n+7){text-align:left;max-width:280px;overflow-wrap:anywhere;white-space:normal}
.trials .error{min-width:120px}.words td{overflow-wrap:anywhere}
.words td:first-child,.words th{overflow-wrap:normal;white-space:nowrap}
"""
