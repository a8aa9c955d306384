"""One recipe trained with several seeds: the mean of its figures, and how far seeds alone go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from raypose import metrics, storage
from raypose.config import Config, override
from raypose.evaluation import report
from raypose.training import runs, tracking

__all__ = ["conclude"]


def conclude(config: Config, results: Sequence[runs.TrainResult]) -> dict[str, Any]:
    """Write what the runs of a recipe have in common, and return it.

    Args:
        config: the recipe, with its seeds.
        results: for each of its seeds, in their order.

    Returns:
        name; data, the validation set; seeds; runs, with their figures; and figures, each with
        mean, sd and interval, the 95 % interval of the mean by Student's t; url, where
        `seeds.json` and `report.html` lie.
    """
    same = override(config, {"seed": 0, "train.seeds": ()})
    digits = same.run_id.rpartition("-")[2]
    span = "-".join(map(str, config.train.seeds[:8]))
    url = storage.join(config.storage, "seeds", f"{config.name}-{digits}-{span}"[:120])
    keys = [key for key, value in results[0].metrics.items() if isinstance(value, float)]
    document = {
        "name": config.name,
        "data": config.data.val,
        "seeds": list(config.train.seeds),
        "runs": [asdict(result) for result in results],
        "figures": {
            key: metrics.of_mean([result.metrics[key] for result in results]) for key in keys
        },
        "url": url,
    }
    lines = {
        f"seed {seed}": tracking.read(storage.join(result.url, tracking.FILE))
        for seed, result in zip(config.train.seeds, results, strict=True)
    }
    page = report.seeds_page(document, lines)
    storage.write_json(storage.join(url, "seeds.json"), document)
    storage.write_bytes(storage.join(url, "report.html"), page.encode())
    return document
