"""Painting a scene: sprites on the latent grid, recoloured and textured, inside weather, light, time and style.

Positions and sizes are multiples of 8 pixels where they can be, because one latent covers 8×8 pixels: a denoiser learns a
silhouette sooner when it always falls on the same cells.
"""

from __future__ import annotations

import random
from functools import cache

import numpy as np
from PIL import Image
from sprites import FAMILIES
from vocabulary import COLORS, RARE
from world import COUNTS, Scene, Thing

__all__ = ["Painter", "SIDE"]

SIDE = 64
SIZES = {"tiny": 16, "small": 32, None: 48, "large": 64, "huge": 96}
LAYOUTS = {  # size of a sprite and its upper left corners
    2: (32, ((0, 16), (32, 16))),
    3: (32, ((16, 0), (0, 32), (32, 32))),
    4: (32, ((0, 0), (32, 0), (0, 32), (32, 32))),
    5: (22, ((0, 0), (42, 0), (21, 21), (0, 42), (42, 42))),
    6: (21, ((0, 8), (21, 8), (42, 8), (0, 35), (21, 35), (42, 35))),
}
LUMA = np.array([0.3, 0.59, 0.11], np.float32)
Y, X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)


class Painter:
    """Paints scenes with a set of packed sprites (see `sprites.pack`)."""

    def __init__(self, sprites: dict[str, np.ndarray]) -> None:
        self.sprites = sprites
        self._resized: dict[tuple, np.ndarray] = {}

    def draw(self, scene: Scene, rng: random.Random) -> np.ndarray:
        """The picture of a scene: 64 × 64 × 3 bytes. The generator decides what the scene leaves open."""
        noise = np.random.default_rng(rng.getrandbits(64))
        family = scene.style if scene.style in FAMILIES else rng.choice(FAMILIES)
        picture = _background(scene, rng, noise)
        if scene.light == "backlit":
            glow = np.exp(-((X - 32) ** 2 + (Y - 32) ** 2) / 500)[..., None]
            picture = picture * 0.3 + np.array([1, 0.95, 0.75], np.float32) * glow
        for thing, size, (x, y) in _places(scene):
            sprite = self._sprite(thing, family, size, rng)
            sprite = _surface(sprite, thing, rng, noise)
            if scene.light == "backlit":
                sprite = np.dstack([sprite[..., :3] * 0.12, sprite[..., 3:]])
            if scene.style == "cartoon":
                sprite = _outlined(sprite)
            if scene.style == "3d":
                _shadow(picture, x, y, size)
            _paste(picture, sprite, x, y)
        picture = _weather(picture, scene.weather, rng, noise)
        picture = _light(picture, scene.light)
        picture = _style(picture, scene.style)
        return (picture.clip(0, 1) * 255 + 0.5).astype(np.uint8)

    def _sprite(self, thing: Thing, family: str, size: int, rng: random.Random) -> np.ndarray:
        variants = self.sprites[thing.word][FAMILIES.index(family)]
        key = (thing.word, family, size, rng.randrange(len(variants)))
        if key not in self._resized:
            small = (
                Image.fromarray(variants[key[3]])
                .convert("RGBa")
                .resize((size, size), Image.Resampling.LANCZOS)
            )
            self._resized[key] = np.asarray(small.convert("RGBA"), np.float32) / 255
        sprite = self._resized[key]
        drawn_here = thing.word in _UNCOLORED
        if drawn_here and not thing.color and not thing.material and not thing.pattern:
            return _recolored(
                sprite, COLORS[rng.choice(("red", "blue", "green", "purple", "black", "brown"))]
            )
        return sprite


_UNCOLORED = {
    "letter",
    "digit",
    "Greek",
    "punctuation",
    "circle",
    "square",
    "triangle",
    "hexagon",
    "star",
    "heart",
    "diamond",
}


def _places(scene: Scene) -> list[tuple[Thing, int, tuple[int, int]]]:
    if not scene.things:
        return []
    count = COUNTS.get(scene.count or "", 1)
    if len(scene.things) == 2:
        count = 2
    if count == 1:
        size = SIZES[scene.size]
        return [(scene.things[0], size, ((SIDE - size) // 2, (SIDE - size) // 2))]
    size, corners = LAYOUTS[count]
    things = scene.things if len(scene.things) == 2 else scene.things * count
    return [(t, size, c) for t, c in zip(things, corners, strict=True)]


def _paste(picture: np.ndarray, sprite: np.ndarray, x: int, y: int) -> None:
    size = sprite.shape[0]
    x0, y0, x1, y1 = max(0, x), max(0, y), min(SIDE, x + size), min(SIDE, y + size)
    part = sprite[y0 - y : y1 - y, x0 - x : x1 - x]
    alpha = part[..., 3:]
    picture[y0:y1, x0:x1] = picture[y0:y1, x0:x1] * (1 - alpha) + part[..., :3] * alpha


# ---------------------------------------------------------------------------------------------- surfaces


def _surface(sprite: np.ndarray, thing: Thing, rng: random.Random, noise: np.random.Generator) -> np.ndarray:
    if thing.color:
        sprite = _recolored(sprite, COLORS.get(thing.color) or RARE["Color"][thing.color])
    if thing.material:
        sprite = _made_of(sprite, thing.material)
    if thing.pattern:
        sprite = _patterned(sprite, thing.pattern, rng)
    if thing.texture:
        sprite = _textured(sprite, thing.texture, noise)
    return sprite


def _relief(sprite: np.ndarray) -> np.ndarray:
    """Lightness of a sprite about its own mean, in -1 … 1."""
    light = sprite[..., :3] @ LUMA
    inside = sprite[..., 3] > 0.3
    return light - (light[inside].mean() if inside.any() else 0.5)


def _recolored(sprite: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    paint = np.array(color, np.float32) / 255
    return np.dstack([(paint + 0.45 * _relief(sprite)[..., None]).clip(0, 1), sprite[..., 3:]])


@cache
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    return y, x


def _mix(a: tuple, b: tuple, share: np.ndarray) -> np.ndarray:
    share = share[..., None]
    return np.array(a, np.float32) / 255 * (1 - share) + np.array(b, np.float32) / 255 * share


def _made_of(sprite: np.ndarray, material: str) -> np.ndarray:
    y, x = _grid(sprite.shape[0])
    relief, alpha = _relief(sprite)[..., None], sprite[..., 3:]
    band = 0.5 + 0.5 * np.sin((x + y) * 0.35)
    if material == "wood":
        grain = (np.sin(y * 1.25 + 1.5 * np.sin(x * 0.16)) > 0.1).astype(np.float32)
        paint = _mix((120, 70, 30), (190, 130, 70), grain)
    elif material == "metal":
        paint = _mix((70, 82, 100), (235, 242, 250), band**2)
    elif material == "gold":
        paint = _mix((165, 105, 5), (255, 240, 120), band**2)
    elif material == "glass":
        paint = _mix((140, 215, 235), (255, 255, 255), (np.abs((x - y) % 24 - 4) < 2.5).astype(np.float32))
        alpha = alpha * 0.62
    elif material == "marble":
        veins = np.abs(np.sin(x * 0.17 + y * 0.09 + 1.7 * np.sin(y * 0.21) + 0.9 * np.sin(x * 0.33))) < 0.2
        paint = _mix((240, 238, 235), (105, 108, 120), veins.astype(np.float32))
    else:
        row = y // 6
        mortar = (y % 6 < 1.2) | ((x + 6 * (row % 2)) % 12 < 1.2)
        paint = _mix((175, 60, 40), (225, 215, 205), mortar.astype(np.float32))
    return np.dstack([(paint + 0.3 * relief).clip(0, 1), alpha])


def _patterned(sprite: np.ndarray, pattern: str, rng: random.Random) -> np.ndarray:
    y, x = _grid(sprite.shape[0])
    if pattern in ("leopard", "zebra"):
        return _coat(sprite, pattern, x, y)
    if pattern == "star":
        cells = (np.abs(x % 12 - 6) + np.abs(y % 12 - 6) < 2.2) | (np.abs(x % 12 - 6) < 0.8) & (
            np.abs(y % 12 - 6) < 5
        )
        mask = cells | (np.abs(y % 12 - 6) < 0.8) & (np.abs(x % 12 - 6) < 5)
    elif pattern == "heart":
        u, v = x % 13 - 6, y % 13 - 6
        mask = ((np.abs(u) - 2.2) ** 2 + (v + 1.2) ** 2 < 6.5) | (
            (v > -1.5) & (np.abs(u) < 4.6 - v * 0.95) & (v < 4.6)
        )
    else:
        mask = {
            "striped": (x + y) % 12 < 6,
            "polka-dot": (x % 12 - 6) ** 2 + (y % 12 - 6) ** 2 <= 13,
            "checkered": (x // 8 + y // 8) % 2 == 0,
            "wavy": (y + 3 * np.sin(x * 0.5)) % 10 < 4.5,
            "zigzag": (y + np.abs(x % 12 - 6)) % 12 < 5,
            "diamond": (np.abs(x % 16 - 8) + np.abs(y % 16 - 8)) < 6,
        }[pattern]
    dark = (sprite[..., :3] @ LUMA)[sprite[..., 3] > 0.3].mean() < 0.45
    paint = {"star": (255, 225, 40), "heart": (250, 60, 110)}.get(
        pattern, (250, 250, 250) if dark else (25, 25, 60)
    )
    ground = sprite[..., :3] * 0.6 + (0.05 if dark else 0.4)
    return np.dstack([np.where(mask[..., None], np.array(paint, np.float32) / 255, ground), sprite[..., 3:]])


def _coat(sprite: np.ndarray, pattern: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    relief = _relief(sprite)[..., None]
    if pattern == "zebra":
        paint = _mix(
            (245, 245, 245),
            (20, 20, 20),
            (np.sin(x * 0.75 + 1.6 * np.sin(y * 0.22)) > 0.1).astype(np.float32),
        )
    else:
        u, v = (x + 5 * ((y // 10) % 2)) % 10 - 5, y % 10 - 5
        radius = np.hypot(u, v)
        paint = _mix((225, 165, 75), (60, 35, 15), ((radius < 4) & (radius > 1.6)).astype(np.float32))
    return np.dstack([(paint + 0.15 * relief).clip(0, 1), sprite[..., 3:]])


def _textured(sprite: np.ndarray, texture: str, noise: np.random.Generator) -> np.ndarray:
    y, x = _grid(sprite.shape[0])
    color, alpha = sprite[..., :3], sprite[..., 3:]
    size = sprite.shape[0]
    if texture == "fuzzy":
        shift = noise.integers(-3, 4, (2, size, size))
        rows, cols = (
            (y.astype(int) + shift[0]).clip(0, size - 1),
            (x.astype(int) + shift[1]).clip(0, size - 1),
        )
        return np.dstack([(color[rows, cols] + 0.12).clip(0, 1), alpha[rows, cols]])
    if texture == "bumpy":
        u, v = x % 8 - 4, y % 8 - 4
        bump = np.where(u**2 + v**2 < 11, -(u + v) * 0.11, -0.12)
        return np.dstack([(color * 0.8 + 0.1 + bump[..., None]).clip(0, 1), alpha])
    if texture == "grainy":
        grain = noise.normal(0, 0.28, (size, size, 1)).astype(np.float32)
        return np.dstack([(color * 0.85 + 0.08 + grain).clip(0, 1), alpha])
    if texture == "glossy":
        u, v = (x - 0.36 * size) / (0.26 * size), (y - 0.3 * size) / (0.13 * size)
        shine = np.exp(-(((u + 0.3 * v) ** 2 + v**2) ** 2))[..., None]
        rim = np.exp(-((((x - y) / size - 0.42) / 0.08) ** 2))[..., None] * 0.7
        return np.dstack(
            [(color * 0.9 * (1 - np.maximum(shine, rim)) + np.maximum(shine, rim)).clip(0, 1), alpha]
        )
    crack = np.zeros((size, size), bool)
    for _ in range(5):
        px, py = noise.integers(size // 5, size * 4 // 5, 2)
        dx, dy = noise.choice([-1, 1]), noise.choice([-1, 1])
        for _ in range(size // 2):
            crack[py : py + 2, px : px + 2] = True
            px = int(
                np.clip(
                    px + dx * noise.integers(0, 2) - noise.integers(0, 2) * (noise.random() < 0.2),
                    0,
                    size - 2,
                )
            )
            py = int(np.clip(py + dy * noise.integers(0, 3), 0, size - 2))
    return np.dstack([np.where(crack[..., None], 0.08, color * 0.85 + 0.12).clip(0, 1), alpha])


# ----------------------------------------------------------------------------------------------- surroundings


def _background(scene: Scene, rng: random.Random, noise: np.random.Generator) -> np.ndarray:
    if scene.place:
        return _landscape(scene.place, noise).copy()
    if scene.time:
        return _sky(scene.time, noise)
    if scene.weather:
        top, low = {
            "sunny": ((120, 195, 255), (205, 235, 255)), "rainy": ((120, 130, 150), (160, 170, 185)),
            "snowy": ((170, 185, 205), (215, 225, 235)), "cloudy": ((150, 175, 205), (200, 212, 225)),
            "stormy": ((45, 45, 65), (85, 85, 105)), "foggy": ((190, 192, 195), (215, 215, 215)),
            "windy": ((165, 215, 200), (215, 235, 220)),
        }[scene.weather]  # fmt: skip
        return _gradient(top, low)
    plain = [rng.uniform(0.75, 0.97) for _ in range(3)] if rng.random() < 0.6 else [0.93] * 3
    return np.broadcast_to(np.array(plain, np.float32), (SIDE, SIDE, 3)).copy()


def _gradient(top: tuple, low: tuple, until: float = 64) -> np.ndarray:
    return _mix(top, low, (Y / until).clip(0, 1))


@cache
def _landscapes() -> dict[str, np.ndarray]:
    blue = _gradient((110, 185, 250), (190, 225, 255))
    forest = _gradient((150, 200, 160), (40, 90, 40))
    for x0, base in [(x, 40 + 8 * (x // 9 % 2)) for x in range(-4, 70, 9)]:
        tree = (np.abs(X - x0) < (Y - base + 34) * 0.3) & (Y < base) & (Y > base - 34)
        forest[tree] = (0.06, 0.36 + 0.1 * (x0 % 2), 0.12)
        forest[(np.abs(X - x0) < 1.5) & (Y >= base) & (Y < base + 8)] = (0.35, 0.22, 0.1)
    sea = Y + np.sin(X * 0.2)
    beach = np.where((sea < 34)[..., None], blue, np.where((sea < 46)[..., None], _mix((30, 140, 205), (60, 190, 220), (Y - 34) / 12), _mix((245, 225, 165), (230, 200, 130), (Y - 46) / 18)))  # fmt: skip
    mountain = blue.copy()
    for x0, top, width in ((16, 14, 0.75), (46, 6, 0.7)):
        rock = (np.abs(X - x0) < (Y - top) * width) & (top < Y)
        mountain[rock] = (0.45, 0.45, 0.5)
        mountain[rock & (top + 12 + 3 * np.sin(X) > Y)] = (1, 1, 1)
    mountain[Y > 54] = (0.35, 0.5, 0.35)
    dune = 34 + 5 * np.sin(X * 0.11)
    desert = np.where((dune > Y)[..., None], _gradient((255, 215, 130), (255, 235, 190), 34), _mix((225, 160, 75), (195, 125, 55), (np.sin((Y - dune) * 0.5 + X * 0.1) > 0).astype(np.float32)))  # fmt: skip
    ocean = (
        _gradient((30, 110, 190), (5, 35, 100))
        + 0.09 * (np.sin(Y * 0.8 + 1.5 * np.sin(X * 0.2)) > 0.5)[..., None]
    )
    meadow = np.where((Y < 26)[..., None], blue, _gradient((130, 205, 80), (70, 160, 50)))
    for k in range(26):
        fx, fy = (k * 37) % 64, 29 + (k * 23) % 34
        meadow[fy : fy + 2, fx : fx + 2] = ((1, 0.9, 0.2), (1, 1, 1), (0.95, 0.3, 0.5))[k % 3]
    strata = _mix((200, 95, 50), (150, 60, 35), (np.sin(Y * 0.55) > 0).astype(np.float32))
    wall = (np.abs(X - 32) > 9 + 14 * (1 - Y / 64)) & (Y > 8)
    canyon = np.where(wall[..., None], strata, _gradient((150, 200, 245), (230, 200, 160)))
    return {
        "forest": forest, "beach": beach, "mountain": mountain, "desert": desert, "ocean": ocean, "meadow": meadow,
        "canyon": canyon,
    }  # fmt: skip


def _landscape(place: str, noise: np.random.Generator) -> np.ndarray:
    return (_landscapes()[place] * noise.uniform(0.92, 1.06)).astype(np.float32)


def _sky(time: str, noise: np.random.Generator) -> np.ndarray:
    top, low, ground = {
        "dawn": ((175, 165, 225), (255, 205, 200), (110, 120, 140)), "noon": ((40, 120, 245), (130, 195, 255), (95, 175, 70)),
        "sunset": ((120, 40, 120), (255, 140, 40), (70, 35, 30)), "dusk": ((40, 45, 100), (140, 95, 140), (35, 35, 55)),
        "night": ((6, 6, 30), (25, 25, 70), (10, 15, 20)),
    }[time]  # fmt: skip
    sky = _gradient(top, low, 52)
    if time in ("dawn", "sunset"):
        sun, paint = (
            (X - 32) ** 2 + (Y - 52) ** 2 < 150,
            ((1, 0.97, 0.75) if time == "dawn" else (1, 0.85, 0.2)),
        )
        sky[sun] = paint
    if time == "noon":
        sky[(X - 32) ** 2 + (Y - 5) ** 2 < 30] = (1, 1, 0.7)
    if time == "night":
        sky[noise.integers(0, 50, 40), noise.integers(0, 64, 40)] = 0.95
        sky[((X - 54) ** 2 + (Y - 10) ** 2 < 49) & ((X - 51) ** 2 + (Y - 8) ** 2 > 36)] = (1, 0.95, 0.6)
    sky[Y >= 52] = np.array(ground, np.float32) / 255
    return sky.astype(np.float32)


def _weather(
    picture: np.ndarray, weather: str | None, rng: random.Random, noise: np.random.Generator
) -> np.ndarray:
    if weather in ("rainy", "stormy"):
        picture = picture * (0.85 if weather == "rainy" else 0.55)
        drops = (noise.integers(0, 60, 70), noise.integers(3, 64, 70))
        for k in range(5):
            picture[(drops[0] + k).clip(0, 63), drops[1] - k // 2] = (0.6, 0.75, 1.0)
    if weather == "stormy":
        x = rng.randrange(14, 50)
        for y in range(34):
            x = min(61, max(2, x + rng.choice((-2, 1, 1) if y // 6 % 2 else (2, -1, -1))))
            picture[y, x - 1 : x + 2] = (1, 1, 0.35)
    elif weather == "snowy":
        picture = picture * 0.85 + 0.12
        for y, x in zip(noise.integers(0, 62, 70), noise.integers(0, 62, 70), strict=True):
            picture[y : y + 2, x : x + 2] = 1
        picture[56:] = picture[56:] * 0.1 + 0.9
    elif weather == "foggy":
        picture = picture * 0.32 + 0.56
    elif weather == "sunny":
        angle, far = np.arctan2(Y - 6, X - 58), np.hypot(X - 58, Y - 6)
        rays = (np.cos(angle * 12) > 0.4) & (far > 12) & (far < 22)
        picture = np.where(
            (rays | (far < 11))[..., None], np.array([1, 0.88, 0.1], np.float32), picture * 1.05
        )
    elif weather == "cloudy":
        for cx, cy in ((10, 8), (32, 5), (54, 9)):
            cloud = ((X - cx) / 11) ** 2 + ((Y - cy) / 6) ** 2 < 1
            cloud |= ((X - cx - 6) / 7) ** 2 + ((Y - cy - 3) / 5) ** 2 < 1
            picture[cloud] = 0.97 - 0.1 * (Y[cloud] > cy + 2)[..., None]
    elif weather == "windy":
        for y0, length, x0 in ((6, 40, 4), (16, 30, 30), (44, 34, 0), (56, 44, 16)):
            streak = (np.abs(Y - y0 - 2 * np.sin(X * 0.25)) < 1.2) & (x0 < X) & (x0 + length > X)
            picture[streak] = (0.98, 1, 1)
    return picture


def _light(picture: np.ndarray, light: str | None) -> np.ndarray:
    far = np.hypot(X - 32, Y - 32)[..., None]
    if light == "bright":
        return picture * 0.75 + 0.38 + 0.25 * (1 - far / 45)
    if light == "dim":
        return picture * 0.55
    if light == "dark":
        return picture * 0.22
    if light == "spotlight":
        return np.where(far < 27, picture * 1.05, picture * 0.1)
    return picture


def _outlined(sprite: np.ndarray) -> np.ndarray:
    alpha = np.pad(sprite[..., 3], 2)
    size = sprite.shape[0]
    grown = np.max([alpha[i : i + size, j : j + size] for i, j in ((0, 2), (4, 2), (2, 0), (2, 4), (1, 1), (3, 3), (1, 3), (3, 1))], axis=0)  # fmt: skip
    color = sprite[..., :3] * sprite[..., 3:]
    return np.dstack([color / np.maximum(grown, 1e-3)[..., None] * (grown > 0.02)[..., None], grown])


def _shadow(picture: np.ndarray, x: int, y: int, size: int) -> None:
    cx, cy = x + size * 0.55, min(60, y + size * 0.94)
    far = ((X - cx) / (size * 0.45)) ** 2 + ((Y - cy) / (size * 0.12)) ** 2
    picture *= 1 - 0.6 * np.exp(-(far**2))[..., None]


def _style(picture: np.ndarray, style: str | None) -> np.ndarray:
    if style not in ("sepia", "black and white", "sketch", "pixel art", "pop art", "neon"):
        return picture
    picture = picture.clip(0, 1)
    light = picture @ LUMA
    if style == "sepia":
        return np.stack([light * 1.05 + 0.06, light * 0.84 + 0.02, light * 0.58], -1)
    if style == "black and white":
        return np.repeat(light[..., None], 3, -1)
    if style == "pixel art":
        blocks = picture.reshape(16, 4, 16, 4, 3).mean((1, 3)).repeat(4, 0).repeat(4, 1)
        return (blocks * 5).round() / 5 * np.where(((X % 4 < 0.5) | (Y % 4 < 0.5))[..., None], 0.85, 1)
    edges = np.abs(np.diff(picture, axis=1, append=picture[:, -1:])) + np.abs(
        np.diff(picture, axis=0, append=picture[-1:])
    )
    edge = (edges.max(-1) * 3.5).clip(0, 1)[..., None]
    if style == "sketch":
        return np.repeat(1 - edge, 3, -1)
    if style == "neon":
        return np.array([0.05, 0.02, 0.12], np.float32) + edge * np.where(
            (Y > X)[..., None], (0.1, 1.0, 0.9), (1.0, 0.2, 0.9)
        )
    palette = np.array([(40, 20, 110), (235, 30, 120), (255, 200, 20), (120, 235, 225)], np.float32) / 255
    return palette[(light * 4).astype(int).clip(0, 3)]
