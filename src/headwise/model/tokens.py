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
    "TextSegment", "Word", "positions_in", "split_words", "token_positions", "word_positions", "words_of",
]  # fmt: skip


class TextSegment(NamedTuple):
    """The tokens of one text encoder in the text that a denoiser reads.

    Args:
        tokenizer: The encoder's tokenizer.
        start: The position of the encoder's first token in the text of all encoders.
        clean: What the pipeline does to a prompt before it is tokenized.
        before: The text that the pipeline then writes before the prompt.
    """

    tokenizer: Any
    start: int = 0
    clean: Callable[[str], str] = str
    before: str = ""


class Word(NamedTuple):
    """A word of a prompt, and what encoders make of it.

    Args:
        text: The word as it stands in the prompt, without the punctuation around it.
        occurrence: The number of this occurrence among those of the same text in the prompt, from 1.
        pieces: The text of each of the word's tokens, by the first encoder.
        positions: Where the word's tokens stand in the text of all encoders; none beyond what they read.
    """

    text: str
    occurrence: int
    pieces: tuple[str, ...]
    positions: tuple[int, ...]


def split_words(segments: Sequence[TextSegment], prompt: str) -> tuple[Word, ...]:
    """Every word of a prompt, in order, with its tokens."""
    words = []
    for run in re.finditer(r"\S+", prompt):
        core = re.search(r"\w(.*\w)?", run[0])
        if core is None:
            continue
        start, text = run.start() + core.start(), core[0]
        occurrence = 1 + [a for a, _ in _spans(prompt, text)].index(start)
        try:
            positions = positions_in(segments, prompt, text, occurrence)
        except WordNotInPrompt:
            positions = ()
        pieces = _pieces(segments[0].tokenizer, prompt, (start, start + len(text))) if segments else ()
        words.append(Word(text, occurrence, pieces, positions))
    return tuple(words)


def positions_in(
    segments: Sequence[TextSegment], prompt: str, word: str | None, occurrence: int | None = None
) -> tuple[int, ...]:
    """Where a word's tokens, or those of all words if None, stand in the text of all segments."""
    positions: list[int] = []
    refused: WordNotInPrompt | None = None
    for tokenizer, start, clean, before in segments:
        text, skipped = before + clean(prompt), len(before)
        try:
            of_segment = (
                word_positions(tokenizer, text, skipped)
                if word is None
                else token_positions(tokenizer, text, word, occurrence, skipped)
            )
        except WordNotInPrompt as error:  # one encoder may read further than another
            refused = refused or error
        else:
            positions += [start + position for position in of_segment]
    if refused and not positions:
        raise refused
    return tuple(positions)


def words_of(prompt: str) -> tuple[str, ...]:
    """The words of a prompt, without the punctuation around them."""
    stripped = (re.sub(r"^\W+|\W+$", "", word) for word in prompt.split())
    return tuple(word for word in stripped if word)


def token_positions(
    tokenizer: Any, prompt: str, word: str, occurrence: int | None = None, skipped: int = 0
) -> tuple[int, ...]:
    """Where the tokens of a word stand in the tokenized prompt; the start token is position 0.

    Args:
        tokenizer: A tokenizer that knows its character offsets, as CLIP's does.
        prompt: The prompt.
        word: A word or a phrase of the prompt.
        occurrence: The number of the occurrence to find, from 1; None for all of them.
        skipped: The number of characters at the start of the prompt that are not searched.
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
    tokens = [[i for i, (a, b) in enumerate(offsets) if a < stop and b > start] for start, stop in spans]
    if not all(tokens):
        raise WordNotInPrompt(
            f'{word!r} stands beyond the {len(offsets)} tokens that the text encoder reads of "{prompt}". '
            "Move it forward or shorten the prompt."
        )
    return tuple(sorted({token for of_span in tokens for token in of_span}))


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
