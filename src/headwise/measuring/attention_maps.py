r"""Attention maps: where in one image each head attends to each word.

With t(w) the tokens of word w, for head h at position x of its layer's grid,

    A[h, x, w] = mean over denoiser calls of Σ_{t ∈ t(w)} softmax(q kᵀ/√d)[h, x, t]

The remaining attention goes to start, end and padding tokens, and in joint attention to pixels. The full map
is not needed: attending to values that are 1 at a word's tokens and 0 elsewhere gives the word's column under
any mask of the layer. Inner hooks take effect: a strengthened word has a stronger map.

The attention of a concept's heads to a word within a region, relative to the average head, which has 1:

    region[c, w] = Σ_h R[c, h] A[h, region, w] / Σ_h A[h, region, w]

The map over all heads can be weighted for each word by the relevance of a concept; heads that work against
the concept are left out:

    map[x, w] = Σ_h W[w, h] A[h, x, w] / Σ_h W[w, h],   W[w, h] = max(0, R[c(w), h]), or 1 without a concept

References:
    | What the DAAM: Interpreting Stable Diffusion Using Cross Attention (Tang et al., 2022): equal weights
    | https://arxiv.org/abs/2210.04885
    | Selective Aggregation of Attention Maps (Park et al., 2026): the quarter of heads with the most votes
    | https://arxiv.org/abs/2604.05906
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from headwise.errors import HeadwiseError, HookMisuse
from headwise.measuring.relevance import Relevance
from headwise.model.heads import HeadMap
from headwise.model.hooks import Hook
from headwise.model.sites import Attend, DenoiserCall, Site
from headwise.model.tokens import Word, split_words

__all__ = ["AttentionMaps", "WordMaps", "region_relevance"]

Box = tuple[float | int, float | int, float | int, float | int]
FULL: Box = (0.0, 0.0, 1.0, 1.0)
_TINY = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, eq=False)
class WordMaps:
    """The maps of one image, averaged over the denoiser calls.

    Args:
        words: The words of the prompt, in order; a word that the denoiser does not read has maps of zeros.
        layers: The maps A of each layer of the head map, on the layer's own grid.
        head_map: The head map of the model.
        weights: The weight of each head in the map over all heads, 0 or more; equal weights if None.
    """

    words: tuple[Word, ...]
    layers: tuple[Float[np.ndarray, "_heads _height _width words"], ...]
    head_map: HeadMap
    weights: Float[np.ndarray, "words all_heads"] | None = None

    def of(self, head: int) -> Float[np.ndarray, "height width words"]:
        """The maps of one head, given by its index."""
        self.head_map.address(head)  # raises beyond the last head
        for maps, (start, stop) in zip(self.layers, self.head_map.slices, strict=True):
            if head < stop:
                return maps[head - start]
        raise AssertionError("the head map has this head")

    def together(
        self, weights: Float[np.ndarray, "words all_heads"] | None = None
    ) -> Float[np.ndarray, "height width words"]:
        """The weighted mean over all heads, on the finest grid of any layer.

        Args:
            weights: The weight of each head for each word, 0 or more; `self.weights` if None. A word for
                which all weights are 0 has a map of zeros.
        """
        weights = self.weights if weights is None else weights
        if weights is None:
            weights = np.ones((len(self.words), self.head_map.all_heads))
        shares = torch.from_numpy(weights / np.maximum(weights.sum(1, keepdims=True), _TINY)).float()
        height, width = max(maps.shape[1:3] for maps in self.layers)
        total = torch.zeros(len(self.words), height, width)
        for maps, (start, stop) in zip(self.layers, self.head_map.slices, strict=True):
            of_layer = torch.einsum("hyxw,wh->wyx", torch.from_numpy(maps), shares[:, start:stop])
            total += F.interpolate(of_layer[None], (height, width), mode="bilinear")[0]
        return total.permute(1, 2, 0).numpy()

    def within(self, box: Box = FULL) -> Float[np.ndarray, "all_heads words"]:
        """How much each head attends to each word within a region of the image.

        Args:
            box: Left, top, right and bottom as shares of the image, 0 … 1; positions partly inside the box
                count in proportion.
        """
        left, top, right, bottom = box
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise HeadwiseError(
                f"The box {box} was given; expected left < right and top < bottom, all from 0 to 1."
            )
        attention = []
        for maps in self.layers:
            rows, columns = _share(maps.shape[1], top, bottom), _share(maps.shape[2], left, right)
            attention.append(np.einsum("hyxw,y,x->hw", maps, rows, columns))
        return np.concatenate(attention)


def region_relevance(
    maps: WordMaps, relevance: Relevance, box: Box = FULL
) -> tuple[Float[np.ndarray, " concepts"], Float[np.ndarray, "concepts words"]]:
    """How much more than the average head a concept's heads attend to the prompt in a region of the image.

    Args:
        maps: The maps of the image.
        relevance: The relevance measured on a model with the same heads.
        box: The region, as in `WordMaps.within`.

    Returns:
        The ratio over all words together, and that of each word; 1 is the average head.
    """
    relevance.require(maps.head_map, "the image's model")
    attention = maps.within(box).astype(np.float64)  # A[h, region, w]
    of_heads, of_words = attention.sum(1), attention.sum(0)
    together = relevance.values @ of_heads / max(of_heads.sum(), _TINY)  # 0 without any attention
    return together, relevance.values @ attention / np.maximum(of_words, _TINY)


class AttentionMaps(Hook):
    """A hook that records the maps of one image of the batch.

        recorder = AttentionMaps()
        with hooked(pipe, recorder):
            pipe("a red car")
        recorder.take().of(37)

    With relevance, the maps of all heads together are weighted by it:

        AttentionMaps(by=relevance, concepts={"red": "Color"})

    Args:
        picture: The index of the image in the batch.
        by: The relevance measured on this model, by votes or by effect.
        concepts: The concept by whose relevance each word's map is weighted.

    Raises:
        HeadwiseError: One of `by` and `concepts` is given without the other.
        UnknownConcept: A concept was not measured.
    """

    once_per_step = True

    def __init__(
        self, picture: int = 0, by: Relevance | None = None, concepts: Mapping[str, str] | None = None
    ) -> None:
        if (by is None) != (not concepts):
            raise HeadwiseError(
                "Only one of `by` and `concepts` was given. Give both: the relevance, and for each word the "
                'concept that weights its map, such as concepts={"red": "Color"}.'
            )
        self.picture, self.by = picture, by
        self.weights = {word: np.maximum(0, by[c]) for word, c in (concepts or {}).items()} if by else {}
        self._forget()

    def prepare(self, call: DenoiserCall) -> None:
        """Find the words at the first call; all calls until `take` must be of one image and one model."""
        if not call.prompted:
            return
        if not self.calls:
            if self.picture >= len(call.prompts):
                raise HookMisuse(
                    f"Image {self.picture} cannot be recorded: the batch has {len(call.prompts)} prompts. "
                    "Call the pipeline with `prompt`, and count images from 0."
                )
            self.head_map, self.image = call.head_map, self._image(call)
            self._read(call)
            if self.by is not None:
                self.by.require(call.head_map)
        self.head_map.require(call.head_map, "The model that was recorded", "the pipeline")
        if self._image(call) != self.image:
            raise HookMisuse(
                f'The maps of "{self.image[0]}" were not taken, and those of "{self._image(call)[0]}" at '
                f"{call.grid[0]} × {call.grid[1]} latents cannot be added. Call `take` after each image."
            )
        self.calls += 1

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Record the map, and attend unchanged."""
        if site.call.prompted:
            with torch.no_grad():
                self._record(attend, site, query, key, value)
        return attend(query, key, value)

    def take(self) -> WordMaps:
        """Return the maps recorded since the last `take`, and reset."""
        if not self.calls or len(self.sums) != len(self.head_map):
            raise HookMisuse("No image was generated. Call the pipeline inside `hooked` first.")
        layers = tuple((self.sums[i] / self.counts[i]).cpu().numpy() for i in range(len(self.head_map)))
        weights = None
        if self.weights:
            equal = np.ones(self.head_map.all_heads)
            weights = np.stack([self.weights.get(word.text, equal) for word in self.words])
        maps = WordMaps(self.words, layers, self.head_map, weights)
        self._forget()
        return maps

    def _forget(self) -> None:
        self.calls, self.head_map, self.words = 0, HeadMap(()), tuple[Word, ...]()
        self.sums: dict[int, Tensor] = {}
        self.counts: dict[int, int] = {}

    def _image(self, call: DenoiserCall) -> tuple[str, int, tuple[int, int]]:
        return "".join(call.prompts[self.picture :][:1]), call.tokens, call.grid

    def _read(self, call: DenoiserCall) -> None:
        self.words = split_words(call.segments, call.prompts[self.picture], self.picture, call.tokens)
        self.is_of_word = torch.zeros(call.tokens, len(self.words))
        for w, word in enumerate(self.words):
            self.is_of_word[list(word.positions), w] = 1

    def _record(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> None:
        is_of_word = value.new_zeros(key.shape[-2], len(self.words))
        is_of_word[site.text] = self.is_of_word.to(is_of_word)
        columns = attend(query, key, is_of_word.expand(*value.shape[:2], -1, -1))
        maps = columns[site.conditional.start + self.picture].float()
        self.counts[site.layer] = self.counts.get(site.layer, 0) + 1
        self.sums[site.layer] = self.sums.get(site.layer, 0) + maps.unflatten(1, (site.height, site.width))


def _share(positions: int, start: float | int, stop: float | int) -> Float[np.ndarray, " positions"]:
    """The share of the interval from `start` to `stop` that falls on each position of an axis."""
    edges = np.arange(positions + 1) / positions
    covered = np.clip(np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start), 0, None)
    return covered / covered.sum()
