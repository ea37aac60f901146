"""Drawings with masks into the package: for what segmentation is measured on, and images that the model did not make.

Half are two things side by side, as the denoiser has seen them; half one thing at another place and size before a busy background, as it
never has (`busy.py`). Masks are where the sprite covers more than half of a pixel. Only reporting words have masks.

    python drawings.py --sprites build/sprites.npz
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import sprites
import world
from busy import busy_background, busy_places
from drawing import Painter, places
from PIL import Image
from surroundings import SIDE, background
from vocabulary import CONCEPTS

DATA = Path(__file__).parent.parent / "src/headwise/data"
EACH = 40  # drawings of a kind
ATTRIBUTES = ("color", "pattern", "material", "texture")
CONCEPT_OF = {word: concept for concept, words in CONCEPTS.items() for word in words[1::2]}  # reporting words


def scenes(things: int) -> Iterator[tuple[world.Scene, str]]:
    """Scenes of so many different things, whose surface words and nouns are said once each."""
    rng = random.Random(f"drawings {things}")
    while True:
        scene, caption = world.sample(rng, rare=0.0, bare=0.0)
        nouns = [thing.word for thing in scene.things]
        plain = not (scene.count or scene.size or scene.light or scene.style)
        if plain and len(set(nouns)) == things == len(nouns) and set(nouns) <= set(CONCEPT_OF):
            yield scene, caption


def drawn(
    painter: Painter, kind: str, scene: world.Scene, rng: random.Random
) -> tuple[np.ndarray, list[np.ndarray]]:
    """The image of a scene, and the mask of each thing."""
    picture, placed = (
        (background(scene), places(scene))
        if kind == "pair"
        else (busy_background(scene, rng), busy_places(scene, rng))
    )
    masks = [mask > 0.5 for mask in covers(painter, scene, placed)]
    return painter.paint(scene, picture.astype(np.float32), placed), masks


def covers(
    painter: Painter, scene: world.Scene, placed: list[tuple[world.Thing, int, tuple[int, int]]]
) -> list[np.ndarray]:
    """How much of each pixel each thing's sprite covers: 64 × 64 in 0 … 1."""
    covered = []
    for thing, size, (x, y) in placed:
        alpha = np.zeros((SIDE, SIDE), np.float32)
        alpha[y : y + size, x : x + size] = painter.sprite(thing, scene.style, size)[
            : SIDE - y, : SIDE - x, 3
        ]
        covered.append(alpha)
    return covered


def words_of(scene: world.Scene, caption: str) -> Iterator[tuple[int, str, str]]:
    """Of each thing its number, and each reporting word of it that the caption says once, with its kind."""
    said = caption.split()
    for number, thing in enumerate(scene.things):
        for name in ("word", *ATTRIBUTES):
            word = getattr(thing, name, None)
            if word in CONCEPT_OF and said.count(word) == 1:
                yield number, word, "thing" if name == "word" else "attribute"


def main() -> None:
    """Write drawings, masks and the file that lists them."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--sprites", type=Path, required=True)
    painter, listed = Painter(sprites.load(parse.parse_args().sprites)), []
    folder = DATA / "drawings"
    folder.mkdir(exist_ok=True)
    for kind, things in (("pair", 2), ("busy", 1)):
        rng = random.Random(kind)
        for number, (scene, caption) in zip(range(EACH), scenes(things), strict=False):
            picture, masks = drawn(painter, kind, scene, rng)
            name = f"{kind}-{number:02}"
            Image.fromarray(picture).save(folder / f"{name}.png", optimize=True)
            for n, mask in enumerate(masks):
                Image.fromarray(mask).save(folder / f"{name}-{n}.png", optimize=True)
            lines = [
                f'  {{word = "{word}", concept = "{CONCEPT_OF[word]}", kind = "{what}, {kind}", mask = "drawings/{name}-{n}.png"}},'
                for n, word, what in words_of(scene, caption)
            ]
            listed += [
                "",
                "[[pictures]]",
                f'picture = "drawings/{name}.png"',
                f'prompt = "{caption}"',
                "words = [",
                *lines,
                "]",
            ]
    head = (
        "# Drawings of the emoji world, with masks of the words of their prompts; made by training/drawings.py.\n"
        "# The objects are from Noto Emoji (Google, Apache-2.0), recoloured; shapes and characters are our own."
    )
    (DATA / "segmentation_emoji.toml").write_text("\n".join([head, *listed]) + "\n")


if __name__ == "__main__":
    main()
