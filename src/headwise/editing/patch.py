r"""Activation patching: does replacing the outputs of selected heads transfer the source's word?

A source and its targets, whose prompts differ in one word, are generated from the same latents. At every
call of the denoiser the outputs of selected heads for a target are replaced with those for its source,

    out[target, h] = out[source, h]        for the selected heads h,

where out = softmax(QKᵀ/√d) V is the output of a head. If these heads carry the word, the target's image shows
the source's word. Weakening tests whether heads are necessary; patching tests whether they are sufficient.

References:
    | Investigating Gender Bias in Language Models Using Causal Mediation Analysis (Vig et al., 2020)
    | https://arxiv.org/abs/2004.12265
"""

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from headwise.editing.groups import source_rows
from headwise.editing.support import require_support
from headwise.errors import HeadMapMismatch
from headwise.model.heads import HeadMap
from headwise.model.hooks import Hook
from headwise.model.sites import Attend, DenoiserCall, Site

__all__ = ["Patch"]


class Patch(Hook):
    """A hook that replaces the targets' outputs of selected heads with their source's.

    Args:
        chosen: The selected heads of each target; a batch holds groups of one source and these targets.
    """

    kinds = ("cross",)
    once_per_step = True

    def __init__(self, chosen: Bool[np.ndarray, "targets all_heads"]) -> None:
        self.chosen = torch.from_numpy(np.array(chosen))
        self.head_map: HeadMap | None = None  # of the first model, whose heads were selected

    def prepare(self, call: DenoiserCall) -> None:
        """Lay out which heads' outputs each row takes, and from which row."""
        targets, heads = self.chosen.shape
        if heads != call.head_map.all_heads:
            raise HeadMapMismatch(
                f"The selection is for {heads} heads, but the model has {call.head_map.all_heads}. "
                "Select heads by the model's own head map."
            )
        require_support(call.head_map, self)
        self.head_map = self.head_map or call.head_map
        self.head_map.require(call.head_map, "The model that was patched before", "the pipeline")
        self._from = source_rows(call, targets).to(call.device)
        takes = torch.zeros(call.rows, heads, dtype=torch.bool)
        group = torch.cat([torch.zeros(1, heads, dtype=torch.bool), self.chosen])
        takes[call.conditional] = group.repeat(call.pictures // (targets + 1), 1)
        takes = takes.to(call.device)[..., None, None]
        self._takes = [takes[:, start:stop] for start, stop in call.head_map.slices]

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend, then replace the outputs of selected heads."""
        out = attend(query, key, value)
        return torch.where(self._takes[site.layer], out[self._from], out)
