r"""Words of a prompt as text: where they are, and where a given word is found.

A word is found regardless of its case, of Unicode's equivalent spellings (é as one character or as two) and
of the kind of apostrophe, but only between the ends of words. Letters join into words, marks (accents, vowel
signs) belong to the letter before them, and everything else separates: "hair" is found in "red_hair" and
"red-hair", not in "hairy". Scripts that are written without spaces have no such ends, so in Chinese,
Japanese, Thai and similar languages any run of characters is found.
"""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import pairwise
from unicodedata import category, normalize

from headwise.errors import WordNotInPrompt

__all__ = [
    "INSTEAD", "Span", "characters", "content_words", "find", "folded", "pieces", "unknown_word",
    "word_spans", "words_of",
]  # fmt: skip

Span = tuple[int, int]
INSTEAD = "Token positions, such as (4, 5), can be given in place of a word."
# Thai, Lao, Tibetan, Burmese, Khmer, Japanese, Chinese.
_UNSPACED = (
    "\u0e00-\u109f\u1780-\u17ff\u19e0-\u19ff\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U000323af"
)
_UNSPACED_LETTER = re.compile(f"[{_UNSPACED}]")
_JOINING_LETTER = re.compile(rf"[^\W_{_UNSPACED}]")
# Articles, prepositions and conjunctions: they relate words, and are nowhere in an image.
_FUNCTION_WORDS = frozenset(
    "a an the and or but of in on at by to with without from for into onto over under near beside behind "
    "between above below through across around along inside outside against among during upon as".split()
)
_ALIKE = str.maketrans("’‘ʼ＇‐‑", "''''--")


def words_of(prompt: str) -> tuple[str, ...]:
    """The words of a prompt, without the punctuation around them."""
    return tuple(prompt[start:stop] for start, stop in word_spans(prompt))


def content_words(words: Iterable[str]) -> tuple[str, ...]:
    """The words that are not articles, prepositions or conjunctions of English, each once, in order."""
    once: dict[str, str] = {}
    for word in words:
        once.setdefault(folded(word).casefold(), word)
    return tuple(word for plain, word in once.items() if plain not in _FUNCTION_WORDS)


def word_spans(prompt: str) -> list[Span]:
    """The spans of the words of a prompt, which spaces separate; symbols next to them, such as emoji, too."""
    spans = []
    for start, stop in pieces(prompt):
        if re.match(r"\w", prompt[start]):
            spans.append((start, stop))
        else:
            symbols = [i for i in range(start, stop) if prompt[i] > "\x7f" and category(prompt[i])[0] == "S"]
            if symbols:
                spans.append((symbols[0], _with_marks(prompt, symbols[-1] + 1)))
    return spans


def pieces(prompt: str) -> list[Span]:
    """The spans of words and of the punctuation around them: "red, polka-dot" has three pieces."""
    spans = []
    for run in re.finditer(r"\S+", prompt):
        core = re.search(r"\w(.*\w)?", run[0])
        inner = (run.start() + core.start(), _with_marks(prompt, run.start() + core.end())) if core else ()
        spans += [(a, b) for a, b in pairwise((run.start(), *inner, run.end())) if a < b]
    return spans


def characters(prompt: str, span: Span) -> list[Span]:
    """A word split into single characters where it is written without spaces."""
    start, stop = span
    inside = range(start + 1, stop)
    ends = [i for i in inside if _UNSPACED_LETTER.search(prompt[i - 1 : i + 1]) and not _goes_on(prompt, i)]
    return list(pairwise((start, *ends, stop)))


def find(text: str, *spellings: str) -> list[Span]:
    """The spans of a word in a text, in order; where its spellings overlap, the longest."""
    plain, places = _folded(text)
    occurrences = sorted(
        (
            (places[a], places[b])
            for spelling in dict.fromkeys(map(folded, spellings))
            for a, b in _occurrences(plain, spelling)
        ),
        key=lambda span: (span[0], -span[1]),
    )
    spans: list[Span] = []
    for start, stop in occurrences:
        if not spans or start >= spans[-1][1]:
            spans.append((start, stop))
    return spans


def unknown_word(prompt: str, word: str) -> WordNotInPrompt:
    """The error for a word that is not in the prompt, suggesting the nearest one."""
    words = words_of(prompt)
    near = get_close_matches(word.casefold(), [w.casefold() for w in words], n=1)
    return WordNotInPrompt(
        f'{word!r} is not a word of "{prompt}".\n'
        f"Its words are: {', '.join(words)}. " + (f"Did you mean {near[0]!r}? " if near else "") + INSTEAD
    )


def folded(text: str) -> str:
    """A text in which equivalent spellings are equal, except for case."""
    return _folded(text)[0]


def _folded(text: str) -> tuple[str, list[int]]:
    """The folded text, and the original positions of its characters and its end."""
    plain, start = "", 0
    places: list[int] = []
    for stop in range(1, len(text) + 1):
        if stop == len(text) or not _composes(text[stop]):
            cluster = normalize("NFC", text[start:stop]).translate(_ALIKE)
            plain += cluster
            alike = len(cluster) == stop - start
            places += range(start, stop) if alike else [start] * len(cluster)
            start = stop
    return plain, [*places, len(text)]


def _occurrences(plain: str, spelling: str) -> list[Span]:
    pattern = re.compile(r"\s+".join(map(re.escape, spelling.split())), re.IGNORECASE)
    spans, at = [], 0
    while pattern.pattern and (match := pattern.search(plain, at)):
        whole = not _goes_on(plain, match.start()) and not _goes_on(plain, match.end())
        spans += [match.span()] * whole
        at = match.end() if whole else match.start() + 1
    return spans


def _goes_on(text: str, at: int) -> bool:
    """Whether a word continues across this position."""
    if not 0 < at < len(text):
        return False
    if _is_mark(text[at]):
        return True
    before = at - 1
    while before and _is_mark(text[before]):
        before -= 1
    return all(map(_JOINING_LETTER.match, (text[before], text[at])))  # type: ignore[arg-type]


def _with_marks(text: str, stop: int) -> int:
    while stop < len(text) and _is_mark(text[stop]):
        stop += 1
    return stop


def _is_mark(character: str) -> bool:
    return category(character)[0] == "M"


def _composes(character: str) -> bool:
    """Whether this character can combine with those before it."""
    return _is_mark(character) or "\u1160" <= character <= "\u11ff"
