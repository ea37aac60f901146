r"""Effect samples: the effect of a concept's word in each image, stored image by image.

    through[i, t, h]    ∫ ⟨∂D/∂s_h, d⟩ dα at denoiser call t of image i
    whole[i, t]         ⟨d, d⟩

The prompt of image i has a word of concept i mod C. Over the n measured calls of concept c's images,

    relevance[c, h] = H / n · Σ through[i, t, h] / whole[i, t]

(see effect.py). The average head has relevance 1, and a row sums to H up to the error of the integral: the
row's mean is the concept's *completeness*. Standard errors are by the jackknife over images; the split-half
correlation compares the relevance from two halves of the images.

Images are stored separately in single precision, and summed in double precision in the order of their
numbers. Joining is therefore exact, whichever machine measured which image, and no image is counted twice.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from headwise.errors import PictureCountedTwice, UnreadableFile, VotesMismatch
from headwise.files import deserialise, read_whole, serialise, write_whole
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.reliability import HALVINGS, rank_correlation
from headwise.model.heads import HeadMap
from headwise.runs.shards import Ranges, merge_ranges, ranges_of, subtract

__all__ = ["EffectSamples", "ratio", "shares_of"]

KIND = "effect"  # the file's kind, in its metadata


@dataclass(frozen=True, eq=False)
class EffectSamples:
    """The effect of one word in each of several images.

    Args:
        through: The part that passed through each head.
        whole: The word's whole effect.
        pictures: The numbers of the images, as (start, stop) ranges; the arrays are in their order.
        head_map: The heads.
        concepts: The concepts; image i has a word of concept i mod C.
        settings: How the images were generated, by name; samples with different settings are not joined.
    """

    through: Float[np.ndarray, "images calls all_heads"]
    whole: Float[np.ndarray, "images calls"]
    pictures: Ranges
    head_map: HeadMap
    concepts: ConceptSet
    settings: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def empty(
        cls, head_map: HeadMap, concepts: ConceptSet, settings: dict[str, Any] | None = None
    ) -> "EffectSamples":
        """Samples without images; joining them changes nothing."""
        through = np.zeros((0, 0, head_map.all_heads), np.float32)
        return cls(through, through[..., 0], (), head_map, concepts, settings or {})

    @classmethod
    def of_pictures(
        cls,
        through: Float[np.ndarray, "images calls all_heads"],
        whole: Float[np.ndarray, "images calls"],
        numbers: Sequence[int],
        nothing: "EffectSamples",
    ) -> "EffectSamples":
        """Samples of images, in the order of their numbers; all else is taken from `nothing`."""
        kept = through.astype(np.float32), whole.astype(np.float32)
        return cls(*kept, ranges_of(numbers), nothing.head_map, nothing.concepts, nothing.settings)

    def __len__(self) -> int:
        """The number of images."""
        return len(self.whole)

    @property
    def numbers(self) -> list[int]:
        """The numbers of the images, in order."""
        return [n for pair in self.pictures for n in range(*pair)]

    @property
    def foreground(self) -> tuple[str, ...]:
        """All concepts: effect needs no background concepts to compare with."""
        return self.concepts.names

    @property
    def relevance(self) -> Float[np.ndarray, "concepts all_heads"]:
        """H times the mean share of each head; zeros for a concept without images."""
        return np.stack([ratio(shares.sum(0), calls.sum()) for shares, calls in self._of_concepts()])

    @property
    def completeness(self) -> Float[np.ndarray, " concepts"]:
        """The share of the words' effect that all heads account for: 1 if the integral is exact."""
        return self.relevance.mean(1)

    @property
    def described(self) -> dict[str, Any]:
        """The settings, with the number of images and their ranges."""
        return self.settings | {"pictures": len(self), "counted": [list(pair) for pair in self.pictures]}

    @property
    def by_decile(self) -> Float[np.ndarray, "10 concepts all_heads_and_whole"]:
        """Σ shares per tenth of the calls, then the number of calls; call i of n is in tenth ⌊10 i / n⌋."""
        calls = self.whole.shape[1]
        both = np.concatenate([self._shares, (self.whole > 0)[..., None]], -1)
        sums = np.zeros((10, len(self.concepts), both.shape[-1]))
        tenths = 10 * np.arange(calls) // max(1, calls)
        for c in range(len(self.concepts)):
            np.add.at(sums[:, c], tenths, both[self._where(c)].sum(0))
        return sums

    @property
    def standard_errors(self) -> Float[np.ndarray, "concepts all_heads"]:
        """The jackknife standard error of each relevance; nan for a concept with fewer than two images."""
        errors = np.full((len(self.concepts), self.head_map.all_heads), np.nan)
        for c, (shares, calls) in enumerate(self._of_concepts()):
            n = len(calls)
            if n > 1:
                without = ratio(shares.sum(0) - shares, (calls.sum() - calls)[:, None])
                errors[c] = np.sqrt((n - 1) / n * np.square(without - without.mean(0)).sum(0))
        return errors

    @property
    def split_half(self) -> Float[np.ndarray, " concepts"]:
        """Mean Spearman correlation over heads between random halves of the images; nan for fewer than 2."""
        agreement = np.full(len(self.concepts), np.nan)
        for c, (shares, calls) in enumerate(self._of_concepts()):
            generator, n = np.random.Generator(np.random.Philox(0)), len(calls)
            if n < 2:
                continue
            first = np.zeros((HALVINGS, n), bool)
            for half in first:
                half[generator.permutation(n)[: n // 2]] = True
            a, b = (ratio(chosen @ shares, (chosen @ calls)[:, None]) for chosen in (first, ~first))
            agreement[c] = rank_correlation(a, b).mean()
        return agreement

    def __add__(self, other: "EffectSamples") -> "EffectSamples":
        self.head_map.require(other.head_map, "the first samples", "the second samples")
        if self.concepts != other.concepts or self.settings != other.settings:
            differing = [
                key
                for key in self.settings | other.settings
                if self.settings.get(key) != other.settings.get(key)
            ]
            raise VotesMismatch(
                f"These effects were measured with different {', '.join(differing) or 'concepts'}. "
                "Join samples of one run only."
            )
        merged = merge_ranges([*self.pictures, *other.pictures])
        if merged.overlap is not None:
            raise PictureCountedTwice(
                f"Both measured image {merged.overlap}. Join samples of different images: each counts once."
            )
        filled = [samples for samples in (self, other) if len(samples)]
        if len(filled) < 2:
            return filled[0] if filled else self
        order = np.argsort([*self.numbers, *other.numbers], kind="stable")
        through, whole = (
            np.concatenate([getattr(samples, name) for samples in filled])[order]
            for name in ("through", "whole")
        )
        return EffectSamples(through, whole, merged.ranges, self.head_map, self.concepts, self.settings)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EffectSamples):
            return NotImplemented
        arrays = ((self.through, other.through), (self.whole, other.whole))
        return self._metadata() == other._metadata() and all(np.array_equal(a, b) for a, b in arrays)

    __hash__ = None  # type: ignore[assignment]

    def first(self, count: int) -> "EffectSamples":
        """The samples of the first `count` images."""
        ranges = ranges_of(self.numbers[:count])
        return replace(self, through=self.through[:count], whole=self.whole[:count], pictures=ranges)

    def left(self, numbers: range) -> list[range]:
        """The ranges of these images that are not measured yet."""
        return subtract(numbers, self.pictures)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file atomically; equal samples give equal bytes."""
        write_whole(path, self.pack())

    @classmethod
    def load(cls, path: str | Path) -> "EffectSamples":
        """Read a file that `save` wrote."""
        return cls.unpack(read_whole(path, KIND), path)

    def pack(self) -> bytes:
        """The content of the file that `save` writes."""
        return serialise(KIND, {"through": self.through, "whole": self.whole}, self._metadata())

    @classmethod
    def unpack(cls, content: bytes, path: str | Path = "What a worker sent") -> "EffectSamples":
        """The inverse of `pack`; errors name the path as the origin of the content."""
        arrays, metadata = deserialise(content, KIND, ("through", "whole"), path)
        try:
            samples = cls(
                arrays["through"],
                arrays["whole"],
                tuple((int(start), int(stop)) for start, stop in metadata["pictures"]),
                HeadMap.from_json(json.dumps(metadata["head_map"])),
                ConceptSet.from_json(metadata["concepts"]),
                metadata["settings"],
            )
            shape = (len(samples.numbers), samples.whole.shape[1], samples.head_map.all_heads)
            if samples.through.shape != shape or samples.whole.shape != shape[:2]:
                raise ValueError(f"arrays of shape {samples.through.shape} where {shape} was expected")
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UnreadableFile(f"{path} holds no usable effects ({error!r}). Measure again.") from None
        return samples

    def _where(self, concept: int) -> np.ndarray:
        return np.array([n % len(self.concepts) == concept for n in self.numbers], bool)

    @property
    def _shares(self) -> Float[np.ndarray, "images calls all_heads"]:
        """Each head's share at each call, in double precision; zeros where nothing was measured."""
        return shares_of(self.through.astype(np.float64), self.whole.astype(np.float64))

    def _of_concepts(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each concept, by image: Σ shares over the calls, and the number of measured calls."""
        shares, calls = self._shares.sum(1), (self.whole > 0).sum(1)
        for concept in range(len(self.concepts)):
            chosen = self._where(concept)
            yield shares[chosen], calls[chosen]

    def _metadata(self) -> dict[str, Any]:
        return {
            "head_map": json.loads(self.head_map.to_json()),
            "concepts": self.concepts.to_json(),
            "pictures": [list(pair) for pair in self.pictures],
            "settings": self.settings,
        }


def ratio(shares: np.ndarray, calls: np.ndarray | np.integer | np.floating) -> np.ndarray:
    """Relevance H · Σ shares / calls, and zeros where no call was measured."""
    calls = np.broadcast_to(calls, shares.shape)
    return shares.shape[-1] * np.divide(shares, calls, out=np.zeros(shares.shape), where=calls > 0)


def shares_of(
    through: Float[np.ndarray, "*calls all_heads"], whole: Float[np.ndarray, "*calls"]
) -> Float[np.ndarray, "*calls all_heads"]:
    """The share of each head at each call; zeros where nothing was measured."""
    whole = np.broadcast_to(whole[..., None], through.shape)
    return np.divide(through, whole, out=np.zeros(through.shape), where=whole > 0)
