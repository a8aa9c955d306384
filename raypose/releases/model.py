"""A release in this process, for pictures of any form: paths, bytes, Pillow's, arrays.

Pictures are read and classified some at a time, so that any number takes no more memory than that.
One that cannot be read has its error for an answer and does not end the rest.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from io import IOBase
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from raypose import storage
from raypose.captions.taxonomy import Taxonomy
from raypose.config import Config
from raypose.data import images
from raypose.data.transforms import to_square
from raypose.errors import CheckpointError, DataError, StorageError, UsageError
from raypose.releases import references, registry
from raypose.releases.predictions import Predicted, Predictions
from raypose.releases.predictor import Predictor
from raypose.releases.registry import Release

__all__ = ["Model", "Picture"]

READERS = 4
"""Threads that read pictures: the one who waits for S3 leaves the cores to the others."""

Picture: TypeAlias = (
    str | Path | bytes | bytearray | memoryview | IOBase | Image.Image | npt.NDArray[np.uint8]
)
"""A path or s3:// URL, the bytes of a file or an open one, a picture of Pillow's, or uint8
(H, W, 3) or (H, W)."""
BYTES = (bytes, bytearray, memoryview)
FORMS = (str, Path, *BYTES, IOBase, Image.Image, np.ndarray)


class Model:
    """A release, ready to classify pictures.

    Attributes:
        release: its name and version.
        classes: ids of the classes, in class order.
        taxonomy: their cards.
        config: every setting it was trained by.
        captions: id of a class → its captions at evaluation.
        predictor: what it classifies by.
        sources: split → SHA-256 of the manifest of the data set that it was trained or chosen on.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        release: str,
        captions: Mapping[str, list[str]],
        sources: Mapping[str, str] | None = None,
    ) -> None:
        self.predictor = predictor
        self.sources = dict(sources or {})
        self.release = release
        self.captions = captions

    @classmethod
    def load(
        cls,
        reference: str | Path | Release,
        *,
        storage: str | Path = "",
        device: torch.device | str | None = None,
    ) -> Model:
        """Load a release.

        Args:
            reference: NAME, NAME@ALIAS or NAME:VERSION, a folder or s3:// place that holds a
                release, or what `publish` returned.
            storage: where names are looked up; by default RAYPOSE_STORAGE, else the raypose-data
                that is found from here upwards.
            device: by default a GPU where there is one.

        Raises:
            RegistryError: where there is no such release, or a file of it was changed.
            CheckpointError: where a file of it is missing or damaged.
        """
        release = _resolved(reference, storage)
        with tempfile.TemporaryDirectory() as name:
            folder = registry.fetch(release, Path(name))
            return cls(
                Predictor.load(folder, device=device),
                release=str(release),
                captions=_captions(folder),
                sources=_sources(folder),
            )

    @property
    def taxonomy(self) -> Taxonomy:
        """The cards of the classes, in class order."""
        return self.predictor.classes

    @property
    def classes(self) -> tuple[str, ...]:
        """The ids of the classes, in class order."""
        return self.taxonomy.ids

    @property
    def config(self) -> Config:
        """Every setting the model was trained by."""
        return self.predictor.config

    def __repr__(self) -> str:
        classes = f"{len(self.taxonomy)} classes of {self.taxonomy.name}"
        return f"Model({self.release}, {classes}, {self.config.model.backbone})"

    def predict(
        self,
        pictures: Picture | Iterable[Picture],
        *,
        top_k: int = 5,
        level: int = 0,
        abstain_below: float = 0.0,
        batch_size: int = 16,
    ) -> Predictions:
        """Classify pictures.

        Args:
            pictures: one or many: see `Picture`. EXIF orientation is applied.
            top_k: of the most probable to keep for each.
            level: 0 names classes; from 1 on parents in the tree, nearest first, whose probability
                is the sum of their classes'.
            abstain_below: in 0..1; where the best is less probable, none is named.
            batch_size: pictures held, and classified, at a time.

        Returns:
            An answer for each picture, in their order; one that cannot be read has an `error`.

        Raises:
            UsageError: for a level that the tree has not, or a number out of range.
            TypeError: for what is no picture in any form.
        """
        many = [pictures] if isinstance(pictures, FORMS) else pictures
        if isinstance(many, Mapping) or not isinstance(many, Iterable):
            raise TypeError(_not_a_picture(many))
        how = {"top_k": top_k, "level": level, "batch_size": batch_size}
        return Predictions(self.predict_stream(many, abstain_below=abstain_below, **how))

    def predict_stream(
        self,
        pictures: Iterable[Picture],
        *,
        top_k: int = 5,
        level: int = 0,
        abstain_below: float = 0.0,
        batch_size: int = 16,
    ) -> Iterator[Predicted]:
        """Classify pictures as they come: `predict`, one answer after another."""
        self.check(top_k=top_k, level=level, abstain_below=abstain_below, batch_size=batch_size)
        if isinstance(pictures, FORMS):
            raise TypeError("predict_stream takes many pictures; give one to predict, or a list")

        def answers() -> Iterator[Predicted]:
            numbered = enumerate(pictures)
            with ThreadPoolExecutor(READERS) as pool:
                while batch := list(islice(numbered, batch_size)):
                    for source, row in self._classified(batch, pool):
                        if isinstance(row, str):
                            yield Predicted(source, error=row)
                            continue
                        yield self.predictor.predicted(
                            source, row, top_k=top_k, level=level, abstain_below=abstain_below
                        )

        return answers()

    def check(self, *, top_k: int, level: int, abstain_below: float, batch_size: int = 1) -> None:
        """Refuse numbers that `predict` cannot go by.

        Raises:
            UsageError: for a level that the tree has not, or a number out of range.
            TypeError: for what is no number, or no whole one.
        """
        for name, value in (("level", level), ("top_k", top_k), ("batch_size", batch_size)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name}: found {value!r}; a whole number is wanted")
        if not isinstance(abstain_below, int | float):
            raise TypeError(f"abstain_below: found {abstain_below!r}; a number is wanted")
        depth = len(self.taxonomy.levels)
        if not 0 <= level <= depth:
            known = f"0 for classes{f', 1 to {depth} for parents' if depth else ''}"
            raise UsageError(f"level: found {level} where {self.taxonomy.name} has {known}")
        if not 0 <= abstain_below <= 1:
            raise UsageError(f"abstain_below: found {abstain_below:g}; it is a probability, 0 to 1")
        for name, value in (("top_k", top_k), ("batch_size", batch_size)):
            if value < 1:
                raise UsageError(f"{name}: found {value}; at least 1 is needed")

    def _classified(
        self, batch: list[tuple[int, Picture]], pool: Executor
    ) -> Iterator[tuple[str, npt.NDArray[np.float32] | str]]:
        """Yield source, and probabilities (C,) or error, of pictures with their numbers."""
        prepared = list(pool.map(self._prepared, (picture for _, picture in batch)))
        good = [pixels for pixels in prepared if not isinstance(pixels, str)]
        rows = iter(self.predictor.probabilities(np.stack(good)) if good else ())
        for (number, picture), pixels in zip(batch, prepared, strict=True):
            source = _source(picture) or f"[{number}]"
            yield source, pixels if isinstance(pixels, str) else next(rows)

    def _prepared(self, picture: Picture) -> images.Pixels | str:
        """Return uint8 (3, S, S), or the error of a picture that cannot be read."""
        try:
            if isinstance(picture, str | Path):
                return self.predictor.pixels(_read(picture))
            if isinstance(picture, BYTES):
                return self.predictor.pixels(bytes(picture))
            if isinstance(picture, IOBase):
                return self.predictor.pixels(picture.read())
            if isinstance(picture, Image.Image):
                pixels = images.convert(picture, max_pixels=self.config.data.max_pixels)
            else:
                pixels = _three_channels(picture)
            side, resize = self.predictor.clip.image_size, self.config.model.resize
            return to_square(pixels, side, resize=resize)
        except (DataError, StorageError) as error:
            return str(error)


def _resolved(reference: str | Path | Release, root: str | Path) -> Release:
    if isinstance(reference, Release):
        return reference
    if not isinstance(reference, str | Path):
        raise TypeError(f"{reference!r} is no reference of a release: {references.FORMS}")
    return registry.resolve(str(root) or storage.default_root(), reference)


def _not_a_picture(found: object) -> str:
    return (
        f"{type(found).__name__} is no picture: give a path, bytes, a picture of Pillow's, "
        "or a uint8 array"
    )


def _captions(folder: Path) -> Mapping[str, list[str]]:
    place = folder / "captions.json"
    try:
        captions: Mapping[str, list[str]] = storage.read_json(str(place))["captions"]
    except (DataError, KeyError, TypeError) as error:
        raise CheckpointError(f"{place}: not the captions of a release ({error})") from None
    return captions


def _sources(folder: Path) -> dict[str, str]:
    place = folder / "provenance.json"
    try:
        found = storage.read_json(str(place)) if place.is_file() else {}
        return {split: str(one["manifest"]) for split, one in found.get("data", {}).items()}
    except (DataError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{place}: not the provenance of a release ({error})") from None


def _source(picture: Picture) -> str:
    """Return where a picture comes from; empty where it does not say."""
    if isinstance(picture, str | Path):
        return str(picture)
    return str(getattr(picture, "filename", "") or "") if isinstance(picture, Image.Image) else ""


def _read(path: str | Path) -> bytes:
    """Return a file's content; an error does not repeat its name, which the answer carries."""
    place = os.path.expanduser(path)
    if os.path.isdir(place):
        raise DataError("a folder, not a picture; give the files in it")
    try:
        return storage.read_bytes(place)
    except (DataError, StorageError) as error:
        raise type(error)(str(error).removeprefix(f"{place}: ")) from None


def _three_channels(pixels: npt.NDArray[np.uint8]) -> images.Pixels:
    """Return uint8 (H, W, 3) of an array that is so, or grey."""
    if not isinstance(pixels, np.ndarray):
        raise TypeError(_not_a_picture(pixels))
    grey = pixels.ndim == 2
    if pixels.dtype != np.uint8 or not (grey or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise DataError(
            f"array of {pixels.dtype} {pixels.shape}: expected uint8 (H, W, 3) or (H, W)"
        )
    stacked = np.repeat(pixels[:, :, None], 3, axis=2) if grey else pixels
    # torch takes neither steps backwards nor what may not be written to
    return np.require(stacked, requirements=["C", "W"])
