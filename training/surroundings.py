"""Surroundings: places, skies, weather, light and the styles that repaint a whole image.

All are functions of their word: rain, snow and stars fall where the seed of their word lets them, the same at every call.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from surfaces import LUMA, fixed_noise, mix
from world import Scene

__all__ = [
    "SIDE",
    "X",
    "Y",
    "background",
    "gradient",
    "landscape",
    "lit",
    "outlined",
    "shadow",
    "styled",
    "weathered",
]

SIDE = 64
PLAIN = (
    0.88,
    0.91,
    0.95,
)  # what stands behind a thing when nothing is said: white, gray and black things stay visible
Y, X = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)


def background(scene: Scene) -> np.ndarray:
    """What stands behind the things: 64 × 64 × 3 in 0 … 1."""
    if scene.place:
        return landscape(scene.place).copy()
    if scene.time:
        return _sky(scene.time).copy()
    if scene.weather:
        top, low = {
            "sunny": ((120, 195, 255), (205, 235, 255)), "rainy": ((120, 130, 150), (160, 170, 185)),
            "snowy": ((170, 185, 205), (215, 225, 235)), "cloudy": ((150, 175, 205), (200, 212, 225)),
            "stormy": ((45, 45, 65), (85, 85, 105)), "foggy": ((190, 192, 195), (215, 215, 215)),
            "windy": ((165, 215, 200), (215, 235, 220)),
        }[scene.weather]  # fmt: skip
        return gradient(top, low)
    return np.broadcast_to(np.array(PLAIN, np.float32), (SIDE, SIDE, 3)).copy()


def gradient(top: tuple, low: tuple, until: float = 64) -> np.ndarray:
    """From one colour (0 … 255) down to another, reached at row `until`."""
    return mix(top, low, (Y / until).clip(0, 1))


@cache
def _landscapes() -> dict[str, np.ndarray]:
    blue = gradient((110, 185, 250), (190, 225, 255))
    forest = gradient((150, 200, 160), (40, 90, 40))
    for x0, base in [(x, 40 + 8 * (x // 9 % 2)) for x in range(-4, 70, 9)]:
        tree = (np.abs(X - x0) < (Y - base + 34) * 0.3) & (Y < base) & (Y > base - 34)
        forest[tree] = (0.06, 0.36 + 0.1 * (x0 % 2), 0.12)
        forest[(np.abs(X - x0) < 1.5) & (Y >= base) & (Y < base + 8)] = (0.35, 0.22, 0.1)
    sea = Y + np.sin(X * 0.2)
    beach = np.where((sea < 34)[..., None], blue, np.where((sea < 46)[..., None], mix((30, 140, 205), (60, 190, 220), (Y - 34) / 12), mix((245, 225, 165), (230, 200, 130), (Y - 46) / 18)))  # fmt: skip
    mountain = blue.copy()
    for x0, top, width in ((16, 14, 0.75), (46, 6, 0.7)):
        rock = (np.abs(X - x0) < (Y - top) * width) & (top < Y)
        mountain[rock] = (0.45, 0.45, 0.5)
        mountain[rock & (top + 12 + 3 * np.sin(X) > Y)] = (1, 1, 1)
    mountain[Y > 54] = (0.35, 0.5, 0.35)
    dune = 34 + 5 * np.sin(X * 0.11)
    desert = np.where((dune > Y)[..., None], gradient((255, 215, 130), (255, 235, 190), 34), mix((225, 160, 75), (195, 125, 55), (np.sin((Y - dune) * 0.5 + X * 0.1) > 0).astype(np.float32)))  # fmt: skip
    ocean = (
        gradient((30, 110, 190), (5, 35, 100))
        + 0.09 * (np.sin(Y * 0.8 + 1.5 * np.sin(X * 0.2)) > 0.5)[..., None]
    )
    meadow = np.where((Y < 26)[..., None], blue, gradient((130, 205, 80), (70, 160, 50)))
    for k in range(26):
        fx, fy = (k * 37) % 64, 29 + (k * 23) % 34
        meadow[fy : fy + 2, fx : fx + 2] = ((1, 0.9, 0.2), (1, 1, 1), (0.95, 0.3, 0.5))[k % 3]
    strata = mix((200, 95, 50), (150, 60, 35), (np.sin(Y * 0.55) > 0).astype(np.float32))
    wall = (np.abs(X - 32) > 9 + 14 * (1 - Y / 64)) & (Y > 8)
    canyon = np.where(wall[..., None], strata, gradient((150, 200, 245), (230, 200, 160)))
    return {
        "forest": forest, "beach": beach, "mountain": mountain, "desert": desert, "ocean": ocean, "meadow": meadow,
        "canyon": canyon,
    }  # fmt: skip


def landscape(place: str) -> np.ndarray:
    """The image of a place without anything in it."""
    return _landscapes()[place].astype(np.float32)


@cache
def _sky(time: str) -> np.ndarray:
    top, low, ground = {
        "dawn": ((175, 165, 225), (255, 205, 200), (110, 120, 140)), "noon": ((40, 120, 245), (130, 195, 255), (95, 175, 70)),
        "sunset": ((120, 40, 120), (255, 140, 40), (70, 35, 30)), "dusk": ((40, 45, 100), (140, 95, 140), (35, 35, 55)),
        "night": ((6, 6, 30), (25, 25, 70), (10, 15, 20)),
    }[time]  # fmt: skip
    sky = gradient(top, low, 52)
    if time in ("dawn", "sunset"):
        sun, paint = (
            (X - 32) ** 2 + (Y - 52) ** 2 < 150,
            ((1, 0.97, 0.75) if time == "dawn" else (1, 0.85, 0.2)),
        )
        sky[sun] = paint
    if time == "noon":
        sky[(X - 32) ** 2 + (Y - 5) ** 2 < 30] = (1, 1, 0.7)
    if time == "night":
        stars = fixed_noise("night")
        sky[stars.integers(0, 50, 40), stars.integers(0, 64, 40)] = 0.95
        sky[((X - 54) ** 2 + (Y - 10) ** 2 < 49) & ((X - 51) ** 2 + (Y - 8) ** 2 > 36)] = (1, 0.95, 0.6)
    sky[Y >= 52] = np.array(ground, np.float32) / 255
    return sky.astype(np.float32)


def weathered(picture: np.ndarray, weather: str | None) -> np.ndarray:
    """The image with rain, snow, fog, sun, clouds or wind in it."""
    noise = fixed_noise(weather or "")
    if weather in ("rainy", "stormy"):
        picture = picture * (0.85 if weather == "rainy" else 0.55)
        drops = (noise.integers(0, 60, 70), noise.integers(3, 64, 70))
        for k in range(5):
            picture[(drops[0] + k).clip(0, 63), drops[1] - k // 2] = (0.6, 0.75, 1.0)
    if weather == "stormy":
        x = 36
        for y in range(34):
            x = min(61, max(2, x + noise.choice((-2, 1, 1) if y // 6 % 2 else (2, -1, -1))))
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


def lit(picture: np.ndarray, light: str | None) -> np.ndarray:
    """The image in another light."""
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


def outlined(sprite: np.ndarray) -> np.ndarray:
    """The sprite with a black line around it, two pixels wide."""
    alpha = np.pad(sprite[..., 3], 2)
    size = sprite.shape[0]
    grown = np.max([alpha[i : i + size, j : j + size] for i, j in ((0, 2), (4, 2), (2, 0), (2, 4), (1, 1), (3, 3), (1, 3), (3, 1))], axis=0)  # fmt: skip
    color = sprite[..., :3] * sprite[..., 3:]
    return np.dstack([color / np.maximum(grown, 1e-3)[..., None] * (grown > 0.02)[..., None], grown])


def shadow(picture: np.ndarray, x: int, y: int, size: int) -> None:
    """Darken the ground under a sprite, in place."""
    cx, cy = x + size * 0.55, min(60, y + size * 0.94)
    far = ((X - cx) / (size * 0.45)) ** 2 + ((Y - cy) / (size * 0.12)) ** 2
    picture *= 1 - 0.6 * np.exp(-(far**2))[..., None]


def styled(picture: np.ndarray, style: str | None) -> np.ndarray:
    """The image repainted in a style."""
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
