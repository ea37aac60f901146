r"""Two prompts, token by token: which tokens of the target stand for which tokens of the source.

Words are matched in order, the longest run of equal words first (Ratcliff and Obershelp). Between two runs,
as many source words as target words are *replaced* one by one; otherwise the target's words there are *new*.
With M the matrix "source target" of an alignment, map column t of the target is taken from the source as

    A'[:, t] = Σ_s A[:, s] M[s, t]

The row of a source token whose word stays, or is replaced, sums to 1: all its attention is passed on. Where a
word of n tokens is replaced by one of m, each of the n gives 1/m to each of the m. Start goes to start, end
to end, and padding to padding.

References:
    | Prompt-to-Prompt Image Editing with Cross Attention Control (Hertz et al., 2022)
    | https://arxiv.org/abs/2208.01626
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from headwise.errors import PromptsNotAlike

__all__ = ["Alignment", "align"]

Span = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Alignment:
    """How the tokens of a target prompt come from those of a source prompt.

    Args:
        matrix: The matrix M; a column of zeros is a token that the source does not have, which keeps its map.
        replaced: Whether each target token is of a word that replaces a source word.
        new: Whether each target token is of a word that replaces none.
    """

    matrix: Float[np.ndarray, "tokens tokens"]
    replaced: Bool[np.ndarray, " tokens"]
    new: Bool[np.ndarray, " tokens"]


def align(tokenizer: Any, source: str, target: str, tokens: int | None = None) -> Alignment:
    """Align two prompts.

    Args:
        tokenizer: A tokenizer that knows its character offsets, as CLIP's does.
        source, target: The prompts.
        tokens: The number of tokens of the text with padding; the tokenizer's own length if None.

    Raises:
        PromptsNotAlike: They have no word in common.
    """
    tokens = tokens or tokenizer.model_max_length
    of_source, of_target = _Words(tokenizer, source, tokens), _Words(tokenizer, target, tokens)
    matrix = np.zeros((tokens, tokens))
    replaced, new = np.zeros(tokens, bool), np.zeros(tokens, bool)
    common = False
    for kind, source_range, target_range in _matched(of_source.words, of_target.words):
        spans = [of_target.spans[j] for j in target_range]
        common |= kind == "equal" and bool(source_range)
        if kind == "new":
            for span in spans:
                new[slice(*span)] = True
            continue
        for (a, b), (c, d) in zip((of_source.spans[i] for i in source_range), spans, strict=True):
            same = kind == "equal" and b - a == d - c
            matrix[a:b, c:d] = np.eye(b - a) if same else 1 / max(1, d - c)
            replaced[c:d] |= kind == "replaced"
    if not common and of_source.words and of_target.words:
        raise PromptsNotAlike(
            f'"{source}" and "{target}" have no word in common, so nothing of the source would be kept. '
            "Write the target by changing or adding words of the source."
        )
    _copy_outside(matrix, of_source.end, of_target.end)
    return Alignment(matrix, replaced, new)


class _Words:
    """The words of a prompt with the spans of their tokens, and where the end token stands."""

    def __init__(self, tokenizer: Any, prompt: str, tokens: int) -> None:
        encoding = tokenizer(prompt, truncation=True, max_length=tokens, return_offsets_mapping=True)
        offsets = encoding["offset_mapping"]
        self.end = len(offsets) - 1
        self.words: list[str] = []
        self.spans: list[Span] = []
        for start, stop in _pieces(prompt):
            positions = [i for i, (a, b) in enumerate(offsets) if a < stop and b > start]
            if positions:
                self.words.append(prompt[start:stop].casefold())
                self.spans.append((positions[0], positions[-1] + 1))


def _pieces(prompt: str) -> Iterator[Span]:
    """Where words stand, and the punctuation around them: "red, polka-dot" has three pieces."""
    for run in re.finditer(r"\S+", prompt):
        core = re.search(r"\w(.*\w)?", run[0])
        edges = (0, *(core.span() if core else ()), len(run[0]))
        yield from (
            (run.start() + a, run.start() + b) for a, b in zip(edges, edges[1:], strict=False) if a < b
        )


def _matched(source: list[str], target: list[str]) -> Iterator[tuple[str, range, range]]:
    """Runs of equal words, of replaced words (as many as there were) and of new words."""
    for tag, a, b, c, d in SequenceMatcher(None, source, target, autojunk=False).get_opcodes():
        if tag == "equal":
            yield "equal", range(a, b), range(c, d)
        elif b - a == d - c:
            yield "replaced", range(a, b), range(c, d)
        else:
            yield "new", range(a, b), range(c, d)


def _copy_outside(matrix: np.ndarray, source_end: int, target_end: int) -> None:
    """Start to start; end to end, and padding to padding as far as it goes."""
    matrix[0, 0] = 1
    both = min(len(matrix) - source_end, len(matrix) - target_end)
    matrix[source_end : source_end + both, target_end : target_end + both] = np.eye(both)
