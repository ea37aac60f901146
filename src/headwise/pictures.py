"""Images: PNG files that record their settings, one reader for all formats, sheets of images."""

import functools
import importlib.util
import io
import json
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo

from headwise import __version__
from headwise.errors import UnreadableFile, UnwritableFolder
from headwise.files import write_whole

__all__ = [
    "beside", "cropped", "fitted", "holds", "parameters_of", "picture_in", "png_of", "read_picture",
    "save_columns", "save_picture", "settings_in", "size_of_shape",
]  # fmt: skip

LARGEST = 64_000_000  # pixels
PARAMETERS = "parameters"  # the text field with the settings in A1111's format
UPLOADS = ("PNG", "JPEG", "WEBP")  # Pillow reads many more formats, some with the help of other programs
LIMIT = f"{LARGEST // 10**6} million pixels in all"


def save_picture(path: str | Path, picture: Image.Image, settings: Mapping[str, Any]) -> None:
    """Write a PNG that records its settings as text.

    Args:
        path: The file; its folder is created if missing.
        picture: The image.
        settings: The settings that made the image, by name; values that are not text are written as JSON.

    Raises:
        UnwritableFolder: The file cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnwritableFolder(
            f"{path} could not be written: {error.strerror}. Free some space, or give another folder."
        ) from None
    write_whole(path, png_of(picture, settings))


def png_of(picture: Image.Image, settings: Mapping[str, Any]) -> bytes:
    """The content of the PNG file that `save_picture` writes."""
    info, content = PngInfo(), io.BytesIO()
    for name, text in _as_texts(settings).items():
        info.add_itxt(name, text)
    if (parameters := parameters_of(settings, picture.size)) is not None:
        info.add_text(PARAMETERS, parameters)
    picture.save(content, format="PNG", pnginfo=info)
    return content.getvalue()


def parameters_of(settings: Mapping[str, Any], size: tuple[int, int]) -> str | None:
    """Settings in the format of A1111's "parameters", which other image programs read.

    Args:
        settings: As `save_picture` takes them, named as diffusers names its arguments.
        size: Width and height of the image.

    Returns:
        The prompt, the negative prompt, and a line of settings; None for a sheet of images, or if a setting
        that every reader requires is missing.
    """
    seed, column = settings.get("seed"), settings.get("column")
    if "seeds" in settings and "picture" in settings:
        seed = settings["seeds"][settings["picture"]]
    prompt = settings.get("prompt", settings.get("source") if column == "source" else column)
    if prompt is None or seed is None or "num_inference_steps" not in settings or "columns" in settings:
        return None
    loras = (f" <lora:{Path(file).stem}:{scale:g}>" for file, scale in settings.get("loras", {}).items())
    model = Path(str(settings.get("model", "")))
    written = {
        "Steps": settings["num_inference_steps"],
        "Sampler": settings.get("sampler"),
        "CFG scale": settings.get("guidance_scale"),
        "Seed": seed,
        "Size": f"{size[0]}x{size[1]}",
        "Model": model.stem if model.suffix == ".safetensors" else model.name,
        "Clip skip": settings.get("clip_skip"),
        "Steering": ", ".join(settings.get("steering") or ()),
        "Version": f"Headwise {__version__}",
    }
    values = {name: str(value) for name, value in written.items() if value not in (None, "")}
    line = ", ".join(
        f"{name}: {json.dumps(value, ensure_ascii=False) if set(value) & set(',:') else value}"
        for name, value in values.items()
    )
    negative = settings.get("negative_prompt")
    return "\n".join([prompt + "".join(loras), *([f"Negative prompt: {negative}"] if negative else ()), line])


def holds(path: str | Path, settings: Mapping[str, Any]) -> bool:
    """Whether a file is an undamaged image that `save_picture` wrote with these settings."""
    try:
        held = settings_in(path)
        return {name: held[name] for name in held if name != PARAMETERS} == _as_texts(settings)
    except (OSError, SyntaxError, ValueError):  # missing or damaged
        return False


def _as_texts(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings as a PNG holds them: values that are not text are written as JSON."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in settings.items()
    }


def read_picture(source: str | Path | Image.Image) -> Image.Image:
    """Read an image of any format as RGB: upright, on white, with 16-bit and CMYK images converted.

    Args:
        source: A file, or a Pillow image of any mode.

    Raises:
        UnreadableFile: The file is not an image, has several frames, is less than 8 pixels wide or high, or
            has more than 64 million pixels.
    """
    return _as_rgb(_opened(source, "The image" if isinstance(source, Image.Image) else str(source)))


def picture_in(content: bytes, name: str = "The image") -> Image.Image:
    """Read an uploaded image as `read_picture` does, but only in the formats that browsers send.

    Args:
        content: The content of a PNG, JPEG or WebP file.
        name: The name of the image in errors.

    Raises:
        UnreadableFile: As in `read_picture`, or the image has another format.
    """
    return _as_rgb(_opened(io.BytesIO(content), name, UPLOADS))


def fitted(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The middle of an image, cropped and scaled to a width and height in pixels."""
    return ImageOps.fit(picture, size, Image.Resampling.LANCZOS)


def size_of_shape(picture: Image.Image, size: tuple[int, int], step: int) -> tuple[int, int]:
    """A width and height of an image's shape, in multiples of `step`, with about as many pixels as `size`."""
    scale = (size[0] * size[1] / (picture.width * picture.height)) ** 0.5
    width, height = (max(1, round(side * scale / step)) * step for side in picture.size)
    return width, height


def cropped(picture: Image.Image, size: tuple[int, int]) -> str:
    """What `fitted` leaves out, as a sentence; empty if it only scales."""
    (width, height), (fitted_width, fitted_height) = picture.size, size
    scale = min(width / fitted_width, height / fitted_height)
    kept = round(scale * fitted_width), round(scale * fitted_height)
    if max(width - kept[0], height - kept[1]) < 1:
        return ""
    return (
        f"Only the middle {kept[0]} × {kept[1]} of the image's {width} × {height} pixels are used, to make "
        f"an image of {fitted_width} × {fitted_height}. Crop the image yourself to choose another part."
    )


def save_columns(
    out: Path, columns: Mapping[str, Sequence[Image.Image]], settings: Mapping[str, Any]
) -> list[Path]:
    """Write every image of every column, then grid.png with all of them; returns the files.

    Args:
        out: The folder.
        columns: The images of each column, by its name.
        settings: The settings that made the images; each file holds them, with the image's number and column.
    """
    files, settings = [], dict(settings) | {"headwise": __version__}
    for name, pictures in columns.items():
        for number, picture in enumerate(pictures):
            plain = re.sub(r"[^\w.-]+", "-", name.replace("× ", "strength-"))
            files.append(out / f"{number:03d}-{plain}.png")
            save_picture(files[-1], picture, settings | {"picture": number, "column": name})
    files.append(out / "grid.png")
    sheet = beside(list(zip(*columns.values(), strict=True)), list(columns))
    save_picture(files[-1], sheet, settings | {"columns": list(columns)})
    return files


def settings_in(path: str | Path) -> dict[str, str]:
    """The text fields of a PNG, by name."""
    with Image.open(path) as picture:
        return {name: str(value) for name, value in getattr(picture, "text", {}).items()}


def beside(rows: Sequence[Sequence[Image.Image]], columns: Sequence[str], least: int = 192) -> Image.Image:
    """One sheet with rows of images under the names of their columns.

    Args:
        rows: The images of each row, all of one size.
        columns: The names of the columns.
        least: The minimum width of an image on the sheet, in pixels; smaller ones are enlarged, not smoothed.
    """
    width, height = rows[0][0].size
    times = max(1, -(-least // width))
    width, height, gap, head = width * times, height * times, 8, 28
    sheet = Image.new("RGB", (gap + len(columns) * (width + gap), head + len(rows) * (height + gap)), "white")
    draw = ImageDraw.Draw(sheet)
    for c, name in enumerate(columns):
        x = gap + c * (width + gap)
        font, title = _drawable(name)
        draw.text((x, 6), _cut(title, width, draw, font), fill="black", font=font)
        for r, row in enumerate(rows):
            enlarged = row[c].convert("RGB").resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (x, head + r * (height + gap)))
    return sheet


def _opened(source: Any, name: str, formats: tuple[str, ...] | None = None) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            given = isinstance(source, Image.Image)
            opened = nullcontext(source) if given else Image.open(source, formats=formats)
        with opened as picture:
            _require_size(name, picture)
            return picture.copy()
    except UnreadableFile:
        raise
    except Image.DecompressionBombError:
        raise UnreadableFile(f"{name} is too large; expected at most {LIMIT}. Scale it down first.") from None
    except (OSError, ValueError, SyntaxError) as error:
        why = getattr(error, "strerror", None) or "it is not an image, or it is damaged"
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
        raise UnreadableFile(f"{name} has {frames} frames. Give a still image.")
    if min(width, height) < 8 or width * height > LARGEST:
        raise UnreadableFile(
            f"{name} is {width} × {height} pixels; expected at least 8 × 8 and at most {LIMIT}. Resize it."
        )


# Tried after Pillow's own, which has only ASCII: matplotlib's, if installed, and those of systems.
FONTS = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "msyh.ttc",
)
PLAIN = str.maketrans("×−–—‘’“”", "x---''\"\"")


def _drawable(text: str) -> tuple[Any, str]:
    """A font with every character of the text; else the text in characters that Pillow's own font has."""
    for name in ("", *FONTS):
        font = _font(name)
        if font is not None and all(map(functools.partial(_has, name), text)):
            return font, text
    bare = unicodedata.normalize("NFKD", text.translate(PLAIN))
    letters = (c for c in bare if not unicodedata.combining(c))
    return _font(""), "".join(
        c if _has("", c) else c.encode("ascii", "backslashreplace").decode() for c in letters
    )


@functools.cache
def _font(name: str) -> Any:
    """A font by its file name, Pillow's own for ""; None if no such font is installed."""
    if not name:
        return ImageFont.load_default(15)
    matplotlib = importlib.util.find_spec("matplotlib")  # located, not imported
    folder = (
        Path(matplotlib.origin).parent / "mpl-data/fonts/ttf" if matplotlib and matplotlib.origin else Path()
    )
    for path in (folder / name, name):
        try:
            return ImageFont.truetype(str(path), 15)
        except OSError:
            continue
    return None


@functools.cache
def _has(name: str, letter: str) -> bool:
    """Whether a font has this letter; a missing one is rendered as the box for an unknown character."""
    font = _font(name)
    return bytes(font.getmask(letter)) != bytes(font.getmask("\uffff"))


def _cut(text: str, width: int, draw: Any, font: Any) -> str:
    """The text, or as much of it as fits."""
    if draw.textlength(text, font=font) <= width:
        return text
    while text and draw.textlength(text + "…", font=font) > width:
        text = text[:-1]
    return text + "…"
