from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raypose import synthesis
from raypose.captions import taxonomy
from raypose.errors import DataError
from raypose.synthesis import figures
from raypose.synthesis.poses import POSES


def test_a_picture_follows_from_its_seed() -> None:
    label = next(iter(POSES))
    one, again, other = (
        np.asarray(synthesis.render(label, seed=seed, size=48)) for seed in (5, 5, 6)
    )
    assert one.shape == (48, 48, 3)
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


@pytest.mark.parametrize("label", POSES)
def test_bones_keep_their_lengths(label: str) -> None:
    points = synthesis.joints(POSES[label], figures.LENGTHS)
    for start, end, bone in (
        ("hip_l", "knee_l", "thigh"),
        ("knee_r", "ankle_r", "shin"),
        ("shoulder_r", "elbow_r", "upper_arm"),
        ("waist", "neck", "chest"),
    ):
        length = np.linalg.norm(points[end] - points[start])
        assert length == pytest.approx(figures.LENGTHS[bone])


YOGA = taxonomy.load("yoga82")
UP, SHOULDERS_DOWN = 0.3, 0.12


def posed(label: str) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    points = synthesis.joints(POSES[label], figures.LENGTHS)
    lowest = min(point[1] for point in points.values())
    return {name: point - [0, lowest, 0] for name, point in points.items()}


@pytest.mark.parametrize("card", YOGA.cards, ids=lambda card: card.id)
def test_poses_agree_with_their_cards(card: taxonomy.Card) -> None:
    body, facets = posed(card.id), card.facets
    up = (body["neck"] - body["pelvis"]) / np.linalg.norm(body["neck"] - body["pelvis"])
    if facets.orientation == "upright":
        assert up[1] > 0.25
    elif facets.orientation == "inverted":
        assert up[1] < -0.35
    else:
        assert -0.75 < up[1] < 0.8
    if facets.orientation == "supine":
        assert up[0] < -0.4
    if facets.orientation == "prone":
        assert up[0] > 0.4
    feet = [body[f"{part}_{side}"][1] for side in "lr" for part in ("ankle", "toe")]
    hands = [body[f"hand_{side}"][1] for side in "lr"]
    near = 0.34
    if facets.base in ("feet", "one foot", "hands and feet"):
        assert min(feet) < near
    if facets.base in ("hands", "hands and feet", "forearms", "one hand"):
        assert min(hands) < near
    if facets.base in ("seat", "back", "belly"):
        assert body["pelvis"][1] < near
    if "head" in facets.support:
        assert body["head"][1] < near
    if facets.arms == "overhead" and facets.orientation == "upright":
        assert max(hands) > body["neck"][1]
    if facets.legs == "raised" and facets.orientation != "prone":
        assert min(feet) > body["pelvis"][1] + UP


def test_trunk_turns_and_body_tips() -> None:
    plain = POSES["Split pose"]
    turned = synthesis.joints(replace(plain, twist=90), figures.LENGTHS)
    assert turned["shoulder_l"][0] > turned["shoulder_r"][0] + 0.2
    tipped = synthesis.joints(replace(plain, roll=90), figures.LENGTHS)
    assert tipped["hip_l"][1] > tipped["hip_r"][1] + 0.1
    assert tipped["head"][2] < -0.5
    tilted = synthesis.joints(replace(plain, hips=40), figures.LENGTHS)
    assert tilted["hip_l"][1] < tilted["hip_r"][1]


def test_folders_and_unknown_labels(tmp_path: Path) -> None:
    labels = YOGA.ids[:3]
    synthesis.synthesize(tmp_path, dict.fromkeys(labels, 2), size=32)
    assert sorted(path.parent.name for path in tmp_path.glob("*/*.jpg")) == sorted(labels * 2)
    with pytest.raises(DataError, match='no pose "Boat_Pose_or_Paripurna"; did you mean "Boat_'):
        synthesis.render("Boat_Pose_or_Paripurna", seed=0)
    with pytest.raises(DataError, match='no pose "standing"; drawn are those of taxonomy=yoga82'):
        synthesis.render("standing", seed=0)
