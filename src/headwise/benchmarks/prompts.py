r"""Evaluation prompts: each comes with texts that its picture is compared with, the right one first.

They are read from TOML files of templates, in which {word} and {thing} stand for the words listed:

    [Color]                                        [[senses]]
    prompts = ["a {word} {thing}"]                 word = "orange"
    words = ["red", "blue"]                        toward = "Color"
    things = ["car", "bench"]                      away = "Fruits and Vegetables"
    text = "{word}"                                prompts = ["an orange {thing}"]
                                                   reworded = "a {thing} in orange color"
                                                   texts = ["a {thing} in orange color", "an orange"]
                                                   things = ["car", "bench"]

On the left, prompts of a concept: a picture is compared with `text` (with the prompt, if there is no `text`)
for each of the words in the place of the right one. On the right, words with two senses: the first text
describes the sense that is meant, the others misreadings. "a" before a vowel becomes "an". Pairs to edit are
written like prompts of a concept, with the `box` of the thing; several_emoji.toml shows prompts of two
subjects.
"""

import csv
import itertools
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from headwise.benchmarks.nouns import with_articles
from headwise.errors import UnreadablePrompts
from headwise.measuring.concepts import unknown_concept
from headwise.model.tokens import words_of

__all__ = [
    "EditPair", "EvalPrompt", "MultiSubjectPrompt", "PolysemyPrompt", "bad_file", "edit_pairs",
    "eval_prompts", "evaluated_concepts", "filled", "multi_subject_prompts", "polysemy_prompts",
    "read_toml", "sample",
]  # fmt: skip

REGION_SIZE = (512, 512)
"""Height and width of the picture that a region's stretches of pixels are counted in."""
_DATA = Path(__file__).parents[1] / "data"


class EditPair(NamedTuple):
    """A source prompt and a target that differs in one word of an attribute.

    Args:
        attribute: The concept of the word that differs.
        source, target: The prompts.
        word: The word that only the target has.
        texts: The texts with other words of the attribute that the target's picture is compared with, the
            target's first.
        things: The texts with other things in the place of the prompt's, the prompt's first.
        box: Where the thing is in the picture: left, top, right and bottom as shares of its width and height;
            None if unknown.
        keeps_object: Whether the thing is to stay, and its surroundings to change, instead of the reverse.
        picture: The file of a picture to edit; None where the source is generated.
        region: Where the picture may differ, in place of a box: the starts and lengths of stretches of
            pixels, row by row, at `REGION_SIZE`.
    """

    attribute: str
    source: str
    target: str
    word: str
    texts: tuple[str, ...]
    things: tuple[str, ...]
    box: tuple[float, float, float, float] | None = None
    keeps_object: bool = False
    picture: Path | None = None
    region: tuple[tuple[int, int], ...] = ()

    def mask(self, size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
        """Where pictures of this width and height may differ: it is covered when they are compared."""
        width, height = size
        if self.region:
            shown = (np.arange(n) * of // n for n, of in zip((height, width), REGION_SIZE, strict=True))
            return _of_stretches(self.region)[np.ix_(*shown)]
        covered = np.zeros((height, width), bool)
        if self.box is not None:
            left, top, right, bottom = self.box
            rows = slice(round(top * height), round(bottom * height))
            covered[rows, round(left * width) : round(right * width)] = True
        return ~covered if self.keeps_object and self.box is not None else covered


class MultiSubjectPrompt(NamedTuple):
    """A prompt with two subjects.

    Args:
        kind: "type1" for things, "type2" for coloured ones.
        prompt: The prompt with both subjects.
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
    """A prompt, and the texts that its picture is compared with, the right one first."""

    prompt: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class PolysemyPrompt:
    """A prompt in which a word with two senses has its rarer sense.

    Args:
        word: The word with two senses.
        toward, away: The concept that is meant, and the one that pictures often show instead.
        case: The prompt, and the texts of the senses that its picture may show.
        reworded: A prompt with the same meaning and without the ambiguity.
    """

    word: str
    toward: str
    away: str
    case: EvalPrompt
    reworded: str


def evaluated_concepts(source: str | Path) -> tuple[str, ...]:
    """The concepts that a file has prompts of.

    Args:
        source: "emoji", "paper", or the path of a TOML file.
    """
    return tuple(read_toml(source, "weakening"))


def eval_prompts(source: str | Path, concept: str, count: int | None = None) -> list[EvalPrompt]:
    """The prompts of one concept.

    Args:
        source: "emoji", "paper", or the path of a TOML file.
        concept: One of the file's concepts.
        count: The largest number of prompts, sampled over words, things and templates; all if None.
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


def polysemy_prompts(source: str | Path, count: int | None = None) -> list[PolysemyPrompt]:
    """Prompts with two-sense words.

    Args:
        source: "emoji", "paper", or the path of a TOML file.
        count: The largest number of prompts, sampled over words; all if None.
    """
    senses = []
    for number, table in enumerate(read_toml(source, "polysemy").get("senses", [])):
        try:
            for prompt in table["prompts"]:
                for thing in table.get("things", [""]):
                    fill = {"word": table["word"], "thing": thing}
                    case = EvalPrompt(
                        filled(prompt, fill), tuple(filled(text, fill) for text in table["texts"])
                    )
                    reworded = filled(table["reworded"], fill)
                    senses.append(
                        PolysemyPrompt(table["word"], table["toward"], table["away"], case, reworded)
                    )
        except (KeyError, TypeError, IndexError) as error:
            raise bad_file(source, f"number {number} of [[senses]] lacks or misspells {error}") from None
    if not senses:
        raise bad_file(source, "there are no [[senses]]")
    return senses if count is None else sample(senses, count)


def edit_pairs(source: str | Path, count: int = 20) -> list[EditPair]:
    """Pairs to edit.

    Args:
        source: "emoji", or the path of a TOML file; or of a CSV with the columns source_prompt, target_prompt
            and attribute.
        count: The largest number of pairs of each attribute, sampled over words and things.
    """
    if str(source).endswith(".csv"):
        return _pairs_in_csv(Path(source), count)
    pairs: list[EditPair] = []
    for attribute, table in read_toml(source, "editing").items():
        try:
            each = [
                _pair(attribute, table, prompt, thing, before, after)
                for prompt in table["prompts"]
                for thing in table["things"]
                for before in table["words"]
                for after in table["words"]
                if before != after
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise bad_file(source, f"[{attribute}] lacks or misspells {error}") from None
        pairs += sample(each, count)
    return pairs


def multi_subject_prompts(source: str | Path, count: int = 40) -> list[MultiSubjectPrompt]:
    """Prompts with two subjects.

    Args:
        source: "emoji", or the path of a TOML file.
        count: The largest number of prompts of each type.
    """
    prompts: list[MultiSubjectPrompt] = []
    for kind, table in read_toml(source, "several").items():
        try:
            prompts += sample(list(_multi_subject(kind, table)), count)
        except (KeyError, TypeError) as error:
            raise bad_file(source, f"[{kind}] lacks or misspells {error}") from None
    return prompts


def _of_stretches(region: tuple[tuple[int, int], ...]) -> Bool[np.ndarray, "height width"]:
    flat = np.zeros(REGION_SIZE[0] * REGION_SIZE[1], bool)
    for start, length in region:
        flat[start : start + length] = True
    return flat.reshape(REGION_SIZE)


def _pair(
    attribute: str, table: dict[str, Any], prompt: str, thing: str, before: str, after: str
) -> EditPair:
    prompts = {word: filled(prompt, {"word": word, "thing": thing}) for word in table["words"]}
    texts = (prompts[after], *(text for word, text in prompts.items() if word != after))
    others = (other for other in table["things"] if other != thing)
    things = tuple(filled(prompt, {"word": after, "thing": name}) for name in (thing, *others))
    box = tuple(float(edge) for edge in table["box"]) if "box" in table else None
    keeps = table.get("edits", "object") == "surroundings"
    return EditPair(
        attribute,
        prompts[before],
        prompts[after],
        after,
        texts,
        things,
        box,  # type: ignore[arg-type]
        keeps,
    )


def _pairs_in_csv(path: Path, count: int) -> list[EditPair]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnreadablePrompts(f"{path} cannot be read: {error}.") from None
    pairs: dict[str, list[EditPair]] = {}
    for number, row in enumerate(rows, 2):
        source, target = row.get("source_prompt"), row.get("target_prompt")
        if not source or not target or not row.get("attribute"):
            raise bad_file(path, f"line {number} lacks source_prompt, target_prompt or attribute")
        words = [word for word in words_of(target) if word not in words_of(source)]
        if not words:
            raise bad_file(path, f"line {number}: the target has no word that the source has not")
        pair = EditPair(row["attribute"], source, target, words[0], (target, source), (target,))
        pairs.setdefault(row["attribute"], []).append(pair)
    return [pair for of_attribute in pairs.values() for pair in sample(of_attribute, count)]


def _multi_subject(kind: str, table: dict[str, Any]) -> Iterator[MultiSubjectPrompt]:
    colors = table.get("colors", [""])
    for a, b in itertools.combinations(table["things"], 2):
        for color_a, color_b in itertools.product(colors, colors):
            if color_a and color_a == color_b:
                continue
            fill = {"a": a, "b": b, "color_a": color_a, "color_b": color_b}
            subjects = tuple(
                filled("a {word}", {"word": f"{color} {thing}".strip()})
                for color, thing in ((color_a, a), (color_b, b))
            )
            concepts = {a: table["concept"], b: table["concept"]}
            yield MultiSubjectPrompt(kind, filled(table["prompt"], fill), subjects, (a, b), concepts)


def _eval_prompt(prompt: str, text: str, word: str, words: Sequence[str], thing: str) -> EvalPrompt:
    texts = [filled(text, {"word": other, "thing": thing}) for other in words]
    right = texts[list(words).index(word)]
    others = tuple(dict.fromkeys(other for other in texts if other != right))
    return EvalPrompt(filled(prompt, {"word": word, "thing": thing}), (right, *others))


def filled(template: str, fill: dict[str, str]) -> str:
    """A template with its words filled in; "a" before a vowel becomes "an"."""
    return with_articles(template.format(**fill)).strip()


def sample(items: list[Any], count: int) -> list[Any]:
    """A random sample in the list's order, the same every time."""
    order = np.random.Generator(np.random.Philox(0)).permutation(len(items))
    return [items[i] for i in sorted(order[:count])]


def read_toml(source: str | Path, kind: str) -> dict[str, Any]:
    """The tables of a file, or of the package's own of this kind."""
    named = _DATA / f"{kind}_{source}.toml"
    path = named if re.fullmatch(r"\w+", str(source)) and named.is_file() else Path(source)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadablePrompts(
            f"{path} cannot be read: {error.strerror}. Give 'emoji', 'paper' or the path of a TOML file."
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise bad_file(path, f"it is not valid TOML ({error})") from None


def bad_file(source: str | Path, fault: str) -> UnreadablePrompts:
    """The error for a file whose prompts cannot be used."""
    return UnreadablePrompts(f"{source}: {fault}. The guide shows how such a file is written.")
