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

__all__ = ["WordTokens", "find"]


class WordTokens(NamedTuple):
    """Where the tokens of a word stand in the text that the model reads.

    Args:
        positions: The positions of the word's tokens among all tokens of the text.
        tokens: The number of all tokens: 77, or 154 for a long prompt …
    """

    positions: tuple[int, ...]
    tokens: int


class _Token(NamedTuple):
    position: int
    token: Any  # a number, or the vector of an embedding
    group: int  # ComfyUI's number of the piece of text that was tokenized in one go


def find(clip: Any, text: str, word: str | None, occurrence: int | None = None) -> WordTokens:
    """Find a word of a prompt.

    Args:
        clip: ComfyUI's CLIP, with one encoder or, for SDXL, two.
        text: The prompt with its weights and embeddings.
        word: A word, a phrase or an embedding of the prompt; None for all words, though not start, end and
            padding.
        occurrence: The number of the occurrence, from 1; None for all.

    Raises:
        WordNotInPrompt: The prompt does not have the word, or not as many occurrences.
    """
    encoders = clip.tokenize(text, return_word_ids=True)
    tokens = min(sum(map(len, chunks)) for chunks in encoders.values())  # SDXL cuts to the shorter of its two
    if word is None:
        positions = {token.position for chunks in encoders.values() for token in _text_tokens(chunks)}
    else:
        pattern = clip.tokenize(word, return_word_ids=True)
        positions = set()
        for encoder, chunks in encoders.items():
            wanted = [token.token for token in _text_tokens(pattern[encoder])]
            matches = _matches(_text_tokens(chunks), wanted, clip)
            positions |= _chosen(matches, text, word, occurrence)
    return WordTokens(tuple(sorted(position for position in positions if position < tokens)), tokens)


def _text_tokens(chunks: list[list[tuple]]) -> list[_Token]:
    """The tokens that stand for text: start, end and padding belong to no word and have word id 0."""
    every = enumerate(triple for chunk in chunks for triple in chunk)
    return [_Token(position, token, group) for position, (token, _, group) in every if group]


def _matches(tokens: list[_Token], wanted: list[Any], clip: Any) -> list[set[int]]:
    """The positions of every run of tokens that equals the wanted ones and begins where a word begins."""
    matches = []
    for start in range(len(tokens) - len(wanted) + 1 if wanted else 0):
        run = tokens[start : start + len(wanted)]
        equal = all(_same(token.token, other) for token, other in zip(run, wanted, strict=True))
        if equal and (start == 0 or _ends_word(tokens[start - 1], run[0], clip)):
            matches.append({token.position for token in run})
    return matches


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


def _chosen(matches: list[set[int]], text: str, word: str, occurrence: int | None) -> set[int]:
    if not matches:
        words = re.findall(r"[^\W\d_][\w'-]*", text)
        near = get_close_matches(word.casefold(), [w.casefold() for w in words], n=1)
        raise WordNotInPrompt(
            f'{word!r} is not a word of "{text}".\n'
            f"Its words are: {', '.join(words)}." + (f" Did you mean {near[0]!r}?" if near else "")
        )
    if occurrence is None:
        return set().union(*matches)
    if not 1 <= occurrence <= len(matches):
        times = "once" if len(matches) == 1 else f"{len(matches)} times"
        raise WordNotInPrompt(
            f'{word!r} occurs {times} in "{text}"; occurrence {occurrence} was asked for. '
            f"Ask for 1 to {len(matches)}, or 0 for all."
        )
    return matches[occurrence - 1]
