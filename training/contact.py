"""A contact sheet: images in rows with what they show beneath, to be looked at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["sheet"]


def sheet(pictures: list[tuple[str, np.ndarray]], file: Path, columns: int = 14, side: int = 92) -> None:
    """Write captions and images (64 × 64 × 3 bytes each) as one PNG."""
    width, height, letters = side + 6, side + 32, (side + 6) // 6
    page = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), "white")
    draw = ImageDraw.Draw(page)
    for i, (caption, picture) in enumerate(pictures):
        x, y = i % columns * width, i // columns * height
        page.paste(Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST), (x, y))
        for line in range(2):
            draw.text(
                (x, y + side + 1 + 11 * line), caption[letters * line : letters * (line + 1)], fill="black"
            )
    page.save(file)
