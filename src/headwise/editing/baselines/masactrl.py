r"""MasaCtrl: the self-attention of targets reads their source's keys and values.

    attend(q*, k, v)      in place of      attend(q*, k*, v*)

in later layers and after the first calls, so that the content stays while the layout may change.

References:
    | MasaCtrl: Tuning-Free Mutual Self-Attention Control for Consistent Image Synthesis and Editing
    | (Cao et al., 2023) https://arxiv.org/abs/2304.08465
"""

from torch import Tensor

from headwise.editing.groups import FromSource
from headwise.model.sites import Attend, Site

__all__ = ["MasaCtrl"]


class MasaCtrl(FromSource):
    """A hook that gives targets their source's keys and values.

    Args:
        targets: The number of targets that follow each source in the batch.
        start: The fraction of the denoiser calls before targets read the source, 0 … 1; 4 of 50 in the paper.
        first_layer: The fraction of the layers before the first that reads the source, 0 … 1; 10 of 16 in the
            paper.
    """

    def __init__(
        self, *, targets: int = 1, start: float | int = 0.08, first_layer: float | int = 0.625
    ) -> None:
        super().__init__(targets, start=start)
        self.first_layer = first_layer

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend to the source's pixels in the later layers."""
        if not self._active or site.layer < self.first_layer * len(site.call.head_map):
            return attend(query, key, value)
        return attend(query, key[self._rows], value[self._rows])
