"""The figures of docs/growth.md are those of its formulas, and their constants are what is seen."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.contexts import InMemory, batch, recipe

from raypose import config, storage
from raypose.config import ServeConfig, TrainConfig
from raypose.data import claims
from raypose.testing import Faults, embedded_s3
from raypose.training import checkpoint, epochs, finish, loop, runs
from raypose.tuning.course import Course
from raypose.tuning.points import Point
from raypose.tuning.records import Records

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/growth.md").read_text()
ROWS = re.findall(r"^\| (.+?) \| `([a-z_]+\(.*\))` \| (.+?) \|$", PAGE, flags=re.MULTILINE)
UNITS = {
    "": 1, "%": 0.01, "thousand": 1e3, "million": 1e6, "billion": 1e9, "s": 1, "h": 1,
    "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "PB": 1e15, "MB/s": 1e6, "GB/s": 1e9,
}  # fmt: skip
FACTOR = 1.5
"""Between what a formula says and what is seen at a small size."""


sys.path.append(str(ROOT / "benchmarks"))
growth, measured = map(importlib.import_module, ("growth", "growth_measured"))


def evaluated(text: str) -> float:
    """Return what a formula of the page says: calls of functions there, of plain numbers."""

    def value(node: ast.expr) -> Any:
        if isinstance(node, ast.Call):
            assert isinstance(node.func, ast.Name)
            named = {each.arg or "": value(each.value) for each in node.keywords}
            return getattr(growth, node.func.id)(*map(value, node.args), **named)
        if isinstance(node, ast.BinOp):
            left, right = value(node.left), value(node.right)
            return left**right if isinstance(node.op, ast.Pow) else left * right
        return ast.literal_eval(node)

    return float(value(ast.parse(text, mode="eval").body))


@pytest.mark.parametrize(("what", "formula", "figure"), ROWS, ids=lambda text: text[:60])
def test_figures_are_those_of_the_formulas(what: str, formula: str, figure: str) -> None:
    found = re.fullmatch(r"\$?([\d,]+(?:\.\d+)?) ?([A-Za-z/%]*)", figure)
    assert found, figure
    digits, unit = found[1].replace(",", ""), UNITS[found[2]]
    half = Decimal(1).scaleb(int(Decimal(digits).as_tuple().exponent)) / 2
    assert abs(evaluated(formula) / unit - float(digits)) <= float(half) * 1.0001, what


def test_the_page_says_much_and_names_what_there_is() -> None:
    assert len(ROWS) > 40
    for key in re.findall(r"`((?:train|data|search|serve|optim)\.[a-z_]+)", PAGE):
        section, _, name = key.partition(".")
        assert name in type(getattr(config.Config(), section)).model_fields, key
    assert f"`train.max_failures` ({TrainConfig().max_failures})" in PAGE
    assert f"`serve.max_replicas` ({ServeConfig().max_replicas})" in PAGE
    assert f"`serve.max_queued_requests` ({ServeConfig().max_queued_requests}," in PAGE


def test_constants_are_what_is_seen() -> None:
    for name, (said, seen) in measured.measured(count=2000).items():
        assert 1 / FACTOR < said / seen < FACTOR, (name, said, seen)


def test_periods_are_those_of_the_code() -> None:
    assert 1 / epochs.PROGRESS_PERIOD_S == growth.MESSAGES_PER_S
    assert 1 / claims.RENEWED_S == growth.CLAIM_PUTS_PER_S


def test_a_trial_writes_its_record_as_often() -> None:
    epochs, faults = 3, Faults()
    search = {"space": {"seed": {"choice": [1, 2]}}, "num_trials": 1, "reduction_factor": 0}
    made = recipe(search=search, **{"optim.epochs": epochs})
    with embedded_s3(faults):
        storage.make_bucket("s3://raypose-records")
        url = "s3://raypose-records/searches/s-1"
        course = Course(made, Records(url), url=url, given=[Point({"seed": 1})])
        before = faults.counts["requests"]
        trial = course.next()
        assert trial
        for epoch in range(1, epochs + 1):
            course.report(trial.number, {"epoch": epoch, "val_balanced_accuracy": 0.1 * epoch})
        course.end(trial.number, "finished")
        assert faults.counts["requests"] - before == growth.record_puts(1, epochs)


def test_a_run_that_has_ended_leaves_no_more_models(tmp_path: Path) -> None:
    made = recipe(storage=str(tmp_path), **{"data.val": "memory", "optim.epochs": 3})
    url = runs.locate(made).url
    context = InMemory([batch(list(range(8)))])
    storage.write_json(f"{url}/config.json", config.dump(made))
    loop.train_worker(made, context, run_url=url, num_rows=8)
    finish.finish(made, context, run_url=url)
    checkpoint.forget(url)
    sizes = {name: stat.size for name, stat in storage.walk(url)}
    models = [size for name, size in sizes.items() if name.endswith("open_clip_model.safetensors")]
    assert 2 <= len(models) <= growth.MODELS_KEPT
    assert sum(models) > 0.9 * sum(sizes.values())
