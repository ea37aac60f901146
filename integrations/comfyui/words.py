"""Words of a prompt → positions of their tokens, as ComfyUI reads prompts.

ComfyUI's own tokenizer is asked, so weights such as (word:1.2), escaped parentheses, embeddings and the 77
tokens that are read at a time are its affair: every chunk begins with a start token and is filled up with
padding, and the chunks stand one behind the other. A word is tokenized alone and then looked for among the
prompt's tokens; it is found where a word begins, so "vender" is not found in "lavender".
"""

import re
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch

from headwise.errors import WordNotInPrompt

__all__ = ["Reading", "read"]


class Reading(NamedTuple):
    """Where a word stands.

    Args:
        positions: Of its tokens, among all that the model is given.
        tokens: How many that are: 77, or 154 for a long prompt …
    """

    positions: tuple[int, ...]
    tokens: int


class _Token(NamedTuple):
    position: int
    token: Any  # a number, or the vector of an embedding
    group: int  # ComfyUI's number of the stretch of text that was tokenized in one go


def read(clip: Any, text: str, word: str | None, occurrence: int | None = None) -> Reading:
    """Find a word of a prompt.

    Args:
        clip: ComfyUI's CLIP, with one encoder or, for SDXL, two.
        text: The prompt, weights and embeddings and all.
        word: A word, a phrase or an embedding of it; None for all words, though not start, end and padding.
        occurrence: Which of several, from 1; None for all.

    Raises:
        WordNotInPrompt: It is not there, or not so often.
    """
    encoders = clip.tokenize(text, return_word_ids=True)
    tokens = min(sum(map(len, chunks)) for chunks in encoders.values())  # SDXL cuts to the shorter of its two
    if word is None:
        found = {token.position for chunks in encoders.values() for token in _said(chunks)}
    else:
        sought = clip.tokenize(word, return_word_ids=True)
        found = set()
        for encoder, chunks in encoders.items():
            places = _places(_said(chunks), [token.token for token in _said(sought[encoder])], clip)
            found |= _chosen(places, text, word, occurrence)
    return Reading(tuple(sorted(position for position in found if position < tokens)), tokens)


def _said(chunks: list[list[tuple]]) -> list[_Token]:
    """The tokens that stand for text: start, end and padding belong to no word and have word id 0."""
    every = enumerate(triple for chunk in chunks for triple in chunk)
    return [_Token(position, token, group) for position, (token, _, group) in every if group]


def _places(said: list[_Token], sought: list[Any], clip: Any) -> list[set[int]]:
    """The positions of every stretch of tokens that are those sought, and where a word begins."""
    places = []
    for start in range(len(said) - len(sought) + 1 if sought else 0):
        stretch = said[start : start + len(sought)]
        alike = all(_same(token.token, other) for token, other in zip(stretch, sought, strict=True))
        if alike and (start == 0 or _ends_word(said[start - 1], stretch[0], clip)):
            places.append({token.position for token in stretch})
    return places


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and torch.equal(a, b)
    return a == b


def _ends_word(before: _Token, token: _Token, clip: Any) -> bool:
    """Does a new word begin after this token? CLIP marks the last piece of each word."""
    if before.group != token.group or isinstance(before.token, torch.Tensor):
        return True
    [(_, piece)] = clip.tokenizer.untokenize([(before.token, 1.0)])
    return piece.endswith("</w>")


def _chosen(places: list[set[int]], text: str, word: str, occurrence: int | None) -> set[int]:
    if not places:
        words = re.findall(r"[^\W\d_][\w'-]*", text)
        near = get_close_matches(word.casefold(), [w.casefold() for w in words], n=1)
        raise WordNotInPrompt(
            f'{word!r} is not a word of "{text}".\n'
            f"Its words are: {', '.join(words)}." + (f" Did you mean {near[0]!r}?" if near else "")
        )
    if occurrence is None:
        return set().union(*places)
    if not 1 <= occurrence <= len(places):
        times = "once" if len(places) == 1 else f"{len(places)} times"
        raise WordNotInPrompt(
            f'{word!r} occurs {times} in "{text}"; occurrence {occurrence} was asked for. '
            f"Ask for 1 to {len(places)}, or 0 for all."
        )
    return places[occurrence - 1]
