r"""Local blending: keep the source's latents outside the edited region.

A batch holds groups, each a source and its targets. After every step a target's latents become

    x* ← x + m (x* − x)

with x the source's latents and m the mask of the edited region: where either of the two images attends to a
changed word. The map of the changed words is averaged over heads, coarse layers and the calls so far, widened
by one position and divided by its maximum; the mask is where it exceeds a threshold. In joint attention the
map is these words' columns of the softmax over text and pixels. Latents that are a row of patches (FLUX) are
blended patch by patch.

References:
    | Prompt-to-Prompt Image Editing with Cross Attention Control (Hertz et al., 2022)
    | https://arxiv.org/abs/2208.01626
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from headwise.editing.alignment import align_images
from headwise.editing.groups import is_coarse, plain_shares, source_rows
from headwise.editing.support import require_support
from headwise.errors import BadStrength, HookMisuse
from headwise.model.hooks import Hook
from headwise.model.sites import Attend, DenoiserCall, Site

__all__ = ["LocalBlend"]


class LocalBlend(Hook):
    """A hook that keeps each target's latents equal to its source's outside the edited region.

        with hooked(pipe, PromptToPrompt(), LocalBlend()):
            pipe(["a red car", "a blue car"], latents=noise)

    Args:
        targets: The number of targets that follow each source in the batch.
        threshold: The fraction of a map's maximum above which a position is in the edited region, 0 … 1.
        start: The fraction of the denoiser calls after which blending begins, 0 … 1.
    """

    once_per_step = True

    def __init__(self, *, targets: int = 1, threshold: float | int = 0.3, start: float | int = 0.2) -> None:
        if not 0 <= threshold <= 1 or not 0 <= start <= 1:
            raise BadStrength(f"threshold={threshold} and start={start} were given; expected 0 to 1.")
        self.targets, self.threshold, self.start = targets, threshold, start
        self._prepared: Any = None

    def prepare(self, call: DenoiserCall) -> None:
        """At the first call, find the changed words and discard the maps of the previous batch."""
        batch = (call.prompts, call.rows, call.tokens)
        if not call.prompted:
            return
        if call.step and batch == self._prepared:
            return
        self._prepared = batch
        require_support(call.head_map, self)
        self._rows = source_rows(call, self.targets)
        self._words = self._changed(call)
        self._sum: Tensor | None = None

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Add up the maps of changed words at coarse layers, and attend unchanged."""
        if site.call.prompted and is_coarse(site):
            rows = site.conditional
            q, k = query[rows].float(), key[rows].float()
            marks = k.new_zeros(len(k), k.shape[-2])
            marks[:, site.text] = self._words.to(marks)
            of_words = plain_shares(q, k, marks, site.mask_of_rows(rows))[..., 0].mean(1)
            maps = of_words.unflatten(-1, (site.height, site.width))
            self._sum = maps if self._sum is None else self._sum + maps
        return attend(query, key, value)

    def after_step(
        self, latents: Float[Tensor, "images ..."], call: DenoiserCall
    ) -> Float[Tensor, "images ..."]:
        """Return latents in which each target equals its source outside the mask."""
        if self._sum is None:
            raise HookMisuse(
                "The model has no layer coarse enough to locate the changed words. Leave LocalBlend out."
            )
        if (call.step + 1) / max(1, call.steps) < self.start:
            return latents
        in_patches = latents.ndim == 3
        mask = self.mask(call.grid if in_patches else (latents.shape[-2], latents.shape[-1]))
        sources = (self._rows[call.conditional] - call.conditional.start).to(latents.device)
        mask = mask | mask[sources]
        mask = mask.flatten(1)[..., None] if in_patches else mask[:, None]
        return torch.where(mask, latents, latents[sources])

    def mask(self, size: tuple[int, int]) -> Bool[Tensor, "images height width"]:
        """The region in which each image attends to the changed words."""
        assert self._sum is not None
        wide = F.max_pool2d(self._sum[:, None], 3, 1, 1)
        wide = F.interpolate(wide, size=size, mode="bilinear", align_corners=False)[:, 0]
        return wide > self.threshold * wide.amax((-1, -2), keepdim=True)

    def _changed(self, call: DenoiserCall) -> Float[Tensor, "images tokens"]:
        """The changed words of each image; a source's are those that any of its targets replaces or drops."""
        words = torch.zeros(call.pictures, call.tokens)
        sources = (self._rows[call.conditional] - call.conditional.start).tolist()
        for p, s in enumerate(sources):
            if p == s:
                continue
            forward = align_images(call, s, p)
            backward = align_images(call, p, s)
            words[p] += torch.from_numpy(forward.replaced | forward.new)
            words[s] += torch.from_numpy(backward.replaced | backward.new)
        return words.clamp(max=1)
