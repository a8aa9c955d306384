from __future__ import annotations

from raypose import config, training
from raypose.config import Config
from raypose.evaluation.promotion import train_and_publish
from raypose.releases import registry


def test_only_what_is_better_is_promoted(recipe: Config, cluster: None) -> None:
    # so small a model tells apart only the pictures that it has seen: they decide here
    tested = config.override(recipe, {"data.test": recipe.data.train, "name": "winner"})
    fast = {"optim.epochs": 40, "optim.learning_rate": 3e-3, "data.val": recipe.data.train}
    good = config.override(tested, fast)
    poor = config.override(tested, {"optim.epochs": 1, "optim.learning_rate": 1e-7})

    other = config.override(poor, {"seed": 1})

    def production() -> str:
        return str(registry.resolve(recipe.storage, "winner@production"))

    for each in (poor, good, other):  # as a run that is finished already is not run again
        training.train(each, in_process=True)
    first = train_and_publish(poor, publish=True)
    assert first["promoted"]
    assert "is the first of its name" in first["said"][-1]
    second = train_and_publish(good, publish=True)
    assert second["promoted"], second["said"]
    assert "is better than" in second["said"][-1]
    assert production() == second["release"]
    third = train_and_publish(other, publish=True)
    assert not third["promoted"]
    assert third["said"][-1].endswith("published, not promoted")
    assert production() == second["release"]
    again = train_and_publish(good, publish=True)
    assert "in production already" in again["said"][-1]
