r"""Concepts: visual categories, and the words that stand for them.

A concept set is an ordered mapping, `Color → red, blue, green, …`. The paper's 34 concepts of 10 words come
with the package ("paper34"); your own set is a TOML file:

    [concepts]
    Color = ["red", "blue", "green"]
    "Time of Day" = ["night", "dawn"]

For the probe every word is encoded ALONE by the pipeline's text encoders, and only the embeddings of the
start token and of the word's tokens are kept: no end token, no padding.

Heads choose between concepts, so a vote depends on all of them: if dog is the only alternative to red, every
head that attends to surfaces votes for red. A small set is therefore measured together with a background set,
whose concepts heads can choose too.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any

from headwise.errors import UnknownConcept, UnreadableConcepts
from headwise.files import expanded

__all__ = ["FEW", "PACKAGED", "ConceptSet", "WordEmbeddings", "choice", "unknown_concept"]

FEW = 24  # concepts; a smaller set gives different heads than a large one (docs/evidence.md)
PACKAGED = ("emoji", "paper34")
_DATA = Path(__file__).parents[1] / "data"


@dataclass(frozen=True)
class WordEmbeddings:
    """The text embeddings of each word of a concept set.

    Args:
        start: The embedding of the start token, "1 dim"; "0 dim" for encoders without one, and more rows if
            the pipeline puts text before the prompt.
        words: The embeddings of the tokens of each word of each concept, "tokens dim".
    """

    start: Any
    words: tuple[tuple[Any, ...], ...]


@dataclass(frozen=True)
class ConceptSet:
    """Concept names and their words, in a fixed order.

    Args:
        pairs: The name and words of each concept in order, as pairs or as a mapping of names to words.

    Attributes:
        name: The name of the set: "emoji", or the name of its file; "" for a set made in Python.
        foreground: The names of the user's concepts, if the others are their background; else empty.
    """

    pairs: tuple[tuple[str, tuple[str, ...]], ...]
    name: str = field(default="", init=False, repr=False, compare=False)
    foreground: tuple[str, ...] = field(default=(), init=False, repr=False, compare=False)

    def __init__(self, pairs: Mapping[str, Sequence[str]] | Sequence[tuple[str, Sequence[str]]]) -> None:
        listed = list(pairs.items()) if isinstance(pairs, Mapping) else list(pairs)
        _check(listed, lambda _name, _word: "")
        object.__setattr__(self, "pairs", tuple((name, tuple(words)) for name, words in listed))

    @classmethod
    def of(cls, concepts: Any) -> "ConceptSet":
        """A set unchanged, one made from a mapping of names to words, or one that `load` reads.

        Raises:
            UnreadableConcepts: The argument is none of these, or a name or word is not valid.
        """
        if isinstance(concepts, cls):
            return concepts
        if isinstance(concepts, Mapping):
            return cls(concepts)
        if isinstance(concepts, str | Path):
            return cls.load(concepts)
        raise UnreadableConcepts(
            f"{concepts!r:.80} is not a concept set. Give a ConceptSet, the name or path of one, or a "
            'mapping such as {"Color": ["red", "blue"], "Animals": ["dog", "cat"]}.'
        )

    @classmethod
    def load(cls, name_or_path: str | Path) -> "ConceptSet":
        """Read a packaged set ("paper34", "emoji"), or one in a TOML file.

        Raises:
            UnreadableConcepts: The file is missing or not valid TOML, or a name or word is not valid.
        """
        path = _DATA / f"{name_or_path}.toml"
        if not re.fullmatch(r"\w+", str(name_or_path)) or not path.is_file():
            path = expanded(name_or_path)
        text = _read(path)
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            for name, line in _repeated(text):
                raise UnreadableConcepts(
                    f"{path}, line {line}: the concept {name!r} occurs twice. Join its words or rename one."
                ) from None
            raise UnreadableConcepts(
                f'{path} is not valid TOML: {error}. A concept is written once, as Color = ["red", "blue"].'
            ) from None
        concepts = table.get("concepts")
        if not isinstance(concepts, dict) or not concepts:
            raise UnreadableConcepts(
                f'{path}: no [concepts] table. Begin with a line [concepts], then Color = ["red"].'
            )
        _check(list(concepts.items()), lambda name, word: f"{path}, line {_line(text, name, word)}: ")
        return cls(concepts).marked(path.stem)

    @property
    def concepts(self) -> Mapping[str, tuple[str, ...]]:
        """The words of every concept, by name."""
        return MappingProxyType(dict(self.pairs))

    @property
    def names(self) -> tuple[str, ...]:
        """The concepts, in order."""
        return tuple(name for name, _ in self.pairs)

    def words(self, name: str) -> tuple[str, ...]:
        """The words of one concept."""
        if name not in self.names:
            raise unknown_concept(name, self.names)
        return self.concepts[name]

    def beside(self, background: "ConceptSet") -> "ConceptSet":
        """These concepts together with a background set, so that heads have enough to choose from.

        So that no concept occurs twice, one of these concepts replaces a background concept with the same
        name, a background concept of whose words it has more than half, or one that has more than half of
        its words, two or more. It takes the place of the first one that it replaces, so that a concept
        with the same words leaves the set unchanged.

        Args:
            background: The set whose remaining concepts are the background.
        """
        replaced = {theirs: _replacing(theirs, words, self) for theirs, words in background.pairs}
        placed = {ours: theirs for theirs, ours in reversed(replaced.items()) if ours is not None}
        pairs = []
        for theirs, words in background.pairs:
            ours = replaced[theirs]
            if ours is None:
                pairs.append((theirs, words))
            elif placed[ours] == theirs:
                pairs.append((ours, self.words(ours)))
        beside = ConceptSet([*pairs, *(pair for pair in self.pairs if pair[0] not in placed)])
        return beside.marked(background.name, self.foreground or self.names)

    @property
    def settings(self) -> dict[str, Any]:
        """What files record of a background: "foreground", and "beside", such as "31 concepts of emoji"."""
        others = len(self) - len(self.foreground)
        if not self.foreground or not others:
            return {}
        return {
            "foreground": list(self.foreground),
            "beside": f"{others} concept{'s' * (others > 1)} of {self.name or 'another set'}",
        }

    def require_choice(self) -> None:
        """Refuse a set of one concept, which every head would vote for.

        Raises:
            UnreadableConcepts: There is one concept.
        """
        if len(self) == 1:
            raise UnreadableConcepts(
                f"{self.names[0]!r} is the only concept, and heads choose between concepts. Add others, or "
                "measure it with a background set."
            )

    def marked(self, name: str, foreground: tuple[str, ...] = ()) -> "ConceptSet":
        """The same set with a name; if `foreground` is given, the other concepts are the background."""
        marked = self.from_json(self.pairs)
        object.__setattr__(marked, "name", name)
        object.__setattr__(marked, "foreground", foreground)
        return marked

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def to_json(self) -> list[list[Any]]:
        """The set as JSON-able lists of [name, words], which keep the order."""
        return [[name, list(words)] for name, words in self.pairs]

    @classmethod
    def from_json(cls, pairs: Sequence[Sequence[Any]]) -> "ConceptSet":
        """The inverse of `to_json`; the words are not checked again."""
        concepts = object.__new__(cls)
        object.__setattr__(concepts, "pairs", tuple((name, tuple(words)) for name, words in pairs))
        return concepts

    def embed(self, pipe: Any) -> WordEmbeddings:
        """Encode every word alone with the pipeline's text encoders."""
        from headwise.model.text_encoders import encode_word  # imported here, because it loads torch

        encoded = [[encode_word(pipe, word) for word in words] for _, words in self.pairs]
        return WordEmbeddings(
            encoded[0][0][0], tuple(tuple(tokens for _, tokens in words) for words in encoded)
        )


def choice(concepts: Any, beside: Any, pipe: Any) -> ConceptSet:
    """The concepts that heads choose between: the user's and their background.

    Args:
        concepts: The user's concepts, as `ConceptSet.of` takes them.
        beside: The background set, in the same forms; None for none. "auto" adds the model's packaged set to
            fewer than `FEW` concepts, unless they already have a background.
        pipe: The pipeline.

    Raises:
        UnreadableConcepts: There is only one concept, without a background.
    """
    given = ConceptSet.of(concepts)
    if beside == "auto" and len(given) < FEW and not given.foreground:
        from headwise.model.pipelines import is_emoji  # imported here, because it loads torch

        beside = "emoji" if is_emoji(pipe) else "paper34"
    chosen = given if beside is None or beside == "auto" else given.beside(ConceptSet.of(beside))
    chosen.require_choice()
    return chosen


def _replacing(name: str, words: Sequence[str], concepts: ConceptSet) -> str | None:
    """The first of the concepts that replaces this background concept; None if it stays."""
    theirs = {word.casefold() for word in words}
    for other, others in concepts.pairs:
        shared = len(theirs & {word.casefold() for word in others})
        most = 2 * shared > len(theirs) or (shared > 1 and 2 * shared > len(others))
        if most or other.casefold() == name.casefold():
            return other
    return None


def unknown_concept(name: str, names: Sequence[str]) -> UnknownConcept:
    """The error for a concept that is not among `names`, with the nearest ones."""
    folded = {each.casefold(): each for each in names}
    near = [folded[match] for match in get_close_matches(name.casefold(), folded, n=3)]
    cure = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"There are: {', '.join(names)}."
    return UnknownConcept(f"Unknown concept {name!r}. {cure}")


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UnreadableConcepts(
            f"The concept file {path} does not exist. Give the path of a TOML file, or one of: "
            f"{', '.join(PACKAGED)}."
        ) from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UnreadableConcepts(f"{path}, line {line}: not UTF-8. Save the file as UTF-8.") from None
    except OSError as error:
        raise UnreadableConcepts(
            f"{path} cannot be read: {error.strerror}. Give the path of a TOML file."
        ) from None


def _check(pairs: list[tuple[Any, Any]], where: Any) -> None:
    if not pairs:
        raise UnreadableConcepts(
            "The concept set is empty. Give at least one concept with at least one word."
        )
    seen: set[str] = set()
    for name, words in pairs:
        at = where(name, None)
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise UnreadableConcepts(f"{at}{name!r} is not a name for a concept. Use printable text.")
        if name in seen:
            raise UnreadableConcepts(f"{at}the concept {name!r} occurs twice. Join its words or rename one.")
        if isinstance(words, str) or not isinstance(words, list | tuple):
            raise UnreadableConcepts(
                f'{at}{name!r} is {words!r}; expected a list of words, as {name} = ["red", "blue"].'
            )
        if not words:
            raise UnreadableConcepts(f"{at}the concept {name!r} has no words. Add one or remove the concept.")
        _check_words(name, words, where)
        seen.add(name)


def _check_words(name: str, words: Sequence[Any], where: Any) -> None:
    for i, word in enumerate(words):
        if not isinstance(word, str):
            raise UnreadableConcepts(
                f'{where(name, None)}{word!r} in {name!r} is not text. Put it in quotes: "{word}".'
            )
        if not word.strip() or not word.isprintable():
            raise UnreadableConcepts(
                f"{where(name, word)}{word!r} in {name!r} is not a word. Use printable text."
            )
        if word.casefold() in (other.casefold() for other in words[:i]):
            raise UnreadableConcepts(f"{where(name, word)}{word!r} occurs twice in {name!r}. Remove one.")


def _repeated(text: str) -> Iterator[tuple[str, int]]:
    """Concepts that occur a second time, and in which line: tomllib's error names neither."""
    seen = set()
    pattern = r"""^[ \t]*(?:"([^"\n]*)"|'([^'\n]*)'|([\w-]+))[ \t]*="""
    for key in re.finditer(pattern, text, flags=re.MULTILINE):
        name = next(group for group in key.groups() if group is not None)
        if name in seen:
            yield name, text.count("\n", 0, key.end()) + 1
        seen.add(name)


def _line(text: str, name: str, word: str | None) -> int:
    """The line of a concept in the file, or of the last occurrence of a word in it."""
    key = re.search(rf"""^\s*["']?{re.escape(name)}["']?\s*=""", text, flags=re.MULTILINE)
    at = key.end() if key else 0
    if word is not None:
        inside = text[at : text.find("]", at)]
        at += max(inside.rfind(f'"{word}"'), inside.rfind(f"'{word}'"), 0)
    return text.count("\n", 0, at) + 1
