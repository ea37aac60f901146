r"""Prompts whose pictures can be judged: each comes with texts to choose between, the right one first.

They are read from TOML files of templates, in which {word} and {thing} stand for the words listed:

    [Color]                                        [[senses]]
    prompts = ["a {word} {thing}"]                 word = "orange"
    words = ["red", "blue"]                        toward = "Color"
    things = ["car", "bench"]                      away = "Fruits and Vegetables"
    text = "{word}"                                prompts = ["an orange {thing}"]
                                                   reworded = "a {thing} in orange color"
                                                   texts = ["a {thing} in orange color", "an orange"]
                                                   things = ["car", "bench"]

On the left, cases of a concept: a picture is compared with `text`, or where none is given with the prompt,
with each of the words in the place of the right one. On the right, words with two senses: the first text
tells of the sense that is meant, the others of misreadings. "a" before a vowel becomes "an".
"""

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from headwise.concepts import unknown_concept
from headwise.errors import UnreadablePrompts

__all__ = ["Case", "Sense", "cases_of", "concepts_of", "read_senses"]

_DATA = Path(__file__).parent / "data"


class Case(NamedTuple):
    """A prompt, and the texts that its picture is compared with, the right one first."""

    prompt: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Sense:
    """A prompt in which one word means what it mostly does not.

    Args:
        word: The word.
        toward, away: The concept that is meant, and the one that is often seen.
        case: The prompt, and what may be seen.
        reworded: A prompt that says the same more plainly.
    """

    word: str
    toward: str
    away: str
    case: Case
    reworded: str


def concepts_of(source: str | Path) -> tuple[str, ...]:
    """The concepts that a file ("emoji", "paper", or a path) has cases of."""
    return tuple(_read(source, "weakening"))


def cases_of(source: str | Path, concept: str, count: int | None = None) -> list[Case]:
    """Cases of one concept.

    Args:
        source: "emoji", "paper", or the path of a TOML file.
        concept: One of the file's.
        count: At most so many, chosen evenly over words, things and templates.
    """
    table = _read(source, "weakening")
    if concept not in table:
        raise unknown_concept(concept, tuple(table))
    given = table[concept]
    try:
        words, things, prompts = given["words"], given.get("things", [""]), given["prompts"]
        text = given.get("text")
        cases = [
            _case(prompt, text or prompt, word, words, thing)
            for prompt in prompts
            for thing in things
            for word in words
        ]
    except (KeyError, TypeError) as error:
        raise _bad(source, f"[{concept}] lacks or misspells {error}") from None
    return cases if count is None else _some(cases, count)


def read_senses(source: str | Path, count: int | None = None) -> list[Sense]:
    """Prompts with two-sense words.

    Args:
        source: "emoji", "paper", or the path of a TOML file.
        count: At most so many, chosen evenly over words.
    """
    senses = []
    for number, given in enumerate(_read(source, "polysemy").get("senses", [])):
        try:
            for prompt in given["prompts"]:
                for thing in given.get("things", [""]):
                    fill = {"word": given["word"], "thing": thing}
                    case = Case(_filled(prompt, fill), tuple(_filled(text, fill) for text in given["texts"]))
                    reworded = _filled(given["reworded"], fill)
                    senses.append(Sense(given["word"], given["toward"], given["away"], case, reworded))
        except (KeyError, TypeError, IndexError) as error:
            raise _bad(source, f"number {number} of [[senses]] lacks or misspells {error}") from None
    if not senses:
        raise _bad(source, "there are no [[senses]]")
    return senses if count is None else _some(senses, count)


def _case(prompt: str, text: str, word: str, words: Sequence[str], thing: str) -> Case:
    texts = [_filled(text, {"word": other, "thing": thing}) for other in words]
    right = texts[list(words).index(word)]
    others = tuple(dict.fromkeys(other for other in texts if other != right))
    return Case(_filled(prompt, {"word": word, "thing": thing}), (right, *others))


def _filled(template: str, fill: dict[str, str]) -> str:
    return re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", template.format(**fill)).strip()


def _some(everything: list[Any], count: int) -> list[Any]:
    """So many of a list, seeded, as a stranger would have drawn them."""
    order = np.random.Generator(np.random.Philox(0)).permutation(len(everything))
    return [everything[i] for i in sorted(order[:count])]


def _read(source: str | Path, kind: str) -> dict[str, Any]:
    named = _DATA / f"{kind}_{source}.toml"
    path = named if re.fullmatch(r"\w+", str(source)) and named.is_file() else Path(source)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadablePrompts(
            f"{path} cannot be read: {error.strerror}. Give 'emoji', 'paper' or the path of a TOML file."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise _bad(path, f"it is not valid TOML ({error})") from None


def _bad(source: str | Path, fault: str) -> UnreadablePrompts:
    return UnreadablePrompts(f"{source}: {fault}. The guide shows how such a file is written.")
