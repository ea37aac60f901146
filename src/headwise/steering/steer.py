r"""Steering: scale the attention of a concept's heads to one word.

For the tokens of a chosen word, head h's attention map is multiplied by a factor r[h]:

    A'[:, h, :, t] = r[h] · A[:, h, :, t]        for the word's tokens t, in rows that carry the prompt

without renormalising. Multiplying column t of a map is multiplying the *value* of token t in that head,
(A · diag r) · V = A · (diag r · V), so no map is computed and the fused kernel is kept. With s the strength
and R the relevance (1 for the average head),

    strengthen   r = 1 + s (R[concept] − 1)
    adjust       r = 1 + s (2 R[toward] − R[away] − 1)
    weaken       r = −2 at the chosen heads, 1 elsewhere

s = 0 changes nothing, bit for bit; s = 1 is the paper's; negative strengths steer away. `control` makes
the controls that claims about heads are to be compared with.

References:
    | Cross-Attention Head Position Patterns Can Align with Human Visual Concepts (Park et al., 2024)
    | https://arxiv.org/abs/2412.02237
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headwise.errors import BadStrength, HeadMapMismatch, HookMisuse, UnknownConcept
from headwise.measuring.relevance import HeadRank, Relevance
from headwise.model.heads import HeadMap
from headwise.model.hooks import Hook
from headwise.model.sites import Attend, DenoiserCall, Site

__all__ = ["Steer", "adjust", "clamped", "strengthen", "weaken"]

WordSpec = str | tuple[int, ...] | None  # a word, token positions, or none
Steps = tuple[float | int, float | int]  # start and end, as fractions of the denoiser calls
LARGEST = 100.0  # a larger factor would drown out every other token of any prompt


def strengthen(
    relevance: Relevance | str | Path, word: WordSpec | Sequence[WordSpec], concept: str,
    strength: float | int = 1.0, *, occurrence: int | None = None, clamp: float | int | None = None,
    steps: Steps = (0.0, 1.0), top: int | None = None,
) -> "Steer":  # fmt: skip
    """Raise the attention of a concept's heads to a word: r = 1 + s (R − 1).

    Args:
        relevance: The relevance measured on a model with the same heads, or the path of its file or run.
        word: A word or phrase of the prompt. A list has one entry for each prompt of the batch, None for
            prompts to leave alone. A tuple of numbers is token positions, for prompts passed as embeddings.
        concept: A concept of the relevance.
        strength: The strength s, −100 … 100; 0 changes nothing, 1 is the paper's.
        occurrence: Which occurrence of the word to steer, from 1; None for all.
        clamp: The upper limit of relevance; by default 9 for models with more than 500 heads, as in the paper
            for SDXL, where single heads reach 66, and none for smaller models. `math.inf` for no limit.
        steps: The start and end of the part of the denoiser calls to steer, as fractions 0 … 1.
        top: The number of heads to steer, those whose factor is farthest from 1; None for all heads.

    Raises:
        UnknownConcept: The concept was not measured, or its relevance is 0 at every head.
        BadStrength: strength, clamp, steps or top is out of range.
        WordNotInPrompt, HeadMapMismatch: When the pipeline runs, if the word is not in the prompt, or the
            relevance was measured on different heads.
    """
    relevance = Relevance.of(relevance)
    factors = 1 + _strength(strength) * (clamped(relevance, concept, clamp) - 1)
    return _steer_top(relevance, factors, top, word, occurrence, steps)


def adjust(
    relevance: Relevance | str | Path, word: WordSpec | Sequence[WordSpec], toward: str, away: str,
    strength: float | int = 1.0, *, occurrence: int | None = None, clamp: float | int | None = None,
    steps: Steps = (0.0, 1.0), top: int | None = None,
) -> "Steer":  # fmt: skip
    """Turn a misread word from one concept toward another: r = 1 + s (2 R[toward] − R[away] − 1).

    Args:
        relevance: As in `strengthen`.
        word: The misread word, as in `strengthen`.
        toward, away: The concept that is meant, and the one that is generated instead.
        strength, occurrence, clamp, steps, top: As in `strengthen`, as are the errors raised.
    """
    relevance = Relevance.of(relevance)
    between = 2 * clamped(relevance, toward, clamp) - clamped(relevance, away, clamp)
    factors = 1 + _strength(strength) * (between - 1)
    return _steer_top(relevance, factors, top, word, occurrence, steps)


def weaken(
    head_map: HeadMap,
    heads: Sequence[Any] | Bool[np.ndarray, "images all_heads"] | Int[np.ndarray, " some"],
    word: WordSpec | Sequence[WordSpec] = None,
    factor: float | int = -2.0,
    *,
    steps: Steps = (0.0, 1.0),
) -> "Steer":
    """Multiply the attention of some heads by a factor.

    Args:
        head_map: The head map of the pipeline.
        heads: Indices in the head map, or what `Relevance.top` returns; or a mask with a row for each image
            of the batch, so that one batch can hold the same image with more and more heads weakened.
        word: The word to attend to less, as in `strengthen`; None for all words of the prompt, but not for
            start, end and padding tokens.
        factor: The factor r of these heads, −100 … 100; the paper's is −2.
        steps: The start and end of the part of the denoiser calls in which heads are weakened, 0 … 1.
    """
    factors = np.where(_chosen(head_map, heads), _number("factor", factor), 1.0)
    return Steer(factors, word, every=word is None, steps=steps, head_map=head_map)


@dataclass(eq=False)
class Steer(Hook):
    """A hook that multiplies each head's attention to a word's tokens by the head's factor.

    Args:
        factors: The factor r of each head, with a row for each image of the batch or one row for all.
        word: The word to steer, as in `strengthen`.
        every: Whether all words of the prompt are steered, if `word` is None.
        occurrence, steps: As in `strengthen`.
        head_map: The heads of the factors; other pipelines are refused. None compares the number of heads.
    """

    factors: Float[np.ndarray, "images all_heads"]
    word: WordSpec | Sequence[WordSpec] = None
    every: bool = False
    occurrence: int | None = None
    steps: Steps = (0.0, 1.0)
    head_map: HeadMap | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.steps[0] < self.steps[1] <= 1:
            raise BadStrength(
                f"steps={self.steps} was given; expected a start below an end, both from 0 to 1, "
                "such as (0, 0.3) for the first three tenths of the steps."
            )
        self._prepared: Any = None
        self._scales: list[Tensor] = []

    def __repr__(self) -> str:
        low, high = np.min(self.factors), np.max(self.factors)
        return f"Steer({self.word!r}, {np.shape(self.factors)[-1]} heads × {low:.2f} to {high:.2f})"

    def control(self, kind: Literal["uniform", "random heads", "layer means"], seed: int = 0) -> "Steer":
        """A control: the same steering without the relevance of individual heads.

        Args:
            kind: "uniform" gives every head the same factor, the root mean square of all; "random heads"
                permutes the factors among all heads; "layer means" gives each head the mean of its layer.
            seed: The seed of the permutation.
        """
        return replace(self, factors=_CONTROLS[kind](self.factors, self.head_map, seed))

    @torch.inference_mode(False)  # kept for later calls, in whatever mode the first is made
    def prepare(self, call: DenoiserCall) -> None:
        """Find the words and lay out the factors of a call, unless they equal those of the previous call."""
        active = self._active(call)
        batch = (call.rows, call.pictures, call.conditional, call.tokens, call.device, call.dtype)
        state = (active, id(self.factors), call.prompts, batch, call.head_map, call.segments)
        if call.step and state == self._prepared:
            return
        self._require_heads(call)
        scale = torch.ones(call.rows, call.head_map.all_heads, call.tokens, dtype=torch.float64)
        if active and call.prompted:
            scale[call.conditional] = self.scale(call)[list(call.picture[call.conditional])]
        # rounded before it is moved, as Apple's GPUs do not support float64
        scale = scale.to(_exact(call.dtype)).to(call.device)[..., None]
        self._scales = [scale[:, start:stop] for start, stop in call.head_map.slices]
        self._prepared = state

    def scale(self, call: DenoiserCall) -> Float[Tensor, "images all_heads tokens"]:
        """The factor of every head on every token of every image."""
        of_word = torch.zeros(call.pictures, 1, call.tokens, dtype=torch.bool)
        for picture in range(call.pictures):
            of_word[picture, 0, list(self._positions(call, picture))] = True
        return torch.where(of_word, self._of_pictures(call.pictures)[..., None], 1.0)

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend to scaled values; in joint attention only those of the text are scaled."""
        if not site.call.prompted:
            return attend(query, key, value)
        scale = self._scales[site.layer].to(_exact(value.dtype))
        if site.kind != "joint":
            return attend(query, key, (value * scale).to(value.dtype))
        scaled = value.clone()
        scaled[..., site.text, :] = (value[..., site.text, :] * scale).to(value.dtype)
        return attend(query, key, scaled)

    def _active(self, call: DenoiserCall) -> bool:
        if self.steps == (0, 1):
            return True
        if not call.steps:
            raise HookMisuse(
                f"steps={self.steps} are fractions of the denoiser calls, whose number is unknown outside a "
                "pipeline call. Call the pipeline, or steer all steps."
            )
        return self.steps[0] <= call.step / call.steps < self.steps[1]

    def _positions(self, call: DenoiserCall, picture: int) -> tuple[int, ...]:
        """The token positions of an image's word; none if its prompt is to be left alone."""
        word = self._word(call, picture)
        if isinstance(word, tuple):
            return _within(word, call.tokens)
        if word is None and not self.every:
            return ()
        if not call.prompts:
            raise HookMisuse(
                "The pipeline was called without text, so no word can be found. Pass `prompt`, or give token "
                "positions, such as (4, 5), in place of the word."
            )
        return call.positions(picture, word, self.occurrence)

    def _word(self, call: DenoiserCall, picture: int) -> WordSpec:
        if self.word is None or isinstance(self.word, str | tuple):
            return self.word
        each = call.pictures // max(1, len(self.word))  # several images per prompt
        if each * len(self.word) != call.pictures:
            raise HookMisuse(
                f"{len(self.word)} words were given for {call.pictures} images. Give one word for each "
                "prompt of the batch, None for prompts to leave alone."
            )
        return self.word[picture // each]

    def _of_pictures(self, pictures: int) -> Float[Tensor, "images all_heads"]:
        factors = torch.tensor(np.atleast_2d(self.factors))
        if len(factors) not in (1, pictures):
            raise HookMisuse(
                f"There are factors for {len(factors)} images, but {pictures} images in the batch. "
                "Give one row of factors, or one for each image."
            )
        return factors.expand(pictures, -1)

    def _require_heads(self, call: DenoiserCall) -> None:
        if self.head_map is not None:
            self.head_map.require(call.head_map, "The relevance", "the pipeline")
        elif self.factors.shape[-1] != call.head_map.all_heads:
            raise HeadMapMismatch(
                f"There are factors for {self.factors.shape[-1]} heads; the pipeline has {call.head_map}. "
                "Use relevance that was measured on the same model architecture."
            )


def clamped(
    relevance: Relevance, concept: str, clamp: float | int | None = None
) -> Float[np.ndarray, " all_heads"]:
    """The relevance of a concept, at most the clamp; UnknownConcept if it is zero at every head."""
    values = relevance[concept]
    if not values.any():
        raise UnknownConcept(
            f"{concept!r} has a relevance of 0 at every head, so it cannot be used to steer. Measure more "
            "images."
        )
    limit = (9.0 if len(values) > 500 else math.inf) if clamp is None else clamp
    if not limit > 0:
        raise BadStrength(f"clamp={clamp} was given; expected a number above 0, or math.inf for no limit.")
    return np.minimum(values, limit)


def _chosen(head_map: HeadMap, heads: Any) -> Bool[np.ndarray, "images all_heads"]:
    """A mask of the heads that are given as a mask, as indices or as ranks."""
    listed = heads if np.ndim(heads) else [heads]
    mask = np.asarray([head.index if isinstance(head, HeadRank) else head for head in listed])
    if mask.size and mask.dtype.kind not in "biu":
        raise HeadMapMismatch(
            f"{heads!r:.80} was given; expected head indices, the result of `Relevance.top`, or a mask."
        )
    if mask.size and mask.dtype == bool:
        if mask.shape[-1] == head_map.all_heads:
            return np.atleast_2d(mask)
        raise HeadMapMismatch(f"A mask of {mask.shape[-1]} heads was given; there are {head_map.all_heads}.")
    if mask.size and not (0 <= mask.min() and mask.max() < head_map.all_heads):
        raise HeadMapMismatch(
            f"Heads {int(mask.min())} to {int(mask.max())} were given; "
            f"there are {head_map.all_heads} heads, 0 to {head_map.all_heads - 1}."
        )
    return np.isin(np.arange(head_map.all_heads), mask)[None]


def _strength(strength: float | int) -> float:
    return _number("strength", strength, " 0 changes nothing, 1 is usual.")


def _number(name: str, value: float | int, advice: str = "") -> float:
    if not abs(value) <= LARGEST:  # which refuses NaN too
        raise BadStrength(
            f"A {name} of {value} was given; expected a number from {-LARGEST:.0f} to {LARGEST:.0f}.{advice}"
        )
    return float(value)


def _steer_top(
    relevance: Relevance,
    factors: Float[np.ndarray, " all_heads"],
    top: int | None,
    word: WordSpec | Sequence[WordSpec],
    occurrence: int | None,
    steps: Steps,
) -> "Steer":
    """Steering by one factor per head, at the `top` heads alone."""
    return Steer(
        _only_top(factors, top), word, occurrence=occurrence, steps=steps, head_map=relevance.head_map
    )


def _only_top(factors: Float[np.ndarray, " all_heads"], top: int | None) -> Float[np.ndarray, "1 all_heads"]:
    if top is None:
        return factors[None]
    if top < 1:
        raise BadStrength(f"top={top} was given; expected 1 or more heads, or None for all.")
    kept = np.zeros(len(factors), bool)
    kept[np.argsort(-np.abs(factors - 1), kind="stable")[:top]] = True
    return np.where(kept, factors, 1.0)[None]


def _within(positions: tuple[int, ...], tokens: int) -> tuple[int, ...]:
    if positions and not (0 <= min(positions) and max(positions) < tokens):
        raise HookMisuse(
            f"Token positions {positions} were given, but there are {tokens} tokens, 0 to {tokens - 1}."
        )
    return positions


def _exact(dtype: torch.dtype) -> torch.dtype:
    """A type of at least float32, so that factors are not rounded to half precision."""
    return torch.promote_types(dtype, torch.float32)


def _uniform(factors: np.ndarray, head_map: HeadMap | None, seed: int) -> np.ndarray:
    return np.broadcast_to(np.sqrt((factors**2).mean(-1, keepdims=True)), factors.shape).copy()


def _random_heads(factors: np.ndarray, head_map: HeadMap | None, seed: int) -> np.ndarray:
    return factors[..., np.random.Generator(np.random.Philox(seed)).permutation(factors.shape[-1])]


def _layer_means(factors: np.ndarray, head_map: HeadMap | None, seed: int) -> np.ndarray:
    if head_map is None:
        raise HookMisuse("Layer means need a head map. Use relevance that was saved with one.")
    means = [factors[..., a:b].mean(-1, keepdims=True).repeat(b - a, -1) for a, b in head_map.slices]
    return np.concatenate(means, -1)


_CONTROLS = {"uniform": _uniform, "random heads": _random_heads, "layer means": _layer_means}
