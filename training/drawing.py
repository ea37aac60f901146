"""Painting a scene: sprites on the latent grid, recoloured and textured, inside weather, light, time and style.

An image is a function of its scene. What a scene leaves open has one default: without a style the sprites are those of one family,
without a colour a thing has the sprite's own (shapes and written characters that of `INK`), the background is plain, position and
size are fixed. So one caption has one image, and variety comes from what is said.

Positions and sizes are multiples of 8 pixels where they can be, because one latent covers 8×8 pixels: a denoiser learns a
silhouette sooner when it always falls on the same cells.
"""

from __future__ import annotations

import numpy as np
from PIL import Image
from sprites import FAMILIES
from surfaces import covered, recolored
from surroundings import SIDE, X, Y, background, lit, outlined, shadow, styled, weathered
from vocabulary import COLORS, INK
from world import COUNTS, Scene, Thing

__all__ = ["SIDE", "Painter", "paste", "places"]

DEFAULT = "cartoon"  # the family of sprites where no style is said; the style of that name adds an outline
SIZES = {"tiny": 16, "small": 32, None: 48, "large": 64, "huge": 96}
LAYOUTS = {  # size of a sprite and its upper left corners
    2: (32, ((0, 16), (32, 16))),
    3: (32, ((16, 0), (0, 32), (32, 32))),
    4: (32, ((0, 0), (32, 0), (0, 32), (32, 32))),
    5: (22, ((0, 0), (42, 0), (21, 21), (0, 42), (42, 42))),
    6: (21, ((0, 8), (21, 8), (42, 8), (0, 35), (21, 35), (42, 35))),
}


class Painter:
    """Paints scenes with a set of packed sprites (see `sprites.pack`)."""

    def __init__(self, sprites: dict[str, np.ndarray]) -> None:
        self.sprites = sprites
        self._resized: dict[tuple[str, str, int], np.ndarray] = {}

    def draw(self, scene: Scene) -> np.ndarray:
        """The image of a scene: 64 × 64 × 3 bytes."""
        return self.paint(scene, background(scene), places(scene))

    def paint(
        self, scene: Scene, picture: np.ndarray, placed: list[tuple[Thing, int, tuple[int, int]]]
    ) -> np.ndarray:
        """The image of a scene on a given background (64 × 64 × 3 in 0 … 1), with each thing's size and upper left corner."""
        if scene.light == "backlit":
            glow = np.exp(-((X - 32) ** 2 + (Y - 32) ** 2) / 500)[..., None]
            picture = picture * 0.3 + np.array([1, 0.95, 0.75], np.float32) * glow
        for thing, size, (x, y) in placed:
            sprite = covered(self.sprite(thing, scene.style, size), thing)
            if scene.light == "backlit":
                sprite = np.dstack([sprite[..., :3] * 0.12, sprite[..., 3:]])
            if scene.style == "cartoon":
                sprite = outlined(sprite)
            if scene.style == "3d":
                shadow(picture, x, y, size)
            paste(picture, sprite, x, y)
        picture = styled(lit(weathered(picture, scene.weather), scene.light), scene.style)
        return (picture.clip(0, 1) * 255 + 0.5).astype(np.uint8)

    def sprite(self, thing: Thing, style: str | None, size: int) -> np.ndarray:
        """A thing before its surface is changed: size × size × 4 in 0 … 1."""
        key = (thing.word, style if style in FAMILIES else DEFAULT, size)
        if key not in self._resized:
            picture = Image.fromarray(self.sprites[thing.word][FAMILIES.index(key[1])][0])
            small = picture.convert("RGBa").resize((size, size), Image.Resampling.LANCZOS)
            sprite = np.asarray(small.convert("RGBA"), np.float32) / 255
            ink = INK.get(thing.word)
            self._resized[key] = recolored(sprite, COLORS[ink]) if ink else sprite
        return self._resized[key]


def places(scene: Scene) -> list[tuple[Thing, int, tuple[int, int]]]:
    """Each thing's size and upper left corner: one in the middle, several in the order in which they are told."""
    if not scene.things:
        return []
    things = scene.things if len(scene.things) > 1 else scene.things * COUNTS.get(scene.count or "", 1)
    if len(things) == 1:
        size = SIZES[scene.size]
        return [(things[0], size, ((SIDE - size) // 2, (SIDE - size) // 2))]
    size, corners = LAYOUTS[len(things)]
    return [(t, size, c) for t, c in zip(things, corners, strict=True)]


def paste(picture: np.ndarray, sprite: np.ndarray, x: int, y: int) -> None:
    """Lay a sprite onto an image, in place; what hangs over the border is cut off."""
    size = sprite.shape[0]
    x0, y0, x1, y1 = max(0, x), max(0, y), min(SIDE, x + size), min(SIDE, y + size)
    part = sprite[y0 - y : y1 - y, x0 - x : x1 - x]
    alpha = part[..., 3:]
    picture[y0:y1, x0:x1] = picture[y0:y1, x0:x1] * (1 - alpha) + part[..., :3] * alpha
