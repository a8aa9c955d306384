from __future__ import annotations

from typing import Any

import pytest
import torch
from support.models import TINY

from raypose import captions
from raypose.captions import taxonomy
from raypose.clip import model, text
from raypose.config import ModelConfig

TEXT = TINY["text_cfg"]
BOTH_WAYS = {"no_causal_mask": True, "pool_type": "last"}
WAYS: dict[str, tuple[dict[str, Any], bool, bool]] = {
    "clip": ({}, False, True),
    "pooled at eos": ({"pool_type": "eos", "eos_id": 49407}, False, True),
    "a tower of its own": ({}, True, True),
    "both ways": (BOTH_WAYS, True, False),
    "both ways, argmax": ({"no_causal_mask": True}, False, False),
    "with a class token": ({"embed_cls": True}, True, False),
}
"""Name → changes to the text tower, whether it is a module of its own, whether it is cut."""


def build(changes: dict[str, Any], *, custom: bool) -> model.Clip:
    architecture = {**TINY, "text_cfg": {**TEXT, **changes}, "custom_text": custom}
    return model.build(ModelConfig(backbone="tiny", architectures={"tiny": architecture}))


def sentences() -> list[str]:
    grammar = captions.read("words")
    cards = taxonomy.load("yoga82").cards
    return [captions.sample(grammar, card, seed=0, step=3) for card in cards[:24]]


class Lengths:
    """Notes how many tokens reach the tower's blocks."""

    def __init__(self, clip: model.Clip) -> None:
        self.seen: list[int] = []
        tower = getattr(clip.model, "text", clip.model)
        tower.transformer.register_forward_pre_hook(
            lambda _, inputs: self.seen.append(inputs[0].shape[1])
        )


@pytest.mark.parametrize("way", WAYS)
def test_cut_captions_change_no_gradient(way: str) -> None:
    changes, custom, cut = WAYS[way]
    clip = build(changes, custom=custom)
    tokens = clip.tokenize(sentences())
    wanted = torch.randn(len(tokens), 16, generator=torch.Generator().manual_seed(0))
    lengths = Lengths(clip)
    made = []
    for encode in (clip.model.encode_text, lambda t, normalize: text.encode(clip.model, t)):
        clip.model.zero_grad()
        features = encode(tokens, normalize=True)
        (features * wanted).mean().backward()
        gradients = {
            name: p.grad.clone() for name, p in clip.model.named_parameters() if p.grad is not None
        }
        made.append((features.detach(), gradients))
    assert (lengths.seen[1] < lengths.seen[0]) == cut
    torch.testing.assert_close(made[0][0], made[1][0], atol=1e-6, rtol=0)
    assert made[0][1].keys() == made[1][1].keys()
    for name, gradient in made[0][1].items():
        torch.testing.assert_close(made[1][1][name], gradient, atol=1e-6, rtol=0, msg=name)


def test_each_caption_encoded_once_changes_no_gradient() -> None:
    clip = build({}, custom=False)
    unique = clip.tokenize(sentences()[:5])
    places = torch.tensor([0, 3, 3, 1, 4, 2, 0, 0])
    wanted = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    gradients = []
    for features in (
        lambda: clip.model.encode_text(unique[places], normalize=True),
        lambda: text.encode(clip.model, unique)[places],
    ):
        clip.model.zero_grad()
        (features() * wanted).mean().backward()
        gradients.append(
            {name: p.grad for name, p in clip.model.named_parameters() if p.grad is not None}
        )
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=0, msg=name)


def test_captions_are_encoded_once_while_the_tower_is_locked() -> None:
    clip = build({}, custom=False)
    tokens = clip.tokenize(sentences())
    lengths = Lengths(clip)
    cache = text.TextCache(clip.model)
    first = cache.encode(tokens)
    assert lengths.seen == [11, 13]  # the shorter and the longer
    again = cache.encode(tokens.flip(0))
    assert lengths.seen == [11, 13]
    assert len(cache) == len({tuple(row) for row in tokens.tolist()})
    assert torch.equal(first, again.flip(0))
    torch.testing.assert_close(first, clip.model.encode_text(tokens, normalize=True).detach())
    before = cache.digest
    with torch.no_grad():
        clip.model.visual.proj.add_(1)
    assert text.digest(clip.model) == before
    with torch.no_grad():
        clip.model.text_projection.add_(1)
    assert text.digest(clip.model) != before
