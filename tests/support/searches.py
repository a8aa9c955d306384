"""Searches that were drawn, not made: their folder as a driver leaves it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from raypose import storage
from raypose.config import Config, dump, override
from raypose.tuning.records import Outcome, Records, Search, Trial, best

BACKBONES = ("ViT-B-32-256/datacomp_s34b_b86k", "ViT-B-16/datacomp_xl_s13b_b90k", "PE-Core-S-16")
PRESETS = ("name", "photo", "words", "tree")
SPACE: dict[str, BaseDistribution] = {
    "optim.learning_rate": FloatDistribution(1e-6, 1e-3, log=True),
    "model.backbone": CategoricalDistribution(BACKBONES),
    "captions.preset": CategoricalDistribution(PRESETS),
    "loss.name": CategoricalDistribution(("class_ce", "siglip")),
    "loss.label_smoothing": FloatDistribution(0.0, 0.3),
    "optim.epochs": IntDistribution(4, 10),
}


def trial(number: int, *, seed: int = 0, **changes: Any) -> Trial:
    """A record that has ended: finished, stopped or failed, by chance; label smoothing where the
    loss has it."""
    rng = np.random.default_rng([seed, number])
    values: dict[str, Any] = {
        "optim.learning_rate": float(10 ** rng.uniform(-6, -3)),
        "model.backbone": BACKBONES[rng.integers(3)],
        "captions.preset": PRESETS[rng.integers(4)],
        "loss.name": ("class_ce", "siglip")[rng.integers(2)],
        "optim.epochs": int(rng.integers(4, 11)),
    }
    if values["loss.name"] == "class_ce":
        values["loss.label_smoothing"] = float(rng.uniform(0, 0.3))
    state = rng.choice(["finished", "stopped", "stopped", "stopped", "failed"])
    epochs = values["optim.epochs"] if state == "finished" else int(rng.integers(1, 4))
    top = 0.8 - 0.1 * abs(np.log10(values["optim.learning_rate"]) + 4.5)
    top += 0.05 * BACKBONES.index(values["model.backbone"]) - 0.02 * len(values)
    scores = {
        epoch: round(float(top - 0.4 / (epoch + 1) + 0.01 * rng.normal()), 6)
        for epoch in range(1, epochs + 1)
    }
    return Trial(
        **{
            "number": number,
            "state": state,
            "values": values,
            "params": values,
            "distributions": {name: distribution_to_json(SPACE[name]) for name in values},
            "run": f"postures-trial-{number:08x}",
            "rung": 2 if state == "finished" else 0,
            "scores": scores if state != "failed" else {},
            "seconds": 12.5 * epochs,
            "began": 1.7e9 + 40 * number,
            "error": "TrainError: the loss is not finite" if state == "failed" else "",
            **changes,
        }
    )


def search(root: str, name: str = "postures", **changes: Any) -> str:
    """Write what is known of a search before its end; return where it lies."""
    config = override(Config(), {"name": name, "storage": root, "model.backbone": BACKBONES[0]})
    search_id = f"{name}-1a2b3c4d"
    url = storage.join(root, "searches", search_id)
    document = Search(
        **{"id": search_id, "name": name, "config": dump(config), "began": 1.7e9, **changes}
    )
    storage.write_bytes(f"{url}/search.json", document.model_dump_json().encode())
    return url


def write(url: str, trials: list[Trial]) -> Records:
    """Write records one by one, as a driver does."""
    made = Records(url)
    for each in trials:
        made.write(each)
    return made


def outcome(url: str, trials: list[Trial], **changes: Any) -> Outcome:
    """Write what a search came to."""
    winner = best(trials)[0]
    made = Outcome(
        **{
            "number": winner.number,
            "values": winner.values,
            "score": winner.score,
            "num_trials": len(trials),
            "finals": finals(winner),
            "notes": ["The winner is better than the default: 0.031 (0.010 to 0.052), p = 0.004."],
            **changes,
        }
    )
    storage.write_bytes(f"{url}/outcome.json", made.model_dump_json().encode())
    return made


def finals(winner: Trial) -> dict[str, Any]:
    """What a search's last stage says."""
    entries = [
        {"label": label, "number": number, "values": {}, "scores": scores,
         "mean": sum(scores) / 3, "interval": [min(scores) - 0.02, max(scores) + 0.02]}
        for label, number, scores in (
            (f"trial {winner.number}", winner.number, [0.781, 0.773, 0.79]),
            ("default", None, [0.742, 0.751, 0.748]),
            ("control captions", None, [0.712, 0.703, 0.7]),
        )
    ]  # fmt: skip
    paired = [{"label": f"trial {winner.number} against default", "difference": 0.0313,
               "interval": [0.0102, 0.0521], "p": 0.0041}]  # fmt: skip
    return {"seeds": [0, 1, 2], "data": "shards/test", "chose": False,
            "entries": entries, "paired": paired}  # fmt: skip


def extras(url: str) -> None:
    """Write the figures of grammars without training, and the latencies of backbones."""
    listed = [
        {"label": label, "grammar": text, "score": score, "interval": [score - 0.03, score + 0.03],
         "is_control": control}
        for label, text, score, control in (
            ("words", "a person, <base>[, legs <legs>]", 0.52, False),
            ("photo", "a photo of a person doing <name>", 0.49, False),
            ("tree", "<top>: <parent>: <name>", 0.47, False),
            ("shuffled words", "a person, <base>, of another class", 0.11, True),
            ("class number", "class <number>", 0.09, True),
        )
    ]  # fmt: skip
    document = {"backbone": BACKBONES[0], "num_pictures": 2000, "grammars": listed,
                "note": "scored on data.train", "sentence": "Words beat names."}  # fmt: skip
    storage.write_bytes(f"{url}/grammars.json", json.dumps(document).encode())
    ms = {name: {"ms": 30.0 + 45 * k} for k, name in enumerate(BACKBONES)}
    storage.write_bytes(f"{url}/latency.json", json.dumps(ms).encode())


def choices(ways: list[Any]) -> str:
    """A choice as Optuna writes it."""
    return distribution_to_json(CategoricalDistribution(ways))
