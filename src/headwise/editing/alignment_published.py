r"""Aligning two prompts as the published code of prompt-to-prompt does.

Its *replace* takes prompts with equally many words, split at spaces. A word that stays passes on its tokens'
maps one by one, a replaced word as in `alignment`; after the last replaced word, token t of the target gets
the map of token t of the source, which is another word's if the replaced words differ in their number of
tokens. Its *refine*, used here for all other prompts, matches single tokens by a longest common subsequence,
a token of the source with the first of equal ones; every other token of the target is new, and padding token
t gets the map of token t of the source, which may be a word. In both, padding is not aligned with the
source's own padding.

References:
    | Prompt-to-Prompt Image Editing with Cross Attention Control (Hertz et al., 2022)
    | https://arxiv.org/abs/2208.01626
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from headwise.editing.alignment import Alignment

__all__ = ["align_as_published"]


def align_as_published(tokenizer: Any, source: str, target: str, tokens: int) -> Alignment:
    """Align two prompts as the published code does.

    Args:
        tokenizer: CLIP's tokenizer.
        source, target: The prompts.
        tokens: The number of tokens of the text with padding.

    Returns:
        An alignment in which every token that is not new takes its column from the source, even one of zeros.
    """
    align = _replace if len(source.split()) == len(target.split()) else _refine
    return align(tokenizer, source, target, tokens)


def _replace(tokenizer: Any, source: str, target: str, tokens: int) -> Alignment:
    pairs = list(zip(source.split(), target.split(), strict=True))
    last = max((n for n, (a, b) in enumerate(pairs) if a != b), default=-1)
    widths = [[len(tokenizer(word).input_ids) - 2 for word in pair] for pair in pairs[: last + 1]]
    size = max(tokens, *(1 + sum(of_prompt) for of_prompt in zip(*widths, strict=True)), 1)
    matrix, replaced = np.zeros((size, size)), np.zeros(size, bool)
    matrix[0, 0] = s = t = 1
    for (a, b), (m, n) in zip(pairs, widths, strict=False):
        matrix[s : s + m, t : t + n] = np.eye(m) if m == n else 1 / n
        replaced[t : t + n] = a != b
        s, t = s + m, t + n
    same_place = range(t, t + tokens - max(s, t))
    matrix[same_place, same_place] = 1
    return Alignment(matrix[:tokens, :tokens], replaced[:tokens], np.zeros(tokens, bool))


def _refine(tokenizer: Any, source: str, target: str, tokens: int) -> Alignment:
    of_source, of_target = (
        tokenizer(prompt, truncation=True, max_length=tokens).input_ids for prompt in (source, target)
    )
    matrix = np.zeros((tokens, tokens))
    for s, t in _common_subsequence(of_source, of_target):
        matrix[s, t] = 1
    padding = range(len(of_target), tokens)
    matrix[padding, padding] = 1
    return Alignment(matrix, np.zeros(tokens, bool), matrix.sum(0) == 0)


def _common_subsequence(first: Sequence[int], second: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The positions in both of a longest common subsequence; ties go to the earliest in the second."""
    longest = np.zeros((len(first) + 1, len(second) + 1), int)
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            longest[i + 1, j + 1] = longest[i, j] + 1 if a == b else max(longest[i, j + 1], longest[i + 1, j])
    i, j = len(first), len(second)
    while i and j:
        if longest[i, j] == longest[i, j - 1]:
            j -= 1
        elif longest[i, j] == longest[i - 1, j]:
            i -= 1
        else:
            i, j = i - 1, j - 1
            yield i, j
