"""What hooks receive (hooks.py): one call of the denoiser, and one layer in it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from headwise.errors import HookMisuse
from headwise.model.heads import HeadMap
from headwise.model.tokens import TextSegment, positions_in

__all__ = ["Attend", "AttentionHook", "DenoiserCall", "Site", "layer_grid"]

Attend = Callable[..., Tensor]  # attend(query, key, value, rows=None), see hooks.py
AttentionHook = Callable[[Attend, "Site", Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Site:
    """Where a hook is called: one layer during one call of the denoiser.

    Args:
        layer: Index of the layer in the head map; −1 at refiners.
        address: The layer's module path.
        heads: The layer's number of heads.
        kind: "cross" or "joint"; "self" at the self-attention beside the layer; "text" for the queries of the
            text in joint attention; "refiner" where the text attends only to itself, outside the head map.
        text: The slice of the keys that are text; empty at self-attention.
        conditional: The rows of the batch that carry the prompt; the others carry the negative prompt.
        picture: For each row of the batch, the index of the image that it belongs to.
        height, width: The latent grid of this layer; the query's pixels are its rows one after the other.
        module: The attention module, to be read and called, never changed.
        call: The denoiser call that the layer is computed for.
        mask: The attention mask of the processor, "rows heads pixels keys" or of size 1 along some of these:
            False, or a large negative number that is added to the scores, at padding; None if nothing is
            masked. `attend` applies it.
    """

    layer: int
    address: str
    heads: int
    kind: str
    text: slice
    conditional: slice
    picture: tuple[int, ...]
    height: int
    width: int
    module: nn.Module
    call: "DenoiserCall"
    mask: Tensor | None = None

    # Properties, so that a compiled denoiser is recompiled at each step only for hooks that use them.

    @property
    def step(self) -> int:
        """Index of the denoiser call within the pipeline call: 0, 1, 2 …"""
        return self.call.step

    def mask_of_rows(self, rows: slice | Tensor) -> Tensor | None:
        """The mask of these rows of the batch; None if nothing is masked."""
        if self.mask is None or len(self.mask) == 1:
            return self.mask
        return self.mask[rows if isinstance(rows, slice) else rows.to(self.mask.device)]

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt of each image; empty if the pipeline was called without text."""
        return self.call.prompts


@dataclass
class DenoiserCall:
    """One call of the denoiser: its step, and what its batch holds.

    Args:
        step: The index of this call within the pipeline call.
        steps: The number of denoiser calls that the pipeline call will make; 0 if unknown.
        rows: The number of rows of the batch.
        pictures: The number of images of the pipeline call; guidance makes more rows than images.
        picture: For each row of the batch, the index of the image that it belongs to.
        conditional: The rows of the batch that carry the prompt; the others carry the negative prompt or
            whatever else guidance compares with. Empty if guidance makes several calls per step and this one
            does not carry the prompt.
        grid: Height and width of the latents.
        prompts: The prompt of each image; empty if the pipeline was called without text.
        tokens: The number of text tokens of each row, or of the longest; 0 if the denoiser was called
            without text.
        lengths: The number of text tokens of each row, if pixels directly follow each row's own; else empty.
        width: The size of one text token's embedding.
        device, dtype: The device and the type of the latents.
        segments: The tokenizers of the text, and where the tokens of each begin; none for a bare denoiser.
        head_map: The denoiser's head map.
        scheduler: The pipeline's scheduler; None for a bare denoiser.
        rerun: `rerun(hook)` computes the denoiser's output again, only for the rows with the prompt, and
            `rerun(hook, latents, timestep)` computes it on other latents, with this call's text. Only `hook`
            is called, without `prepare` and `finish`, and the step counter does not advance. `images=[…]` are
            the images that get one row each, and `latents_of=[…]` those whose latents these rows denoise.
            No gradient reaches the weights. With `then=f` the result is f of the output; if f computes
            gradients, `checkpointing=True` makes blocks recompute their activations instead of keeping
            them.
        encode_text: `encode_text(hook, text, rows)` runs the denoiser once on `text`, "tokens dim", in place
            of the prompt, for the first `rows` rows with the prompt and the smallest latents it accepts. Only
            `hook` is called, without `prepare` and `finish`, and the step counter does not advance. With
            `places=…` each token is read as if it were at that place of the text.
    """

    step: int = 0
    steps: int = 0
    rows: int = 0
    pictures: int = 0
    picture: tuple[int, ...] = ()
    conditional: slice = field(default_factory=lambda: slice(0, 0))
    grid: tuple[int, int] = (0, 0)
    prompts: tuple[str, ...] = ()
    tokens: int = 0
    lengths: tuple[int, ...] = ()
    width: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    segments: tuple[TextSegment, ...] = ()
    head_map: HeadMap = field(default_factory=lambda: HeadMap(()))
    scheduler: Any = None
    rerun: Callable[..., Any] | None = None
    encode_text: Callable[..., None] | None = None

    @property
    def prompted(self) -> bool:
        """Whether any row carries the prompt."""
        return self.conditional.start < self.conditional.stop

    def of_rows(self, rows: int, **changes: Any) -> "DenoiserCall":
        """A call with only the first `rows` images, all of whose rows carry the prompt."""
        kept: dict[str, Any] = {
            "rows": rows,
            "pictures": rows,
            "picture": tuple(range(rows)),
            "conditional": slice(0, rows),
        }
        return replace(self, **kept | changes)

    def positions(self, picture: int, word: str | None, occurrence: int | None = None) -> tuple[int, ...]:
        """The positions of the tokens of a word, or of all words if None, in the text of an image."""
        segments, prompt = self.segments, self.prompts[picture]
        return positions_in(segments, prompt, word, occurrence, picture=picture, tokens=self.tokens)


def layer_grid(address: str, grid: tuple[int, int], pixels: int) -> tuple[int, int]:
    """The grid with this many pixels, by halving the sides and rounding up, as strided convolutions do."""
    height, width = grid
    while height * width > pixels and height * width > 1:
        height, width = -(-height // 2), -(-width // 2)
    if height * width != pixels:
        raise HookMisuse(
            f"{address} has {pixels} pixels, which is not a halving of the latents' {grid[0]} × {grid[1]}."
        )
    return height, width
