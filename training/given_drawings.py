"""Drawings to edit into the package, each with a mask of where it may change and the drawing that an edit should reach.

One thing stands at another place and in another size than the denoiser has seen, before a busy background or in its weather (`busy.py`).
Source and truth are painted from the same generator, so that they differ in one word alone. Only reporting words are exchanged:

    Color, Material, Geometric Patterns   the sprite is repainted: the mask is every pixel that the sprite touches
    Weather Conditions                    the sky, and what falls from it: the mask is everything but the sprite; rain falls before it
                                          and fog veils it, so that the truth does not quite keep it either
    Image Style                           sepia, sketch and pop art repaint the whole image, so that it has no mask and preservation
                                          is how alike whole images are; "flat" is another artist's sprite, and left out

    python given_drawings.py --sprites build/sprites.npz --sheet build/given.png
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from itertools import cycle, permutations
from pathlib import Path

import numpy as np
import sprites
import world
from busy import busy_background, busy_places
from contact import sheet
from drawing import SIDE, Painter
from drawings import DATA, covers
from PIL import Image
from vocabulary import CONCEPTS, RARE, THINGS

from headwise.benchmarks.prompts.evaluation import filled

EACH = 12  # drawings per attribute
SOLID = 0.38  # the share of its square that a sprite must fill
LEAST, MOST = 0.15, 0.45  # the share of the image that a thing may cover
ATTEMPTS = 8  # seeds of each drawing, of which one is taken
PROMPTS = {
    "Color": "a {word} {thing}",
    "Material": "a {word} {thing}",
    "Geometric Patterns": "a {word} {thing}",
    "Image Style": "a {word} picture of a {thing}",
    "Weather Conditions": "a {thing} on a {word} day",
}
OTHER_SPRITES = ("flat", "3d", "cartoon")  # styles that exchange the sprite or add to it
DRAWN_FROM = (
    "Animals", "Vehicles", "Buildings", "Electronics", "Clothing", "Accessories", "Toys", "Musical Instruments",
    "Food and Beverages", "Books and Documents",
)  # fmt: skip
TWO_SENSES = {word for words in RARE.values() for word in words}


def nouns() -> list[str]:
    """Reporting things that can be said with "a" and have one sense."""
    listed = [noun for concept in DRAWN_FROM for noun in tuple(THINGS[concept])[1::2]]
    return [noun for noun in listed if noun not in TWO_SENSES and (noun == "bus" or not noun.endswith("s"))]


def is_solid(painter: Painter, noun: str) -> bool:
    """Whether the sprite fills enough of its square to show a pattern or a material, as that of a bicycle does not."""
    return bool((painter.sprite(world.Thing(noun), None, SIDE)[..., 3] > 0.5).mean() > SOLID)


def edits(painter: Painter, attribute: str, rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """Things, and the words before and after; every order of two words as often as the others."""
    words = [word for word in CONCEPTS[attribute][1::2] if word not in OTHER_SPRITES]
    pairs = list(permutations(words, 2))
    rng.shuffle(pairs)
    solid = [noun for noun in nouns() if is_solid(painter, noun)]
    for thing, (before, after) in zip(rng.sample(solid, EACH), cycle(pairs), strict=False):
        yield thing, before, after


def clear_seed(painter: Painter, source: world.Scene, truth: world.Scene, name: str) -> str:
    """Of some seeds of this name, that with which the thing stands out most where it stands out less: in source or truth."""

    def clear(seed: str) -> tuple[bool, float]:
        both = [drawn(painter, scene, seed) for scene in (source, truth)]
        share = float((both[0][1] > 0.5).mean())
        return LEAST < share < MOST, min(contrast(*each) for each in both)

    return max((f"{name} {attempt}" for attempt in range(ATTEMPTS)), key=clear)


def contrast(picture: np.ndarray, alpha: np.ndarray) -> float:
    """How far the mean colour of the thing is from that of its surroundings, in the channel where it is farthest: 0 … 255."""
    return float(np.abs(picture[alpha > 0.5].mean(0) - picture[alpha <= 0.5].mean(0)).max())


def drawn(painter: Painter, scene: world.Scene, seed: str) -> tuple[np.ndarray, np.ndarray]:
    """The image of a scene, and how much of each pixel its thing covers."""
    rng = random.Random(seed)
    picture, placed = busy_background(scene, rng), busy_places(scene, rng)
    [alpha] = covers(painter, scene, placed)
    return painter.paint(scene, picture.astype(np.float32), placed), alpha


def mask_of(attribute: str, alpha: np.ndarray) -> np.ndarray | None:
    """Where an edit of this attribute may change the image; None where it is everywhere."""
    if attribute == "Image Style":
        return None
    return alpha <= 0.5 if attribute == "Weather Conditions" else alpha > 0


def entry(attribute: str, name: str, thing: str, before: str, after: str) -> str:
    """The lines of the file that list one drawing."""

    def said(word: str, noun: str) -> str:
        return filled(PROMPTS[attribute], {"word": word, "thing": noun})

    words = [after, *(word for word in CONCEPTS[attribute] if word != after)]
    things = [thing, *(noun for noun in nouns() if noun != thing)][:10]
    lines = ["", "[[pictures]]", f'picture = "given/{name}.png"']
    lines += [f'mask = "given/{name}-mask.png"'] * (attribute != "Image Style")
    lines += [
        f'truth = "given/{name}-truth.png"',
        f'attribute = "{attribute}"',
        f'source = "{said(before, thing)}"',
        f'target = "{said(after, thing)}"',
        f'word = "{after}"',
        f"texts = {[said(word, thing) for word in words]}".replace("'", '"'),
        f"things = {[said(after, noun) for noun in things]}".replace("'", '"'),
    ]
    return "\n".join(lines)


def main() -> None:
    """Write drawings, masks, truths, the file that lists them, and a sheet to look at."""
    parse = argparse.ArgumentParser(description=__doc__)
    parse.add_argument("--sprites", type=Path, required=True)
    parse.add_argument("--sheet", type=Path)
    arguments = parse.parse_args()
    painter, listed, shown = Painter(sprites.load(arguments.sprites)), list[str](), []
    folder = DATA / "given"
    folder.mkdir(exist_ok=True)
    for attribute in PROMPTS:
        rng = random.Random(f"given {attribute}")
        for number, (thing, before, after) in enumerate(edits(painter, attribute, rng)):
            name = f"{attribute.split()[0].lower()}-{number:02}"
            scene = world.showing(attribute, before, rng)
            scene = world.replace(scene, things=(world.replace(scene.things[0], word=thing),))
            aim = world.exchanged(scene, attribute, before, after)
            seed = clear_seed(painter, scene, aim, name)
            source, alpha = drawn(painter, scene, seed)
            truth, _ = drawn(painter, aim, seed)
            mask = mask_of(attribute, alpha)
            for ending, pixels in (("", source), ("-truth", truth), ("-mask", mask)):
                if pixels is not None:
                    Image.fromarray(pixels).save(folder / f"{name}{ending}.png", optimize=True)
            listed.append(entry(attribute, name, thing, before, after))
            white = np.zeros_like(source) if mask is None else np.repeat(255 * mask[..., None], 3, 2)
            shown += [(f"{thing}, {before}", source), ("mask", white.astype(np.uint8)), (after, truth)]
    head = (
        "# Drawings to edit, with masks of where they may change and the results to reach; made by training/given_drawings.py.\n"
        "# The objects are from Noto Emoji (Google, Apache-2.0), recoloured."
    )
    (DATA / "given_emoji.toml").write_text("\n".join([head, *listed]) + "\n")
    if arguments.sheet:
        sheet(shown, arguments.sheet, columns=12)


if __name__ == "__main__":
    main()
