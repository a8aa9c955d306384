"""From a winner to production: trained, published, and promoted only where it is better."""

from __future__ import annotations

from typing import Any

from raypose import training
from raypose.config import Config
from raypose.console import waiting
from raypose.evaluation import publishing, scoring, summary, verdict
from raypose.inference import pool
from raypose.releases import registry

__all__ = ["beats", "train_and_publish"]

FIGURE = "balanced_accuracy"
"""By which one is better."""


def train_and_publish(config: Config, *, publish: bool) -> dict[str, Any]:
    """Train a recipe, publish it, and promote it where it beats production; Ray is connected.

    Args:
        config: the recipe; its `data.test` decides.
        publish: whether to go further than training.

    Returns:
        run; release and promoted, where published; said, what happened in sentences.
    """
    result = training.train(config)
    with waiting("holding it against its baselines"):
        verdict.hold_up(config, result)
    said = [f"trained {result.run_id}: {FIGURE} {result.metrics[f'val_{FIGURE}']:.4f} on data.val"]
    if not publish:
        return {"run": result.run_id, "said": said}
    before = _production(config)
    release = publishing.publish(config)
    promoted, line = True, f"{release} is the first of its name"
    if before == str(release):
        line = f"{release} is in production already"
    elif before:
        promoted, line = beats(config, str(release), before)
    if promoted:
        registry.promote(config.storage, str(release))
    ending = "promoted to production" if promoted else "published, not promoted"
    said.append(f"{line}: {ending}")
    return {"run": result.run_id, "release": str(release), "promoted": promoted, "said": said}


def beats(config: Config, ours: str, theirs: str) -> tuple[bool, str]:
    """Return whether a release is better than another on `data.test`, and what was found.

    It is where the whole 95 % interval of the difference of balanced accuracies lies above 0.

    Args:
        config: says where.
        ours: reference of a release.
        theirs: of another.
    """
    with pool.kept():
        found = summary.compare(
            *(scoring.score(config.storage, each, config.data.test) for each in (ours, theirs))
        )
    figure = found["figures"][FIGURE]
    low, high = figure["interval"]
    words = "better" if low > 0 else "worse" if high < 0 else "no better"
    return low > 0, (
        f"{ours} is {words} than {theirs} on {found['num_examples']} pictures of data.test: "
        f"balanced accuracy {figure['difference']:+.3f} ({low:+.3f} to {high:+.3f}), "
        f"p {found['p']:.3f}"
    )


def _production(config: Config) -> str:
    """Return what is in production under a recipe's name; empty for nothing."""
    for row in registry.overview(config.storage):  # a damaged alias is told, not passed over
        if row["release"].startswith(f"{config.name}:") and registry.PRODUCTION in row["aliases"]:
            return str(row["release"])
    return ""
