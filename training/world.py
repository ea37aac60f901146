"""The emoji world: scenes that know their own truth, the captions that tell of them, and their 64×64 drawings.

A `Scene` is up to four things with their attributes and what surrounds them. `caption` says it in words, `truth` says which word
of which concept it shows, `draw` (in `drawing.py`) paints it. Everything is drawn from the generator that is passed in.

Combinations in `held_out` (a colour with a thing, a thing beside a thing) and in `rare_held_out` (a thing with a two-sense word in
its rare sense) never appear in training; reports use them.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import dataclass, replace
from itertools import combinations

from vocabulary import ATTRIBUTES, COLORS, CONCEPTS, PATTERNS, RARE, THINGS, phrase, plural

__all__ = [
    "Scene",
    "Thing",
    "caption",
    "counterfactual",
    "exchanged",
    "held_out",
    "rare_held_out",
    "sample",
    "several",
    "showing",
    "truth",
    "two_sense",
]

NOUNS = tuple(w for words in THINGS.values() for w in words) + ("vase", "teapot", "umbrella", "key")
CONCEPT_OF = {word: concept for concept, words in THINGS.items() for word in words}
PRINTED = {"sepia", "black and white", "sketch", "pop art", "neon"}  # styles that repaint every colour
COUNTS = dict(zip(ATTRIBUTES["Counting"], range(1, 7), strict=True))
PLACES = {
    "forest": "in the forest", "beach": "on the beach", "mountain": "in the mountains", "desert": "in the desert",
    "ocean": "in the ocean", "meadow": "in a meadow", "canyon": "in a canyon",
}  # fmt: skip
TIMES = {"dawn": "at dawn", "noon": "at noon", "sunset": "at sunset", "dusk": "at dusk", "night": "at night"}
LIGHTS = {
    "bright": "in bright light", "dim": "in dim light", "dark": "in dark light", "spotlight": "under a spotlight",
    "backlit": "backlit",
}  # fmt: skip
# which part of a scene holds the word of an attribute concept
SLOTS = {
    "Color": "color", "Geometric Patterns": "pattern", "Material": "material", "Texture": "texture", "Size": "size",
    "Counting": "count", "Image Style": "style", "Nature Scenes": "place", "Weather Conditions": "weather",
    "Time of Day": "time", "Lighting Conditions": "light",
}  # fmt: skip
OF_THING = ("color", "pattern", "material", "texture")
WAYS = ("adjective", "hyphen", "color")  # of telling a colour; rare senses are told as ordinary colours are
RARE_SEEN = 6  # of twelve things, how many training shows with a given rare colour or pattern


@dataclass(frozen=True)
class Thing:
    """A drawable noun and what its surface looks like; a rare colour or pattern is a two-sense word in its rare sense."""

    word: str
    color: str | None = None
    pattern: str | None = None
    material: str | None = None
    texture: str | None = None


@dataclass(frozen=True)
class Scene:
    """Up to four things and their surroundings. `things` may be empty: then the place, weather or time is the image."""

    things: tuple[Thing, ...]
    count: str | None = None
    size: str | None = None
    style: str | None = None
    place: str | None = None
    weather: str | None = None
    time: str | None = None
    light: str | None = None


def held_out(*words: str) -> bool:
    """Whether training never shows this combination (one in twelve)."""
    return zlib.crc32("+".join(sorted(words)).encode()) % 12 == 0


def rare_held_out(word: str, noun: str) -> bool:
    """Whether training never shows this thing with this two-sense word in its rare sense (six of twelve things)."""
    return zlib.crc32(f"rare+{word}+{noun}".encode()) % 12 >= RARE_SEEN


def two_sense() -> dict[str, str]:
    """Each two-sense word and the concept of its rare sense."""
    return {word: concept for concept, words in RARE.items() for word in words}


def truth(scene: Scene) -> dict[str, set[str]]:
    """Concept -> the words of it that the drawing shows (rare senses too)."""
    shown: dict[str, set[str]] = {}
    for thing in scene.things:
        if thing.word in CONCEPT_OF:
            shown.setdefault(CONCEPT_OF[thing.word], set()).add(thing.word)
    for concept, slot in SLOTS.items():
        values = [getattr(t, slot) for t in scene.things] if slot in OF_THING else [getattr(scene, slot)]
        if words := {v for v in values if v}:
            shown.setdefault(concept, set()).update(words)
    return shown


# ------------------------------------------------------------------------------------------------ scenes


def sample(
    rng: random.Random, rare: float = 0.02, bare: float = 0.08, even: float = 0.0, more: float = 0.0
) -> tuple[Scene, str]:
    """A training scene and its caption.

    Arguments:
        rng: Decides everything.
        rare: Share of scenes with a two-sense word in its rare sense (0.02: 12 % of the captions that have such a word).
        bare: Share of captions that are one word.
        even: Share of scenes made to show a concept, all concepts equally often.
        more: Share of scenes that are made to have several things or a count.
    """
    while True:
        if rng.random() < even:
            concept = rng.choice(list(CONCEPTS))
            scene = showing(concept, rng.choice(CONCEPTS[concept]), rng)
        elif rng.random() < more:
            counted = Scene((Thing(rng.choice(NOUNS)),), count=rng.choice(ATTRIBUTES["Counting"]))
            scene = counted if rng.random() < 0.4 else several(rng, rng.choice((2, 2, 3, 4)))
        else:
            scene = _rare_scene(rng) if rng.random() < rare else _scene(rng)
        if not _is_held_out(scene):
            break
    if rng.random() < bare and (word := _one_word(scene, rng)):
        return scene, word
    return scene, caption(scene, rng)


def _is_held_out(scene: Scene) -> bool:
    beside = any(held_out(a.word, b.word) for a, b in combinations(scene.things, 2))
    return beside or any(t.color in COLORS and held_out(t.color, t.word) for t in scene.things)


def _scene(rng: random.Random) -> Scene:
    kind = rng.random()
    if kind < 0.24:
        return several(rng, 2 if kind < 0.16 else 3 if kind < 0.21 else 4)
    surroundings = _surroundings(rng)
    if kind < 0.30 and any(surroundings.values()):
        return Scene(things=(), **surroundings)
    style = rng.choice(ATTRIBUTES["Image Style"]) if rng.random() < 0.25 else None
    if style in PRINTED:
        surroundings |= {"time": None, "light": None}
    surface = {} if style in PRINTED else _surface(rng)
    amount = rng.random()
    return Scene(
        things=(Thing(rng.choice(NOUNS), **surface),),
        size=rng.choice(ATTRIBUTES["Size"]) if amount < 0.12 else None,
        count=rng.choice(ATTRIBUTES["Counting"]) if amount > 0.84 else None,
        style=style,
        **surroundings,
    )


def several(rng: random.Random, count: int) -> Scene:
    """A scene of some different things, each with a colour in half of the cases."""
    words = rng.sample(NOUNS, count)
    colors = rng.sample(list(COLORS), count) if rng.random() < 0.5 else (None,) * count
    return Scene(things=tuple(Thing(w, color=c) for w, c in zip(words, colors, strict=True)))


def _surface(rng: random.Random) -> dict[str, str]:
    kind = rng.random()
    if kind < 0.36:
        return {"color": rng.choice(list(COLORS))}
    if kind < 0.48:
        pattern = {"pattern": rng.choice(PATTERNS)}
        return pattern | ({"color": rng.choice(list(COLORS))} if rng.random() < 0.2 else {})
    if kind < 0.60:
        return {"material": rng.choice(ATTRIBUTES["Material"])}
    if kind < 0.70:
        return {"texture": rng.choice(ATTRIBUTES["Texture"])}
    return {}


def _surroundings(rng: random.Random) -> dict[str, str | None]:
    around: dict[str, str | None] = dict.fromkeys(("place", "weather", "time", "light"))
    if rng.random() < 0.45:
        slot = rng.choices(("place", "weather", "time", "light"), (3, 3, 2, 2))[0]
        concept = next(c for c, s in SLOTS.items() if s == slot)
        around[slot] = rng.choice(ATTRIBUTES[concept])
    return around


def _rare_scene(rng: random.Random) -> Scene:
    word, concept = rng.choice(list(two_sense().items()))
    if concept == "Other":
        return Scene(things=(Thing(RARE["Other"][word]),))
    other = rng.choice([n for n in NOUNS if n != word and not rare_held_out(word, n)])
    return Scene(things=(Thing(other, **{SLOTS[concept]: word}),))


def showing(concept: str, word: str, rng: random.Random, plain: bool = True) -> Scene:
    """A scene that shows this word of this concept; `plain` leaves out every attribute it does not need."""
    scene = Scene(things=(Thing(rng.choice(NOUNS)),)) if plain else _scene(rng)
    if concept in THINGS:
        return replace(
            scene,
            things=(replace(scene.things[0] if scene.things else Thing(word), word=word), *scene.things[1:]),
        )
    if SLOTS[concept] in OF_THING:
        return replace(scene, things=(replace(scene.things[0], **{SLOTS[concept]: word}),))
    return replace(scene, **{SLOTS[concept]: word})


# ---------------------------------------------------------------------------------------------- captions


def caption(scene: Scene, rng: random.Random) -> str:
    """One of the ways of telling a scene; every attribute it has is told."""
    briefly = len(scene.things) > 2  # so that a caption fits into the reader's tokens
    nouns = _listed([_noun_phrase(t, scene.size, scene.count, rng, briefly) for t in scene.things])
    around = [_around(scene, rng)]
    if not nouns:
        bare = next(w for w in (scene.place, scene.weather, scene.time, scene.light) if w)
        if rng.random() < 0.5 and scene.place:
            return rng.choice((f"photo of a {bare}", f"a {bare}"))
        nouns = "a picture" if scene.light or scene.weather else rng.choice(("a view", "a picture"))
    style = scene.style
    if style:
        kind = rng.choice(("picture", "painting", "drawing"))
        article = _a(style)
        frame = rng.choice(
            (
                f"{article} {style} {kind} of {{}}",
                f"{{}} in {style} style",
                f"{article} {style} style {kind} of {{}}",
            )
        )
    else:
        frame = rng.choices(("{}", "a photo of {}", "photo of {}", "a picture of {}"), (6, 2, 1, 1))[0]
    return " ".join(" ".join([frame.format(nouns), *around]).split())


def _listed(phrases: list[str]) -> str:
    return " and ".join(", ".join(phrases).rsplit(", ", 1))


def _noun_phrase(
    thing: Thing, size: str | None, count: str | None, rng: random.Random, briefly: bool = False
) -> str:
    noun = phrase(thing.word)
    if count and count != "one":
        noun = plural(noun)
    before, after = [], []
    if size:
        before.append(size)
    if thing.color:
        _place_color(thing.color, before, after, "adjective" if briefly else rng.choices(WAYS, (2, 1, 1))[0])
    if thing.texture:
        before.append(thing.texture)
    if thing.pattern:
        adjective = rng.random() < 0.5
        (before if adjective else after).append(
            thing.pattern if adjective else f"with a {thing.pattern} pattern"
        )
    if thing.material:
        adjective = rng.random() < 0.5
        (before if adjective else after).append(thing.material if adjective else f"made of {thing.material}")
    words = " ".join([*before, noun])
    article = count or ("" if noun.endswith("s") and noun not in ("bus", "cactus", "dress") else _a(words))
    if not count and rng.random() < 0.15:
        article = ""
    return " ".join([article, words, *after]).strip()


def _place_color(color: str, before: list[str], after: list[str], way: str) -> None:
    if way == "color":
        after.append(f"in {color} color")
    else:
        before.append(color if way == "adjective" else f"{color}-colored")


def _around(scene: Scene, rng: random.Random) -> str:
    if scene.weather:
        return f"on a {scene.weather} day"
    return PLACES.get(scene.place or "", TIMES.get(scene.time or "", LIGHTS.get(scene.light or "", "")))


def _a(words: str) -> str:
    return "an" if words[0].lower() in "aeiou" and not words.startswith(("one ", "uni")) else "a"


def _one_word(scene: Scene, rng: random.Random) -> str | None:
    words = [w for ws in truth(scene).values() for w in ws if w not in two_sense() or w in CONCEPT_OF]
    rare = {t.color for t in scene.things} | {t.pattern for t in scene.things}
    words = sorted(w for w in words if w not in rare or w not in two_sense())
    return rng.choice(words) if words else None


def counterfactual(scene: Scene, rng: random.Random, near: float = 0.0) -> Scene:
    """The same scene with one of its words exchanged for a sibling of the same concept: what a judge must tell apart.

    With chance `near` a harder one, where there is one: two things exchange their colours, or the count is one off.
    """
    if rng.random() < near and (other := _nearest(scene, rng)):
        return other
    options = [(c, w) for c, ws in truth(scene).items() for w in sorted(ws)]
    if not options:
        return scene
    concept, word = rng.choice(sorted(options))
    return exchanged(scene, concept, word, rng.choice([w for w in CONCEPTS[concept] if w != word]))


def _nearest(scene: Scene, rng: random.Random) -> Scene | None:
    if scene.count:
        number = COUNTS[scene.count] + rng.choice((-1, 1))
        number = {0: 2, 7: 5}.get(number, number)
        return replace(scene, count=ATTRIBUTES["Counting"][number - 1])
    if len(scene.things) > 1 and all(t.color for t in scene.things):
        colors = [t.color for t in scene.things]
        a, b = rng.sample(range(len(colors)), 2)
        colors[a], colors[b] = colors[b], colors[a]
        return replace(
            scene, things=tuple(replace(t, color=c) for t, c in zip(scene.things, colors, strict=True))
        )
    return None


def exchanged(scene: Scene, concept: str, word: str, other: str) -> Scene:
    """The scene with a word of a concept exchanged for another."""
    if concept in THINGS:
        return replace(
            scene, things=tuple(replace(t, word=other) if t.word == word else t for t in scene.things)
        )
    slot = SLOTS[concept]
    if slot in OF_THING:
        things = tuple(replace(t, **{slot: other}) if getattr(t, slot) == word else t for t in scene.things)
        return replace(scene, things=things)
    return replace(scene, **{slot: other})
