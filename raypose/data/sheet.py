"""A data set to look at: counts, sizes, some pictures of each class, and those that look wrong.

One HTML page that holds its pictures itself, or one PNG.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from raypose import storage
from raypose.config import MAX_PIXELS
from raypose.console import plural
from raypose.data import images, inspection, sources
from raypose.data.inspection import Row
from raypose.data.sources import Entry
from raypose.errors import BadPicture, DataError
from raypose.pages import markup

__all__ = ["Sheet", "draw", "gather", "page", "save", "summary"]

THUMB_PX = 96
MAX_SUSPICIOUS = 120
Color = tuple[int, int, int]
INK: Color = (32, 36, 44)
FAINT: Color = (120, 126, 138)


@dataclass(frozen=True)
class Sheet:
    """What is shown.

    Attributes:
        url: of the data set.
        rows: all its pictures.
        groups: of near-duplicates, as rows' numbers.
        shown: class → numbers of some of its pictures.
        doubtful: numbers of pictures to look at, and why.
        thumbs: number → JPEG bytes, for those shown.
    """

    url: str
    rows: Sequence[Row]
    groups: Sequence[Sequence[int]]
    shown: Mapping[str, Sequence[int]]
    doubtful: Sequence[tuple[int, str]]
    thumbs: Mapping[int, bytes]


def gather(
    url: str, rows: Sequence[Row], groups: Sequence[Sequence[int]], *, per_class: int
) -> Sheet:
    """Choose what to show of a data set, and read it.

    Args:
        url: of the data set.
        rows: of `inspection.inspect`.
        groups: of `inspection.cluster`.
        per_class: pictures of each class.
    """
    doubtful = list(inspection.suspicious(rows, groups))
    shown: dict[str, list[int]] = {label: [] for label in sorted({row.label for row in rows})}
    for number, row in enumerate(rows):  # rows are in random order: the first are as good as any
        if len(shown[row.label]) < per_class and not row.error:
            shown[row.label].append(number)
    wanted = {number for numbers in shown.values() for number in numbers}
    wanted |= {number for number, _ in doubtful[:MAX_SUSPICIOUS]}
    entries = {entry.id: entry for entry in sources.find(url, kind="parquet").entries}
    thumbs = _thumbs({number: entries[rows[number].id] for number in sorted(wanted)})
    return Sheet(url, rows, groups, shown, doubtful, thumbs)


def page(sheet: Sheet) -> str:
    """Return the page; it needs nothing beside it."""
    counts = Counter(row.label for row in sheet.rows)
    most = max(counts.values())
    classes = "".join(
        f"<section><h3>{escape(label)} <small>{counts[label]}</small></h3>"
        f'<div class=bar style="width:{100 * counts[label] / most:.1f}%"></div>'
        f"<div class=row>{''.join(_figure(sheet, number) for number in numbers)}</div></section>"
        for label, numbers in sheet.shown.items()
    )
    doubtful = "".join(
        _figure(sheet, number, f"{sheet.rows[number].id}: {why}")
        for number, why in sheet.doubtful[:MAX_SUSPICIOUS]
    )
    more = len(sheet.doubtful) - MAX_SUSPICIOUS
    body = f"""<p>{escape(summary(sheet))}</p>
<h2>To look at <small>{len(sheet.doubtful)}</small></h2>
<div class=row>{doubtful or "<p>nothing stands out</p>"}</div>
{f"<p>and {more} more</p>" if more > 0 else ""}
<h2>Classes <small>{len(counts)}</small></h2>
<div class=classes>{classes}</div>"""
    return markup.page(sheet.url, body, style=STYLE)


def draw(sheet: Sheet, *, columns: int = 3) -> Image.Image:
    """Return a picture of the classes alone: for each its name, its count and its pictures."""
    counts = Counter(row.label for row in sheet.rows)
    width = max(map(len, sheet.shown.values())) * THUMB_PX + 16
    height = THUMB_PX + 26
    lines = -(-len(sheet.shown) // columns)
    image = Image.new("RGB", (columns * width, lines * height + 30), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    pen.text((6, 6), summary(sheet), fill=FAINT, font=font)
    for place, (label, numbers) in enumerate(sheet.shown.items()):
        left, top = place // lines * width, place % lines * height + 30
        name = f"{counts[label]}  {label}"
        while font.getlength(name) > width - 12:
            name = f"{name[:-4]}..."
        pen.text((left + 6, top + 2), name, fill=INK, font=font)
        for k, number in enumerate(numbers):
            with Image.open(io.BytesIO(sheet.thumbs[number])) as thumb:
                image.paste(thumb, (left + 6 + k * THUMB_PX, top + 22))
    return image


def summary(sheet: Sheet) -> str:
    """Return counts and sizes in one line."""
    good = [row for row in sheet.rows if not row.error]
    if not good:
        raise DataError(f"{sheet.url}: holds no good picture")
    sides = np.percentile([max(row.width, row.height) for row in good], (5, 50, 95)).round()
    low, middle, high = map(int, sides)
    per_class = Counter(row.label for row in sheet.rows).values()
    twins = sum(map(len, sheet.groups))
    return (
        f"{plural(len(sheet.rows), 'picture')} of {plural(len(per_class), 'class')}, "
        f"{min(per_class)} to "
        f"{max(per_class)} each; longer side {low} to {high} px, half of {middle} and more; "
        f"{sum(row.num_bytes for row in good) / len(good) / 1000:.1f} kB each; {twins} have a "
        f"near-duplicate; {len(sheet.doubtful)} to look at"
    )


def save(sheet: Sheet, url: str) -> None:
    """Write the page, or the picture where the name ends in .png."""
    if url.endswith(".png"):
        buffer = io.BytesIO()
        draw(sheet).save(buffer, "PNG", pnginfo=_mark())
        storage.write_bytes(url, buffer.getvalue())
    else:
        storage.write_bytes(url, page(sheet).encode())


def _mark() -> PngInfo:
    """Return what says of a picture that it may be written over by another of ours."""
    mark = PngInfo()
    mark.add_text("Software", "raypose")
    return mark


def _thumbs(wanted: Mapping[int, Entry]) -> dict[int, bytes]:
    """Read pictures and make them small; those that cannot be read are grey."""
    read = sources.opened(list(wanted.values()))
    thumbs = {}
    for number, entry in wanted.items():
        try:
            pixels = images.decode(read(entry), max_pixels=MAX_PIXELS)
        except BadPicture:
            pixels = np.full((THUMB_PX, THUMB_PX, 3), 200, dtype=np.uint8)
        thumbs[number] = images.encode(images.shrink(pixels, max_side=THUMB_PX), quality=80)
    return thumbs


def _figure(sheet: Sheet, number: int, caption: str = "") -> str:
    source = markup.jpeg_source(sheet.thumbs[number])
    name = escape(sheet.rows[number].id, quote=True)
    text = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure><img src="{source}" title="{name}" alt="{name}">{text}</figure>'


STYLE = """
body{font:15px/1.45 system-ui,sans-serif;margin:24px auto;padding:0 16px;max-width:1280px;
color:#20242c;background:#fff}
h1{font-size:20px;overflow-wrap:anywhere}h2{font-size:17px;margin:28px 0 8px}
h3{font-size:14px;margin:0 0 4px;overflow-wrap:anywhere}small{color:#787e8a;font-weight:400}
.classes{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:18px}
.bar{height:4px;background:#5b8def;border-radius:2px;margin-bottom:6px}
.row{display:flex;flex-wrap:wrap;gap:6px;align-items:flex-start}
figure{margin:0;max-width:150px}img{display:block;max-width:96px;background:#eee;border-radius:3px}
figcaption{font-size:11px;line-height:1.3;color:#555b66;overflow-wrap:anywhere;margin-top:2px}
"""
