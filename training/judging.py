"""What an image shows, asked of the judge: which of several captions fits it best.

    answer = argmax over captions of cos(image tower(image), text tower(caption))

The captions of one question differ in one word, exchanged for its siblings of the same concept. Asked of drawings, the share of
right answers is the judge's own accuracy, the ceiling for any generated image; asked of generated images it is the model's.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
import world
from torch import Tensor
from vocabulary import CONCEPTS, RARE
from world import Scene, Thing

__all__ = ["Question", "accuracy", "ask", "misreading", "of_concept", "of_pair", "similarity"]


@dataclass(frozen=True)
class Question:
    """A prompt, the scene it tells of, and the captions among which the judge chooses; `right` are those that fit."""

    prompt: str
    scene: Scene
    captions: tuple[tuple[str, ...], ...]  # one tuple for each thing asked; all must be answered rightly
    right: int = 0


def of_concept(concept: str, word: str, rng: random.Random, plain: bool = True) -> Question:
    """Which word of this concept does the image show?"""
    scene = world.showing(concept, word, rng, plain)
    others = [w for w in CONCEPTS[concept] if w != word]
    told = rng.getrandbits(32)
    scenes = [scene, *(world.exchanged(scene, concept, word, other) for other in others)]
    captions = tuple(world.caption(s, random.Random(told)) for s in scenes)
    return Question(captions[0], scene, (captions,))


def of_pair(rng: random.Random) -> Question:
    """Two things that training never showed together: are both there?"""
    while True:
        a, b = rng.sample(sorted(world.CONCEPT_OF), 2)
        if world.held_out(a, b):
            break
    told, asked = rng.getrandbits(32), []
    scene = Scene(things=(Thing(a), Thing(b)))
    for word in (a, b):
        concept = world.CONCEPT_OF[word]
        scenes = [
            scene,
            *(world.exchanged(scene, concept, word, o) for o in CONCEPTS[concept] if o not in (a, b)),
        ]
        asked.append(tuple(world.caption(s, random.Random(told)) for s in scenes))
    return Question(asked[0][0], scene, tuple(asked))


def misreading(word: str, rng: random.Random) -> Question:
    """Is a two-sense word in its rare sense drawn as that, or as the thing alone, the thing beside, or not at all?"""
    concept = world.two_sense()[word]
    if concept == "Other":
        scene = Scene(things=(Thing(RARE["Other"][word]),))
        told = rng.getrandbits(32)
        captions = tuple(world.caption(s, random.Random(told)) for s in (scene, Scene(things=(Thing(word),))))
        return Question(captions[0], scene, (captions,))
    noun = rng.choice([n for n in world.NOUNS if n != word and world.rare_held_out(word, n)])
    slot = world.SLOTS[concept]
    scene = Scene(things=(Thing(noun, **{slot: word}),))
    prompt = world.caption(scene, rng)
    sense = f"in {word} color" if slot == "color" else f"with a {word} pattern"
    captions = (
        f"{_a(noun)} {sense}",
        _a(word),
        f"{_a(word)} and {_a(noun)}",
        f"{_a(noun)} and {_a(word)}",
        _a(noun),
    )
    return Question(prompt, scene, (captions,))


def _a(word: str) -> str:
    return f"{'an' if word[0] in 'aeiou' else 'a'} {world.phrase(word)}"


@torch.no_grad()
def ask(
    judge: Callable[[Tensor, list[str]], Tensor], pictures: np.ndarray, questions: list[Question]
) -> np.ndarray:
    """Whether every thing asked about each image was answered rightly.

    Arguments:
        judge: (images, captions) → similarities "pictures captions".
        pictures: questions × 64 × 64 × 3 bytes.
    """
    answers = []
    x = torch.from_numpy(np.asarray(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    for picture, question in zip(x, questions, strict=True):
        choices = [judge(picture[None], list(captions))[0].argmax().item() for captions in question.captions]
        answers.append(all(choice == question.right for choice in choices))
    return np.array(answers)


def accuracy(right: np.ndarray) -> dict[str, float]:
    """Share of right answers and its Wilson interval of 95 %."""
    n, share, z = len(right), float(np.mean(right)), 1.96
    centre, spread = (share + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n)
    half = spread * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return {
        "accuracy": round(share, 4),
        "low": round(float(centre - half), 4),
        "high": round(float(centre + half), 4),
        "n": n,
    }


def similarity(model: torch.nn.Module, tokenizer: object) -> Callable[[Tensor, list[str]], Tensor]:
    """The judge as a function of images and captions."""

    def similar(pictures: Tensor, captions: list[str]) -> Tensor:
        ids = tokenizer(
            captions, padding="max_length", max_length=24, truncation=True, return_tensors="pt"
        ).input_ids
        said = model.text_projection(model.text_model(input_ids=ids).pooler_output)
        seen = model.visual_projection(model.vision_model(pixel_values=pictures).pooler_output)
        return F.normalize(seen, dim=-1) @ F.normalize(said, dim=-1).T

    return similar
