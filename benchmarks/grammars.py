"""What it costs to rank caption grammars: from features kept once, or with pictures encoded anew.

    python benchmarks/grammars.py [num_grammars=1000] [num_pictures=20000] [encoded=64]
                                  [backbone=ViT-B-32] [ensemble=1]

The peer is what one does without a cache: `open_clip`'s zero-shot evaluation once for each grammar,
`encode_image` in batches of 64 and `build_zero_shot_classifier`'s features against it. Its passes
are measured on `encoded` pictures that are decoded already, and scaled to `num_pictures`: a pass
takes as long for every picture. Ours scores all grammars on as many pictures' features.

Both need the captions' features, of `ensemble` captions for each class and grammar, all of them
new: that is timed apart, on some of the grammars, and the ratio is given without it and with it.
What encoding all pictures once costs ours is in a third ratio. The towers have weights drawn by
chance, which take as long. Times are CPU seconds of this process, so that others on the machine
count for little. The last line is JSON: the ratios.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from raypose import config
from raypose.captions import taxonomy
from raypose.captions.grammar import parse
from raypose.captions.nodes import Node
from raypose.captions.proofs import CONTROL_WORDS
from raypose.clip import model
from raypose.tuning.zero_shot import ZeroShot

CLASSES = taxonomy.load("yoga82")
BATCH_SIZE = 64
ENCODED_GRAMMARS = 2
"""Grammars whose captions are encoded in earnest, for the time that it takes."""


def drawn(number: int, ensemble: int) -> list[Node]:
    """Return grammars of as many captions, no two alike in their words."""
    words = [f"{one} {two}" for one in CONTROL_WORDS for two in CONTROL_WORDS if one != two]
    wordings = [f"{word} {mark}".strip() for mark in ("", "of", "in") for word in words]
    texts = ("a photo of", "a picture of", "seen")[:ensemble]
    return [
        parse("{ensemble:" + "|".join(f"{text} {wording} <name>" for text in texts) + "}")
        for wording in wordings[:number]
    ]


class Known(ZeroShot):
    """Takes captions' features from a generator: what is timed is what comes after them."""

    def _encode(self, texts: Any) -> None:
        new = [one for one in texts if one not in self._rows]
        width = self._features.shape[1]
        made = F.normalize(torch.randn(len(new), width), dim=-1)
        self._rows |= {one: row for row, one in enumerate(new, start=len(self._rows))}
        self._text = torch.cat([self._text, made])


@torch.no_grad()
def passes(clip: model.Clip, number: int) -> float:
    """Return the seconds that a picture takes the image tower, decoded already."""
    pixels = torch.randn(number, 3, clip.image_size, clip.image_size)
    clip.model.encode_image(pixels[:BATCH_SIZE], normalize=True)
    began = time.process_time()
    for start in range(0, number, BATCH_SIZE):
        clip.model.encode_image(pixels[start : start + BATCH_SIZE], normalize=True)
    return (time.process_time() - began) / number


def measure(options: dict[str, Any]) -> dict[str, float]:
    """Time all parts, print them, and return the ratios."""
    clip = model.build(config.ModelConfig(backbone=options["backbone"]))
    clip.model.eval()
    num, pictures = options["num_grammars"], options["num_pictures"]
    rng = np.random.default_rng(0)
    width = clip.model_cfg["embed_dim"]
    features = F.normalize(torch.randn(pictures, width), dim=-1)
    targets = rng.integers(0, len(CLASSES), pictures)
    nodes = drawn(num, options["ensemble"])
    if len(nodes) < num:
        raise SystemExit(f"num_grammars: at most {len(nodes)}")
    picture_s = passes(clip, options["encoded"])
    some = ZeroShot(clip, CLASSES, features[:1], targets[:1])
    began = time.process_time()
    for node in nodes[:ENCODED_GRAMMARS]:
        some.check(node)
    some.hits(nodes[:ENCODED_GRAMMARS])
    captions_s = (time.process_time() - began) / ENCODED_GRAMMARS
    scorer = Known(clip, CLASSES, features, targets)
    scorer.hits(nodes[:2])
    began = time.process_time()
    scorer.hits(nodes)
    ours_s = (time.process_time() - began) / num
    theirs_s = pictures * picture_s
    rows = {
        f"theirs: {pictures} pictures encoded anew": theirs_s,
        "ours: rendering, class features, similarities": ours_s,
        "both: new captions of each class, proved and encoded": captions_s,
        "ours, once: all pictures encoded, over all grammars": theirs_s / num,
    }
    print(f"{options['backbone']}, {num} grammars of {len(CLASSES)} classes, {pictures} pictures;")
    print(f"theirs measured on {options['encoded']} pictures: {picture_s * 1e3:.1f} ms each")
    for name, seconds in rows.items():
        print(f"{seconds * 1e3:14.2f} ms a grammar  {name}")
    return {
        "anew_over_ours": round(theirs_s / ours_s, 1),
        "anew_over_ours_with_captions": round((theirs_s + captions_s) / (ours_s + captions_s), 1),
        "anew_over_ours_cold": round(
            (theirs_s + captions_s) / (ours_s + captions_s + theirs_s / num), 1
        ),
        "ours_s": round(ours_s * num, 2),
    }


def main() -> None:
    """Read the options, and measure."""
    options: dict[str, Any] = {
        "num_grammars": 1000,
        "num_pictures": 20_000,
        "encoded": 64,
        "backbone": "ViT-B-32",
        "ensemble": 1,
    }
    for key, value in config.parse_assignments(sys.argv[1:]).items():
        if key not in options:
            raise SystemExit(f"{key}: unknown; known: {', '.join(options)}")
        options[key] = value
    print(json.dumps(measure(options)))


if __name__ == "__main__":
    main()
