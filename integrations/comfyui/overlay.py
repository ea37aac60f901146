r"""A recording as an image and a table.

The map of all heads weighs each head by the relevance of a concept, heads against the concept left out,

    map[x] = Σ_h W[h] A[h, x] / Σ_h W[h],     W[h] = max(0, R[c, h]), or 1 without a concept,

and lies in colour over the image in grey, full where the map is largest. In the table stands for each head
what it attends to the word, its mean A[h] over all positions, its relevance, and its share of the map,
W[h] A[h] / Σ W A. Attention is what a head reads, and not what it does: relevance by effect says that.
"""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from headwise.measuring.attention_maps import WordMaps
from headwise.measuring.relevance import Relevance

__all__ = ["concept_weights", "overlay", "table"]

COLOUR = (0.42, 0.13, 0.66)
GREY = (0.299, 0.587, 0.114)  # of red, green and blue
_TINY = float(np.finfo(np.float64).tiny)


def concept_weights(relevance: Relevance, concept: str) -> Float[np.ndarray, " all_heads"]:
    """How much each head counts: by its relevance for a concept, or all alike if none is named.

    Raises:
        UnknownConcept: The concept was not measured.
    """
    return np.maximum(0, relevance[concept]) if concept else np.ones(relevance.values.shape[1])


def overlay(
    maps: WordMaps, weights: Float[np.ndarray, " all_heads"], picture: Float[Tensor, "height width 3"]
) -> Float[Tensor, "height width 3"]:
    """The map of all heads over an image, both with values from 0 to 1."""
    together = torch.from_numpy(maps.together(weights[None])[..., 0])
    strength = F.interpolate(together[None, None], picture.shape[:2], mode="bicubic")[0, 0].clamp(min=0)
    strength = (strength / strength.max().clamp(min=1e-12))[..., None]
    grey = (
        0.5 + 0.5 * (picture.cpu().float() @ torch.tensor(GREY))[..., None]
    )  # paler, so that colour is seen
    return grey * (1 - strength) + torch.tensor(COLOUR) * strength


def table(maps: WordMaps, relevance: Relevance, concept: str, heads: int = 10) -> str:
    """The heads with the largest shares of the map, and the share of every layer, as text.

    Args:
        maps: The maps of one image.
        relevance: The relevance.
        concept: The concept by which heads are weighed, or nothing.
        heads: How many heads are listed.
    """
    attention = maps.within()[:, 0].astype(np.float64)
    weighted = concept_weights(relevance, concept) * attention
    shares = weighted / max(weighted.sum(), _TINY)
    values = relevance[concept] if concept else np.full(len(shares), np.nan)
    lines = [f'"{maps.words[0].text}" by {f"the heads of {concept}" if concept else "all heads alike"}', ""]
    lines.append("share  attention  relevance  head")
    for head in np.argsort(-shares, kind="stable")[:heads]:
        numbers = f"{shares[head]:5.1%}  {attention[head]:9.4f}  {values[head]:9.2f}"
        lines.append(f"{numbers}  {maps.head_map.address(int(head))}")
    lines += ["", "share  attention  layer"]
    for layer, (start, stop) in zip(maps.head_map, maps.head_map.slices, strict=True):
        mean = attention[start:stop].mean()
        lines.append(f"{shares[start:stop].sum():5.1%}  {mean:9.4f}  {layer.address}")
    return "\n".join(lines)
