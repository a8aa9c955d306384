"""The whole chain in one command: `demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from raypose.cli.verbs import Call, Keys, Verb
from raypose.config.section import Count
from raypose.console import waiting

__all__ = ["VERBS"]


class DemoKeys(Keys):
    """How long the demo is."""

    folder: str = "raypose-demo"
    """For pictures, figures and the release."""
    per_class: Annotated[int, Field(ge=2)] = 450
    """Training pictures of each posture."""
    epochs: Count = 20
    """Of the winner's training."""
    trials: Count = 4
    """Of the search."""
    keep: bool = False
    """Leave the endpoint up until interrupted."""


def demo(call: Call) -> None:
    """Run the whole chain here, on pictures it draws."""
    with waiting("loading torch and Ray"):
        from raypose.cli import chain
    chain.mark(Path(call.keys.folder))
    chain.run(Path(call.keys.folder), call, **call.keys.model_dump(exclude={"folder"}))


VERBS = (
    Verb(
        "demo",
        (),
        "run the whole chain here, on pictures it draws",
        demo,
        ("raypose demo", "raypose demo per_class=50 epochs=3 trials=1", "raypose demo --keep"),
        DemoKeys,
    ),
)
