r"""Estimators of what each head does with a concept's words, as functions to compare (benchmark.py).

    def my_estimator(pipe, tuning, seed):
        …
        return values        one number for each head; the larger, the more the head carries the concept

With A a head's attention, V its values, W_O its columns of the layer's output projection and T the tokens of
a concept's word,

    mean attention   mean over pixels x of Σ_{t∈T} A[x, t]
    value norm       root mean square over pixels of ‖Σ_{t∈T} A[x, t] V[t] W_O‖: what the head writes for the
                     word
    word removed     root mean square over pixels of ‖(A V − A' V') W_O‖, A' and V' of the prompt without the
                     word
    effect           e[h] along one of several paths, or against a sibling word (measuring/effect.py)
    gates            the few heads that preserve what the word does (gates.py)
    votes            relevance (measuring/relevance.py)

and norms averaged over calls and images.

References:
    | Attention is not only a weight: analyzing transformers with vector norms (Kobayashi et al., 2020)
    | https://arxiv.org/abs/2004.10102
"""

from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwise.benchmarks.attribution.tuning import (
    Sampling,
    Tuning,
    batches_of,
    generate_with,
    tokens_of,
)
from headwise.errors import HookMisuse
from headwise.measuring.concepts import ConceptSet
from headwise.measuring.effect import Against, EffectProbe
from headwise.measuring.effect_samples import shares_of
from headwise.measuring.estimators import Named
from headwise.measuring.measure import measure
from headwise.measuring.word_prompts import replaced
from headwise.model.heads import HeadMap
from headwise.model.hooks import Hook
from headwise.model.sites import Attend, DenoiserCall, Site

__all__ = ["effect", "mean_attention", "random_values", "value_norm", "votes", "word_removed"]


def random_values(pipe: Any, tuning: Tuning, seed: int) -> Float[np.ndarray, " all_heads"]:
    """Uniform random numbers, different for each concept: the baseline that an estimator has to beat."""
    key = np.array([seed % 2**64, crc32(tuning.concept.encode())], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(HeadMap.of(pipe).all_heads)


def votes(
    pipe: Any,
    tuning: Tuning,
    seed: int,
    *,
    concepts: ConceptSet,
    estimator: Named = "lean",
    pictures: int = 32,
    batch_size: int = 10,
    height: int | None = None,
    width: int | None = None,
) -> Float[np.ndarray, " all_heads"]:
    """Relevance by votes, from images of the packaged prompts, as in `measure`, not of the tuning prompts.

    Args:
        pipe, tuning, seed: As in every estimator.
        concepts: The concepts that heads choose between, including that of the tuning.
        estimator: How many votes an image contributes.
        pictures: The number of images.
        batch_size: Images per pipeline call.
        height, width: Passed to the pipeline.
    """
    relevance = measure(
        pipe, concepts, beside=None, pictures=pictures, seed=seed, estimator=estimator, batch_size=batch_size,
        height=height, width=width, progress=False,
    )  # fmt: skip
    return relevance[tuning.concept]


def mean_attention(
    pipe: Any, tuning: Tuning, seed: int, *, sampling: Sampling = Sampling()
) -> Float[np.ndarray, " all_heads"]:
    """The attention of each head to the concept's word, the mean over pixels, calls and images."""

    def attention(attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(query, key, torch.ones_like(value[..., :1])).mean((-2, -1))

    return _of_word(pipe, tuning, seed, sampling, attention)


def value_norm(
    pipe: Any, tuning: Tuning, seed: int, *, sampling: Sampling = Sampling()
) -> Float[np.ndarray, " all_heads"]:
    """The norm of what each head writes for the concept's word, averaged over calls and images.

    Raises:
        HookMisuse: A layer has no output projection of its own, as in FLUX's single blocks.
    """

    def norm(attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return _written(site, attend(query, key, value))

    return _of_word(pipe, tuning, seed, sampling, norm)


def word_removed(
    pipe: Any, tuning: Tuning, seed: int, *, sampling: Sampling = Sampling()
) -> Float[np.ndarray, " all_heads"]:
    """The norm of the change in what each head writes if the word is left out, from the same latents.

    Raises:
        HookMisuse: As in `value_norm`.
    """
    means = _HeadMeans(pipe)

    def change(attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = attend(query, key, value)
        means.add(site, _written(site, output[0::2] - output[1::2]))
        return output

    class Compare(Hook):
        """Runs the denoiser once more, with the latents of the prompt with the word for both prompts."""

        def finish(self, call: DenoiserCall) -> None:
            if call.prompted and call.rerun is not None:
                with torch.no_grad():
                    call.rerun(change, latents_of=[image - image % 2 for image in range(call.pictures)])

    without = [replaced(*pair) for pair in zip(tuning.prompts, tuning.words, strict=True)]
    for numbers in batches_of(tuning, sampling, images=2):
        prompts = [text for i in numbers for text in (tuning.prompts[i], without[i])]
        generate_with(pipe, Compare(), prompts, [(seed, i) for i in numbers for _ in (0, 1)], sampling)
    return means.take()


def effect(
    pipe: Any,
    tuning: Tuning,
    seed: int,
    *,
    points: int = 1,
    path: tuple[float, float] = (0.0, 1.0),
    against: Against = "nothing",
    calls: int | None = None,
    pooled: bool = False,
    sampling: Sampling = Sampling(),
) -> Float[np.ndarray, " all_heads"]:
    """Each head's share of the effect of the concept's words, e[h], averaged over calls and images.

    Args:
        pipe, tuning, seed: As in every estimator.
        points, path, against: As in `EffectProbe`.
        calls: The number of calls to measure per image, chosen at random; None for all.
        pooled: Whether the mean is weighted by the words' total effect at each call, ⟨d, d⟩.
        sampling: How the images are generated.
    """
    siblings = tuning.siblings if against == "sibling" else ()
    through, whole = np.zeros(HeadMap.of(pipe).all_heads), 0.0
    for numbers in batches_of(tuning, sampling, images=2 if siblings else 1):
        texts, keys = [], []
        for i in numbers:
            texts += [(tuning.prompts[i], tuning.words[i]), *siblings[i : i + 1]]
            keys += [(seed, i)] * (2 if siblings else 1)
        probe = EffectProbe(
            [word for _, word in texts], points, against=against, path=path, calls=calls,
            phases=None if calls is None else [_phase(*key) for key in keys],
        )  # fmt: skip
        generate_with(pipe, probe, [prompt for prompt, _ in texts], keys, sampling)
        measured = probe.take()
        each = measured.through if pooled else shares_of(measured.through, measured.whole)
        through += each.sum((0, 1, 2))
        whole += measured.whole.sum() if pooled else np.count_nonzero(measured.whole)
    return through / whole if whole > 0 else through


def _phase(seed: int, number: int) -> float:
    """A random number that chooses an image's calls, from its key alone."""
    return np.random.Generator(np.random.Philox(key=[seed % 2**64, number])).random()


Measure = Callable[[Attend, Site, Tensor, Tensor, Tensor], Tensor]
"""From an attention to numbers "rows heads"; its values are zero except at the word's tokens."""


class _WordHook(Hook):
    """Adds up a measure of each image's word, and attends unchanged."""

    once_per_step = True

    def __init__(self, words: Sequence[str], measure: Measure, means: "_HeadMeans") -> None:
        self.words, self.measure, self.means = words, measure, means

    def prepare(self, call: DenoiserCall) -> None:
        """Find the words' tokens."""
        if call.prompted:
            self.of_word = tokens_of(call, self.words)

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Measure with only the values of the word."""
        if site.call.prompted:
            kept = torch.zeros(len(value), 1, value.shape[-2], 1, dtype=value.dtype, device=value.device)
            kept[:, 0, site.text, 0] = self.of_word[list(site.picture)].to(value.dtype)

            def of_word(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                return attend(q, k, v * kept)

            with torch.no_grad():
                measured = self.measure(of_word, site, query, key, value)
            self.means.add(site, measured[site.conditional])
        return attend(query, key, value)


class _HeadMeans:
    """The mean over rows of a number for each head."""

    def __init__(self, pipe: Any) -> None:
        self.slices = HeadMap.of(pipe).slices
        self.sums = np.zeros(self.slices[-1][1])
        self.rows = np.zeros(self.slices[-1][1])

    def add(self, site: Site, values: Float[Tensor, "rows heads"]) -> None:
        """Add the numbers of one layer."""
        start, stop = self.slices[site.layer]
        self.sums[start:stop] += values.double().sum(0).cpu().numpy()
        self.rows[start:stop] += len(values)

    def take(self) -> Float[np.ndarray, " all_heads"]:
        """The means."""
        return self.sums / np.maximum(self.rows, 1)


def _of_word(
    pipe: Any, tuning: Tuning, seed: int, sampling: Sampling, measure: Measure
) -> Float[np.ndarray, " all_heads"]:
    """The mean over calls and images of a measure of the word at each layer."""
    means = _HeadMeans(pipe)
    for numbers in batches_of(tuning, sampling):
        hook = _WordHook([tuning.words[i] for i in numbers], measure, means)
        prompts = [tuning.prompts[i] for i in numbers]
        generate_with(pipe, hook, prompts, [(seed, i) for i in numbers], sampling)
    return means.take()


def _written(site: Site, output: Float[Tensor, "rows heads pixels dim"]) -> Float[Tensor, "rows heads"]:
    """The root mean square over pixels of the norm of what each head adds to the layer's output."""
    projection = getattr(site.module, "to_out", None)
    if projection is None:
        raise HookMisuse(
            f"{site.address} has no output projection of its own, so what its heads write cannot be "
            "separated. Use mean attention, effect or gates for this model."
        )
    wide = torch.promote_types(output.dtype, torch.float32)
    weight = projection[0].weight.to(wide).unflatten(1, (site.heads, -1))
    products = torch.einsum("chd,che->hde", weight, weight)
    output = output.to(wide)
    return (
        torch.einsum("bhpd,hde,bhpe->bh", output, products, output).clamp_min(0).div(output.shape[2]).sqrt()
    )
