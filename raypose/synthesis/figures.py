"""Parametric figures in poses: pictures for the demo and the tests, drawn from a seed.

A figure is a tree of bones, whose directions in the body's own frame come from `poses`; body,
camera, clothing, light and background are drawn at random, so that a class is a posture and nothing
else. It is a drawing, not a photograph: it proves that the chain works, and can be mixed in.
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from raypose.errors import DataError, did_you_mean
from raypose.synthesis.poses import POSES, Angles, Limb, Pose

__all__ = ["drawn", "joints", "render", "synthesize"]

Points = dict[str, npt.NDArray[np.float64]]
Color = tuple[int, int, int]

LENGTHS = {
    "spine": 0.26, "chest": 0.26, "head": 0.22, "upper_arm": 0.29, "forearm": 0.27,
    "thigh": 0.43, "shin": 0.42, "foot": 0.16, "shoulder": 0.17, "hip": 0.10,
}  # fmt: skip
SKINS = [(244, 214, 190), (226, 178, 142), (198, 140, 100), (141, 92, 62), (92, 58, 40)]
OVERSAMPLE = 2


def joints(pose: Pose, lengths: dict[str, float]) -> Points:
    """Return joint positions in body units, x forward, y up, z to the left; pelvis at 0.

    Args:
        pose: directions.
        lengths: of each bone, and half the widths of shoulders and hips.
    """
    points: Points = {"pelvis": np.zeros(3)}
    points["waist"] = points["pelvis"] + lengths["spine"] * _direction(pose.spine, 1)
    points["neck"] = points["waist"] + lengths["chest"] * _direction(pose.chest, 1)
    points["head"] = points["neck"] + lengths["head"] * _direction(pose.head, 1)
    shoulders, hips = _across(pose.chest, pose.twist), _across((0, pose.hips), 0)
    for side, sign, arm, leg, foot in (
        ("l", 1, pose.arm, pose.leg, pose.foot),
        ("r", -1, pose.right_arm or pose.arm, pose.right_leg or pose.leg,
         pose.right_foot or pose.foot),
    ):  # fmt: skip
        points[f"shoulder_{side}"] = points["neck"] + sign * lengths["shoulder"] * shoulders
        points[f"hip_{side}"] = points["pelvis"] + sign * lengths["hip"] * hips
        chain = (
            ("shoulder", "elbow", "upper_arm", arm[0]),
            ("elbow", "hand", "forearm", arm[1]),
            ("hip", "knee", "thigh", leg[0]),
            ("knee", "ankle", "shin", leg[1]),
            ("ankle", "toe", "foot", foot),
        )
        for start, end, bone, angles in chain:
            step = lengths[bone] * _direction(angles, sign)
            points[f"{end}_{side}"] = points[f"{start}_{side}"] + step
    return _rolled(points, pose.roll)


def render(label: str, *, seed: int, size: int = 128) -> Image.Image:
    """Draw one picture of a posture; the same arguments give the same picture.

    Raises:
        DataError: where no pose has that label.
    """
    (label,) = drawn([label])
    rng = random.Random(f"{seed}/{label}")
    side = size * OVERSAMPLE
    lengths = {bone: length * rng.uniform(0.88, 1.12) for bone, length in LENGTHS.items()}
    body = joints(_varied(POSES[label], rng), lengths)
    yaw = math.radians(POSES[label].view + rng.uniform(-40, 40) + rng.choice([0, 180]))
    flat = _project(body, yaw=yaw, pitch=math.radians(rng.uniform(2, 28)))
    scale, offset = _framing(flat, side, rng)
    image, floor = _background(side, rng)
    draw = ImageDraw.Draw(image)
    screen = {
        name: (offset[0] + scale * x, offset[1] - scale * y, depth)
        for name, (x, y, depth) in flat.items()
    }
    _shadow(draw, screen, scale, floor)
    _figure(draw, screen, scale, rng)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 0.8) * OVERSAMPLE))
    small = np.asarray(image.resize((size, size), Image.Resampling.BOX), dtype=np.float64)
    noise = np.random.default_rng(rng.getrandbits(32)).normal(0, rng.uniform(0, 8), small.shape)
    light = rng.uniform(0.75, 1.15)
    return Image.fromarray(np.clip(small * light + noise, 0, 255).astype(np.uint8))


def drawn(labels: Iterable[str]) -> list[str]:
    """Return labels as they are, if each has a pose.

    Raises:
        DataError: naming the first that has none.
    """
    labels = list(labels)
    for label in labels:
        if label not in POSES:
            near = did_you_mean(label, POSES) or "; drawn are those of taxonomy=yoga82"
            raise DataError(f'synthesis: no pose "{label}"{near}')
    return labels


def synthesize(
    dest: Path,
    counts: Mapping[str, int],
    *,
    size: int = 128,
    seed: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write an ImageFolder: ``<label>/<seed>.jpg``.

    Args:
        dest: folder to fill.
        counts: label of a posture → pictures of it.
        size: pixels of a side.
        seed: number of the first picture; sets from distant seeds have none in common.
        overwrite: write over files that are there and are other pictures.
        progress: called with (pictures done, in all).

    Raises:
        DataError: where a file is there that is another picture.
    """
    done, total = 0, sum(counts.values())
    for label in drawn(counts):
        folder = dest / label
        folder.mkdir(parents=True, exist_ok=True)
        for k in range(seed, seed + counts[label]):
            _save(render(label, seed=k, size=size), folder / f"{k:06d}.jpg", overwrite=overwrite)
        done += counts[label]
        progress(done, total)


def _direction(angles: Angles, sign: int) -> npt.NDArray[np.float64]:
    sagittal, lateral = (math.radians(angle) for angle in angles)
    return np.array(
        [
            math.cos(lateral) * math.sin(sagittal),
            math.cos(lateral) * math.cos(sagittal),
            math.sin(lateral) * sign,
        ]
    )


def _across(angles: Angles, twist: float) -> npt.NDArray[np.float64]:
    """Return the direction to the left of a trunk that points along `angles`, turned about it."""
    sagittal, lateral = (math.radians(angle) for angle in angles)
    left = np.array(
        [
            -math.sin(lateral) * math.sin(sagittal),
            -math.sin(lateral) * math.cos(sagittal),
            math.cos(lateral),
        ]
    )
    turn = math.radians(twist)
    return math.cos(turn) * left + math.sin(turn) * np.cross(_direction(angles, 1), left)


def _rolled(points: Points, roll: float) -> Points:
    """Tip a body over to its right."""
    sine, cosine = math.sin(math.radians(roll)), math.cos(math.radians(roll))
    return {
        name: np.array([x, y * cosine + z * sine, z * cosine - y * sine])
        for name, (x, y, z) in points.items()
    }


def _varied(pose: Pose, rng: random.Random) -> Pose:
    """Bend every joint a little."""

    def vary(angles: Angles) -> Angles:
        return angles[0] + rng.gauss(0, 4), angles[1] + rng.gauss(0, 4)

    def limb(pair: Limb) -> Limb:
        return vary(pair[0]), vary(pair[1])

    return replace(
        pose,
        spine=vary(pose.spine),
        chest=vary(pose.chest),
        head=vary(pose.head),
        arm=limb(pose.arm),
        leg=limb(pose.leg),
        foot=vary(pose.foot),
        right_arm=limb(pose.right_arm or pose.arm),
        right_leg=limb(pose.right_leg or pose.leg),
        right_foot=vary(pose.right_foot or pose.foot),
    )


def _project(body: Points, *, yaw: float, pitch: float) -> dict[str, tuple[float, float, float]]:
    """Turn about the upright, tilt the camera down, and drop the depth: right, up, depth."""
    flat = {}
    for name, (x, y, z) in body.items():
        right, away = x * math.cos(yaw) - z * math.sin(yaw), x * math.sin(yaw) + z * math.cos(yaw)
        up = y * math.cos(pitch) - away * math.sin(pitch)
        flat[name] = (right, up, away * math.cos(pitch) + y * math.sin(pitch))
    return flat


def _framing(
    flat: dict[str, tuple[float, float, float]], side: int, rng: random.Random
) -> tuple[float, tuple[float, float]]:
    """Return pixels a unit, and where the pelvis stands, so that the figure is in the frame."""
    xs = [point[0] for point in flat.values()]
    ys = [point[1] for point in flat.values()]
    width, height = max(xs) - min(xs) + 0.2, max(ys) - min(ys) + 0.2
    scale = side * rng.uniform(0.62, 0.9) / max(width, height, 0.9)
    free_x, free_y = side - scale * width, side - scale * height
    left = free_x * rng.uniform(0.2, 0.8) + 0.1 * scale
    bottom = free_y * rng.uniform(0.08, 0.5) + 0.1 * scale
    return scale, (left - scale * min(xs), side - bottom + scale * min(ys))


def _background(side: int, rng: random.Random) -> tuple[Image.Image, Color]:
    """Draw a wall, a floor and some furniture; return the picture and the floor's colour."""
    wall, floor = _color(rng), _color(rng)
    image = Image.new("RGB", (side, side), wall)
    draw = ImageDraw.Draw(image)
    horizon = side * rng.uniform(0.45, 0.8)
    for _ in range(rng.randrange(5)):
        x, y = rng.uniform(-0.2, 0.9) * side, rng.uniform(-0.2, 0.6) * side
        box = (x, y, x + rng.uniform(0.1, 0.6) * side, y + rng.uniform(0.1, 0.5) * side)
        shape = rng.choice([draw.rectangle, draw.ellipse])
        shape(box, fill=_color(rng))
    draw.rectangle((0, horizon, side, side), fill=floor)
    if rng.random() < 0.5:
        draw.rectangle((0, horizon + 0.1 * side, side, side * 0.95), fill=_color(rng))
    return image, floor


def _color(rng: random.Random) -> Color:
    return rng.randrange(30, 245), rng.randrange(30, 245), rng.randrange(30, 245)


def _shadow(
    draw: ImageDraw.ImageDraw,
    screen: dict[str, tuple[float, float, float]],
    scale: float,
    floor: Color,
) -> None:
    xs = [point[0] for point in screen.values()]
    low = max(point[1] for point in screen.values())
    dark = tuple(channel // 2 for channel in floor)
    draw.ellipse((min(xs), low - 0.03 * scale, max(xs), low + 0.07 * scale), fill=dark)


def _figure(
    draw: ImageDraw.ImageDraw,
    screen: dict[str, tuple[float, float, float]],
    scale: float,
    rng: random.Random,
) -> None:
    """Draw limbs and trunk from the farthest to the nearest."""
    skin, shirt, trousers, hair = rng.choice(SKINS), _color(rng), _color(rng), _color(rng)
    sleeves, legs_bare = rng.random() < 0.5, rng.random() < 0.3
    stout = rng.uniform(0.8, 1.3)
    parts: list[tuple[str, str, float, Color]] = []
    for s in ("l", "r"):
        parts += [
            (f"shoulder_{s}", f"elbow_{s}", 0.085, shirt if sleeves else skin),
            (f"elbow_{s}", f"hand_{s}", 0.07, skin),
            (f"hip_{s}", f"knee_{s}", 0.13, trousers),
            (f"knee_{s}", f"ankle_{s}", 0.10, skin if legs_bare else trousers),
            (f"ankle_{s}", f"toe_{s}", 0.07, skin),
            (f"shoulder_{s}", "waist", 0.16, shirt),
            (f"hip_{s}", "waist", 0.16, shirt),
        ]
    parts += [("neck", "waist", 0.20, shirt), ("pelvis", "waist", 0.20, trousers)]
    parts += [("neck", "head", 0.08, skin), ("head", "head", 0.21, skin)]
    for start, end, width, color in sorted(
        parts, key=lambda part: -(screen[part[0]][2] + screen[part[1]][2])
    ):
        near = (screen[start][2] + screen[end][2]) / 2
        shade = min(1.0, max(0.6, 0.85 - 0.35 * near))
        tone = tuple(int(channel * shade) for channel in color)
        thick = width * scale * (stout if start != "head" else 1.0)
        _capsule(draw, screen[start][:2], screen[end][:2], thick, tone)
        if start == "head":
            x, y, _ = screen["head"]
            nx, ny, _ = screen["neck"]
            gap = math.hypot(x - nx, y - ny) or 1.0
            x, y = x + 0.05 * scale * (x - nx) / gap, y + 0.05 * scale * (y - ny) / gap
            _capsule(draw, (x, y), (x, y), 0.17 * scale, hair)


def _capsule(
    draw: ImageDraw.ImageDraw,
    start: tuple[float, float],
    end: tuple[float, float],
    width: float,
    color: tuple[int, ...],
) -> None:
    if start != end:
        draw.line((*start, *end), fill=color, width=max(1, round(width)))
    for x, y in (start, end):
        draw.ellipse((x - width / 2, y - width / 2, x + width / 2, y + width / 2), fill=color)


def _save(image: Image.Image, path: Path, *, overwrite: bool) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90)
    if not overwrite and path.exists() and path.read_bytes() != buffer.getvalue():
        raise DataError(
            f"{path}: is there already, and another picture; draw in another folder, or "
            "overwrite=true"
        )
    path.write_bytes(buffer.getvalue())
