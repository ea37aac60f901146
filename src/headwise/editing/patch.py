r"""Patching: does a word come along with what chosen heads heard of it?

A source and its targets, whose prompts differ in one word, are drawn from the same latents. At every call of
the denoiser the outputs of chosen heads for a target are replaced with those for its source,

    out[target, h] = out[source, h]        h among the chosen,

where out = softmax(QKᵀ/√d) V is what a head hands on. If these heads carry the word, the target's picture
shows the source's. Weakening asks whether heads are needed; patching asks whether they are enough.

References:
    | Investigating Gender Bias in Language Models Using Causal Mediation Analysis (Vig et al., 2020)
    | https://arxiv.org/abs/2004.12265
"""

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from headwise.editing.local_blend import source_rows
from headwise.errors import HeadMapMismatch
from headwise.model.sites import Attend, DenoiserCall, Site

__all__ = ["Patch"]


class Patch:
    """A hook that hands targets their source's outputs of chosen heads.

    Args:
        chosen: Heads by target; a batch holds groups of one source and these targets.
    """

    kinds = ("cross",)

    def __init__(self, chosen: Bool[np.ndarray, "targets all_heads"]) -> None:
        self.chosen = torch.from_numpy(np.array(chosen))

    def prepare(self, call: DenoiserCall) -> None:
        """Which row takes which heads from which."""
        targets, heads = self.chosen.shape
        if heads != call.head_map.all_heads:
            raise HeadMapMismatch(
                f"{heads} heads are chosen among, the model has {call.head_map.all_heads}. "
                "Choose by the model's own head map."
            )
        self._from = source_rows(call, targets).to(call.device)
        takes = torch.zeros(call.rows, heads, dtype=torch.bool)
        group = torch.cat([torch.zeros(1, heads, dtype=torch.bool), self.chosen])
        takes[call.conditional] = group.repeat(call.pictures // (targets + 1), 1)
        takes = takes.to(call.device)[..., None, None]
        self._takes = [takes[:, start:stop] for start, stop in call.head_map.slices]

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend, then exchange."""
        out = attend(query, key, value)
        return torch.where(self._takes[site.layer], out[self._from], out)
