"""What is told of releases that answer: by one replica, and added up over all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["REFUSALS", "TAKEN", "UNPROVEN", "Figures", "totals"]

TAKEN = {"release": "answered with", "canary": "answered with, as canary"}
"""Key of a replica's status, a release → what is said of it."""
REFUSALS = {"refused": "refused", "canary_refused": "refused as canary"}
"""Key of a replica's status, release → why → what is said of these releases; as `TAKEN`."""
UNPROVEN = "unproven: it was published without golden pictures"
"""What is said of a release that answers all the same."""


@dataclass
class Figures:
    """Of one release in one replica, since it began to answer."""

    answers: int = 0
    refused: int = 0
    """Pictures that cannot be read."""
    seconds: float = 0.0
    """From bytes to answer, all together."""
    probability: float = 0.0
    """Of the best class, all together."""
    labels: Counter[str] = field(default_factory=Counter)

    def told(self) -> dict[str, Any]:
        """Return means for a machine."""
        count = max(1, self.answers)
        return {
            "answers": self.answers,
            "refused": self.refused,
            "mean_ms": round(1000 * self.seconds / count, 2),
            "mean_probability": round(self.probability / count, 4),
            "labels": dict(self.labels.most_common(10)),
        }


def totals(replicas: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the figures of each release, added up over replicas: means weigh their answers."""
    found: dict[str, list[dict[str, Any]]] = {}
    for replica in replicas:
        for name, figures in (replica.get("releases") or {}).items():
            found.setdefault(name, []).append(figures)
    return {
        name: {
            "answers": (answers := sum(each["answers"] for each in parts)),
            "refused": sum(each["refused"] for each in parts),
            **{
                key: round(sum(e["answers"] * e[key] for e in parts) / max(1, answers), digits)
                for key, digits in (("mean_ms", 2), ("mean_probability", 4))
            },
        }
        for name, parts in sorted(found.items())
    }
