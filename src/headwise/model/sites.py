"""What was called with what: one call of the pipeline, one of its denoiser, one layer in it.

Hooks are given the last two (attention.py); the first is what the door knows between them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from headwise.errors import WordNotInPrompt
from headwise.model.heads import HeadMap
from headwise.model.pipelines import text_segments
from headwise.model.tokens import TextSegment, positions_in

__all__ = [
    "Attend", "AttentionHook", "DenoiserCall", "PipelineCall", "Site",
    "crop_latents", "grid_of", "latents_in", "least_side", "rows_of",
]  # fmt: skip

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
AttentionHook = Callable[[Attend, "Site", Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Site:
    """Where a hook stands: one layer during one call of the denoiser.

    Args:
        layer: Index of the layer in the head map.
        address: Its module path.
        heads: Its number of heads.
        kind: "cross" or "joint"; "self" at the self-attention beside the layer; "text" for the queries of the
            text in joint attention.
        text: Which keys are text; none at self-attention.
        conditional: Which rows of the batch carry the prompt; the others carry the negative prompt.
        picture: For each row, which picture of the batch it belongs to.
        height, width: The latent grid of this layer; the query's pixels are its rows one after the other.
        module: The attention module, to be read and called, never changed.
        call: The denoiser call under way.
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

    # Properties, so that a compiled denoiser is compiled anew at each step only for hooks that ask for it.

    @property
    def step(self) -> int:
        """Index of the denoiser call within the pipeline call, counted: 0, 1, 2 …"""
        return self.call.step

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt of each picture; empty where the pipeline was not given text."""
        return self.call.prompts


@dataclass
class DenoiserCall:
    """One call of the denoiser: which it is, and what its batch holds.

    Args:
        step: Its index within the pipeline call.
        steps: How many there will be; 0 where nobody knows.
        rows, pictures: Of the batch; there are more rows than pictures under guidance.
        grid: Height and width of the latents.
        prompts: The prompt of each picture; empty where the pipeline was not given text.
        tokens: How many tokens of text each row has; 0 where the denoiser was given none.
        width: How wide each is.
        device: Where the latents are.
        readers: The tokenizers of the text, and where the tokens of each begin; none for a bare denoiser.
        head_map: The denoiser's.
        prompted: False where all rows carry the negative prompt, as where guidance makes two calls a step.
        again: From latents and a timestep to what the denoiser says of them, for the rows with the prompt
            only, with this call's text; hooks see it, and no step is counted.
        travel: From a hook and a text "tokens dim" to nothing: the denoiser reads this text instead, of
            `travellers` rows with a corner of their latents; only this hook sees it, and no step is counted.
    """

    step: int = 0
    steps: int = 0
    rows: int = 0
    pictures: int = 0
    grid: tuple[int, int] = (0, 0)
    prompts: tuple[str, ...] = ()
    tokens: int = 0
    width: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    readers: tuple[TextSegment, ...] = ()
    head_map: HeadMap = field(default_factory=lambda: HeadMap(()))
    prompted: bool = True
    again: Callable[[Tensor, Tensor], Any] | None = None
    travel: Callable[[Any, Tensor, int], None] | None = None

    @property
    def conditional(self) -> slice:
        """The rows of the batch that carry the prompt; those before them carry the negative prompt."""
        return slice(self.rows - self.pictures if self.prompted else self.rows, self.rows)

    @property
    def tokenizer(self) -> Any:
        """The first reader's; None for a bare denoiser."""
        return self.readers[0].tokenizer if self.readers else None

    def positions(self, picture: int, word: str | None, occurrence: int | None = None) -> tuple[int, ...]:
        """Where the tokens of a word, or of all words if None, stand in the text of a picture."""
        prompt = self.prompts[picture]
        found = tuple(p for p in positions_in(self.readers, prompt, word, occurrence) if p < self.tokens)
        if not found and word is not None:
            raise WordNotInPrompt(
                f'{word!r} stands beyond the {self.tokens} tokens that the denoiser reads of "{prompt}". '
                "Move it forward or shorten the prompt."
            )
        return found


class PipelineCall:
    """One call of the pipeline: what it was asked for, and the denoiser calls it has made."""

    def __init__(
        self, prompts: tuple[str, ...], guidance_scale: float | int, readers: tuple[TextSegment, ...]
    ) -> None:
        self.prompts, self.guidance_scale, self.readers, self.steps = prompts, guidance_scale, readers, 0

    @classmethod
    def of(cls, pipe: Any, asked: dict[str, Any]) -> "PipelineCall":
        """From the arguments of the pipeline's call."""
        prompt = asked.get("prompt") or ()
        prompts = (prompt,) if isinstance(prompt, str) else tuple(prompt)
        copies = asked.get("num_images_per_prompt") or 1
        each = tuple(p for p in prompts for _ in range(copies))
        return cls(each, asked.get("guidance_scale") or 0, text_segments(pipe, asked))


def latents_in(given: dict[str, Any]) -> str:
    """UNets call their latents sample, transformers hidden_states."""
    return "sample" if "sample" in given else "hidden_states"


def grid_of(latents: Tensor, given: dict[str, Any]) -> tuple[int, int]:
    """Height and width of the latents; where they come as a row of patches, the patches' ids tell."""
    if latents.ndim == 3:
        last = given["img_ids"].reshape(-1, 3)[-1]
        return int(last[-2]) + 1, int(last[-1]) + 1
    return latents.shape[-2], latents.shape[-1]


def least_side(denoiser: Any) -> int:
    """The side of the smallest latents that a denoiser takes."""
    halvings = len(getattr(denoiser.config, "block_out_channels", (0,))) - 1
    return (getattr(denoiser.config, "patch_size", None) or 1) * 2**halvings


def crop_latents(given: dict[str, Any], side: int) -> dict[str, Any]:
    """What changes where only a corner of the latents is computed, and a text without mask is read."""
    name = latents_in(given)
    changed = {key: None for key in given if "controlnet" in key or "residual" in key or "text" in key}
    changed |= {key: None for key in given if key == "encoder_attention_mask"}
    if given[name].ndim == 3:
        return changed | {name: given[name][:, :1], "img_ids": given["img_ids"][..., :1, :]}
    return changed | {name: given[name][..., :side, :side]}


def rows_of(value: Any, rows: int, chosen: slice) -> Any:
    """Those rows of whatever the denoiser was given that has a row for each of the batch."""
    if isinstance(value, dict):
        return {name: rows_of(part, rows, chosen) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(rows_of(part, rows, chosen) for part in value)
    return value[chosen] if isinstance(value, Tensor) and value.ndim and len(value) == rows else value
