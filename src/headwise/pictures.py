"""Pictures that know how they were made, and pictures side by side."""

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

__all__ = [
    "beside", "fitted", "picture_in", "png_of", "read_picture", "save_columns", "save_picture", "settings_in",
]  # fmt: skip

LARGEST = 64_000_000  # pixels
SENT = ("PNG", "JPEG", "WEBP")  # Pillow reads many more kinds, some with the help of other programs
MOST = f"{LARGEST // 10**6} million pixels in all"


def save_picture(path: str | Path, picture: Image.Image, said: Mapping[str, Any]) -> None:
    """Write a PNG whose own text says what made it: texts as they are, all else as JSON."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(png_of(picture, said))
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True) if path.parent.is_dir() else None
        raise UnwritableFolder(
            f"{path} cannot take a picture: {error.strerror or error}. Make room, or give another folder."
        ) from None


def png_of(picture: Image.Image, said: Mapping[str, Any]) -> bytes:
    """The PNG that `save_picture` writes."""
    info, made = PngInfo(), io.BytesIO()
    for name, value in said.items():
        info.add_itxt(name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    picture.save(made, format="PNG", pnginfo=info)
    return made.getvalue()


def read_picture(path: str | Path) -> Image.Image:
    """A picture of any kind as RGB: turned as the camera held it, of 16 bits or in inks converted.

    Raises:
        UnreadableFile: It is no picture, has several frames, or is smaller than 8 or larger than 64 million
            pixels.
    """
    return _as_rgb(_opened(path, str(path)))


def picture_in(content: bytes, name: str = "The picture") -> Image.Image:
    """A picture that somebody sent, of the kinds that browsers send, as `read_picture` reads one.

    Args:
        content: A PNG, JPEG or WebP file.
        name: What an error calls it.

    Raises:
        UnreadableFile: As in `read_picture`.
    """
    return _as_rgb(_opened(io.BytesIO(content), name, SENT))


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of a picture, at a width and height."""
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


def save_columns(
    out: Path, columns: Mapping[str, Sequence[Image.Image]], said: Mapping[str, Any]
) -> list[Path]:
    """Every picture of every column and last grid.png, each with what made it."""
    files, said = [], dict(said) | {"headwise": __version__}
    for name, pictures in columns.items():
        for number, picture in enumerate(pictures):
            plain = re.sub(r"[^\w.-]+", "-", name.replace("× ", "strength-"))
            files.append(out / f"{number:03d}-{plain}.png")
            save_picture(files[-1], picture, said | {"picture": number, "column": name})
    files.append(out / "grid.png")
    save_picture(files[-1], beside(list(zip(*columns.values(), strict=True)), list(columns)), said)
    return files


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


def _opened(source: Any, name: str, kinds: tuple[str, ...] | None = None) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            opened = Image.open(source, formats=kinds)
        with opened:
            _require_size(name, opened)
            return opened.copy()
    except UnreadableFile:
        raise
    except Image.DecompressionBombError:
        raise UnreadableFile(f"{name} is too large; expected at most {MOST}. Scale it first.") from None
    except (OSError, ValueError, SyntaxError) as error:
        why = getattr(error, "strerror", None) or "it is no picture, or a damaged one"
        raise UnreadableFile(f"{name} cannot be read: {why}. Give a PNG, JPEG or WebP file.") from None


def _as_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I") or picture.mode == "F":  # 16 bits or more, which convert() would clip
        values = np.asarray(picture, np.float64)
        top = 65535 if picture.mode.startswith("I") else max(1.0, values.max())
        picture = Image.fromarray((values / top * 255).clip(0, 255).round().astype(np.uint8))
    turned = ImageOps.exif_transpose(picture)
    if turned.mode in ("RGBA", "LA", "PA") or "transparency" in turned.info:
        turned = Image.alpha_composite(Image.new("RGBA", turned.size, "white"), turned.convert("RGBA"))
    return turned.convert("RGB")


def _require_size(name: str, picture: Image.Image) -> None:
    frames, (width, height) = getattr(picture, "n_frames", 1), picture.size
    if frames > 1:
        raise UnreadableFile(f"{name} has {frames} frames. Give a picture that does not move.")
    if min(width, height) < 8 or width * height > LARGEST:
        raise UnreadableFile(
            f"{name} is {width} × {height} pixels; expected at least 8 × 8 and at most {MOST}. Scale it."
        )


def _cut(text: str, width: int, draw: Any, font: Any) -> str:
    """The text, or as much of it as fits."""
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"
