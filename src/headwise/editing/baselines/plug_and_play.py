r"""Plug-and-Play: the source's spatial features, and its self-attention maps in the upper layers.

    h* ← h                          after one residual block of the upsampling path, in the first 0.8 of calls
    attend(q, k, V*)                in the upsampling path's self-attention, in the first 0.5 of the calls

References:
    | Plug-and-Play Diffusion Features for Text-Driven Image-to-Image Translation (Tumanyan et al., 2022)
    | https://arxiv.org/abs/2211.12572
"""

import re
from collections.abc import Collection

from torch import Tensor

from headwise.editing.groups import FromSource
from headwise.model.sites import Attend, DenoiserCall, Site

__all__ = ["PlugAndPlay"]


class PlugAndPlay(FromSource):
    """A hook that gives targets their source's features and self-attention maps.

    Args:
        targets: The number of targets that follow each source in the batch.
        features_until, attention_until: The fractions of the denoiser calls, from the first, in which
            features and maps are the source's, 0 … 1.
        block: The module path of the residual block whose output is the source's. By default the paper's,
            up_blocks.1.resnets.1, or in a denoiser without it the one a third along the upsampling path.
    """

    def __init__(
        self,
        *,
        targets: int = 1,
        features_until: float | int = 0.8,
        attention_until: float | int = 0.5,
        block: str | None = None,
    ) -> None:
        super().__init__(targets, until=attention_until)
        self.block, self.features_until = block, features_until

    def features_among(self, modules: Collection[str]) -> tuple[str, ...]:
        """The module path of the block whose output is replaced."""
        block = self.block or "up_blocks.1.resnets.1"
        if self.block or block in modules:
            return (block,)
        upward = [path for path in modules if re.fullmatch(r"up_blocks\.\d+\.resnets\.\d+", path)]
        return (upward[len(upward) // 3],) if upward else (block,)

    def prepare(self, call: DenoiserCall) -> None:
        """Find each row's source, and whether maps and features are exchanged in this call."""
        super().prepare(call)
        self._exchanges_features = call.step / max(1, call.steps) < self.features_until

    def feature(self, output: Tensor) -> Tensor:
        """Return the residual block's output, with each row replaced by its source's."""
        return output[self._rows] if self._exchanges_features else output

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend with the source's map in the upsampling path."""
        if not self._active or not site.address.startswith("up_blocks"):
            return attend(query, key, value)
        return attend(query[self._rows], key[self._rows], value)
