r"""Effect: how much of a word's influence on the denoiser's output passes through each head.

Votes say what a head looks for; effect says what it does. At one call of the denoiser let D(s) be its output
with the values of a word's tokens scaled by s[h] in head h (as `Steer` scales them), so that D(1) is the
unchanged output and D(0) the output with the word muted. With

    d    = D(1) − D(0)                                  the word's whole effect through attention at this call
    e[h] = ∫₀¹ ⟨∂D/∂s_h (α, …, α), d⟩ dα / ⟨d, d⟩        the share that passes through head h

the shares add up to 1 (completeness), and a head that works against the word has a negative share. One
backward pass gives all heads; the integral is computed by Gauss-Legendre quadrature. Over several calls the
share is the plain mean: weighted by ⟨d, d⟩, the first call would dominate, since a word changes most while
the image is still undecided.

Against a *sibling*, another word in the word's place, head h attends to the text's keys and values

    k = k' + s[h] (k − k'),   v = v' + s[h] (v − v')     k', v' of the prompt with the sibling

so that d is the difference between the word and its sibling, and what they have in common cancels.

References:
    | Axiomatic Attribution for Deep Networks (Sundararajan et al., 2017)
    | https://arxiv.org/abs/1703.01365
    | AtP*: An efficient and scalable method for localizing LLM behaviour to components (Kramár et al., 2024)
    | https://arxiv.org/abs/2403.00745
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headwise.errors import HeadwiseError, HookMisuse, WordNotInPrompt
from headwise.measuring.effect_samples import shares_of
from headwise.model.hooks import Hook
from headwise.model.sites import Attend, DenoiserCall, Site

__all__ = ["Against", "Effect", "EffectProbe", "ScaledWords", "WordsOfImage", "output_of"]

Against = Literal["nothing", "sibling"]
WordsOfImage = str | Sequence[str] | None

_NORM = 64.0  # of the direction passed backward: neither underflows nor overflows in half precision


class Effect(NamedTuple):
    """The effect of each image's words at each call of the denoiser.

    Args:
        through: ∫ ⟨∂D/∂s_h, d⟩ dα: the part that passes through each head.
        whole: ⟨d, d⟩: the whole effect; 0 where an image has no such word or was not measured.
    """

    through: Float[np.ndarray, "images calls words all_heads"]
    whole: Float[np.ndarray, "images calls words"]

    @property
    def shares(self) -> Float[np.ndarray, "words all_heads"]:
        """The share of each head, averaged over images and calls; zeros where a word had no effect."""
        each = shares_of(self.through, self.whole)
        measured = (self.whole > 0).sum((0, 1))[:, None]
        return each.sum((0, 1)) / np.maximum(measured, 1)


class EffectProbe(Hook):
    """A hook that measures the effect of words in each image without changing the images.

        probe = EffectProbe(["red", "snowy"])
        with hooked(pipe, probe):
            pipe(["a red car", "a snowy street"], num_inference_steps=4)
        shares = probe.take().shares

    At each step the denoiser is run again with one row per word: once unchanged, once with the word muted,
    and `points` times with a gradient. Each word has its own difference d: with a common one, the heads of a
    weak word would be scored by what the other words change.

    Args:
        words: The word or phrase to measure in each image, or a list of them; None leaves the image out. A
            single string is the word of every image.
        points: The number of quadrature points of the integral; with more of them Σ e[h] approaches 1.
        against: "nothing" mutes the word; "sibling" replaces it by another word: images 0 and 1, 2 and 3 …
            then have prompts that differ in that word, and each is measured against the other. (Where a
            model masks the padding after a prompt, as PixArt and Sana do, choose words with equally many
            tokens.)
        path: The first and the last factor by which the values are scaled.
        window: The part of the calls that is measured, such as (0, 0.3) for the first three tenths.
        calls: The maximum number of calls of the window measured for each image, evenly spaced; None for all.
        phases: The window is divided into `calls` equal parts with one measured call in each; for each image,
            where in the part that call lies, from 0 (the first) to below 1. None takes the middle.
        batch_size: How many words are measured at a time; bounds the memory.
        checkpointing: Whether to recompute activations in the backward pass instead of storing them. None
            does so on accelerators only, where memory is scarce.

    Raises:
        HeadwiseError: An argument is out of range.
    """

    once_per_step = True

    def __init__(
        self,
        words: str | Sequence[WordsOfImage],
        points: int = 1,
        *,
        against: Against = "nothing",
        path: tuple[float | int, float | int] = (0.0, 1.0),
        window: tuple[float | int, float | int] = (0.0, 1.0),
        calls: int | None = None,
        phases: Sequence[float] | None = None,
        batch_size: int = 8,
        checkpointing: bool | None = None,
    ) -> None:
        if points < 1 or batch_size < 1 or (calls is not None and calls < 1):
            raise HeadwiseError(
                f"points={points}, batch_size={batch_size} and calls={calls} were given; expected 1 or more."
            )
        if not 0 <= window[0] < window[1] <= 1 or against not in ("nothing", "sibling"):
            raise HeadwiseError(
                f"window={window} and against={against!r} were given; expected shares of the calls, such as "
                "(0, 0.3), and 'nothing' or 'sibling'."
            )
        self.words = words if isinstance(words, str) else tuple(_listed(each) for each in words)
        nodes, weights = np.polynomial.legendre.leggauss(points)
        self.path, length = path, path[1] - path[0]
        self.nodes = [path[0] + length * float(1 + x) / 2 for x in nodes]
        self.weights = [length * float(w) / 2 for w in weights]
        self.against, self.window, self.calls, self.phases = against, window, calls, phases
        self.batch_size, self.checkpointing = batch_size, checkpointing
        self._measured: list[Tensor] = []

    def finish(self, call: DenoiserCall) -> None:
        """Measure the effect at the denoiser call that just finished."""
        if not call.prompted:
            return
        if call.rerun is None:
            raise HookMisuse("The probe was called outside `hooked`. Enter the context first.")
        of_word = self._tokens(call)
        of_word &= torch.tensor(self._due(call))[:, None, None]
        measured = torch.zeros(*of_word.shape[:2], call.head_map.all_heads + 1, dtype=torch.float64)
        of_word = of_word.to(call.device)
        words_due = of_word.any(-1).nonzero()
        for pairs in words_due.split(self.batch_size) if len(words_due) else ():
            images, words = pairs.T.cpu()
            measured[images, words] = self._measure(call, images, of_word[images, words])
        if self._measured and self._measured[0].shape != measured.shape:
            raise HookMisuse(
                f"The probe measured {len(self._measured[0])} images before and {len(measured)} now. "
                "Call `take` before the number of images changes."
            )
        self._measured.append(measured)

    def take(self) -> Effect:
        """Return the effect measured since the last `take`, and reset."""
        if not self._measured:
            raise HookMisuse("The probe has measured nothing. Call the pipeline inside `hooked`.")
        measured, self._measured = torch.stack(self._measured, 1).numpy(), []
        return Effect(measured[..., :-1], measured[..., -1])

    def steps_measured(self, steps: int, phase: float = 0.5) -> tuple[int, ...]:
        """The steps at which an image of this phase is measured, in a pipeline call of `steps` steps."""
        inside = [i for i in range(steps) if self.window[0] <= i / steps < self.window[1]]
        count = min(len(inside), self.calls or len(inside))
        return tuple(inside[int((n + phase) * len(inside) / count)] for n in range(count))

    def _due(self, call: DenoiserCall) -> list[bool]:
        """Which images are measured at this call."""
        if call.steps == 0:
            return [True] * call.pictures
        phases = [0.5] * call.pictures if self.phases is None else self.phases
        return [call.step in self.steps_measured(call.steps, phase) for phase in phases]

    def _measure(
        self, call: DenoiserCall, images: Int[Tensor, " words"], of_word: Bool[Tensor, "words tokens"]
    ) -> Float[Tensor, "words all_heads_and_whole"]:
        """∫ ⟨∂D/∂s_h, d⟩ dα of each head, and then ⟨d, d⟩, for some words of some images."""
        assert call.rerun is not None
        sibling = self.against == "sibling"
        rows = torch.stack([images, images ^ 1], 1).flatten() if sibling else images
        latents_of = images.repeat_interleave(2) if sibling else images
        options = {"images": rows.tolist(), "latents_of": latents_of.tolist()}

        def hook(scale: Tensor) -> Hook:
            return _Between(scale) if sibling else ScaledWords(of_word, scale)

        def output(result: Any) -> Tensor:
            return output_of(result)[:: 2 if sibling else 1]

        def factors(value: float | int) -> Tensor:
            return torch.full((len(images), call.head_map.all_heads), value, device=call.device)

        with torch.no_grad():
            first, last = (output(call.rerun(hook(factors(end)), **options)) for end in self.path)
        difference = last - first
        norm = difference.flatten(1).norm(dim=1)
        # The same norm for every word, so that half precision neither underflows nor overflows.
        scale = torch.where(norm > 0, _NORM / norm, 0.0)
        direction = difference * scale.view(-1, *[1] * (difference.ndim - 1))
        through = torch.zeros(len(images), call.head_map.all_heads, dtype=torch.float64)
        checkpointing = call.device.type != "cpu" if self.checkpointing is None else self.checkpointing
        for node, weight in zip(self.nodes, self.weights, strict=True):
            at = factors(node).requires_grad_()

            def gradient(result: Any, at: Tensor = at) -> Tensor:
                return torch.autograd.grad((output(result) * direction).sum(), at)[0]

            with torch.enable_grad():
                slope = call.rerun(hook(at), then=gradient, checkpointing=checkpointing, **options)
            through += weight * slope.double().cpu()
        lengths = norm.double().cpu()[:, None]
        return torch.cat([through * lengths / _NORM, lengths.square()], -1)

    def _tokens(self, call: DenoiserCall) -> Bool[Tensor, "images words tokens"]:
        """Which tokens of each image's text belong to each of its words."""
        words = [(self.words,)] * call.pictures if isinstance(self.words, str) else self.words
        if len(words) != call.pictures:
            raise HookMisuse(
                f"{len(words)} words were given for {call.pictures} images. Give one for each, "
                "or one for all."
            )
        if self.against == "sibling" and call.pictures % 2:
            raise HookMisuse(
                f"{call.pictures} images cannot be measured against siblings; expected pairs of images whose "
                "prompts differ in one word."
            )
        of_word = torch.zeros(call.pictures, max(1, *map(len, words)), call.tokens, dtype=torch.bool)
        for image, each in enumerate(words):
            for w, word in enumerate(each):
                of_word[image, w, list(call.positions(image, word))] = True
        if not of_word.any():
            raise WordNotInPrompt("No image was given a word to measure. Give a word for at least one image.")
        return of_word


class ScaledWords(Hook):
    """Scales the values of a word in each row by the factor of each head.

    Args:
        of_word: Which tokens of each row's text belong to its word.
        scale: The factor of each head.
    """

    def __init__(self, of_word: Bool[Tensor, "rows tokens"], scale: Float[Tensor, "rows all_heads"]) -> None:
        self.of_word, self.scale = of_word, scale

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend to scaled values."""
        start, stop = site.call.head_map.slices[site.layer]
        scale = self.scale[:, start:stop, None]
        factors = torch.where(self.of_word[:, None], scale, 1.0)[..., None]
        return attend(query, key, _in_text(site, value, lambda text: text * factors))


class _Between(Hook):
    """Interpolates the text that each head of an even row attends to, from the next row's to its own.

    Args:
        scale: 0 is the next row's text, 1 the row's own, for each head of the even rows.
    """

    def __init__(self, scale: Float[Tensor, "pairs all_heads"]) -> None:
        self.scale = torch.stack([scale, torch.ones_like(scale)], 1).flatten(0, 1)

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        start, stop = site.call.head_map.slices[site.layer]
        weight = self.scale[:, start:stop, None, None]

        def moved(text: Tensor) -> Tensor:
            other = text.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
            return torch.lerp(other, text, weight.to(text.dtype))

        return attend(query, _in_text(site, key, moved), _in_text(site, value, moved))


def _in_text(site: Site, keys: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Keys or values with `change` applied to those of the text, in float32 or wider."""
    text = keys[..., site.text, :]
    changed = change(text.to(torch.promote_types(text.dtype, torch.float32))).to(keys.dtype)
    before, after = keys[..., : site.text.start, :], keys[..., site.text.stop :, :]
    return torch.cat([before, changed, after], -2) if site.kind == "joint" else changed


def _listed(words: WordsOfImage) -> tuple[str, ...]:
    return (words,) if isinstance(words, str) else tuple(words or ())


def output_of(result: Any) -> Tensor:
    """A denoiser's output in float32 or wider, since differences in half precision are imprecise."""
    output = result[0] if isinstance(result, tuple) else result.sample
    return output.to(torch.promote_types(output.dtype, torch.float32))
