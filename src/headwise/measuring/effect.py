r"""Effect: how much of what a word does to the denoiser's output passes through each head.

Votes say what a head looks for; effect says what it does. At one call of the denoiser let D(s) be its output
with the values of a word's tokens scaled by s[h] in head h (as `Steer` scales them), so that D(1) is the
output and D(0) that of a word nobody reads. With

    d    = D(1) − D(0)                                  all that the word does through attention at this call
    e[h] = ∫₀¹ ⟨∂D/∂s_h (α, …, α), d⟩ dα / ⟨d, d⟩        the share that passes through head h

the shares add up to 1 (completeness), and a head that works against the word has a share below 0. One
backward pass gives all heads; the integral is taken by Gauss-Legendre quadrature. Numerators and denominators
are summed over calls before they are divided.

References:
    | Axiomatic Attribution for Deep Networks (Sundararajan et al., 2017)
    | https://arxiv.org/abs/1703.01365
    | AtP*: An efficient and scalable method for localizing LLM behaviour to components (Kramár et al., 2024)
    | https://arxiv.org/abs/2403.00745
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from headwise.errors import HookMisuse, WordNotInPrompt
from headwise.model.hooks import Hook
from headwise.model.sites import Attend, DenoiserCall, Site

__all__ = ["Effect", "EffectProbe"]


class Effect(NamedTuple):
    """What the words of some images did, summed over the calls of the denoiser.

    Args:
        through: Σ ∫ ⟨∂D/∂s_h, d⟩ dα: what passes through each head.
        whole: Σ ⟨d, d⟩: all of it.
    """

    through: Float[np.ndarray, "images all_heads"]
    whole: Float[np.ndarray, " images"]

    @property
    def shares(self) -> Float[np.ndarray, " all_heads"]:
        """The share of each head in all images together, e[h]; zeros where the words did nothing."""
        whole = self.whole.sum()
        return self.through.sum(0) / whole if whole > 0 else np.zeros(self.through.shape[1])


class EffectProbe(Hook):
    """A hook that measures the effect of a word of each image; the images are not changed.

        probe = EffectProbe(["red", "snowy"])
        with hooked(pipe, probe):
            pipe(["a red car", "a snowy street"], num_inference_steps=4)
        shares = probe.take().shares

    Each call of the denoiser is made again 2 + 2 · `points` times, for the rows with the prompt alone.

    Args:
        words: The word or phrase of each image; one alone is that of every image. None for an image leaves it
            out.
        points: The number of points at which the integral is taken; Σ e[h] comes to 1 as they get more.
    """

    once_per_step = True

    def __init__(self, words: str | Sequence[str | None], points: int = 1) -> None:
        self.words = words if isinstance(words, str) else tuple(words)
        nodes, weights = np.polynomial.legendre.leggauss(points)
        self.path = [(float(1 + x) / 2, float(w) / 2) for x, w in zip(nodes, weights, strict=True)]
        self._sums: tuple[Tensor, Tensor] | None = None

    def finish(self, call: DenoiserCall) -> None:
        """Measure the effect at the call that has been made."""
        if not call.prompted:
            return
        if call.rerun is None:
            raise HookMisuse("The probe was called outside `hooked`. Enter the context first.")
        of_word = self._tokens(call).to(call.device)
        with torch.no_grad():
            muted = _Scaled(of_word, torch.zeros(len(of_word), 1, device=call.device))
            difference = _output(call.rerun(_Scaled(of_word, None))) - _output(call.rerun(muted))
        through = torch.zeros(len(of_word), call.head_map.all_heads)
        for alpha, weight in self.path:
            scale = torch.full(through.shape, alpha, device=call.device, requires_grad=True)
            with torch.enable_grad():
                agreement = (_output(call.rerun(_Scaled(of_word, scale))) * difference).sum()
                (gradient,) = torch.autograd.grad(agreement, scale)
            through += weight * gradient.cpu()
        whole = difference.flatten(1).square().sum(1).cpu()
        sums = (through.double(), whole.double())
        before = self._sums or tuple(map(torch.zeros_like, sums))
        if before[0].shape != sums[0].shape:
            raise HookMisuse(
                f"The probe measured {len(before[0])} images before, and now {len(sums[0])}. Take their "
                "effect first."
            )
        self._sums = (before[0] + sums[0], before[1] + sums[1])

    def take(self) -> Effect:
        """The effect since the last `take`; then forget it."""
        if self._sums is None:
            raise HookMisuse("The probe has measured nothing. Call the pipeline inside `hooked`.")
        (through, whole), self._sums = self._sums, None
        return Effect(through.numpy(), whole.numpy())

    def _tokens(self, call: DenoiserCall) -> Bool[Tensor, "images tokens"]:
        """Which tokens of each image's text are its word."""
        words = [self.words] * call.pictures if isinstance(self.words, str) else self.words
        if len(words) != call.pictures:
            raise HookMisuse(
                f"{len(words)} words were given for {call.pictures} images. Give one for each, "
                "or one for all."
            )
        of_word = torch.zeros(call.pictures, call.tokens, dtype=torch.bool)
        for image, word in enumerate(words):
            if word is not None:
                of_word[image, list(call.positions(image, word))] = True
        if not of_word.any():
            raise WordNotInPrompt("No image has a word whose effect is to be measured. Give one to measure.")
        return of_word


class _Scaled(Hook):
    """Scales the values of each image's word by the factor of each head; None leaves them as they are.

    Args:
        of_word: Which tokens of each image's text are its word.
        scale: The factor of each head, or one for all of them.
    """

    kinds = ("cross", "joint")

    def __init__(
        self, of_word: Bool[Tensor, "images tokens"], scale: Float[Tensor, "images all_heads_or_one"] | None
    ) -> None:
        self.of_word, self.scale = of_word, scale

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if self.scale is None:
            return attend(query, key, value)
        start, stop = site.call.head_map.slices[site.layer]
        scale = self.scale if self.scale.shape[1] == 1 else self.scale[:, start:stop]
        factors = torch.where(self.of_word[:, None], scale[..., None], 1.0).to(value.dtype)[..., None]
        if site.kind == "cross":
            return attend(query, key, value * factors)
        text = site.text
        before, after = value[..., : text.start, :], value[..., text.stop :, :]
        return attend(query, key, torch.cat([before, value[..., text, :] * factors, after], -2))


def _output(result: Any) -> Tensor:
    """What a denoiser returned, in float32 or wider: differences of half precision are rough."""
    output = result[0] if isinstance(result, tuple) else result.sample
    return output.to(torch.promote_types(output.dtype, torch.float32))
