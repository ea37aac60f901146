"""Sprites: each thing of the emoji world as 64×64 RGBA images in three families, packed into one array.

The families are three ways of drawing the same emoji: Noto ("cartoon"), Twemoji ("flat"), Fluent 3D ("3d"). They come from npm
packages (`make sprites`) and stay out of the repository; shapes and written characters are drawn here.
"""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from vocabulary import OTHER, THINGS

__all__ = ["FAMILIES", "load", "pack"]

FAMILIES = ("cartoon", "flat", "3d")
SIZE = 64


def pack(node_modules: Path, file: Path) -> None:
    """Read the sprites of every thing from the npm packages and write them as `{word}`: families × variants × 64 × 64 × 4."""
    names = {
        e["short_name"]: e["image"]
        for e in json.loads((node_modules / "emoji-datasource-google/emoji.json").read_text())
    }
    packed = {}
    for concept, things in (THINGS | {"Other": OTHER}).items():
        for word, drawn in things.items():
            if concept == "Shape":
                packed[word] = np.stack([[_shape(word, f)] for f in FAMILIES])
            elif concept == "Written Characters":
                packed[word] = np.stack([[_glyph(g, f) for g in drawn] for f in FAMILIES])
            else:
                packed[word] = _emoji(node_modules, names[drawn])[:, None]
    np.savez_compressed(file, **packed)


def load(file: Path) -> dict[str, np.ndarray]:
    """The packed sprites: word -> families × variants × 64 × 64 × 4, bytes."""
    with np.load(file) as packed:
        return {word: packed[word] for word in packed.files}


def _emoji(node_modules: Path, image: str) -> np.ndarray:
    code = image.removesuffix(".png")
    files = [
        [node_modules / "emoji-datasource-google/img/google/64" / image],
        [node_modules / "emoji-datasource-twitter/img/twitter/64" / image],
        [
            node_modules / f"@lobehub/fluent-emoji-3d/assets/{c}.webp"
            for c in (code, code.replace("-fe0f", ""))
        ],
    ]
    found = [next((f for f in family if f.exists()), None) for family in files]
    fallback = found[0] or found[1]  # flags exist in two families only
    return np.stack([_read(f or fallback) for f in found])


def _read(file: Path) -> np.ndarray:
    picture = Image.open(file).convert("RGBA")
    picture = picture.crop(picture.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())
    side = max(picture.size)
    square = Image.new("RGBA", (side, side))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return np.asarray(square.resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def _shape(word: str, family: str) -> np.ndarray:
    big, centre = 4 * SIZE, 2 * SIZE
    mask = Image.new("L", (big, big))
    draw = ImageDraw.Draw(mask)
    ring = lambda n, r=120, turn=0.0: [  # noqa: E731
        (centre + r * np.sin(2 * np.pi * (k / n + turn)), centre - r * np.cos(2 * np.pi * (k / n + turn)))
        for k in range(n)
    ]
    if word == "circle":
        draw.ellipse((12, 12, big - 12, big - 12), fill=255)
    elif word == "square":
        draw.rectangle((28, 28, big - 28, big - 28), fill=255)
    elif word == "triangle":
        draw.polygon([(centre, 16), (big - 10, big - 30), (10, big - 30)], fill=255)
    elif word == "hexagon":
        draw.polygon(ring(6), fill=255)
    elif word == "diamond":
        draw.polygon([(centre, 6), (big - 50, centre), (centre, big - 6), (50, centre)], fill=255)
    elif word == "star":
        outer, inner = ring(5), ring(5, 50, 0.1)
        draw.polygon([p for pair in zip(outer, inner, strict=True) for p in pair], fill=255)
    else:
        t = np.linspace(0, 2 * np.pi, 200)
        x, y = 16 * np.sin(t) ** 3, 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        draw.polygon(list(zip(centre + 7.2 * x, centre - 10 - 7.2 * y, strict=True)), fill=255)
    return _shade(mask.resize((SIZE, SIZE), Image.Resampling.LANCZOS), family)


def _glyph(glyph: str, family: str) -> np.ndarray:
    font = Path(matplotlib.get_data_path()) / "fonts/ttf" / {"cartoon": "DejaVuSans-Bold.ttf", "flat": "DejaVuSansMono-Bold.ttf"}.get(
        family, "DejaVuSerif-Bold.ttf"
    )  # fmt: skip
    mask = Image.new("L", (SIZE, SIZE))
    ImageDraw.Draw(mask).text((SIZE // 2, SIZE // 2), glyph, 255, ImageFont.truetype(font, 60), anchor="mm")
    return _shade(mask, family)


def _shade(mask: Image.Image, family: str) -> np.ndarray:
    alpha = np.asarray(mask, np.float32)
    y, x = np.mgrid[0:SIZE, 0:SIZE] / SIZE
    light = {"cartoon": 0.55 + 0 * y, "flat": 0.45 + 0 * y, "3d": 0.75 - 0.5 * np.hypot(x - 0.35, y - 0.3)}[
        family
    ]
    return np.dstack([255 * light] * 3 + [alpha]).clip(0, 255).astype(np.uint8)
