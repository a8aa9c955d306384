"""The page of a search, made of records that were drawn."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape
from pathlib import Path

import matplotlib
import pytest
from matplotlib import pyplot
from support import searches

from raypose.tuning import charts, importances, overview, records
from raypose.tuning.records import Trial
from raypose.tuning.report import search_page

Made = Callable[..., str]


def is_alone(page: str) -> bool:
    """Whether nothing but the page itself is asked for, and nothing in it is run."""
    outside = re.findall(r"""(?:src|href)=["']?(?!data:|#)([^"'>\s]+)""", page)
    return not outside and "<script" not in page and "@import" not in page


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Makes a page of some records."""

    def page(trials: list[Trial], *, ended: bool = False, extras: bool = False) -> str:
        url = searches.search(str(tmp_path), notes=["rungs at epochs 1, 3 and 9"])
        searches.write(url, trials)
        if ended:
            searches.outcome(url, trials)
        if extras:
            searches.extras(url)
        return search_page(overview.look(url))

    return page


def headings(page: str) -> list[str]:
    return re.findall(r"<h2>(.*?)</h2>", page)


def test_all_of_a_search_is_on_its_page(made: Made) -> None:
    trials = [searches.trial(k) for k in range(40)]
    page = made(trials, ended=True, extras=True)
    assert is_alone(page)
    assert headings(page) == [
        "How it went",
        "Early stopping",
        "What decides the score",
        "Where trials lie",
        "What captions do",
        "Score and latency",
        "Finals",
        "Trials, best first",
    ]
    for table in re.finditer("<table", page):  # a narrow screen scrolls it, not the page
        assert "wide" in re.findall(r"<div[^>]*>", page[: table.start()])[-1]
    winner = records.best(trials)[0]
    assert f"The winner is trial {winner.number}: balanced accuracy {winner.score:.4f}" in page
    assert f"{sum(trial.epochs for trial in trials)} epochs trained" in page
    for state in ("finished", "stopped", "failed"):
        assert f"{sum(t.state == state for t in trials)} {state}" in page
    assert "rungs at epochs 1, 3 and 9" in page
    assert "Words beat names." in page
    pair = f"trial {winner.number} against default<td>+0.0313<td>0.0102 to 0.0521<td>0.0041"
    assert pair in page
    assert "These chose nothing." in page
    rows = re.findall(r"<tr(?: class=main)?><td>(\d+)<td>(\w+)<td>([\d.–]+)<td>(\d+)", page)
    shown = {int(number): (state, score, int(epochs)) for number, state, score, epochs in rows}
    assert shown == {
        trial.number: (
            trial.state,
            "–" if trial.score is None else f"{trial.score:.4f}",
            trial.epochs,
        )
        for trial in trials
    }
    assert next(iter(shown)) == winner.number


def test_a_page_says_in_what_the_winner_differs(made: Made) -> None:
    values = {"model.backbone": searches.BACKBONES[0], "optim.weight_decay": 0.325}
    page = made([searches.trial(0, state="finished", values=values, scores={1: 0.5})], ended=True)
    assert "<td>optim.weight_decay<td>0.1<td>0.325" in page
    assert "<td>model.backbone<td>" not in page  # the same as the search's own


@pytest.mark.parametrize(
    "trials",
    [
        [],
        [searches.trial(0, state="running", scores={})],
        [searches.trial(0, state="failed", scores={}, error="died")],
        [searches.trial(0, state="running", scores={1: 0.5})],
        [searches.trial(0, state="finished", scores={1: 0.5})],
        [searches.trial(k, state="stopped", scores={1: 0.5}) for k in range(12)],
        [searches.trial(k, state="stopped", scores={1: 0.5}, params={}) for k in range(12)],
        [searches.trial(k, state=s, scores={1: 0.5}) for k, s in ((3, "running"), (9, "failed"))],
    ],
)
def test_few_trials_make_a_page_too(made: Made, trials: list[Trial]) -> None:
    page = made(trials)
    assert is_alone(page)
    assert page.count("class=main") == any(trial.score is not None for trial in trials)
    if len(trials) < importances.FEWEST:
        assert "too few to say, 10 are wanted" in page


def test_hostile_values_are_text(made: Made) -> None:
    evil = "<script>alert(1)</script> $x^{$ \u4eba {\\frac"
    trials = [
        searches.trial(
            k,
            state="finished",
            scores={1: 0.5 + k / 100},
            values={"captions.grammar": f"{evil}{k % 2}", "<b onclick=x>": k},
            params={"captions.$preset": f"{evil}{k % 3}", "x$": k / 12},
            distributions={
                "captions.$preset": searches.choices([f"{evil}{way}" for way in range(3)]),
                "x$": searches.distribution_to_json(searches.FloatDistribution(0, 1)),
            },
            error=evil,
        )
        for k in range(12)
    ]
    page = made(trials)
    assert is_alone(page)
    assert "<b onclick" not in page
    assert escape("<script>alert(1)") in page


def test_drawing_leaves_no_trace(made: Made) -> None:
    before = dict(matplotlib.rcParams)
    backend, figures = matplotlib.get_backend(), pyplot.get_fignums()
    made([searches.trial(k) for k in range(12)])
    assert dict(matplotlib.rcParams) == before
    assert (matplotlib.get_backend(), pyplot.get_fignums()) == (backend, figures)


def test_what_decides_stands_out_of_what_does_not() -> None:
    trials = []
    for k in range(60):
        trial = searches.trial(k, state="finished")
        rate = trial.params["optim.learning_rate"]
        trials.append(trial.model_copy(update={"scores": {1: float(1e-3 - rate)}}))
    found = importances.importances(trials)
    assert found[0].name == "optim.learning_rate"
    assert {each.name for each in found} == set(searches.SPACE)
    assert all(e.interval[0] <= e.mean <= e.interval[1] for e in found)
    assert sum(each.mean for each in found) == pytest.approx(1.0)
    assert found[0].interval[0] > found[1].mean
    assert importances.importances(trials) == found
    assert importances.importances(trials[:9]) == []


def test_the_front_is_what_none_surpasses() -> None:
    points = [("slow", 90.0, 0.9), ("worse", 95.0, 0.8), ("fast", 10.0, 0.5), ("mid", 40.0, 0.5)]
    assert charts.front(points) == ["fast", "slow"]


def test_many_trials_are_thinned_and_said_so(made: Made) -> None:
    trials = [searches.trial(k, state="stopped", scores={1: k / 2000}) for k in range(1200)]
    page = made(trials)
    assert "200 trials more are not drawn." in page  # of the history
    assert "1000 trials more are not drawn." in page  # of the curves
    assert "700 trials more are left out." in page
    assert page.count("<tr") < 600
    assert len(page) < 4_000_000
