r"""Aligning two prompts: which tokens of the target correspond to which tokens of the source.

Words are matched in order, the longest run of equal words first (Ratcliff and Obershelp). Between two runs,
words are *replaced* one by one if both prompts have equally many there; otherwise the target's are *new*.
With M the "source target" matrix of an alignment, column t of the target's map is taken from the source as

    A'[:, t] = Σ_s A[:, s] M[s, t]

The row of a source token whose word stays, or is replaced, sums to 1: all its attention is passed on. If a
word of n tokens is replaced by one of m, each of the n gives 1/m to each of the m. Start maps to start, end
to end, and padding to padding. Scripts without spaces are matched character by character. The tokens of each
text encoder are aligned separately, at their own positions.

References:
    | Prompt-to-Prompt Image Editing with Cross Attention Control (Hertz et al., 2022)
    | https://arxiv.org/abs/2208.01626
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np
from jaxtyping import Bool, Float

from headwise.errors import PromptsNotAlike
from headwise.model.sites import DenoiserCall
from headwise.model.tokens import Reading, TextSegment, readings
from headwise.model.words import Span, characters, folded, pieces

__all__ = ["Alignment", "align", "align_images"]


@dataclass(frozen=True, eq=False)
class Alignment:
    """How the tokens of a target prompt correspond to those of a source prompt.

    Args:
        matrix: The matrix M; a column of zeros is a token that the source lacks, which keeps its own map.
        replaced: Whether each target token belongs to a word that replaces a source word.
        new: Whether each target token belongs to a word that replaces none.
    """

    matrix: Float[np.ndarray, "tokens tokens"]
    replaced: Bool[np.ndarray, " tokens"]
    new: Bool[np.ndarray, " tokens"]


def align(
    segments: Sequence[TextSegment],
    source: str,
    target: str,
    tokens: int | None = None,
    pictures: tuple[int, int] = (0, 0),
) -> Alignment:
    """Align two prompts, in each text encoder that reads them.

    Args:
        segments: The encoders' tokens.
        source, target: The prompts.
        tokens: The number of tokens of the text with padding; None for that of the longer prompt.
        pictures: The prompts' image numbers, for encoders that read another argument, such as `prompt_2`.

    Raises:
        PromptsNotAlike: They have no word in common, or encoders whose tokens are side by side read texts
            that align differently.
    """
    readings_of_both = [
        [reading for group in readings(segments, prompt, picture, tokens) for reading in group]
        for prompt, picture in zip((source, target), pictures, strict=True)
    ]
    size = tokens or max(reading.bounds[1] for side in readings_of_both for reading in side) + 1
    matrix = np.zeros((size, size))
    replaced, new = np.zeros(size, bool), np.zeros(size, bool)
    first_at: dict[int, Alignment] = {}
    for source_reading, target_reading in zip(*readings_of_both, strict=True):
        alignment = _align(source_reading, target_reading, size)
        first = first_at.setdefault(source_reading.start, alignment)
        if not np.array_equal(first.matrix, alignment.matrix):
            raise PromptsNotAlike(
                f'The second prompts given with "{source}" and "{target}" differ at other tokens than these, '
                "but the denoiser reads both side by side. Change the same words in both."
            )
        matrix += alignment.matrix if first is alignment else 0
        replaced, new = replaced | alignment.replaced, new | alignment.new
    return Alignment(matrix, replaced, new & ~replaced)


def align_images(call: DenoiserCall, source: int, target: int) -> Alignment:
    """Align the prompts of two images of a batch."""
    prompts = call.prompts[source], call.prompts[target]
    return align(call.segments, *prompts, call.tokens, (source, target))


def _align(source: Reading, target: Reading, size: int) -> Alignment:
    """Align what one encoder reads of two prompts; M is 0 at the positions of other encoders."""
    source_words, target_words = _Words(source), _Words(target)
    matrix = np.zeros((size, size))
    replaced, new = np.zeros(size, bool), np.zeros(size, bool)
    common = False
    for kind, source_range, target_range in _matched(source_words.words, target_words.words):
        spans = [target_words.spans[j] for j in target_range]
        common |= kind == "equal" and bool(source_range)
        if kind == "new":
            for span in spans:
                new[slice(*span)] = True
            continue
        for (a, b), (c, d) in zip((source_words.spans[i] for i in source_range), spans, strict=True):
            same = kind == "equal" and b - a == d - c
            matrix[a:b, c:d] = np.eye(b - a) if same else 1 / max(1, d - c)
            replaced[c:d] |= kind == "replaced"
    if not common and source_words.words and target_words.words:
        raise PromptsNotAlike(
            f'"{source.written}" and "{target.written}" have no word in common, so nothing of the source '
            "would be kept. Write the target by changing or adding words of the source."
        )
    _copy_outside(matrix, source, target)
    return Alignment(matrix, replaced, new)


class _Words:
    """The words of a prompt that the encoder reads, with the spans of their tokens."""

    def __init__(self, reading: Reading) -> None:
        self.words: list[str] = []
        self.spans: list[Span] = []
        prompt = reading.text[reading.skipped :]
        for start, stop in (part for piece in pieces(prompt) for part in characters(prompt, piece)):
            within = reading.within((start + reading.skipped, stop + reading.skipped))
            positions = [position for position in within if position is not None]
            if not positions:
                continue
            word, span = folded(prompt[start:stop]).casefold(), (positions[0], positions[-1] + 1)
            if self.spans and span[0] < self.spans[-1][1]:  # this piece shares a token with the previous one
                word, span = self.words.pop() + word, (self.spans.pop()[0], span[1])
            self.words.append(word)
            self.spans.append(span)


def _matched(source: list[str], target: list[str]) -> Iterator[tuple[str, range, range]]:
    """Runs of equal words, of replaced words (equally many in both prompts) and of new words."""
    for tag, a, b, c, d in SequenceMatcher(None, source, target, autojunk=False).get_opcodes():
        if tag == "equal":
            yield "equal", range(a, b), range(c, d)
        elif b - a == d - c:
            yield "replaced", range(a, b), range(c, d)
        else:
            yield "new", range(a, b), range(c, d)


def _copy_outside(matrix: np.ndarray, source: Reading, target: Reading) -> None:
    """Map start to start, end to end, and padding to padding, up to the shorter padding."""
    (source_first, source_end), (target_first, target_end) = source.bounds, target.bounds
    first, stop = max(0, source.start), min(source.stop, len(matrix))
    before = max(0, min(source_first, target_first) - first)
    matrix[first : first + before, first : first + before] = np.eye(before)
    behind = max(0, min(stop - source_end, stop - target_end))
    matrix[source_end : source_end + behind, target_end : target_end + behind] = np.eye(behind)
