r"""Explain one image: through which heads each word of its prompt acts, and where.

"Which heads" is answered by the effect (effect.py) in this one image: at some calls of the denoiser, while
the image is generated, the share of head h in the whole effect of the word w,

    e[w, h] = mean over calls of ∫₀¹ ⟨∂D/∂s_{w,h} (α, …, α), d_w⟩ dα / ⟨d_w, d_w⟩,   d_w = D(1) − D(w muted)

"Where" is answered by the change in the denoiser's output at each position x when the word is muted in that
head alone,

    map[w, h, x] = mean over calls of Σ_channels |D(1) − D(w muted in h)| [x]

for the heads with the largest |e|, and for all heads together. Muting multiplies the word's values in the
head by 0, as `weaken(…, factor=0)` does at every step. The largest heads are known only after the last
measured call, so the maps of all measured calls are computed then, from the inputs kept for each call.

With n words, c measured calls and k maps for each word, the denoiser computes n c (2 + points) rows for the
shares, n c points of them with a gradient, and c (1 + n (k + 1)) for the maps. A plain image of 50 guided
steps takes 100 rows; with the defaults and three words it is 350, of which 30 have a backward pass.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from headwise.errors import HeadwiseError, HookMisuse, WordNotInPrompt
from headwise.measuring.effect import Effect, EffectProbe, ScaledWords, output_of
from headwise.measuring.effect_samples import shares_of
from headwise.measuring.explanation import Explanation
from headwise.model.attention import hooked
from headwise.model.generate import generate_keys
from headwise.model.heads import HeadMap
from headwise.model.hooks import Hook
from headwise.model.pipelines import model_name, quiet, watched
from headwise.model.sites import DenoiserCall
from headwise.model.text_encoders import text_segments
from headwise.model.tokens import positions_in, split_words
from headwise.model.words import content_words

__all__ = ["explain"]


def explain(
    pipe: Any,
    prompt: str,
    words: str | Sequence[str] | None = None,
    *,
    seed: int = 0,
    picture: int = 0,
    points: int = 1,
    calls: int = 10,
    maps_of: int = 4,
    batch_size: int = 8,
    progress: bool = True,
    **options: Any,
) -> Explanation:
    """Generate an image, and measure through which heads each word of its prompt acts, and where.

        explanation = hw.explain(pipe, "a red car in the snow", seed=3, num_inference_steps=50)
        explanation.image                     # the image of hw.generate(pipe, [prompt], 3, [0])
        explanation.top("red")                # heads with their addresses and shares

    Args:
        pipe: The user's pipeline; it is left unchanged.
        prompt: The prompt.
        words: The words or phrases to explain; None for all but articles, prepositions and conjunctions.
        seed, picture: The key of the image: with the same key, `generate` gives the same image.
        points: The number of quadrature points of the integral. With more of them the shares of a word sum
            more closely to 1 (`Explanation.completeness`), at the cost of one gradient each.
        calls: At how many calls of the denoiser effects are measured, evenly spaced.
        maps_of: How many heads of each word have a map: those with the largest absolute shares.
        batch_size: How many rows are computed at a time in addition to the image; bounds the memory.
        progress: Whether to show a bar on stderr.
        options: Passed to the pipeline: `num_inference_steps`, `guidance_scale`, `negative_prompt`,
            `height`, `width` … The image has the type that `output_type` requests.

    Raises:
        WordNotInPrompt: A word is not in the prompt, or beyond what the text encoder reads.
        HeadwiseError: An argument is out of range.
        HookMisuse: No gradient passes through this denoiser, a cache is active in it, or its guidance needs
            several rows with the prompt.
    """
    if maps_of < 0:
        raise HeadwiseError(f"maps_of={maps_of} was given; expected 0 or more heads.")
    chosen = _chosen(pipe, prompt, words, options)
    probe = EffectProbe([chosen], points, calls=calls, batch_size=batch_size)
    explaining = _Explaining(chosen, probe, maps_of)
    bar = tqdm(total=options.get("num_inference_steps"), unit="step", disable=not progress)
    with bar, watched(pipe, lambda: bar.update() and None), quiet(pipe), hooked(pipe, explaining):
        (image,) = generate_keys(pipe, [prompt], [(seed, picture)], **options)
    settings = {"model": model_name(pipe), "seed": seed, "picture": picture, "points": points}
    settings |= {name: value for name, value in options.items() if value is not None}
    return _explanation(explaining, image, prompt, HeadMap.of(pipe), settings)


def _explanation(
    explaining: "_Explaining", image: Any, prompt: str, head_map: HeadMap, settings: dict[str, Any]
) -> Explanation:
    """The explanation from what was measured while the image was generated."""
    effect, (heads, by_step) = explaining.effect, explaining.maps
    if effect is None:
        raise HookMisuse("The pipeline ended before the last call to be measured. Let it run all its steps.")
    through, whole = effect.through[0].swapaxes(0, 1), effect.whole[0].T
    strengths = np.sqrt(whole.sum(1))
    return Explanation(
        image=image,
        prompt=prompt,
        words=explaining.words,
        shares=effect.shares,
        by_step=shares_of(through, whole),
        steps=tuple(call.step for call in explaining.measured),
        strengths=strengths / max(strengths.max(), np.finfo(np.float64).tiny),
        heads=heads,
        maps=by_step[:, :-1].mean(2),
        word_maps=by_step[:, -1].mean(1),
        maps_by_step=by_step[:, :-1],
        word_maps_by_step=by_step[:, -1],
        head_map=head_map,
        settings=settings,
    )


class _Explaining(Hook):
    """Measures the effect of words in one image, and then where the heads with the largest shares act.

    Args:
        words: The words.
        probe: The probe that measures their effect.
        maps_of: How many heads of each word have a map.

    Attributes:
        measured: The denoiser calls at which the effect was measured.
        effect: The effect; None before the last of these calls.
        maps: The heads, and at each measured call their maps, followed by that of all heads together.
    """

    once_per_step = True

    def __init__(self, words: tuple[str, ...], probe: EffectProbe, maps_of: int) -> None:
        self.words, self.probe, self.maps_of = words, probe, maps_of
        self.measured: list[DenoiserCall] = []
        self.effect: Effect | None = None
        self.maps: tuple[np.ndarray, np.ndarray] = (np.zeros(0),) * 2

    def finish(self, call: DenoiserCall) -> None:
        """Measure the effect; after the last measured call, compute the maps of all measured calls."""
        steps = self.probe.steps_measured(call.steps)
        if not call.prompted or call.step not in steps:
            return
        self.probe.finish(call)
        self.measured.append(call)
        if call.step == steps[-1]:
            self.effect = self.probe.take()
            largest = np.argsort(-np.abs(self.effect.shares), 1, kind="stable")[:, : self.maps_of]
            self.maps = (largest, self._maps(largest))

    def _maps(
        self, heads: Int[np.ndarray, "words shown"]
    ) -> Float[np.ndarray, "words shown+1 calls height width"]:
        """The map of each of these heads, and of all heads together, at each measured call."""
        call, (words, shown) = self.measured[0], heads.shape
        of_word = torch.zeros(words, call.tokens, dtype=torch.bool)
        for w, word in enumerate(self.words):
            of_word[w, list(call.positions(0, word))] = True
        kept = torch.ones(words, shown + 1, call.head_map.all_heads)
        kept[:, shown] = 0
        kept[:, :shown].scatter_(2, torch.from_numpy(heads)[..., None], 0)
        rows = (of_word.repeat_interleave(shown + 1, 0), kept.flatten(0, 1))
        changes = torch.stack([self._changes(each, *rows) for each in self.measured], 1)
        return changes.unflatten(0, (words, shown + 1)).numpy()

    def _changes(
        self, call: DenoiserCall, of_word: Tensor, kept: Float[Tensor, "rows all_heads"]
    ) -> Float[Tensor, "rows height width"]:
        """Σ over channels of |D(1) − D(kept)| for each row's word and factors."""
        assert call.rerun is not None
        changes, size = [], self.probe.batch_size
        with torch.no_grad():
            plain = output_of(call.rerun(ScaledWords(*_on(call, of_word[:1], torch.ones_like(kept[:1])))))
            for tokens, factors in zip(of_word.split(size), kept.split(size), strict=True):
                muted = ScaledWords(*_on(call, tokens, factors))
                output = output_of(call.rerun(muted, images=[0] * len(tokens)))
                changes.append(_over_channels((output - plain).abs(), call.grid).double().cpu())
        return torch.cat(changes)


def _on(call: DenoiserCall, *tensors: Tensor) -> list[Tensor]:
    return [tensor.to(call.device) for tensor in tensors]


def _over_channels(output: Tensor, grid: tuple[int, int]) -> Float[Tensor, "rows height width"]:
    """The sum over channels; FLUX's output is a sequence of patches, each with all its channels."""
    return output.sum(1) if output.ndim == 4 else output.sum(-1).unflatten(1, grid)


def _chosen(
    pipe: Any, prompt: str, words: str | Sequence[str] | None, options: dict[str, Any]
) -> tuple[str, ...]:
    """The words to explain, after checking that the denoiser reads each of them."""
    segments = text_segments(pipe, options)
    if words is None:
        read = [word.text for word in split_words(segments, prompt) if word.positions]
        words = content_words(read) or tuple(read)
    chosen = (words,) if isinstance(words, str) else tuple(words)
    if not chosen:
        raise WordNotInPrompt(f'"{prompt}" has no word to explain. Give a prompt with words.')
    for word in chosen:
        positions_in(segments, prompt, word)  # raises before the image is generated if the word is missing
    return chosen
