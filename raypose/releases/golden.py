"""Golden pictures: a few drawings that a release carries, with the logits it must give for them.

Whoever loads a release decodes and classifies them by its own path, and knows before the first
picture of a user that weights, classes, preprocessing and backend are those that were published.
Beside the logits stand the classes whose they are: of names in another order no logit would tell.
They are drawn, so that a release holds nobody's photograph: of several shapes, larger and smaller
than the model takes, one grey, one turned by its EXIF tag, one with a margin.

Two things are proven, each within a bound of its own: that files become the pixels they became, and
that these pixels give the logits they gave. Another machine's decoder may round a pixel otherwise,
which a sensitive tower makes much of: one of MobileNet's answers moves by nine tenths of the spread
of logits where each pixel moves by one level of 255. What is within a rounding of pixels would be
far beyond one of logits.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from raypose import synthesis
from raypose.captions import taxonomy
from raypose.clip.arithmetic import one_thread
from raypose.errors import BadPicture, CheckpointError
from raypose.releases.backends import Backend
from raypose.synthesis.poses import POSES

__all__ = [
    "BOUNDS",
    "FILE",
    "Classifies",
    "bound",
    "check",
    "difference",
    "pictures",
    "prove",
    "write",
]

FILE = "golden.safetensors"
BOUNDS: Final = {"fp32": 0.002, "tf32": 0.1, "bf16": 0.5}
"""Precision → by how much a logit may differ, as a share of the spread of logits.

The spread is what tells classes apart: the deviation of a picture's logits from their mean. Cosines
would not do as a unit, for one model's lie within 0.1 of each other and another's within 1. In fp32
other threads, batches and compilers change the last bits: up to 5e-6 of the spread was seen. bf16
keeps eight bits: of a ViT-B/32 a hundredth was seen, of a MobileNetV2 a third, and two machines may
differ by that either way. A GPU's TF32 keeps three bits more. Other weights, or classes in another
order, differ by the spread and more.
"""
FLOOR = 1e-5
"""As a share of the largest logit: of a model whose logits are all alike there is no spread."""
ROUNDING = 0.5
"""Levels of 255 by which a picture's pixels may differ on the average: two decoders that round
otherwise. What is decoded at a fraction of its size differs by one and more, what is cut or padded
otherwise by dozens."""
SHAPES = (
    (0.5, 0.5), (0.75, 0.5), (1.0, 1.0), (1.25, 0.8), (1.5, 1.5), (2.0, 1.2), (1.4, 2.4), (3.0, 2.0)
)  # fmt: skip
"""Width and height of each, by the side that the model takes."""
GREY, TURNED, MARGIN = 2, 5, 7
"""Which of them is grey, bears an EXIF orientation, has a white margin."""
ORIENTATION = 0x0112
DRAWN_PX = 256


class Classifies(Protocol):
    """What can be proven: a predictor."""

    backend: Backend

    def pixels(self, content: bytes) -> npt.NDArray[np.uint8]:
        """Decode a picture to uint8 (3, S, S)."""

    def logits(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Return float32 (B, C) of uint8 (B, 3, S, S)."""


def pictures(side: int) -> list[bytes]:
    """Draw the pictures, as JPEG files; the same each time.

    Args:
        side: pixels that the model takes.
    """
    labels = sorted(POSES)[:: len(POSES) // len(SHAPES)]
    return [
        _file(synthesis.render(labels[number], seed=number, size=DRAWN_PX), number, side)
        for number in range(len(SHAPES))
    ]


def write(predictor: Classifies, folder: Path, *, side: int) -> None:
    """Write the pictures and their logits into the folder of a release.

    Args:
        predictor: torch on a CPU: the reference.
        folder: to write into. The same release gives the same bytes on one machine.
        side: pixels that the model takes.

    Raises:
        CheckpointError: where a logit is not finite.
    """
    files = pictures(side)
    pixels = _decoded(predictor, files)
    with one_thread():
        logits = predictor.logits(pixels)
    _check_finite(logits)
    tensors = {
        f"picture_{number}": torch.frombuffer(bytearray(file), dtype=torch.uint8)
        for number, file in enumerate(files)
    }
    tensors |= {"pixels": torch.from_numpy(pixels), "logits": torch.from_numpy(logits)}
    tensors["classes"] = torch.frombuffer(bytearray(_classes(folder)), dtype=torch.uint8)
    # one key: of several safetensors writes now one first, now another
    about: dict[str, str] = {"precision": predictor.backend.precision}
    save_file(tensors, folder / FILE, metadata=about)


def prove(predictor: Classifies, folder: Path) -> bool:
    """Prove that a predictor answers as its release was published.

    Args:
        predictor: by any backend, on any device.
        folder: of the release.

    Returns:
        True where it does; False where the release, an older one, has nothing to prove it by.

    Raises:
        CheckpointError: naming the picture whose pixels or logits are not those published.
    """
    if not (folder / FILE).exists():
        return False
    golden = _read(folder / FILE)
    if golden.classes and golden.classes != _classes(folder):
        raise CheckpointError(
            f"{folder}: its classes are named otherwise, or in another order, than where its "
            "golden pictures were classified; publish it again"
        )
    _prove_pixels(predictor, golden, folder)
    found, expected = predictor.logits(golden.pixels), golden.logits
    if found.shape != expected.shape:
        raise CheckpointError(
            f"{folder}: gives {found.shape[1]} logits where {expected.shape[1]} were published; "
            "publish it again"
        )
    allowed = bound(expected, golden.precision, predictor.backend.precision)
    gaps = difference(found, expected)
    worst = int(gaps.argmax())
    if not gaps[worst] <= allowed:  # what is no number proves nothing
        raise CheckpointError(
            f"{folder}: by {predictor.backend.name} a logit of golden picture {worst} is off by "
            f"{gaps[worst]:.3g} where {allowed:.3g} is allowed: weights, classes or what computes "
            "them are not what was published; publish it again"
        )
    return True


def check(predictor: Classifies, *, side: int) -> None:
    """Prove of a release without golden pictures what can be: that it answers in numbers.

    Raises:
        CheckpointError: where a logit is not finite.
    """
    _check_finite(predictor.logits(_decoded(predictor, pictures(side))))


def _check_finite(logits: npt.NDArray[np.float32]) -> None:
    if not np.isfinite(logits).all():
        raise CheckpointError("the model's logits are not finite, so its weights are of no use")


def bound(expected: npt.NDArray[np.float32], *precisions: str) -> float:
    """Return by how much logits may differ from those expected, float32 (N, C): see `BOUNDS`.

    Args:
        expected: by the reference.
        precisions: of the reference, and of what is held against it; the coarsest counts.
    """
    rows = expected.astype(np.float64)
    spread = float(np.sqrt(rows.var(axis=1).mean()))
    return max(BOUNDS[each] for each in precisions) * spread + FLOOR * float(np.abs(rows).max())


def difference(
    found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Return the largest difference of each row of (N, C), float64 (N,); infinite for no number."""
    gaps = np.abs(found.astype(np.float64) - expected).max(axis=1)
    return np.where(np.isfinite(gaps), gaps, np.inf)


@dataclass(frozen=True)
class _Golden:
    """What the file holds.

    Attributes:
        files: N of them.
        pixels: uint8 (N, 3, S, S).
        logits: float32 (N, C).
        precision: of what computed these.
        classes: see `_classes`; empty in an older one.
    """

    files: list[bytes]
    pixels: npt.NDArray[np.uint8]
    logits: npt.NDArray[np.float32]
    precision: str
    classes: bytes


def _classes(folder: Path) -> bytes:
    """Return ids and names of a release's classes, in order, as JSON."""
    path = folder / "taxonomy.json"
    cards = taxonomy.parse(json.loads(path.read_text(encoding="utf-8")), where=str(path)).cards
    return json.dumps([[card.id, card.name] for card in cards]).encode()


def _decoded(predictor: Classifies, files: Sequence[bytes]) -> npt.NDArray[np.uint8]:
    """Return uint8 (N, 3, S, S), as they are stored: no channels last in memory."""
    return np.ascontiguousarray(np.stack([predictor.pixels(file) for file in files]))


def _prove_pixels(predictor: Classifies, golden: _Golden, folder: Path) -> None:
    try:
        found = _decoded(predictor, golden.files)
    except BadPicture as error:
        raise CheckpointError(f"{folder / FILE}: a golden picture is damaged ({error})") from None
    if found.shape != golden.pixels.shape:
        sides = f"{found.shape[-1]} pixels where {golden.pixels.shape[-1]} were published"
        raise CheckpointError(f"{folder}: takes pictures of {sides}; publish it again")
    gaps = np.abs(found.astype(np.int16) - golden.pixels).mean(axis=(1, 2, 3))
    worst = int(gaps.argmax())
    if gaps[worst] > ROUNDING:
        raise CheckpointError(
            f"{folder}: golden picture {worst} is decoded to pixels that are off by "
            f"{gaps[worst]:.3g} levels where {ROUNDING:g} is allowed: model.resize or what reads "
            "pictures is not what was published; publish it again"
        )


def _read(path: Path) -> _Golden:
    try:
        with safe_open(path, framework="pt") as file:
            precision = str((file.metadata() or {})["precision"])
            pixels, logits = (file.get_tensor(name).numpy() for name in ("pixels", "logits"))
            names = [f"picture_{number}" for number in range(len(logits))]
            files = [file.get_tensor(name).numpy().tobytes() for name in names]
            told = "classes" in file.keys()  # noqa: SIM118
            classes = file.get_tensor("classes").numpy().tobytes() if told else b""
    except (OSError, KeyError, ValueError, SafetensorError) as error:
        raise CheckpointError(f"{path}: damaged ({error}); publish the release again") from None
    forms = ((logits, np.float32, 2), (pixels, np.uint8, 4))
    good = all(made.dtype == kind and made.ndim == number for made, kind, number in forms)
    good = good and bool(np.isfinite(logits).all())
    if not (good and files and precision in BOUNDS):
        raise CheckpointError(f"{path}: of another form; publish the release again")
    return _Golden(files, pixels, logits, precision, classes)


def _file(drawing: Image.Image, number: int, side: int) -> bytes:
    """Return a drawing as the JPEG of its number."""
    width, height = (max(8, round(share * side)) for share in SHAPES[number])
    # cut, not squeezed: a posture keeps its proportions
    image = ImageOps.fit(drawing, (width, height), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    if number == GREY:
        image = image.convert("L")
    if number == TURNED:
        exif[ORIENTATION] = 6
    if number == MARGIN:
        image = ImageOps.expand(image, border=side // 4, fill="white")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, exif=exif)
    return buffer.getvalue()
