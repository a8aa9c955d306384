from __future__ import annotations

from typing import Any

import open_clip
import pytest
import torch
from support.models import NORMED, TINY

from raypose.captions import taxonomy
from raypose.captions.grammar import parse
from raypose.clip import model, zeroshot
from raypose.clip.zeroshot import CPU_PART
from raypose.config import ModelConfig


def test_classifier_agrees_with_open_clip() -> None:
    clip = model.build(ModelConfig(backbone="tiny", architectures={"tiny": TINY}))
    clip.model.eval()
    classes = taxonomy.load("synthetic12")
    grammar = parse("{ensemble:a photo of <name>|<name>, a pose|someone in <name>}")
    ours = zeroshot.build_classifier(clip, grammar, classes)
    theirs = open_clip.build_zero_shot_classifier(
        clip.model,
        clip.tokenizer,
        classnames=[card.name for card in classes.cards],
        templates=["a photo of {}", "{}, a pose", "someone in {}"],
        use_tqdm=False,
    )
    torch.testing.assert_close(ours, theirs.T, atol=1e-6, rtol=0)


def test_mirror_images_count_as_much() -> None:
    plain = ModelConfig(backbone="tiny", architectures={"tiny": TINY})
    clip = model.build(plain)
    clip.model.eval()
    both = plain.model_copy(update={"mirror": True})
    pixels = torch.randint(0, 256, (3, 3, clip.image_size, clip.image_size), dtype=torch.uint8)
    features = zeroshot.embed(clip, pixels, both)
    torch.testing.assert_close(features, zeroshot.embed(clip, pixels.flip(3), both))
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    alone = zeroshot.embed(clip, pixels, plain)
    assert not torch.allclose(features, alone, atol=1e-4)
    expected = torch.nn.functional.normalize(alone + zeroshot.embed(clip, pixels.flip(3), plain))
    torch.testing.assert_close(features, expected)


@pytest.mark.parametrize("mirror", [False, True])
def test_sizes_count_as_much(mirror: bool) -> None:
    made = {"backbone": "tiny", "architectures": {"tiny": NORMED}, "mirror": mirror}
    plain, sized = ModelConfig(**made), ModelConfig(**made, scales=(0.5, 1))
    clip = model.build(plain)
    clip.model.eval()
    pixels = torch.randint(0, 256, (3, 3, clip.image_size, clip.image_size), dtype=torch.uint8)
    images = zeroshot.normalized(clip, pixels)
    half = torch.nn.functional.avg_pool2d(images, 2)
    seen = [half, half.flip(3), images, images.flip(3)] if mirror else [half, images]
    with torch.no_grad():
        each = [clip.model.encode_image(view, normalize=True) for view in seen]
    expected = torch.nn.functional.normalize(torch.stack(each).mean(0))
    torch.testing.assert_close(zeroshot.embed(clip, pixels, sized), expected)
    assert not torch.allclose(expected, zeroshot.embed(clip, pixels, plain), atol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "parts"),
    [(NORMED, [CPU_PART, CPU_PART, 1]), (TINY, [2 * CPU_PART + 1])],
    ids=["convolutions", "transformer"],
)
def test_a_cpu_goes_through_convolutions_with_few_pictures(
    architecture: dict[str, Any], parts: list[int]
) -> None:
    config = ModelConfig(backbone="tiny", architectures={"tiny": architecture})
    clip = model.build(config)
    clip.model.eval()
    seen: list[int] = []
    clip.model.visual.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    size = (2 * CPU_PART + 1, 3, clip.image_size, clip.image_size)
    pixels = torch.randint(0, 256, size, dtype=torch.uint8)
    features = zeroshot.embed(clip, pixels, config)
    assert seen == parts
    alone = [zeroshot.embed(clip, one[None], config) for one in pixels]
    torch.testing.assert_close(features, torch.cat(alone), atol=1e-5, rtol=0)


def test_kept_features_are_of_one_way_to_see_pictures() -> None:
    ways = ({}, {"mirror": True}, {"inference": "bf16"}, {"resize": "trim"},
            {"scales": (0.5, 1.0)})  # fmt: skip
    known = [ModelConfig(**way).encoding for way in ways]
    assert known == list(ways)


def test_probabilities_are_a_softmax() -> None:
    features, classifier = torch.eye(2, 4), torch.eye(3, 4)
    odds = zeroshot.probabilities(features, classifier, 2.0)
    torch.testing.assert_close(odds.sum(1), torch.ones(2))
    torch.testing.assert_close(odds[0], torch.tensor([2.0, 0, 0]).softmax(0))
