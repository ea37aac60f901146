"""Pictures: PNG files that hold their settings, uploads, and sheets of pictures side by side."""

import io
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from headwise import __version__
from headwise.errors import UnreadableFile, UnwritableFolder
from headwise.files import write_whole

__all__ = [
    "beside", "fitted", "picture_in", "png_of", "read_picture", "save_columns", "save_picture", "settings_in",
]  # fmt: skip

LARGEST = 64_000_000  # pixels
UPLOADS = ("PNG", "JPEG", "WEBP")  # Pillow reads many more formats, some with the help of other programs
LIMIT = f"{LARGEST // 10**6} million pixels in all"


def save_picture(path: str | Path, picture: Image.Image, settings: Mapping[str, Any]) -> None:
    """Write a PNG that holds its settings as text.

    Args:
        path: The file; its folder is made if it is missing.
        picture: The picture.
        settings: What made the picture, by name; values that are not text are written as JSON.

    Raises:
        UnwritableFolder: The file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnwritableFolder(
            f"{path} cannot take a picture: {error.strerror}. Make room, or give another folder."
        ) from None
    write_whole(path, png_of(picture, settings))


def png_of(picture: Image.Image, settings: Mapping[str, Any]) -> bytes:
    """The content of the PNG file that `save_picture` writes."""
    info, content = PngInfo(), io.BytesIO()
    for name, value in settings.items():
        info.add_itxt(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    picture.save(content, format="PNG", pnginfo=info)
    return content.getvalue()


def read_picture(path: str | Path) -> Image.Image:
    """Read a picture of any format as RGB: upright, with 16 bits or printing inks converted.

    Raises:
        UnreadableFile: The file is not a picture, has several frames, is narrower or lower than 8 pixels, or
            has more than 64 million.
    """
    return _as_rgb(_opened(path, str(path)))


def picture_in(content: bytes, name: str = "The picture") -> Image.Image:
    """Read an uploaded picture as `read_picture` reads a file, but only in the formats that browsers send.

    Args:
        content: The content of a PNG, JPEG or WebP file.
        name: What an error calls the picture.

    Raises:
        UnreadableFile: For the reasons of `read_picture`, or because of another format.
    """
    return _as_rgb(_opened(io.BytesIO(content), name, UPLOADS))


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of a picture, cropped and scaled to a width and height in pixels."""
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


def save_columns(
    out: Path, columns: Mapping[str, Sequence[Image.Image]], settings: Mapping[str, Any]
) -> list[Path]:
    """Write every picture of every column, and last grid.png with all of them; returns the files.

    Args:
        out: The folder.
        columns: The pictures of each column, by its name.
        settings: What made the pictures; each file holds it, with the picture's number and column.
    """
    files, settings = [], dict(settings) | {"headwise": __version__}
    for name, pictures in columns.items():
        for number, picture in enumerate(pictures):
            plain = re.sub(r"[^\w.-]+", "-", name.replace("× ", "strength-"))
            files.append(out / f"{number:03d}-{plain}.png")
            save_picture(files[-1], picture, settings | {"picture": number, "column": name})
    files.append(out / "grid.png")
    save_picture(files[-1], beside(list(zip(*columns.values(), strict=True)), list(columns)), settings)
    return files


def settings_in(path: str | Path) -> dict[str, str]:
    """The texts that a PNG holds, by name."""
    with Image.open(path) as picture:
        return {name: str(value) for name, value in getattr(picture, "text", {}).items()}


def beside(rows: Sequence[Sequence[Image.Image]], columns: Sequence[str], least: int = 192) -> Image.Image:
    """One sheet with rows of pictures under the names of their columns.

    Args:
        rows: The pictures of each row, all of one size.
        columns: The names of the columns.
        least: The least width of a picture on the sheet, in pixels; smaller ones are enlarged pixel by pixel.
    """
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


def _opened(source: Any, name: str, formats: tuple[str, ...] | None = None) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(source, formats=formats)
        with opened:
            _require_size(name, opened)
            return opened.copy()
    except UnreadableFile:
        raise
    except Image.DecompressionBombError:
        raise UnreadableFile(f"{name} is too large; expected at most {LIMIT}. Scale it first.") from None
    except (OSError, ValueError, SyntaxError) as error:
        why = getattr(error, "strerror", None) or "it is not a picture, or it is damaged"
        raise UnreadableFile(f"{name} cannot be read: {why}. Give a PNG, JPEG or WebP file.") from None


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":  # 16 bits or more, which convert() would clip
        values = np.asarray(picture, np.float64)
        white = 65535 if picture.mode.startswith("I") else max(1.0, values.max())
        picture = Image.fromarray((values / white * 255).clip(0, 255).round().astype(np.uint8))
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright.convert("RGBA"))
    return upright.convert("RGB")


def _require_size(name: str, picture: Image.Image) -> None:
    frames, (width, height) = getattr(picture, "n_frames", 1), picture.size
    if frames > 1:
        raise UnreadableFile(f"{name} has {frames} frames. Give a still picture.")
    if min(width, height) < 8 or width * height > LARGEST:
        raise UnreadableFile(
            f"{name} is {width} × {height} pixels; expected at least 8 × 8 and at most {LIMIT}. Scale it."
        )


def _cut(text: str, width: int, draw: Any, font: Any) -> str:
    """The text, or as much of it as fits."""
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"
