"""Words of a prompt → positions of their tokens, as ComfyUI reads prompts.

ComfyUI's own tokenizer is asked, so weights such as (word:1.2), escaped parentheses, embeddings and the 77
tokens that are read at a time are its affair: every chunk begins with a start token and is filled up with
padding, and the chunks stand one behind the other. A word is tokenized alone and then looked for among the
prompt's tokens; it is found where a word begins and ends, so "vender" is not found in "lavender".
"""

import re
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, NamedTuple

import torch

from headwise.errors import HookMisuse, WordNotInPrompt

__all__ = ["WordTokens", "find"]

_CLIP, _T5 = ("l", "g", "h"), "t5xxl"  # ComfyUI's names of encoders


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
        clip: ComfyUI's CLIP, with one encoder or several.
        text: The prompt with its weights and embeddings.
        word: A word, a phrase or an embedding of the prompt; None for all words, though not start, end and
            padding.
        occurrence: The number of the occurrence, from 1; None for all.

    Raises:
        WordNotInPrompt: The prompt does not have the word, or not as many occurrences.
        HookMisuse: No encoder of the CLIP is one of Stable Diffusion's or FLUX.1's.
    """
    encoders = clip.tokenize(text, return_word_ids=True)
    pattern = {} if word is None else clip.tokenize(word, return_word_ids=True)
    positions: set[int] = set()
    start = 0
    for names in _segments(clip, encoders):
        stop = start + min(sum(map(len, encoders[name])) for name in names)
        for name in names:
            tokens = _text_tokens(encoders[name])
            if word is None:
                here = {token.position for token in tokens}
            else:
                wanted = [token.token for token in _text_tokens(pattern[name])]
                here = _chosen(_matches(tokens, wanted, _pieces(clip, name)), text, word, occurrence)
            positions |= {start + position for position in here if start + position < stop}
        start = stop
    return WordTokens(tuple(sorted(positions)), start)


def _segments(clip: Any, encoders: dict[str, Any]) -> list[list[str]]:
    """Encoders by the stretches of text that the denoiser reads, one behind the other.

    CLIP's encoders of a model stand side by side in one stretch, cut to the shorter. FLUX.1 reads T5 alone;
    Stable Diffusion 3 reads T5 behind CLIP, and goes without what was not loaded.
    """
    of_clip = [name for name in encoders if name in _CLIP and _is_loaded(clip, f"clip_{name}")]
    of_t5 = [name for name in encoders if name == _T5 and _is_loaded(clip, name)]
    if of_t5 and set(encoders) == {"l", _T5}:
        of_clip = []
    segments = [names for names in (of_clip, of_t5) if names]
    if not segments:
        raise HookMisuse(
            f"The CLIP has the encoders {', '.join(encoders)}; expected {', '.join(_CLIP)} or {_T5}, which "
            "Stable Diffusion and FLUX.1 read. Give the CLIP of such a model."
        )
    return segments


def _is_loaded(clip: Any, part: str) -> bool:
    """ComfyUI leaves a part of Stable Diffusion 3's encoders None where no file has it."""
    return getattr(getattr(clip, "cond_stage_model", None), part, True) is not None


def _pieces(clip: Any, encoder: str) -> Callable[[Any], str]:
    """From a token of an encoder to its text, with the tokenizer's own mark of where words begin or end."""
    tokenizer = getattr(clip.tokenizer, encoder, clip.tokenizer)

    def piece(token: Any) -> str:
        """The text of one token."""
        return tokenizer.untokenize([(token, 1.0)])[0][1]

    return piece


def _text_tokens(chunks: list[list[tuple]]) -> list[_Token]:
    """The tokens that stand for text: start, end and padding belong to no word and have word id 0."""
    every = enumerate(triple for chunk in chunks for triple in chunk)
    return [_Token(position, token, group) for position, (token, _, group) in every if group]


def _matches(tokens: list[_Token], wanted: list[Any], piece: Callable[[Any], str]) -> list[set[int]]:
    """The positions of every run of tokens that equals the wanted ones and is not a part of a longer word."""
    matches = []
    for start in range(len(tokens) - len(wanted) + 1 if wanted else 0):
        stop = start + len(wanted)
        equal = all(_same(a.token, b) for a, b in zip(tokens[start:stop], wanted, strict=True))
        edges = (at for at in (start, stop) if 0 < at < len(tokens))
        if equal and all(_begins_word(tokens[at - 1], tokens[at], piece) for at in edges):
            matches.append({token.position for token in tokens[start:stop]})
    return matches


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and torch.equal(a, b)
    return a == b


def _begins_word(before: _Token, token: _Token, piece: Callable[[Any], str]) -> bool:
    """Does a word begin between two tokens? CLIP marks the last piece of each word, T5 the first."""
    if before.group != token.group or _is_vector(before) or _is_vector(token):
        return True
    last, first = piece(before.token), piece(token.token)
    return last.endswith("</w>") or first.startswith("▁") or not (last[-1].isalnum() and first[0].isalnum())


def _is_vector(token: _Token) -> bool:
    return isinstance(token.token, torch.Tensor)


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
