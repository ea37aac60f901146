"""Prompts that contain the words of a concept, to measure the effect of these words.

They come from the user, from prompts that are searched for the words, or from the templates in a concept
set's file:

    [prompts]
    things = ["hat", "cat"]              what {thing} stands for
    without_article = ["jeans"]          words and things that take no "a"
    as_written = ["Geo-locations"]       concepts whose words are not lowercased
    forms = { mountain = "mountains" }   words that have another form in prompts
    default = ["a photo of a {word}"]    the templates of concepts that are not listed

    [templates]
    Color = ["a {word} {thing}"]         {word} is one of the concept's words
    "Time of Day" = ["a {thing} at {word}", "a {thing} in the morning"]

A template without {word} contains one of the words itself, and that word is used in such templates only.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from headwise.errors import UnreadableConcepts, UnreadablePrompts
from headwise.files import expanded
from headwise.measuring.concepts import PACKAGED, ConceptSet
from headwise.measuring.prompts import read_prompts
from headwise.model.pipelines import is_emoji
from headwise.model.words import find

__all__ = ["Templates", "WordPrompt", "WordPrompts", "fill", "replaced", "word_prompts"]

_DATA = Path(__file__).parents[1] / "data"
_KINDS = {"things": list, "without_article": list, "as_written": list, "forms": dict, "default": list}


class WordPrompt(NamedTuple):
    """A prompt, and the word or phrase in it whose effect is measured."""

    prompt: str
    word: str


WordPrompts = Mapping[str, Sequence[WordPrompt]] | Mapping[str, Sequence[tuple[str, str]]]


@dataclass(frozen=True)
class Templates:
    """Templates for prompts that contain the words of concepts.

    Args:
        of_concept: The templates of each concept.
        default: The templates of every other concept.
        things: What {thing} stands for.
        without_article: Words and things that take no "a".
        as_written: Concepts whose words are not lowercased.
        forms: The form of a word in prompts, where it differs.
    """

    of_concept: Mapping[str, Sequence[str]]
    default: Sequence[str] = ("a photo of {word}", "a picture of {word}", "{word}")
    things: Sequence[str] = ()
    without_article: Sequence[str] = ()
    as_written: Sequence[str] = ()
    forms: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def load(cls, name_or_path: str | Path) -> "Templates | None":
        """The templates in the file of a concept set; None where it has none.

        Raises:
            UnreadableConcepts: They do not have the format described at the top of this module.
        """
        path = _DATA / f"{name_or_path}.toml" if name_or_path in PACKAGED else expanded(name_or_path)
        ConceptSet.load(name_or_path)  # raises a clear error if the file cannot be read
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        if "templates" not in table and "prompts" not in table:
            return None
        options, of_concept = table.get("prompts", {}), table.get("templates", {})
        for name, value in options.items():
            if not isinstance(value, _KINDS.get(name, ())):
                raise UnreadableConcepts(
                    f"{path}: {name} = {value!r} in [prompts]; expected some of {', '.join(_KINDS)}, all "
                    "lists of texts except forms."
                )
        for concept, templates in {"default": options.get("default", []), **of_concept}.items():
            if not isinstance(templates, list) or not all(isinstance(each, str) for each in templates):
                raise UnreadableConcepts(
                    f"{path}: the templates of {concept!r} are {templates!r:.80}; expected a list of texts, "
                    'such as ["a {word} car"].'
                )
        return cls(of_concept, **options)

    def prompts(self, concept: str, words: Iterable[str]) -> list[WordPrompt]:
        """All prompts that the templates make from a concept's words, the words taking turns.

        Raises:
            UnreadableConcepts: A template contains no word, or has {thing} where there are no things.
        """
        templates = self.of_concept.get(concept) or self.default
        words = [word if concept in self.as_written else word.lower() for word in words]
        of_word: dict[str, list[WordPrompt]] = {word: [] for word in words}
        for template in templates:
            if "{word}" in template:
                continue
            match = _first_match(template, words, self.forms)
            if match is None:
                raise UnreadableConcepts(
                    f"The template {template!r} of {concept!r} contains none of its words. Write {{word}} "
                    "where a word should go."
                )
            of_word[match.concept_word] += self._filled(template, match.form, concept)
        literal = {word for word, prompts in of_word.items() if prompts}
        for template in templates:
            for word in (word for word in words if "{word}" in template and word not in literal):
                of_word[word] += self._filled(template, self.forms.get(word, word), concept)
        return _taking_turns([prompts for prompts in of_word.values() if prompts])

    def _filled(self, template: str, word: str, concept: str) -> list[WordPrompt]:
        if "{thing}" in template and not self.things:
            raise UnreadableConcepts(
                f'The template {template!r} of {concept!r} needs things. Add things = ["car"] to [prompts].'
            )
        things = self.things if "{thing}" in template else ("",)
        fillings = ({"word": word, "thing": thing} for thing in things)
        return [WordPrompt(fill(template, each, self.without_article), word) for each in fillings]


def fill(template: str, words: Mapping[str, str], without_article: Sequence[str] = ()) -> str:
    """A template filled in; "a" becomes "an" before a vowel, and is left out before `without_article`."""
    text = template.format(**words).strip()
    if without_article:
        bare = "|".join(map(re.escape, without_article))
        text = re.sub(rf"\b[Aa] (?=(?:[\w-]+ )?(?:{bare})\b)", "", text)
    return re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", text)


def replaced(prompt: str, word: str, by: str = "") -> str:
    """The prompt with a word replaced, and "a" or "an" before it adjusted; or with the word removed.

    Args:
        prompt: The prompt.
        word: The word or phrase to replace, wherever it occurs.
        by: The replacement; "" removes the word.
    """
    for start, stop in reversed(find(prompt, word)):
        before, after = prompt[:start], prompt[stop:]
        article = re.search(r"\b([Aa])n? $", before)
        if article and by:
            before = f"{before[: article.start()]}{article[1]}{'n' * (by[0] in 'aeiouAEIOU')} "
        prompt = f"{before}{by}{after}" if by else f"{before.rstrip()} {after.lstrip()}".strip()
    return prompt


def word_prompts(
    concepts: ConceptSet, source: Any, prompts: WordPrompts | Sequence[str] | str | Path | None, pipe: Any
) -> dict[str, list[WordPrompt]]:
    """The prompts that contain each concept's words.

    Args:
        concepts: The concepts.
        source: How the concepts were given: if as the name or path of a file, it may have templates.
        prompts: The user's pairs of prompt and word by concept; prompts, or a file with one per line, that
            are searched for the concepts' words; or None to make prompts from templates.
        pipe: The pipeline; the built-in model has its own packaged templates.

    Raises:
        UnreadablePrompts: A concept has no prompt that contains one of its words.
    """
    if isinstance(prompts, Mapping):
        by_concept = {
            concept: [WordPrompt(*pair) for pair in prompts.get(concept, ())] for concept in concepts
        }
    elif prompts is None:
        name = source if isinstance(source, str | Path) else concepts.name
        templates = Templates.load(name) if name in PACKAGED or isinstance(source, str | Path) else None
        templates = templates or Templates.load("emoji" if is_emoji(pipe) else "paper34")
        assert templates is not None
        by_concept = {concept: templates.prompts(concept, concepts.words(concept)) for concept in concepts}
    else:
        by_concept = _containing(concepts, read_prompts(prompts, pipe))
    lacking = [concept for concept, of_concept in by_concept.items() if not of_concept]
    if lacking:
        raise UnreadablePrompts(
            f"No prompt contains a word of {lacking[0]!r}"
            + (f", nor of {len(lacking) - 1} more concepts" if len(lacking) > 1 else "")
            + ". Give prompts that do, leave these concepts out, or give no prompts to use templates."
        )
    return by_concept


class _Match(NamedTuple):
    """A concept's word, and its form in a text."""

    concept_word: str
    form: str


def _first_match(text: str, words: Iterable[str], forms: Mapping[str, str] | None = None) -> _Match | None:
    """The first of a concept's words in a text; of two that start at the same place, the longer."""
    places = []
    for word in words:
        form = (forms or {}).get(word, word)
        match = re.search(rf"(?<!\w){re.escape(form)}(?!\w)", text, flags=re.IGNORECASE)
        if match:
            places.append((match.start(), -len(form), _Match(word, match.group())))
    return min(places)[2] if places else None


def _containing(concepts: ConceptSet, prompts: Sequence[str]) -> dict[str, list[WordPrompt]]:
    """The prompts that contain words of each concept."""
    by_concept: dict[str, list[WordPrompt]] = {concept: [] for concept in concepts}
    for prompt in prompts:
        for concept in concepts:
            match = _first_match(prompt, concepts.words(concept))
            if match is not None:
                by_concept[concept].append(WordPrompt(prompt, match.form))
    return by_concept


def _taking_turns(of_words: Sequence[Sequence[WordPrompt]]) -> list[WordPrompt]:
    """The prompts of all words in a fixed random order in which the words take turns."""
    generator = np.random.Generator(np.random.Philox(0))
    shuffled = [[prompts[i] for i in generator.permutation(len(prompts))] for prompts in of_words]
    rounds = max(map(len, shuffled), default=0)
    return [
        shuffled[w][turn % len(shuffled[w])]
        for turn in range(rounds)
        for w in generator.permutation(len(shuffled))
    ]
