"""Pictures that know how they were made, and pictures side by side."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from headwise.errors import UnwritableFolder

__all__ = ["beside", "save_picture", "settings_in"]


def save_picture(path: str | Path, picture: Image.Image, said: Mapping[str, Any]) -> None:
    """Write a PNG whose own text says what made it: texts as they are, all else as JSON."""
    info = PngInfo()
    for name, value in said.items():
        info.add_itxt(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    path = Path(path)
    beside = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(beside, format="PNG", pnginfo=info)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True) if path.parent.is_dir() else None
        raise UnwritableFolder(
            f"{path} cannot take a picture: {error.strerror or error}. Make room, or give another folder."
        ) from None


def settings_in(path: str | Path) -> dict[str, str]:
    """What a PNG says of itself."""
    with Image.open(path) as picture:
        return {name: str(value) for name, value in getattr(picture, "text", {}).items()}


def beside(rows: Sequence[Sequence[Image.Image]], columns: Sequence[str], least: int = 192) -> Image.Image:
    """Rows of pictures under the names of their columns; small pictures are enlarged, pixel by pixel."""
    width, height = rows[0][0].size
    times = max(1, -(-least // width))
    width, height, gap, head = width * times, height * times, 8, 28
    sheet = Image.new("RGB", (gap + len(columns) * (width + gap), head + len(rows) * (height + gap)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for c, name in enumerate(columns):
        x = gap + c * (width + gap)
        draw.text((x, 6), _cut(name, width, draw, font), fill="black", font=font)
        for r, row in enumerate(rows):
            enlarged = row[c].convert("RGB").resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (x, head + r * (height + gap)))
    return sheet


def _cut(text: str, width: int, draw: Any, font: Any) -> str:
    """The text, or as much of it as fits."""
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"
