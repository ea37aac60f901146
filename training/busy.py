"""Busy drawings: images to edit, where keeping what the edit does not speak of costs something.

The scene is the same, but its things stand at other places and in other sizes, before a wall of tiles, blots, waves or checks in
other colours or before a place that the caption does not tell of. Such images train the autoencoder (which must keep them) and
never the denoiser.
"""

from __future__ import annotations

import random

import numpy as np
from drawing import Painter, places
from surroundings import SIDE, X, Y, background, gradient, landscape
from vocabulary import ATTRIBUTES
from world import Scene, Thing

__all__ = ["busy_background", "busy_places", "draw_busy"]

WALLS = ("tiles", "blots", "waves", "checks", "place", "gradient")


def draw_busy(painter: Painter, scene: Scene, rng: random.Random) -> np.ndarray:
    """The image of a scene at another position and size, before a busy background: 64 × 64 × 3 bytes."""
    picture = busy_background(scene, rng)
    return painter.paint(scene, picture.astype(np.float32), busy_places(scene, rng))


def busy_background(scene: Scene, rng: random.Random) -> np.ndarray:
    """The scene's own background where the caption tells of one, else a wall: 64 × 64 × 3 in 0 … 1."""
    told = scene.place or scene.time or scene.weather or scene.light
    return background(scene) if told else wall(rng.choice(WALLS), rng)


def busy_places(scene: Scene, rng: random.Random) -> list[tuple[Thing, int, tuple[int, int]]]:
    """Each thing with another size and upper left corner than `places` gives it, within the image."""
    placed, shift = [], (rng.randrange(-8, 9), rng.randrange(-8, 9))
    for thing, size, (x, y) in places(scene):
        grown = size if len(scene.things) > 1 or scene.count or scene.size else rng.randrange(28, 57)
        x, y = x + (size - grown) // 2 + shift[0], y + (size - grown) // 2 + shift[1]
        placed.append(
            (thing, grown, (min(max(x, 0), max(SIDE - grown, 0)), min(max(y, 0), max(SIDE - grown, 0))))
        )
    return placed


def wall(kind: str, rng: random.Random) -> np.ndarray:
    """A background of this kind in colours of its own: 64 × 64 × 3 in 0 … 1."""
    one, two = (np.array([rng.uniform(0.35, 0.95) for _ in range(3)]) for _ in range(2))
    period, turn = rng.randrange(8, 20), rng.uniform(0, 6)
    if kind == "place":
        return landscape(rng.choice(ATTRIBUTES["Nature Scenes"])).copy()
    if kind == "gradient":
        return gradient(tuple(255 * one), tuple(255 * two))
    if kind == "tiles":
        share = ((X + turn * 3) % period < 1.5) | ((Y + turn * 5) % period < 1.5)
    elif kind == "checks":
        share = ((X + turn * 3) // period + (Y + turn * 5) // period) % 2 == 0
    elif kind == "waves":
        share = np.sin(6.3 * (X * np.cos(turn) + Y * np.sin(turn)) / period + np.sin(Y / 6)) > 0
    else:
        spots = [(rng.randrange(SIDE), rng.randrange(SIDE), rng.randrange(3, 9)) for _ in range(14)]
        share = np.any([(X - x) ** 2 + (Y - y) ** 2 < r * r for x, y, r in spots], axis=0)
    return np.where(share[..., None], one, two)
