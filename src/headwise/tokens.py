r"""Words of a prompt and the tokens that stand for them.

A prompt has words, a word has tokens: "a vase in lavender color" is `[start] a vase in la vender color
[end]`, so 'lavender' sits at positions (4, 5). Words are found as text, at word boundaries, whatever their
case, and carried over to tokens by the tokenizer's own character offsets; a phrase such as "coffee table" is
found in the same way.
"""

import re
from difflib import get_close_matches
from typing import Any

from headwise.errors import WordNotInPrompt, WordWithoutTokens

__all__ = ["token_positions", "tokens_of", "word_positions", "words_of"]


def words_of(prompt: str) -> tuple[str, ...]:
    """The words of a prompt, without the punctuation around them."""
    stripped = (re.sub(r"^\W+|\W+$", "", word) for word in prompt.split())
    return tuple(word for word in stripped if word)


def token_positions(tokenizer: Any, prompt: str, word: str, occurrence: int | None = None) -> tuple[int, ...]:
    """Where the tokens of a word stand in the tokenized prompt; the start token is position 0.

    Args:
        tokenizer: A tokenizer that knows its character offsets, as CLIP's.
        prompt: The prompt.
        word: A word or a phrase of it.
        occurrence: Which one, from 1; None for all of them.
    """
    spans = _spans(prompt, word)
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


def word_positions(tokenizer: Any, prompt: str) -> tuple[int, ...]:
    """Where the tokens of all words stand, punctuation with them: not start, end or padding."""
    offsets = tokenizer(prompt, truncation=True, return_offsets_mapping=True)["offset_mapping"]
    return tuple(i for i, (start, stop) in enumerate(offsets) if start < stop)


def tokens_of(tokenizer: Any, word: str) -> int:
    """How many tokens a word alone has, start and end not counted."""
    special = tokenizer.num_special_tokens_to_add()
    count = len(tokenizer(word, truncation=True)["input_ids"]) - special
    if count <= 0:
        raise WordWithoutTokens(
            f"{word!r} has no token: the tokenizer makes nothing of it, so nothing can attend to it. "
            "Use another word."
        )
    return count


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
