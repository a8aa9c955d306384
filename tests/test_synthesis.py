from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raypose import synthesis
from raypose.errors import DataError


def test_a_picture_follows_from_its_seed() -> None:
    label = next(iter(synthesis.POSES))
    one, again, other = (
        np.asarray(synthesis.render(label, seed=seed, size=48)) for seed in (5, 5, 6)
    )
    assert one.shape == (48, 48, 3)
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


@pytest.mark.parametrize("label", synthesis.POSES)
def test_bones_keep_their_lengths(label: str) -> None:
    points = synthesis.joints(synthesis.POSES[label], synthesis.LENGTHS)
    for start, end, bone in (
        ("hip_l", "knee_l", "thigh"),
        ("knee_r", "ankle_r", "shin"),
        ("shoulder_r", "elbow_r", "upper_arm"),
        ("waist", "neck", "chest"),
    ):
        length = np.linalg.norm(points[end] - points[start])
        assert length == pytest.approx(synthesis.LENGTHS[bone])


def test_poses_are_what_they_are_named() -> None:
    def at(label: str, joint: str) -> float:
        (full,) = (name for name in synthesis.POSES if name.startswith(label))
        return float(synthesis.joints(synthesis.POSES[full], synthesis.LENGTHS)[joint][1])

    assert (
        at("Supported_Shoulderstand", "ankle_l") > at("Supported_Shoulderstand", "pelvis") > 0 - 1
    )
    assert at("Supported_Shoulderstand", "head") < at("Supported_Shoulderstand", "pelvis")
    assert at("Downward", "pelvis") > max(at("Downward", "hand_l"), at("Downward", "ankle_l"))
    assert at("Tree", "head") > at("Tree", "pelvis") > at("Tree", "ankle_l")
    assert at("Tree", "ankle_r") > at("Tree", "ankle_l") + 0.2
    assert abs(at("Corpse", "head") - at("Corpse", "ankle_l")) < 0.1
    assert at("Boat", "ankle_l") > at("Boat", "pelvis")


def test_folders_and_unknown_labels(tmp_path: Path) -> None:
    synthesis.synthesize(tmp_path, per_class=2, size=32)
    assert len(list(tmp_path.glob("*/*.jpg"))) == 2 * len(synthesis.POSES) >= 24
    assert synthesis.contact_sheet(columns=2, size=32).size == (64, 32 * len(synthesis.POSES))
    with pytest.raises(DataError, match='no pose "Tree_Pose"; did you mean "Tree_Pose_or_'):
        synthesis.render("Tree_Pose", seed=0)
