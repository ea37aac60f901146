r"""Exchanging map columns as a sum of fused attentions, in cross-attention and in joint attention.

With A the map of the source's image, A* that of a target's and V* the target's values, column t of the
target's map becomes (A M)[:, t] a[t] + A*[:, t] b[t]. In **cross-attention** this needs no map:

    output = attend(q, k, M diag(a) V*) + attend(q*, k*, diag(b) V*)

In **joint attention** the keys are text and pixels in one softmax, A = [A_T, A_I]. Only the maps of pixel
queries are exchanged; text queries keep theirs. Text columns are exchanged as above, and the columns of
pixels are the source's A_I while the layout is the source's, and the target's own otherwise. Columns of two
softmaxes need not sum to 1 in a row, so each row is divided by its sum and a pixel's attention still totals
1. The factors w and R are left out of that sum, so that they have their full effect:

    n = A M 1_a + A*_T 1_b + (A_I or A*_I) 1
    output = (attend(q, k, [M diag(a) V*_T; V*_I or 0]) + attend(q*, k*, [diag(b) V*_T; 0 or V*_I])) / n

with 1_a and 1_b the indicators of the borrowed and of the kept columns. n comes from the same kernel with
indicators in place of values. If every word was there before or replaces another, and the pixels' columns are
the source's too, n is 1.

References:
    | Prompt-to-Prompt Image Editing with Cross Attention Control (Hertz et al., 2022)
    | https://arxiv.org/abs/2208.01626
    | Exploring Multimodal Diffusion Transformers for Enhanced Prompt-based Image Editing (Shin et al., 2025),
    | which splits joint maps into these blocks https://arxiv.org/abs/2508.07519
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headwise.editing.groups import plain_shares
from headwise.model.sites import Attend, DenoiserCall, Site

__all__ = ["Columns", "exchange_cross", "exchange_joint"]


@dataclass(frozen=True, eq=False)
class Columns:
    """Which columns of each row's map come from its source, and the factors of all.

    Args:
        rows: For each row of the batch, the row of its source.
        ma: M diag(a); None if no column is borrowed.
        b: For each layer, the factors of a row's own columns, "rows heads tokens 1".
        borrowed: For each row, M 1_a: how much of each source column goes to borrowed columns.
        kept: For each row, 1_b: 1 if a column is the row's own, whatever its factor.
        acting: Whether any column is borrowed or has a factor other than 1.
    """

    rows: Int[Tensor, " rows"]
    ma: Float[Tensor, "rows source_tokens tokens"] | None
    b: list[Tensor]
    borrowed: Float[Tensor, "rows tokens"]
    kept: Float[Tensor, "rows tokens"]
    acting: bool

    @classmethod
    def of(
        cls,
        call: DenoiserCall,
        rows: Int[Tensor, " rows"],
        m: Float[Tensor, "images source_tokens tokens"],
        from_source: Bool[Tensor, "images tokens"],
        w: Float[Tensor, "images tokens"],
        r: Float[Tensor, "images all_heads tokens"],
    ) -> "Columns":
        """The columns from M, the indicators of borrowed columns, w and R of each image.

        Rows of the batch that do not carry the prompt keep their own maps.
        """

        def in_rows(of_images: Tensor, elsewhere: float) -> Tensor:
            """The values of each image, placed in its row of the batch."""
            every = torch.full((call.rows, *of_images.shape[1:]), elsewhere, dtype=torch.float64)
            every[call.conditional] = of_images.double()
            return every

        def moved(factors: Tensor) -> Tensor:
            # rounded before it is moved, as Apple's GPUs do not support float64
            return factors.to(call.dtype).to(call.device)

        a, kept = from_source * w, ~from_source * 1.0
        b = in_rows(r * w[:, None] * kept[:, None], 1.0)
        b_of_rows = moved(b)[..., None]
        return cls(
            rows,
            moved(in_rows(m * a[:, None], 0.0)) if a.any() else None,
            [b_of_rows[:, start:stop] for start, stop in call.head_map.slices],
            in_rows((m * from_source[:, None]).sum(-1), 0.0),
            in_rows(kept, 1.0),
            bool(a.any() or (b != 1).any()),
        )


def exchange_cross(
    attend: Attend,
    site: Site,
    query: Float[Tensor, "rows heads pixels dim"],
    key: Float[Tensor, "rows heads tokens dim"],
    value: Float[Tensor, "rows heads tokens dim"],
    columns: Columns,
) -> Float[Tensor, "rows heads pixels dim"]:
    """The output of cross-attention with exchanged columns."""
    rows = columns.rows
    output = attend(query, key, value * columns.b[site.layer].to(value.dtype))  # A* diag(b) V*
    if columns.ma is None:
        return output
    mav = torch.einsum("rst,rhtd->rhsd", columns.ma.to(value.dtype), value)
    return output + attend(query[rows], key[rows], mav, rows=rows)  # A M diag(a) V*


def exchange_joint(
    attend: Attend,
    site: Site,
    query: Float[Tensor, "rows heads pixels dim"],
    key: Float[Tensor, "rows heads keys dim"],
    value: Float[Tensor, "rows heads keys dim"],
    columns: Columns,
    same_layout: bool,
) -> Float[Tensor, "rows heads pixels dim"]:
    """The output of the pixels' joint attention with exchanged columns and rows that sum to 1.

    Args:
        attend, site, query, key, value: As a hook receives them.
        columns: The columns of the text.
        same_layout: Whether the columns of the pixels come from the source.
    """
    rows = columns.rows
    targets = torch.nonzero(rows != torch.arange(len(rows)))[:, 0]
    if not len(targets) or not (columns.acting or same_layout):
        return attend(query, key, value)
    text = site.text
    pixels = slice(text.stop, None) if text.start == 0 else slice(0, text.start)
    kept_values, borrowed_values = value.clone(), torch.zeros_like(value)
    kept_values[targets, :, text] *= columns.b[site.layer][targets].to(value.dtype)  # diag(b) V*_T
    if columns.ma is not None:
        borrowed_values[..., text, :] = torch.einsum(
            "rst,rhtd->rhsd", columns.ma.to(value.dtype), value[..., text, :]
        )
    if same_layout:
        kept_values[targets, :, pixels], borrowed_values[..., pixels, :] = 0.0, value[..., pixels, :]
    kept = _on_keys(columns.kept, site, key.shape[-2], float(not same_layout))[targets]
    borrowed = _on_keys(columns.borrowed, site, key.shape[-2], float(same_layout))[targets]
    output = attend(query, key, kept_values)  # of rows without a source, their own
    n = _row_sums(site, query, key, kept, targets)
    edited = output[targets]
    if borrowed.any():
        edited = edited + attend(query[rows], key[rows], borrowed_values, rows=rows)[targets]
        n = n + _row_sums(site, query, key, borrowed, rows[targets])
    return output.index_copy(0, targets.to(output.device), edited / n)


def _on_keys(
    marks: Float[Tensor, "rows tokens"], site: Site, keys: int, at_pixels: float
) -> Float[Tensor, "rows keys"]:
    """Indicators of the text's tokens, and one for all pixels, at the positions of their keys."""
    on_keys = torch.full((len(marks), keys), at_pixels, dtype=marks.dtype)
    on_keys[:, site.text] = marks
    return on_keys


def _row_sums(
    site: Site,
    query: Tensor,
    key: Tensor,
    marks: Float[Tensor, "targets keys"],
    rows: Int[Tensor, " targets"],
) -> Float[Tensor, "targets heads pixels 1"] | float:
    """The sum of each target's marked columns in the map of one of these rows."""
    if bool((marks == marks[0, 0]).all()):  # a whole row sums to 1
        return float(marks[0, 0])
    return plain_shares(query[rows], key[rows], marks.to(query), site.mask_of_rows(rows))
