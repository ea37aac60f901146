r"""Words of a prompt and the tokens that stand for them.

A prompt has words, a word has tokens: "a vase in lavender color" is `[start] a vase in la vender color
[end]`, so 'lavender' sits at positions (4, 5). Words are found as text, at word boundaries, whatever their
case, and carried over to tokens by the tokenizer's own character offsets; a phrase such as "coffee table" is
found in the same way. Where several encoders read a prompt and their tokens stand one after the other, as
CLIP's and T5's in Stable Diffusion 3, a word is found in each.
"""

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any, NamedTuple

from headwise.errors import WordNotInPrompt

__all__ = [
    "TextSegment",
    "Word",
    "positions_in",
    "split_words",
    "token_positions",
    "word_positions",
    "words_of",
]


class TextSegment(NamedTuple):
    """One encoder's part in the text that a denoiser reads.

    Args:
        tokenizer: The encoder's.
        start: Where the first of its tokens stands.
        clean: What the pipeline makes of a prompt before it is tokenized.
        before: What the pipeline then writes before it.
    """

    tokenizer: Any
    start: int = 0
    clean: Callable[[str], str] = str
    before: str = ""


class Word(NamedTuple):
    """A word of a prompt, and what encoders make of it.

    Args:
        text: As it stands in the prompt, without the punctuation around it.
        occurrence: Which of the places where this text stands, from 1.
        pieces: The text of each of its tokens, by the first encoder.
        positions: Where its tokens stand in the text of all encoders; none beyond what they read.
    """

    text: str
    occurrence: int
    pieces: tuple[str, ...]
    positions: tuple[int, ...]


def split_words(readers: Sequence[TextSegment], prompt: str) -> tuple[Word, ...]:
    """Every word of a prompt, in order, with its tokens."""
    words = []
    for found in re.finditer(r"\S+", prompt):
        core = re.search(r"\w(.*\w)?", found[0])
        if core is None:
            continue
        start, text = found.start() + core.start(), core[0]
        occurrence = 1 + [a for a, _ in _spans(prompt, text)].index(start)
        try:
            positions = positions_in(readers, prompt, text, occurrence)
        except WordNotInPrompt:
            positions = ()
        pieces = _pieces(readers[0].tokenizer, prompt, (start, start + len(text))) if readers else ()
        words.append(Word(text, occurrence, pieces, positions))
    return tuple(words)


def positions_in(
    readers: Sequence[TextSegment], prompt: str, word: str | None, occurrence: int | None = None
) -> tuple[int, ...]:
    """Where a word's tokens, or those of all words if None, stand in the text of all readers."""
    found: list[int] = []
    refused: WordNotInPrompt | None = None
    for tokenizer, start, clean, before in readers:
        whole, skipped = before + clean(prompt), len(before)
        try:
            positions = (
                word_positions(tokenizer, whole, skipped)
                if word is None
                else token_positions(tokenizer, whole, word, occurrence, skipped)
            )
        except WordNotInPrompt as error:  # one encoder may read further than another
            refused = refused or error
        else:
            found += [start + position for position in positions]
    if refused and not found:
        raise refused
    return tuple(found)


def words_of(prompt: str) -> tuple[str, ...]:
    """The words of a prompt, without the punctuation around them."""
    stripped = (re.sub(r"^\W+|\W+$", "", word) for word in prompt.split())
    return tuple(word for word in stripped if word)


def token_positions(
    tokenizer: Any, prompt: str, word: str, occurrence: int | None = None, skipped: int = 0
) -> tuple[int, ...]:
    """Where the tokens of a word stand in the tokenized prompt; the start token is position 0.

    Args:
        tokenizer: A tokenizer that knows its character offsets, as CLIP's.
        prompt: The prompt.
        word: A word or a phrase of it.
        occurrence: Which one, from 1; None for all of them.
        skipped: So many characters at the start of the prompt are not searched.
    """
    spans = [(a + skipped, b + skipped) for a, b in _spans(prompt[skipped:], word)]
    if occurrence is not None:
        if not 1 <= occurrence <= len(spans):
            times = "once" if len(spans) == 1 else f"{len(spans)} times"
            raise WordNotInPrompt(
                f'{word!r} occurs {times} in "{prompt}"; occurrence {occurrence} was asked for. '
                f"Ask for 1 to {len(spans)}."
            )
        spans = spans[occurrence - 1 : occurrence]
    offsets = tokenizer(prompt, truncation=True, return_offsets_mapping=True)["offset_mapping"]
    found = [[i for i, (a, b) in enumerate(offsets) if a < stop and b > start] for start, stop in spans]
    if not all(found):
        raise WordNotInPrompt(
            f'{word!r} stands beyond the {len(offsets)} tokens that the text encoder reads of "{prompt}". '
            "Move it forward or shorten the prompt."
        )
    return tuple(sorted({position for positions in found for position in positions}))


def word_positions(tokenizer: Any, prompt: str, skipped: int = 0) -> tuple[int, ...]:
    """Where the tokens of all words stand, punctuation with them: not start, end or padding."""
    offsets = tokenizer(prompt, truncation=True, return_offsets_mapping=True)["offset_mapping"]
    return tuple(i for i, (start, stop) in enumerate(offsets) if max(start, skipped) < stop)


def _pieces(tokenizer: Any, prompt: str, span: tuple[int, int]) -> tuple[str, ...]:
    offsets = tokenizer(prompt, truncation=True, return_offsets_mapping=True)["offset_mapping"]
    return tuple(prompt[max(a, span[0]) : b] for a, b in offsets if a < span[1] and b > span[0])


def _spans(prompt: str, word: str) -> list[tuple[int, int]]:
    pattern = r"\s+".join(map(re.escape, word.split()))
    if pattern:
        # A boundary is asked for only where the word itself ends in a letter: "C++" ends where it ends.
        left = r"(?<!\w)" if re.match(r"\w", word.strip()) else ""
        right = r"(?!\w)" if re.search(r"\w$", word.strip()) else ""
        spans = [m.span() for m in re.finditer(left + pattern + right, prompt, flags=re.IGNORECASE)]
        if spans:
            return spans
    words = words_of(prompt)
    near = get_close_matches(word.casefold(), [w.casefold() for w in words], n=1)
    raise WordNotInPrompt(
        f'{word!r} is not a word of "{prompt}".\n'
        f"Its words are: {', '.join(words)}." + (f" Did you mean {near[0]!r}?" if near else "")
    )
