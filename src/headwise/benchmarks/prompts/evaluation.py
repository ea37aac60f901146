r"""Evaluation prompts: each comes with texts that its image is compared with, the right one first.

They are read from TOML files of templates, in which {word} and {thing} stand for the listed words:

    [Color]                                        [[senses]]
    prompts = ["a {word} {thing}"]                 word = "orange"
    words = ["red", "blue"]                        toward = "Color"
    things = ["car", "bench"]                      away = "Fruits and Vegetables"
    text = "{word}"                                prompts = ["an orange {thing}"]
                                                   reworded = "a {thing} in orange color"
                                                   texts = ["a {thing} in orange color", "an orange"]
                                                   things = ["car", "bench"]

On the left, prompts of a concept: an image is compared with `text` (or with the prompt, if there is no
`text`), filled with each of the words. On the right, words with two senses: the first text describes the
intended sense, the others misreadings (docs/polysemy.md documents every key). "a" before a vowel becomes
"an". several_emoji.toml shows prompts with several subjects; edit pairs are in edit_pairs.py.
"""

import itertools
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import Any, Literal, NamedTuple

import numpy as np

from headwise.benchmarks.prompts.nouns import with_articles
from headwise.errors import UnreadablePrompts
from headwise.measuring.concepts import unknown_concept

__all__ = [
    "EvalPrompt", "MultiSubjectPrompt", "PolysemyPrompt", "bad_file", "eval_prompts", "evaluated_concepts",
    "file_of_prompts", "filled", "multi_subject_prompts", "polysemy_prompts", "read_toml", "sample",
    "tables_in",
]  # fmt: skip

_DATA = Path(__file__).parents[2] / "data"


class MultiSubjectPrompt(NamedTuple):
    """A prompt with several subjects.

    Args:
        kind: The name of its table: "type1" for two objects, "type2" for two coloured ones, or another.
        prompt: The prompt with all subjects.
        subjects: Each subject with its article and colour.
        words: Each subject's noun.
        concepts: The concept of each noun.
    """

    kind: str
    prompt: str
    subjects: tuple[str, ...]
    words: tuple[str, ...]
    concepts: dict[str, str]


class EvalPrompt(NamedTuple):
    """A prompt, and the texts that its image is compared with, the right one first."""

    prompt: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class PolysemyPrompt:
    """A prompt in which a word with two senses has its rarer sense.

    Args:
        word: The word with two senses.
        toward, away: The intended concept, and the one that images often show instead.
        case: The prompt, and the texts of the senses that its image may show.
        reworded: A prompt with the same meaning and without the ambiguity.
        things: The text of the intended sense with the prompt's object, then with other objects; empty if
            there are no others.
    """

    word: str
    toward: str
    away: str
    case: EvalPrompt
    reworded: str
    things: tuple[str, ...] = ()


def evaluated_concepts(source: str | Path) -> tuple[str, ...]:
    """The concepts that a file has prompts for.

    Args:
        source: "emoji", "paper", or the path of a TOML file.
    """
    return tuple(read_toml(source, "weakening"))


def eval_prompts(source: str | Path, concept: str, count: int | None = None) -> list[EvalPrompt]:
    """The prompts of one concept.

    Args:
        source: "emoji", "paper", or the path of a TOML file.
        concept: One of the file's concepts.
        count: The maximum number of prompts, sampled over words, objects and templates; None for all.

    Raises:
        UnknownConcept: The file has no such concept.
        UnreadablePrompts: The file cannot be read, or lacks something.
    """
    tables = read_toml(source, "weakening")
    if concept not in tables:
        raise unknown_concept(concept, tuple(tables))
    table = tables[concept]
    try:
        words, things, prompts = table["words"], table.get("things", [""]), table["prompts"]
        text = table.get("text")
        cases = [
            _eval_prompt(prompt, text or prompt, word, words, thing)
            for prompt in prompts
            for thing in things
            for word in words
        ]
    except (KeyError, TypeError) as error:
        raise bad_file(source, f"[{concept}] lacks or misspells {error}") from None
    return cases if count is None else sample(cases, count)


def polysemy_prompts(
    source: str | Path, count: int | None = None, half: Literal["tuning", "reporting"] | None = None
) -> list[PolysemyPrompt]:
    """Prompts with two-sense words.

    Args:
        source: "emoji", "paper", or the path of a TOML file.
        count: The maximum number of prompts, sampled over words; None for all.
        half: "tuning" for the first, third … of the words, on which methods may be tuned, "reporting" for
            the others; None for all.

    Raises:
        UnreadablePrompts: The file cannot be read, or lacks something.
    """
    senses: list[PolysemyPrompt] = []
    for number, table in enumerate(read_toml(source, "polysemy").get("senses", [])):
        try:
            listed = table.get("things", [""])
            senses += [_two_sense(table, prompt, thing) for prompt in table["prompts"] for thing in listed]
        except (KeyError, TypeError, IndexError) as error:
            raise bad_file(source, f"number {number} of [[senses]] lacks or misspells {error}") from None
    if not senses:
        raise bad_file(source, "it has no [[senses]]")
    if half is not None:
        words = list(dict.fromkeys(each.word for each in senses))[half == "reporting" :: 2]
        senses = [each for each in senses if each.word in words]
    return senses if count is None else sample(senses, count)


def multi_subject_prompts(source: str | Path, count: int = 40) -> list[MultiSubjectPrompt]:
    """Prompts with several subjects, one for each letter in the template: {a}, {b} …

    Args:
        source: "emoji", or the path of a TOML file.
        count: The maximum number of prompts per type.

    Raises:
        UnreadablePrompts: The file cannot be read, or lacks something.
    """
    prompts: list[MultiSubjectPrompt] = []
    for kind, table in read_toml(source, "several").items():
        try:
            prompts += sample(list(_multi_subject(kind, table)), count)
        except (KeyError, TypeError) as error:
            raise bad_file(source, f"[{kind}] lacks or misspells {error}") from None
    return prompts


def _two_sense(table: dict[str, Any], prompt: str, thing: str) -> PolysemyPrompt:
    fill = {"word": table["word"], "thing": thing}
    case = EvalPrompt(filled(prompt, fill), tuple(filled(text, fill) for text in table["texts"]))
    others = [other for other in table.get("things", ()) if other != thing]
    intended = (filled(table["texts"][0], fill | {"thing": each}) for each in (thing, *others))
    things = tuple(dict.fromkeys(intended))
    return PolysemyPrompt(
        table["word"],
        table["toward"],
        table["away"],
        case,
        filled(table["reworded"], fill),
        things if len(things) > 1 else (),
    )


def _multi_subject(kind: str, table: dict[str, Any]) -> Iterator[MultiSubjectPrompt]:
    slots = [name for _, name, _, _ in Formatter().parse(table["prompt"]) if name and len(name) == 1]
    colors = table.get("colors", [""])
    listed = table["things"]
    by_concept = listed if isinstance(listed, dict) else {table["concept"]: listed}
    concept_of = {thing: concept for concept, things in by_concept.items() for thing in things}
    for things in itertools.combinations(concept_of, len(slots)):
        for chosen in itertools.product(colors, repeat=len(slots)):
            if any(chosen) and len(set(chosen)) < len(chosen):
                continue
            fill = dict(zip(slots, things, strict=True))
            fill |= {f"color_{slot}": color for slot, color in zip(slots, chosen, strict=True)}
            subjects = tuple(
                filled("a {word}", {"word": f"{color} {thing}".strip()})
                for color, thing in zip(chosen, things, strict=True)
            )
            concepts = {thing: concept_of[thing] for thing in things}
            yield MultiSubjectPrompt(kind, filled(table["prompt"], fill), subjects, things, concepts)


def _eval_prompt(prompt: str, text: str, word: str, words: Sequence[str], thing: str) -> EvalPrompt:
    texts = [filled(text, {"word": other, "thing": thing}) for other in words]
    right = texts[list(words).index(word)]
    others = tuple(dict.fromkeys(other for other in texts if other != right))
    return EvalPrompt(filled(prompt, {"word": word, "thing": thing}), (right, *others))


def filled(template: str, fill: dict[str, str]) -> str:
    """A template with its words filled in; "a" before a vowel becomes "an"."""
    return with_articles(template.format(**fill)).strip()


def sample(items: list[Any], count: int) -> list[Any]:
    """A random sample in the order of the list, the same on every call."""
    order = np.random.Generator(np.random.Philox(0)).permutation(len(items))
    return [items[i] for i in sorted(order[:count])]


def file_of_prompts(source: str | Path, kind: str) -> Path:
    """The packaged file of this kind that "emoji" or "paper" names, or the path itself."""
    named = _DATA / f"{kind}_{source}.toml"
    return named if re.fullmatch(r"\w+", str(source)) and named.is_file() else Path(source)


def tables_in(path: Path) -> dict[str, Any]:
    """The tables of a TOML file of prompts.

    Raises:
        UnreadablePrompts: The file cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadablePrompts(
            f"{path} cannot be read: {error.strerror}. Give 'emoji', 'paper' or the path of a TOML file."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise bad_file(path, f"it is not valid TOML ({error})") from None


def read_toml(source: str | Path, kind: str) -> dict[str, Any]:
    """The tables of a file, or of the packaged file of this kind."""
    return tables_in(file_of_prompts(source, kind))


def bad_file(source: str | Path, fault: str) -> UnreadablePrompts:
    """The error for a file whose prompts cannot be used."""
    return UnreadablePrompts(f"{source}: {fault}. The guide shows how to write such a file.")
