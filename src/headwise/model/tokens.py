r"""Words of a prompt and the tokens that stand for them.

A prompt has words, a word has tokens: "a vase in lavender color" is `[start] a vase in la vender color
[end]`, so 'lavender' is at positions (4, 5). Words are found as text (words.py) in what an encoder reads,
which the pipeline may have cleaned, or taken from another argument (`prompt_2`), and mapped to tokens by the
tokenizer's own character offsets; a phrase such as "coffee table" is found in the same way. If several
encoders read a prompt and their tokens are one after the other, like CLIP's and T5's in Stable Diffusion 3, a
word is found in each. If they are side by side, like those of the two CLIPs of SDXL, each position holds a
token of both, so a word must be at the same positions in both.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, NamedTuple

from headwise.errors import HookMisuse, WordNotInPrompt
from headwise.model.words import INSTEAD, Span, find, folded, unknown_word, word_spans, words_of

__all__ = [
    "Reading", "TextSegment", "Word", "positions_in", "read", "readings", "split_words", "token_positions",
    "word_positions", "words_of",
]  # fmt: skip


class TextSegment(NamedTuple):
    """The tokens of one text encoder in the text that a denoiser reads.

    Args:
        tokenizer: The encoder's tokenizer; None if zeros replace an encoder that was left out.
        start: The position of the encoder's first token in the text of all encoders.
        clean: How the pipeline cleans a prompt before tokenizing it.
        before: The text that the pipeline then puts before the prompt.
        length: The number of tokens to which the pipeline truncates the text; the tokenizer's own if None.
        texts: What the encoder reads in place of the prompt of each image; empty if it reads the prompt.
        padding_first: Whether the text is padded in front, not at its end.
        after: The text that the pipeline then puts after the prompt.
        start_kept: Whether the encoder's first token is kept although those after it are cut off.
        multiple: The text is padded to a multiple of this many tokens; None if to its length.
        behind: The number of tokens after the padding, none of them of the prompt.
    """

    tokenizer: Any
    start: int = 0
    clean: Callable[[str], str] = str
    before: str = ""
    length: int | None = None
    texts: tuple[str, ...] = ()
    padding_first: bool = False
    after: str = ""
    start_kept: bool = False
    multiple: int | None = None
    behind: int = 0

    @property
    def stop(self) -> int:
        """The position after the encoder's last token, padding included."""
        return self.start + (self.length or self.tokenizer.model_max_length)


class Word(NamedTuple):
    """A word of a prompt, and its tokens.

    Args:
        text: The word as written in the prompt, without the punctuation around it.
        occurrence: The number of this occurrence among those of the same text in the prompt, from 1.
        pieces: The text of each of the word's tokens, by the first encoder that reads it.
        positions: The positions of the word's tokens in the text of all encoders; empty if cut off.
    """

    text: str
    occurrence: int
    pieces: tuple[str, ...]
    positions: tuple[int, ...]


class Reading(NamedTuple):
    """What one encoder reads of a prompt, token by token.

    Args:
        written: The prompt, or the text that was given to this encoder instead.
        text: What is tokenized: `written`, cleaned, with what the pipeline puts around it.
        skipped, end: Where the prompt begins in `text`, and where it ends.
        spans: The characters of `text` that each token stands for; none for start, end and padding.
        positions: The position of each token in the text of all encoders; None for those that are cut off.
        start, stop: The positions between which this encoder's tokens are, padding included.
        units: The characters of `written` that would be tokens, if cleaning changed it.
        clean: How the pipeline cleans a prompt before tokenizing it.
    """

    written: str
    text: str
    skipped: int
    end: int
    spans: tuple[Span, ...]
    positions: tuple[int | None, ...]
    start: int
    stop: int
    units: tuple[Span, ...]
    clean: Callable[[str], str]

    @property
    def words(self) -> tuple[int, ...]:
        """The positions of the tokens of all words and punctuation, without start, end and padding."""
        each = zip(self.spans, self.positions, strict=True)
        inside = [(p, max(a, self.skipped) < min(b, self.end)) for (a, b), p in each]
        return tuple(p for p, is_word in inside if is_word and p is not None)

    @property
    def cleaned(self) -> str:
        """The prompt, cleaned."""
        return self.text[self.skipped : self.end]

    @property
    def bounds(self) -> Span:
        """Where the words begin and where they end; where they would, if there are none."""
        if self.words:
            return min(self.words), max(self.words) + 1
        end = max((p for p in self.positions if p is not None), default=self.start)
        return end, end

    def within(self, span: Span) -> tuple[int | None, ...]:
        """The positions of the tokens of a span of `text`."""
        each = zip(self.spans, self.positions, strict=True)
        return tuple(p for (a, b), p in each if a < span[1] and b > span[0])

    def find(self, word: str) -> list[Span]:
        """The spans of a word of the prompt in `text`."""
        spans, cleaned = find(self.written, word), self.cleaned
        if cleaned != self.written:
            carried = [self._carried(span) for span in spans]
            known = [span for span in carried if span is not None]
            spans = known if len(known) == len(spans) else find(cleaned, word, self.clean(word))
        return [(a + self.skipped, b + self.skipped) for a, b in spans]

    def _carried(self, span: Span) -> Span | None:
        """A span of the prompt mapped to the cleaned one; None if cleaning changes more than single words.

        A learned word of several vectors is expanded to one word for each, all of which belong to it.
        """
        tokens = [unit for unit in self.units if unit[0] < span[1] and unit[1] > span[0]]
        start = min([span[0], *(a for a, _ in tokens)])
        stop = max([span[1], *(b for _, b in tokens)])
        before, through = self.clean(self.written[:start]), self.clean(self.written[:stop])
        written = through[len(before) :]
        if not written.strip() or not through.startswith(before) or not self.cleaned.startswith(through):
            return None
        return len(through) - len(written.lstrip()), len(through)

    def position_of(self, word: str, occurrence: int | None = None) -> tuple[int, ...]:
        """The positions of the tokens of one occurrence of a word, or of all that are not cut off."""
        spans = self.find(word)
        if not spans:
            cleaned_away = find(self.written, word)
            raise unknown_word(self.cleaned if cleaned_away else self.written, word)
        if occurrence is not None:
            if not 1 <= occurrence <= len(spans):
                times = "once" if len(spans) == 1 else f"{len(spans)} times"
                raise WordNotInPrompt(
                    f'{word!r} occurs {times} in "{self.written}"; occurrence {occurrence} was asked for. '
                    f"Ask for 1 to {len(spans)}."
                )
            spans = spans[occurrence - 1 : occurrence]
        positions = [self.within(span) for span in spans]
        if not any(positions):
            raise WordNotInPrompt(f'The tokenizer has no token for {word!r} in "{self.written}". {INSTEAD}')
        whole = {p for of_span in positions if None not in of_span for p in of_span if p is not None}
        if not whole:
            raise WordNotInPrompt(
                f"{word!r} is beyond the {self.stop - self.start} tokens that the text encoder reads of "
                f'"{self.written}". Move it forward or shorten the prompt.'
            )
        return tuple(sorted(whole))


def read(segment: TextSegment, prompt: str, picture: int = 0, tokens: int | None = None) -> Reading:
    """Tokenize a prompt as an encoder reads it.

    Args:
        segment: The encoder's tokens.
        prompt: The prompt.
        picture: The image's number in the batch, for encoders that read an argument of their own.
        tokens: The number of tokens that the denoiser reads; None for all.
    """
    tokenizer, length = segment.tokenizer, segment.stop - segment.start
    written = segment.texts[picture] if segment.texts else prompt
    cleaned = segment.clean(written)
    text = segment.before + cleaned + segment.after
    spans = kept = _offsets(tokenizer, text)
    if len(spans) > length:
        kept = _offsets(tokenizer, text, truncation=True, max_length=length)
    if segment.multiple is not None:  # of how many, depends on the longest prompt of the batch
        rounded = -(-len(kept) // segment.multiple) * segment.multiple
        length = rounded if tokens is None else tokens - segment.start
    shift = segment.start + (length - len(kept) if segment.padding_first else 0)
    first = max(0, segment.start) + segment.start_kept
    last = segment.stop if tokens is None else min(tokens, segment.stop)
    positions = tuple(
        i + shift if i < len(kept) and kept[i] == span and first <= i + shift < last else None
        for i, span in enumerate(spans)
    )
    units = () if cleaned == written else _offsets(tokenizer, written)
    start, skipped = max(0, segment.start), len(segment.before)
    end = skipped + len(cleaned)
    return Reading(written, text, skipped, end, spans, positions, start, last, units, segment.clean)


def positions_in(
    segments: Sequence[TextSegment],
    prompt: str,
    word: str | None,
    occurrence: int | None = None,
    *,
    picture: int = 0,
    tokens: int | None = None,
) -> tuple[int, ...]:
    """The positions of a word's tokens, or of those of all words if None, in the text of all segments.

    Args:
        segments: The encoders' tokens.
        prompt: The prompt.
        word: A word or a phrase of the prompt.
        occurrence: The number of the occurrence to find, from 1; None for all that are not cut off.
        picture, tokens: As in `read`.

    Raises:
        WordNotInPrompt: The word is not in the prompt, or was cut off.
        HookMisuse: The encoders' tokens cannot be told apart.
    """
    groups = readings(segments, prompt, picture, tokens)
    if word is None:
        return tuple(sorted({p for group in groups for reading in group for p in reading.words}))
    refused: WordNotInPrompt | None = None
    positions: list[int] = []
    for side_by_side in groups:
        of_readings = []
        for reading in side_by_side:
            try:
                of_readings.append(reading.position_of(word, occurrence))
            except WordNotInPrompt as error:  # one encoder may read further than another
                refused = refused or error
                of_readings.append(())
        if len(set(of_readings)) > 1:
            raise _disagreeing(word, side_by_side, of_readings)
        positions += of_readings[0]
    if refused and not positions:
        raise refused
    return tuple(positions)


def split_words(
    segments: Sequence[TextSegment], prompt: str, picture: int = 0, tokens: int | None = None
) -> tuple[Word, ...]:
    """Every word of a prompt, or of what encoders read in its place, in order, with its tokens."""
    every = [reading for group in readings(segments, prompt, picture, tokens) for reading in group]
    words: dict[tuple[str, int], Word] = {}
    for written in dict.fromkeys(reading.written for reading in every):
        for start, stop in word_spans(written):
            text = written[start:stop]
            occurrence = sum(a <= start for a, _ in find(written, text))
            key = (folded(text).casefold(), occurrence)
            words.setdefault(key, _word(every, text, occurrence))
    return tuple(words.values())


def token_positions(tokenizer: Any, prompt: str, word: str, occurrence: int | None = None) -> tuple[int, ...]:
    """The positions of the tokens of a word in the tokenized prompt; the start token is position 0."""
    return positions_in((TextSegment(tokenizer),), prompt, word, occurrence)


def word_positions(tokenizer: Any, prompt: str) -> tuple[int, ...]:
    """The positions of the tokens of all words and punctuation, without start, end and padding."""
    return positions_in((TextSegment(tokenizer),), prompt, None)


def readings(
    segments: Sequence[TextSegment], prompt: str, picture: int, tokens: int | None
) -> list[list[Reading]]:
    """What encoders read of a prompt, grouped by encoders whose tokens are side by side."""
    if not segments:
        raise HookMisuse(f"The pipeline has no tokenizer, so no word can be found in its text. {INSTEAD}")
    total = max(segment.stop + segment.behind for segment in segments)
    several = len({segment.start for segment in segments}) > 1
    if tokens is not None and (tokens > total or (several and tokens < total)):
        raise HookMisuse(
            f"The denoiser reads {tokens} tokens, of which the pipeline's tokenizers account for {total}, so "
            f"no word can be found among them. {INSTEAD}"
        )
    known = [segment for segment in segments if segment.tokenizer is not None]
    return [
        [read(segment, prompt, picture, tokens) for segment in group]
        for _, group in groupby(known, key=lambda segment: segment.start)
    ]


def _offsets(tokenizer: Any, text: str, **options: Any) -> tuple[Span, ...]:
    if not getattr(tokenizer, "is_fast", True):
        raise HookMisuse(
            f"{type(tokenizer).__name__} does not give the characters of its tokens, so no word can be "
            f"found among them. Use a fast tokenizer. {INSTEAD}"
        )
    return tuple(tokenizer(text, return_offsets_mapping=True, verbose=False, **options)["offset_mapping"])


def _word(readings: Sequence[Reading], text: str, occurrence: int) -> Word:
    """A word in all encoders that read it; its positions may differ where they are side by side."""
    positions: dict[int, None] = {}
    pieces: tuple[str, ...] = ()
    for reading in readings:
        spans = reading.find(text)[occurrence - 1 : occurrence]
        occurrences = [reading.within(span) for span in spans]
        if not occurrences or None in occurrences[0]:
            continue
        positions |= dict.fromkeys(p for p in occurrences[0] if p is not None)
        (start, stop) = spans[0]
        pieces = pieces or tuple(
            reading.text[max(a, start) : b] for a, b in reading.spans if a < stop and b > start
        )
    return Word(text, occurrence, pieces, tuple(sorted(positions)))


def _disagreeing(
    word: str, readings: Sequence[Reading], of_readings: Sequence[tuple[int, ...]]
) -> WordNotInPrompt:
    places = ", ".join(
        f'{positions or "nowhere"} in "{reading.written}"'
        for reading, positions in zip(readings, of_readings, strict=True)
    )
    return WordNotInPrompt(
        f"{word!r} has the token positions {places}, but the denoiser reads these texts side by side. Put it "
        f"at the same place in both. {INSTEAD}"
    )
