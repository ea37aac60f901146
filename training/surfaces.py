"""Surfaces: a sprite in another colour, material, pattern or texture.

All are functions of the sprite alone: what looks random (grain, fuzz, cracks) comes from a seed that is fixed for each texture and
size, so that a caption has one image.
"""

from __future__ import annotations

import zlib
from functools import cache

import numpy as np
from vocabulary import COLORS, RARE
from world import Thing

__all__ = ["LUMA", "covered", "fixed_noise", "mix", "recolored"]

LUMA = np.array([0.3, 0.59, 0.11], np.float32)


def fixed_noise(name: str) -> np.random.Generator:
    """The generator that belongs to this name: the same numbers at every call."""
    return np.random.default_rng(zlib.crc32(name.encode()))


def covered(sprite: np.ndarray, thing: Thing) -> np.ndarray:
    """The sprite with the colour, material, pattern and texture of the thing."""
    if thing.color:
        sprite = recolored(sprite, COLORS.get(thing.color) or RARE["Color"][thing.color])
    if thing.material:
        sprite = _made_of(sprite, thing.material)
    if thing.pattern:
        sprite = _patterned(sprite, thing.pattern)
    if thing.texture:
        sprite = _textured(sprite, thing.texture)
    return sprite


def _relief(sprite: np.ndarray) -> np.ndarray:
    """Lightness of a sprite about its own mean, in -1 … 1."""
    light = sprite[..., :3] @ LUMA
    inside = sprite[..., 3] > 0.3
    return light - (light[inside].mean() if inside.any() else 0.5)


def recolored(sprite: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    """The sprite painted in one colour, with its own light and shade."""
    paint = np.array(color, np.float32) / 255
    return np.dstack([(paint + 0.45 * _relief(sprite)[..., None]).clip(0, 1), sprite[..., 3:]])


@cache
def _grid(size: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    return y, x


def mix(a: tuple, b: tuple, share: np.ndarray) -> np.ndarray:
    """Colour `a` (0 … 255) where `share` is 0, `b` where it is 1; as 0 … 1."""
    share = share[..., None]
    return np.array(a, np.float32) / 255 * (1 - share) + np.array(b, np.float32) / 255 * share


def _made_of(sprite: np.ndarray, material: str) -> np.ndarray:
    y, x = _grid(sprite.shape[0])
    relief, alpha = _relief(sprite)[..., None], sprite[..., 3:]
    band = 0.5 + 0.5 * np.sin((x + y) * 0.35)
    if material == "wood":
        grain = (np.sin(y * 1.25 + 1.5 * np.sin(x * 0.16)) > 0.1).astype(np.float32)
        paint = mix((120, 70, 30), (190, 130, 70), grain)
    elif material == "metal":
        paint = mix((70, 82, 100), (235, 242, 250), band**2)
    elif material == "gold":
        paint = mix((165, 105, 5), (255, 240, 120), band**2)
    elif material == "glass":
        paint = mix((140, 215, 235), (255, 255, 255), (np.abs((x - y) % 24 - 4) < 2.5).astype(np.float32))
        alpha = alpha * 0.62
    elif material == "marble":
        veins = np.abs(np.sin(x * 0.17 + y * 0.09 + 1.7 * np.sin(y * 0.21) + 0.9 * np.sin(x * 0.33))) < 0.2
        paint = mix((240, 238, 235), (105, 108, 120), veins.astype(np.float32))
    else:
        row = y // 6
        mortar = (y % 6 < 1.2) | ((x + 6 * (row % 2)) % 12 < 1.2)
        paint = mix((175, 60, 40), (225, 215, 205), mortar.astype(np.float32))
    return np.dstack([(paint + 0.3 * relief).clip(0, 1), alpha])


def _patterned(sprite: np.ndarray, pattern: str) -> np.ndarray:
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
        paint = mix(
            (245, 245, 245),
            (20, 20, 20),
            (np.sin(x * 0.75 + 1.6 * np.sin(y * 0.22)) > 0.1).astype(np.float32),
        )
    else:
        u, v = (x + 5 * ((y // 10) % 2)) % 10 - 5, y % 10 - 5
        radius = np.hypot(u, v)
        paint = mix((225, 165, 75), (60, 35, 15), ((radius < 4) & (radius > 1.6)).astype(np.float32))
    return np.dstack([(paint + 0.15 * relief).clip(0, 1), sprite[..., 3:]])


def _textured(sprite: np.ndarray, texture: str) -> np.ndarray:
    color, alpha = sprite[..., :3], sprite[..., 3:]
    size = sprite.shape[0]
    y, x = _grid(size)
    noise = fixed_noise(f"{texture} {size}")
    if texture == "fuzzy":
        shift = noise.integers(-3, 4, (2, size, size))
        rows, columns = ((c.astype(int) + s).clip(0, size - 1) for c, s in zip((y, x), shift, strict=True))
        return np.dstack([(color[rows, columns] + 0.12).clip(0, 1), alpha[rows, columns]])
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
        light = np.maximum(shine, rim)
        return np.dstack([(color * 0.9 * (1 - light) + light).clip(0, 1), alpha])
    return np.dstack([np.where(_cracks(size)[..., None], 0.08, color * 0.85 + 0.12).clip(0, 1), alpha])


@cache
def _cracks(size: int) -> np.ndarray:
    """Five crooked lines, two pixels wide: size × size, true where the surface is broken."""
    noise = fixed_noise(f"cracked {size}")
    crack = np.zeros((size, size), bool)
    for _ in range(5):
        px, py = noise.integers(size // 5, size * 4 // 5, 2)
        dx, dy = noise.choice([-1, 1]), noise.choice([-1, 1])
        for _ in range(size // 2):
            crack[py : py + 2, px : px + 2] = True
            sideways = dx * noise.integers(0, 2) - noise.integers(0, 2) * (noise.random() < 0.2)
            px = int(np.clip(px + sideways, 0, size - 2))
            py = int(np.clip(py + dy * noise.integers(0, 3), 0, size - 2))
    return crack
