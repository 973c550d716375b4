"""Contact sheets: many images laid out in one, under column titles and row labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from guided_diffusion.images.formats import resize

_PAPER, _CELL, _INK, _PALE_INK = (242, 242, 242), (226, 226, 226), (40, 40, 40), (110, 110, 110)


def contact_sheet(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], labels: Sequence[str] | None, cell: int
) -> np.ndarray:
    """Lay out images in a grid of squares: uint8 (H, W, 3).

    Large images are shrunk to fit, small ones enlarged by whole factors. Raises ValueError if the numbers of
    rows and labels differ.

    Args:
        rows: images, uint8 (H, W, 3), uint8 (H, W) or bool (H, W).
        titles: of the columns.
        labels: of the rows, above each; None = no labels.
        cell: side of a square, pixels.
    """
    if labels is not None and len(labels) != len(rows):
        raise ValueError(f"{len(labels)} labels for {len(rows)} rows; give one label per row")
    gap = max(6, cell // 14)
    font = ImageFont.load_default(size=max(11, min(20, cell // 9)))
    line = sum(font.getmetrics()) + gap // 3  # type: ignore[union-attr]
    columns = max([1, len(titles), *map(len, rows)])
    top = gap + (line if titles else 0)
    pitch = cell + gap + (line if labels else 0)
    sheet = Image.new("RGB", (gap + columns * (cell + gap), top + len(rows) * pitch), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        middle = gap + column * (cell + gap) + cell / 2
        draw.text((middle, gap), _fit_text(draw, title, font, cell), _INK, font, anchor="ma")
    for index, row in enumerate(rows):
        y = top + index * pitch
        if labels is not None:
            draw.text((gap, y), _fit_text(draw, labels[index], font, sheet.width - 2 * gap), _PALE_INK, font)
            y += line
        for column, image in enumerate(row):
            sheet.paste(_letterbox(image, cell), (gap + column * (cell + gap), y))
    return np.array(sheet)


def _letterbox(image: np.ndarray, cell: int) -> Image.Image:
    if image.dtype == np.bool_:
        image = image.astype(np.uint8) * 255
    height, width = image.shape[:2]
    factor = cell // max(height, width)
    if factor >= 1:
        image = image.repeat(factor, axis=0).repeat(factor, axis=1)
    else:
        shrink = cell / max(height, width)
        image = resize(image, (max(1, round(height * shrink)), max(1, round(width * shrink))))
    square = Image.new("RGB", (cell, cell), _CELL)
    height, width = image.shape[:2]
    square.paste(Image.fromarray(image).convert("RGB"), ((cell - width) // 2, (cell - height) // 2))
    return square


def _fit_text(draw: ImageDraw.ImageDraw, text: str, font: Any, width: float) -> str:
    """Shorten a text to its end, after an ellipsis: images' names differ most there."""
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength("…" + text, font) > width:
        text = text[1:]
    return "…" + text
