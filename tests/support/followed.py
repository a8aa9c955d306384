"""A run on Ray and a search, and what they told: several tests look at them from several sides."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any

import pytest

from raypose import config, training, tuning
from raypose.config import Config
from raypose.console import JOB, LOG

SEARCH = {
    "space": {"optim.learning_rate": {"choice": [1e-3, 1e-4]}}, "num_trials": 2,
    "max_concurrent": 1, "finalists": 0, "grammars": 0, "reduction_factor": 0,
}  # fmt: skip


@dataclass(frozen=True)
class Followed:
    """The lines are those of JSON on stderr."""

    run: training.TrainResult
    run_lines: list[dict[str, Any]]
    searched: Config
    search: tuning.SearchResult
    search_lines: list[dict[str, Any]]


def follow(recipe: Config) -> Followed:
    """Train a recipe, and search from it with one epoch a trial."""
    searched = config.override(recipe, {"search": SEARCH, "optim.epochs": 1})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(LOG, "json")
        patch.delenv(JOB, raising=False)
        patch.delenv("RAYPOSE_QUIET", raising=False)
        with redirect_stderr(io.StringIO()) as of_run:
            run = training.train(recipe)
        with redirect_stderr(io.StringIO()) as of_search:
            search = tuning.search(searched)
    lines = [[json.loads(line) for line in told.getvalue().splitlines()]
             for told in (of_run, of_search)]  # fmt: skip
    return Followed(run, lines[0], searched, search, lines[1])
