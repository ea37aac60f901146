r"""Attention maps: where in one picture each head listens to each word.

With t(w) the tokens of word w, for head h at position x of its layer's grid,

    A[h, x, w] = mean over denoiser calls of Σ_{t ∈ t(w)} softmax(q kᵀ/√d)[h, x, t]

What is missing to 1 goes to start, end and padding, and in joint attention to pixels. No map is made for it:
attending to values that are 1 at a word's tokens and 0 elsewhere gives a word's column, with whatever mask
the layer has. Hooks further in are seen at work: a word that is strengthened has a stronger map.

Within a region, a concept's heads attend more or less than the average head, which has 1:

    region[c, w] = Σ_h R[c, h] A[h, region, w] / Σ_h A[h, region, w]
"""

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
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class WordMaps:
    """The maps of one picture, averaged over the denoiser calls.

    Args:
        words: Of the prompt, in order; those that the denoiser does not read are attended to nowhere.
        layers: A of each layer of the head map, on the layer's own grid.
        head_map: Whose heads.
    """

    words: tuple[Word, ...]
    layers: tuple[Float[np.ndarray, "_heads _height _width words"], ...]
    head_map: HeadMap

    def of(self, head: int) -> Float[np.ndarray, "height width words"]:
        """The maps of one head by its index."""
        self.head_map.address(head)  # refuses a head that is not there
        for maps, (start, stop) in zip(self.layers, self.head_map.slices, strict=True):
            if head < stop:
                return maps[head - start]
        raise AssertionError("the head map knows this head")

    def together(self) -> Float[np.ndarray, "height width words"]:
        """The mean over all heads, at the finest grid of any layer."""
        height, width = max(maps.shape[1:3] for maps in self.layers)
        total = torch.zeros(len(self.words), height, width)
        for maps in self.layers:
            of_layer = torch.from_numpy(maps).sum(0).permute(2, 0, 1)
            total += F.interpolate(of_layer[None], (height, width), mode="bilinear")[0]
        return (total / self.head_map.all_heads).permute(1, 2, 0).numpy()

    def within(self, box: Box = WHOLE) -> Float[np.ndarray, "all_heads words"]:
        """How much each head attends to each word within a part of the picture.

        Args:
            box: Left, top, right and bottom as shares of the picture, 0 … 1; positions that lie in it in part
                count in part.
        """
        left, top, right, bottom = box
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            raise HeadwiseError(
                f"The box {box} was given; expected left < right and top < bottom, all from 0 to 1."
            )
        found = []
        for maps in self.layers:
            rows, columns = _share(maps.shape[1], top, bottom), _share(maps.shape[2], left, right)
            found.append(np.einsum("hyxw,y,x->hw", maps, rows, columns))
        return np.concatenate(found)


def region_relevance(
    maps: WordMaps, relevance: Relevance, box: Box = WHOLE
) -> tuple[Float[np.ndarray, " concepts"], Float[np.ndarray, "concepts words"]]:
    """How much more than the average head a concept's heads attend to the prompt in a part of the picture.

    Args:
        maps: Of the picture.
        relevance: Of a model with the same heads.
        box: As in `WordMaps.within`.

    Returns:
        To all words together, and to each; 1 is the average head.
    """
    if relevance.head_map is not None:
        relevance.head_map.require(maps.head_map, "The relevance", "the picture's model")
    heard = maps.within(box).astype(np.float64)
    in_all, each = heard.sum(1), heard.sum(0)
    tiny = np.finfo(np.float64).tiny  # a word that nobody attends to is pulled by nobody
    return relevance.values @ in_all / max(in_all.sum(), tiny), relevance.values @ heard / np.maximum(
        each, tiny
    )


class AttentionMaps(Hook):
    """A hook that keeps the maps of one picture of the batch.

        seen = AttentionMaps()
        with hooked(pipe, seen):
            pipe("a red car")
        seen.take().of(37)

    Args:
        picture: Which of the batch.
    """

    def __init__(self, picture: int = 0) -> None:
        self.picture = picture
        self._forget()

    def prepare(self, call: DenoiserCall) -> None:
        """Find the words at the first call."""
        self.head_map = call.head_map
        if not call.prompted:
            return
        if not self.calls:
            if self.picture >= len(call.prompts):
                raise HookMisuse(
                    f"Picture {self.picture} was to be looked at; the batch has {len(call.prompts)} prompts. "
                    "Call the pipeline with `prompt`, and count pictures from 0."
                )
            self._read(call)
        self.calls += 1

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Keep the map, and attend as ever."""
        if site.call.prompted:
            with torch.no_grad():
                self._look(attend, site, query, key, value)
        return attend(query, key, value)

    def take(self) -> WordMaps:
        """The maps of the picture since the last time; then forget it."""
        if not self.calls or len(self.sums) != len(self.head_map):
            raise HookMisuse("No whole picture was seen. Call the pipeline inside `hooked` first.")
        layers = tuple((self.sums[i] / self.looks[i]).cpu().numpy() for i in range(len(self.head_map)))
        found = WordMaps(self.words, layers, self.head_map)
        self._forget()
        return found

    def _forget(self) -> None:
        self.calls, self.head_map, self.words = 0, HeadMap(()), tuple[Word, ...]()
        self.sums: dict[int, Tensor] = {}
        self.looks: dict[int, int] = {}

    def _read(self, call: DenoiserCall) -> None:
        self.words = split_words(call.segments, call.prompts[self.picture])
        self.owned = torch.zeros(call.tokens, len(self.words))
        for w, word in enumerate(self.words):
            self.owned[[p for p in word.positions if p < call.tokens], w] = 1

    def _look(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> None:
        owned = value.new_zeros(key.shape[-2], len(self.words))
        owned[site.text] = self.owned.to(owned)
        seen = attend(query, key, owned.expand(*value.shape[:2], -1, -1))
        own = seen[site.conditional.start + self.picture].float()
        self.looks[site.layer] = self.looks.get(site.layer, 0) + 1
        self.sums[site.layer] = self.sums.get(site.layer, 0) + own.unflatten(1, (site.height, site.width))


def _share(positions: int, start: float | int, stop: float | int) -> Float[np.ndarray, " positions"]:
    """How much of each of so many positions lies between two shares of the whole; they sum to 1."""
    edges = np.arange(positions + 1) / positions
    covered = np.clip(np.minimum(edges[1:], stop) - np.maximum(edges[:-1], start), 0, None)
    return covered / covered.sum()
