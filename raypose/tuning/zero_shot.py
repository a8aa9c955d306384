"""Which pictures the model that a recipe starts from tells right by the captions of a grammar.

Training pictures are encoded once and kept in storage; a grammar then costs the captions that were
not encoded yet and a product of matrices.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from safetensors.torch import load, save

from raypose import captions, storage
from raypose.captions import taxonomy
from raypose.captions.nodes import Node
from raypose.captions.taxonomy import Taxonomy
from raypose.clip import model, text, tokens, zeroshot
from raypose.config import Config, document_hash
from raypose.console import plural, waiting
from raypose.data.shards import manifest_hash
from raypose.errors import DataError
from raypose.inference import embedding
from raypose.inference.embedding import Progress

__all__ = ["FEATURES", "MAX_PICTURES", "Hits", "ZeroShot"]

FEATURES = "features"
"""Folder of the storage that holds image features."""
MAX_PICTURES = 20_000
"""Training pictures that are taken: of so many a share is known to 0.7 %."""
BATCH_SIZE = 256
GRAMMARS_AT_ONCE = 32
PICTURES_AT_ONCE = 1024
Hits = npt.NDArray[np.bool_]
"""Of each picture, whether it is told right: (N,), or (G, N) of several grammars."""


class ZeroShot:
    """Tells how grammars do on pictures whose features are known; encodes each caption once.

    Attributes:
        clip: the model; captions are encoded and scores computed on its device.
        classes: the taxonomy.
        targets: int64 (N,), class numbers of the pictures.
    """

    def __init__(
        self,
        clip: model.Clip,
        classes: Taxonomy,
        features: torch.Tensor,
        targets: npt.NDArray[np.int64],
    ) -> None:
        """Take a model in evaluation mode, features (N, D) of length 1, and class numbers (N,)."""
        self.clip, self.classes, self.targets = clip, classes, targets
        self._device = next(clip.model.parameters()).device
        self._features = features.to(self._device)
        self._expected = torch.from_numpy(targets).to(self._device)
        self._tokens: dict[str, list[int]] = {}
        self._rows: dict[str, int] = {}
        self._text = torch.empty(0, features.shape[1], device=self._device)

    @classmethod
    def load(cls, config: Config, *, progress: Progress = lambda done, total: None) -> ZeroShot:
        """Build the model of a recipe, and encode its training pictures; Ray is connected.

        Args:
            config: the recipe.
            progress: called with (pictures done, in all) where they are not in storage yet.

        Raises:
            RayposeError: where the model or the training set is out of reach.
        """
        classes = taxonomy.load(config.data.taxonomy)
        clip = model.build(config.model, seed=config.seed)
        clip.model.eval()
        zeroshot.check_scales(clip, config.model)
        features, targets = _encoded(clip, config, classes, progress)
        clip.model.to("cuda" if torch.cuda.is_available() else "cpu")
        return cls(clip, classes, features, targets.numpy())

    def check(self, node: Node) -> None:
        """Prove of a grammar what training proves of it.

        Raises:
            CaptionError: as `captions.check`.
        """
        length = self.clip.context_length
        captions.check(node, self.classes, tokenize=self._tokenize, context_length=length)

    def hits(self, nodes: Sequence[Node]) -> Hits:
        """Return which pictures grammars tell right, (G, N), by the most similar class.

        Captions stand for classes as in `zeroshot.build_classifier`.
        """
        parts = [np.empty((0, len(self.targets)), dtype=np.bool_)]
        spoken = [
            [captions.evaluation_captions(node, card) for card in self.classes.cards]
            for node in nodes
        ]
        self._encode(dict.fromkeys(itertools.chain(*itertools.chain(*spoken))))
        for start in range(0, len(nodes), GRAMMARS_AT_ONCE):
            parts.append(self._hits(spoken[start : start + GRAMMARS_AT_ONCE]))
        return np.concatenate(parts)

    def _tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return token ids uncut, of each caption once."""
        new = list(dict.fromkeys(one for one in texts if one not in self._tokens))
        if new:
            self._tokens |= zip(new, tokens.token_lists(self.clip, new), strict=True)
        return [self._tokens[one] for one in texts]

    @torch.no_grad()
    def _encode(self, texts: Iterable[str]) -> None:
        """Encode captions that are new, those of a length together: little is padding."""
        new = [one for one in texts if one not in self._rows]
        lengths = dict(zip(new, map(len, self._tokenize(new)), strict=True))
        new.sort(key=lambda one: lengths[one])
        parts = [self._text]
        with waiting(f"encoding {plural(len(new), 'caption')}"):
            for start in range(0, len(new), BATCH_SIZE):
                some = self.clip.tokenize(new[start : start + BATCH_SIZE])
                parts.append(text.encode(self.clip.model, some).float())
        self._rows |= {one: row for row, one in enumerate(new, start=len(self._rows))}
        self._text = torch.cat(parts)

    @torch.no_grad()
    def _hits(self, spoken: Sequence[Sequence[Sequence[str]]]) -> Hits:
        """Return `hits` (G, N) of the captions of each class of some grammars."""
        groups = [[self._rows[one] for one in group] for each in spoken for group in each]
        rows = torch.tensor([row for group in groups for row in group], device=self._device)
        ends = torch.tensor([len(group) for group in groups], device=self._device).cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends[:-1]])
        means = F.embedding_bag(rows, self._text, starts, mode="mean")
        classifiers = F.normalize(means, dim=-1)
        found = []
        for start in range(0, len(self.targets), PICTURES_AT_ONCE):
            here = slice(start, start + PICTURES_AT_ONCE)
            cosines = self._features[here] @ classifiers.T
            guesses = cosines.view(-1, len(spoken), len(self.classes)).argmax(2)
            found.append((self._expected[here] == guesses.T).cpu())
        return torch.cat(found, dim=1).numpy()


def _encoded(
    clip: model.Clip, config: Config, classes: Taxonomy, progress: Progress
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features (N, D) and class numbers (N,) of training pictures, kept in storage."""
    key = _key(clip, config, classes)
    url = storage.join(config.storage, FEATURES, f"{key}.safetensors")
    if not storage.exists(url):
        rows = embedding.encode(
            clip,
            config.data.train,
            classes.index(),
            config.data,
            config.model,
            max_pictures=MAX_PICTURES,
            progress=progress,
        )
        if not rows.good.any():
            raise DataError(f"{config.data.train}: no picture to rank captions on can be read")
        kept = {"features": rows.features[rows.good], "targets": rows.targets[rows.good]}
        storage.write_bytes(url, save({name: torch.from_numpy(one) for name, one in kept.items()}))
    found = load(storage.read_bytes(url))
    return found["features"], found["targets"]


def _key(clip: model.Clip, config: Config, classes: Taxonomy) -> str:
    """Return a hash of all that features and class numbers follow from."""
    document = {
        "weights": text.digest(clip.model, image=True),
        "preprocess": clip.preprocess_cfg,
        "inference": config.model.inference,
        **config.model.encoding,
        "decoding": [config.data.max_pixels, config.data.dct_scaled],
        "classes": classes.index(),
        "data": manifest_hash(config.data.train),
        "pictures": MAX_PICTURES,
    }
    return document_hash(document)[:16]
