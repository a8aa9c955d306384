"""`model.inference`: one precision for a final model's figures, evaluation and serving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.models import NORMED

from raypose import config, evaluation, metrics, training
from raypose.clip import arithmetic
from raypose.config import Config
from raypose.releases import Model
from raypose.releases.predictor import Predictor

CONVOLUTIONS = {"model.backbone": "normed", "model.architectures": {"normed": NORMED}}


@pytest.mark.parametrize("changes", [{}, CONVOLUTIONS], ids=["transformer", "convolutions"])
def test_finish_evaluation_and_predictor_agree(
    changes: dict[str, object], recipe: Config, cluster: None, pictures: Path
) -> None:
    made = config.override(recipe, {"model.inference": "bf16", "optim.epochs": 1, **changes})
    result = training.train(made, in_process=True)
    model = Model.load(evaluation.publish(made))
    low = model.predictor
    scored = evaluation.score("", model, made.data.val)
    pixels = np.stack([low.pixels((pictures / "val" / name).read_bytes()) for name in scored.ids])

    def chances(predictor: Predictor, batch_size: int) -> np.ndarray:
        starts = range(0, len(pixels), batch_size)
        return np.concatenate([predictor.probabilities(pixels[k : k + batch_size]) for k in starts])

    # to the last bits of bf16, batch sizes matter
    np.testing.assert_allclose(scored.probabilities, chances(low, 20), atol=1e-6)
    as_finished = metrics.nll(chances(low, made.optim.batch_size), scored.targets)
    assert result.metrics["val_nll"] == pytest.approx(as_finished, abs=1e-6)
    exact = config.override(model.config, {"model.inference": "fp32"})
    scale, classes = low.logit_scale, model.taxonomy
    high = Predictor(low.clip, low.classifier, scale, classes, exact, device=low.device)
    if not arithmetic.has_bf16(low.device):  # it was told, and computed in fp32
        assert np.abs(chances(high, 20) - scored.probabilities).max() < 1e-6
        return
    assert np.abs(chances(high, 20) - scored.probabilities).max() > 1e-4  # bf16 it is
    assert abs(metrics.nll(chances(high, 32), scored.targets) - as_finished) > 3e-6


def test_a_precision_that_is_as_by_default_leaves_ids(recipe: Config) -> None:
    assert config.override(recipe, {"model.inference": "fp32"}).run_id == recipe.run_id
    assert config.override(recipe, {"model.inference": "bf16"}).run_id != recipe.run_id
