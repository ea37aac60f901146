r"""Free-prompt editing: the source's self-attention maps, in the middle layers and the first calls.

    attend(q, k, V*)      in place of      attend(q*, k*, V*)

It needs no word, and leaves cross-attention unchanged.

References:
    | Towards Understanding Cross and Self-Attention in Stable Diffusion for Text-Guided Image Editing
    | (Liu et al., 2024) https://arxiv.org/abs/2403.03431
"""

from torch import Tensor

from headwise.editing.groups import FromSource
from headwise.model.sites import Attend, Site

__all__ = ["FreePrompt"]


class FreePrompt(FromSource):
    """A hook that gives targets their source's self-attention maps.

    Args:
        targets: The number of targets that follow each source in the batch.
        until: The fraction of the denoiser calls, from the first, in which maps are the source's, 0 … 1.
        layers: The range of layers, as fractions of their number, 0 … 1; 4 to 14 of 16 in the paper.
    """

    def __init__(
        self,
        *,
        until: float | int = 0.5,
        targets: int = 1,
        layers: tuple[float | int, float | int] = (0.25, 0.875),
    ) -> None:
        super().__init__(targets, until=until)
        self.layers = layers

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend with the source's map in the middle layers."""
        low, high = (fraction * len(site.call.head_map) for fraction in self.layers)
        if not self._active or not low <= site.layer < high:
            return attend(query, key, value)
        return attend(query[self._rows], key[self._rows], value)
