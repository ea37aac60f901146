r"""Attend-and-Excite: before a denoising step, move the latents until every subject receives attention.

With A[k] the map of subject k's token, after a softmax over the prompt's tokens (× 100) and smoothing,

    loss = max_k ( 1 − max over pixels of A[k] )        latents ← latents − α_t ∇ loss

in the first half of the steps; in a few of them the move is repeated until the loss is at most 1 minus a
threshold. The map is the mean over the heads of coarse layers or, weighted by relevance,

    A[k] = Σ_h max(R[c_k, h], 0) · resize(map_h) / H      over all heads, with c_k the subject's concept

In joint attention the softmax of the map is over the text's keys alone: it is how a pixel divides its
attention to the text, whatever it gives to other pixels, so that 100 means the same as in cross-attention.
If several encoders read the prompt, their tokens share one softmax, and a subject gets the sum over its
tokens, one of each encoder.

Maps are computed only at the layers that the loss reads; in joint attention, where they take gigabytes, they
are recomputed for the gradient instead of being kept. The denoiser stops after the last of these layers.

`as_published` restores what the published code does differently: its softmax is over all tokens but the
first and the last, including padding; its Gaussian has σ = √½ and reflects maps at their edges; it moves once
more after a threshold is reached; thresholds apply at calls 0, 10 and 20 and moves end before call 25,
regardless of the number of calls; a threshold after the last move is pursued as well; and the loss is
computed from latents that the scheduler has not scaled.

References:
    | Attend-and-Excite: Attention-Based Semantic Guidance for Text-to-Image Diffusion Models
    | (Chefer et al., 2023) https://arxiv.org/abs/2301.13826
    | Cross-Attention Head Position Patterns Can Align with Human Visual Concepts (Park et al., 2024)
    | https://arxiv.org/abs/2412.02237
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from headwise.editing.excitement import by_encoder, excitement_loss, map_size, weighted_maps
from headwise.editing.groups import is_coarse
from headwise.editing.support import require_cross_attention, require_support
from headwise.errors import BadStrength, HeadwiseError, HookMisuse
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.generate import Key, generate_keys
from headwise.model.heads import HeadMap
from headwise.model.hooks import Hook
from headwise.model.pipelines import quiet
from headwise.model.sites import Attend, DenoiserCall, Site
from headwise.steering.steer import clamped

__all__ = ["Excite", "excite"]

THRESHOLDS = {0.0: 0.05, 0.2: 0.5, 0.4: 0.8}
PUBLISHED_CALLS = 50  # the published code takes fractions of these, however many calls are made


class Excite(Hook):
    """A hook that moves the latents until every subject receives attention.

        with hooked(pipe, Excite([["dog", "beach"]])):
            pipe("a red dog on the beach")

    Args:
        words: The subjects of each image of the batch; one list for all images, or one for each.
        relevance: The relevance that weights the heads for each subject's concept; None for the mean over the
            heads of coarse layers.
        concepts: The concept of each subject, or one name for all; required with `relevance`.
        thresholds: By fraction of the denoiser calls, 0 … 1, the attention that the least attended subject
            must reach before that step is taken, 0 … 1; if all are zero, latents are left unchanged.
        until: The fraction of the denoiser calls in which latents are moved, 0 … 1.
        step_size: α of the first call; it falls to √½ α by the last.
        refinements: The largest number of moves to reach a threshold.
        as_published: Whether the loss and the moves are those of the published code. The fractions in
            `thresholds` and `until` are then of 50 calls, however many are made.
    """

    once_per_step = True

    def __init__(
        self,
        words: Sequence[Sequence[str]],
        *,
        relevance: Relevance | None = None,
        concepts: Mapping[str, str] | str | None = None,
        thresholds: Mapping[float | int, float | int] = THRESHOLDS,  # type: ignore[assignment]
        until: float | int = 0.5,
        step_size: float | int = 20.0,
        refinements: int = 20,
        as_published: bool = False,
    ) -> None:
        if (relevance is None) != (concepts is None):
            raise HookMisuse("Relevance and the subjects' concepts go together. Give both, or neither.")
        if any(not subjects for subjects in words) or not words:
            raise HeadwiseError("No subject was given to excite. Give one or more words of each prompt.")
        fractions = np.array([*thresholds, *thresholds.values(), until], float)
        if not ((fractions >= 0) & (fractions <= 1)).all():
            raise BadStrength(f"thresholds={dict(thresholds)}, until={until} were given; expected 0 to 1.")
        self.words, self.relevance, self.concepts = [tuple(w) for w in words], relevance, concepts
        self.thresholds, self.until = dict(thresholds), until
        self.step_size, self.refinements, self.as_published = step_size, refinements, as_published
        self.call: DenoiserCall | None = None
        self._state: Any = None
        self._maps: dict[int, Tensor] | None = None  # only while `loss` computes them

    def before_first_step(self, latents: Tensor, call: DenoiserCall) -> Tensor:
        """Move the latents that the first denoiser call starts from."""
        self._state = None
        self.prepare(call)
        return self._moved(latents, 0, call)

    def prepare(self, call: DenoiserCall) -> None:
        """Find the subjects' tokens and the layers to read, unless they equal those of the previous call."""
        if not call.prompted:
            return
        state = (call.prompts, call.tokens, call.grid, call.head_map, call.segments)
        if state != self._state:
            self._read(call)
        self.call, self._state = call, state

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Compute the map if `loss` needs it, and attend unchanged."""
        if self._maps is not None and (self.relevance is not None or is_coarse(site)):
            rows, size = site.conditional, (site.height, site.width)
            start, stop = site.call.head_map.slices[site.layer]
            mask = site.mask_of_rows(rows)
            mask = mask if mask is None or mask.shape[-1] == 1 else mask[..., site.text]
            weights = self._weights[:, :, start:stop].to(query)
            goal = map_size(site.call.grid) if self.relevance is not None else size
            arguments = (query[rows], key[rows][..., site.text, :], weights, size, goal, mask)
            # recomputed in the backward pass, which takes no longer and keeps fewer maps
            self._maps[site.layer] = checkpoint(weighted_maps, *arguments, use_reentrant=False)
            if site.layer == self._last:
                raise _Enough
        return attend(query, key, value)

    def after_step(self, latents: Tensor, call: DenoiserCall) -> Tensor:
        """Move the latents that the next denoiser call starts from, if there is one."""
        step = call.step + 1
        return self._moved(latents, step, call) if step < call.steps else latents

    def loss(self, latents: Float[Tensor, "images ..."], timestep: Tensor) -> Float[Tensor, " images"]:
        """The loss of each image, 0 … 1, differentiable in the latents.

        Args:
            latents: The latents as the denoiser reads them, scaled by the scheduler.
            timestep: The scheduler's timestep.
        """
        call = self.call
        assert call is not None and call.rerun is not None
        self._maps = {}
        try:
            call.rerun(self, latents, timestep)
        except _Enough:
            pass
        finally:
            maps, self._maps = self._maps, None
        if not maps:
            raise HookMisuse("No layer is coarse enough for the loss. Give relevance and concepts.")
        self._last = max(maps)
        total = torch.stack(list(maps.values())).sum(0)
        if self.relevance is None:  # the mean over heads and layers
            total = total / sum(call.head_map.layers[i].heads for i in maps)
        return excitement_loss(total, self._subjects, self._words, self.as_published)

    def _moved(self, latents: Tensor, step: int, call: DenoiserCall) -> Tensor:
        """The latents to start denoiser call `step` of the pipeline call from."""
        calls = PUBLISHED_CALLS if self.as_published else call.steps
        due = [v for start, v in self.thresholds.items() if step / calls <= start < (step + 1) / calls]
        moves = step / calls < self.until
        if not any(self.thresholds.values()) or not (moves or (due and self.as_published)):
            return latents
        timestep = call.scheduler.timesteps[step - call.steps]  # skipped timesteps come first
        alpha = self.step_size * math.sqrt(1 - 0.5 * step / max(1, call.steps - 1))
        goal = 1 - due[0] if due else math.inf
        loss, gradient = self._gradient(call.scheduler, latents, timestep)
        late = loss > goal
        for _ in range(self.refinements):
            if not late.any():
                break
            latents = latents - alpha * gradient * late.view(-1, *[1] * (latents.ndim - 1))
            late_before = late & (loss > goal)
            loss, gradient = self._gradient(call.scheduler, latents, timestep)
            late = late_before if self.as_published else loss > goal
        return latents - alpha * gradient if moves else latents

    def _gradient(self, scheduler: Any, latents: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            moving = latents.detach().clone().requires_grad_(True)
            scales = hasattr(scheduler, "scale_model_input") and not self.as_published
            loss = self.loss(scheduler.scale_model_input(moving, timestep) if scales else moving, timestep)
            (gradient,) = torch.autograd.grad(loss.sum(), moving)
        return loss.detach(), gradient

    @torch.inference_mode(False)  # kept for gradients, whatever mode the first call is made in
    def _read(self, call: DenoiserCall) -> None:
        require_support(call.head_map, self)
        if len(self.words) not in (1, call.pictures) or not call.prompts:
            raise HookMisuse(
                f"Subjects of {len(self.words)} images were given, but there are {call.pictures} images. "
                "Give the subjects of one image or of each, and call the pipeline with `prompt`."
            )
        words = self.words * (call.pictures // len(self.words))
        if self.relevance is not None:
            self.relevance.require(call.head_map)
        if self.as_published:
            require_cross_attention(call.head_map)
        self._subjects = [
            [tuple(part[-1] for part in by_encoder(call, call.positions(p, word))) for word in subjects]
            for p, subjects in enumerate(words)
        ]
        self._words = [
            [t for part in by_encoder(call, call.positions(p, None)) for t in range(part[0], part[-1] + 1)]
            for p in range(call.pictures)
        ]
        if self.as_published:
            self._words = [[*range(1, call.tokens - 1)]] * call.pictures
        self._weights = torch.zeros(call.pictures, max(map(len, words)), call.head_map.all_heads).double()
        for p, subjects in enumerate(words):
            for k, word in enumerate(subjects):
                self._weights[p, k] = torch.from_numpy(self._heads(word, call.head_map))
        self._last = -1

    def _heads(self, word: str, head_map: HeadMap) -> Float[np.ndarray, " all_heads"]:
        """The weight of each head for a subject."""
        if self.relevance is None or self.concepts is None:
            return np.ones(head_map.all_heads)
        concept = self.concepts if isinstance(self.concepts, str) else self.concepts.get(word)
        if concept is None:
            raise HeadwiseError(
                f"No concept was given for {word!r}. Name one for each subject, or one for all."
            )
        # by effect, heads below 0 work against the word: their maps do not show where its object is
        return np.maximum(clamped(self.relevance, concept), 0.0) / head_map.all_heads


def excite(
    pipe: Any, prompts: Sequence[str], exciting: Excite, *, seeds: Sequence[Key], **options: Any
) -> Any:
    """Generate an image of each prompt in which every subject receives attention.

    Args:
        pipe: The user's pipeline; it is left unchanged.
        prompts: The prompt of each image.
        exciting: The hook with the subjects and how they are excited.
        seeds: The key of each image: (seed, image), or a seed s for (s, 0).
        options: Passed to the pipeline: `negative_prompt`, `height`, `width` …

    Raises:
        Unsupported: The method does not work on this model.
    """
    require_support(pipe, exciting)
    with quiet(pipe), hooked(pipe, exciting):
        return generate_keys(pipe, prompts, seeds, **options)


class _Enough(Exception):
    """Raised to stop the denoiser once the last map has been computed."""
