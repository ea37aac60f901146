r"""Recording a sampling: how much, and where, every head attends to one word.

With t(w) the tokens of the word, for head h at position x of its layer's grid,

    A[h, x] = mean over denoiser calls of Σ_{t ∈ t(w)} softmax(q kᵀ/√d)[h, x, t]

No map is made for it: attending to values that are 1 at the word's tokens and 0 elsewhere gives the word's
column (measuring/attention_maps.py), in whatever kernel stands there. That is one attention more per layer.
What was steered before is seen as it was steered.

A recording begins anew with each sampling, which is known by its own tensor of sigmas.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwise.errors import HookMisuse
from headwise.measuring.attention_maps import WordMaps
from headwise.measuring.relevance import Relevance
from headwise.model.tokens import Word

from .layers import Attend, LayerCall, with_actions
from .marking import marked
from .words import WordTokens, find

__all__ = ["Recording", "recorded"]


@dataclass(eq=False)
class Recording:
    """What the heads of one model attended to in the last sampling.

    Args:
        relevance: The relevance whose head map numbers the heads.
        word: The word.
        tokens: Where its tokens stand.
    """

    relevance: Relevance
    word: str
    tokens: WordTokens
    _sums: dict[int, Tensor] = field(default_factory=dict)
    _calls: dict[int, int] = field(default_factory=dict)
    _sigmas: Any = None

    def add(self, layer: int, columns: Float[Tensor, "rows heads pixels"], call: LayerCall) -> None:
        """Add the word's column in the maps of one layer at one call, in the rows with the prompt.

        Where several prompts are combined, each of which has a row for every image, their mean is taken.

        Raises:
            HookMisuse: The calls are of different sizes, as those of prompts that have areas.
        """
        sigmas = call.options.get("sample_sigmas")
        if sigmas is not self._sigmas:
            self._sums, self._calls, self._sigmas = {}, {}, sigmas
        kinds = call.options.get("cond_or_uncond", [0])
        maps = columns[call.prompted.to(columns.device)].unflatten(0, (kinds.count(0), -1)).float().mean(0)
        total = self._sums.get(layer, 0)
        if isinstance(total, Tensor) and total.shape != maps.shape:
            raise HookMisuse(
                f"A layer has {maps.shape[-1]} pixels of {len(maps)} images; it had {total.shape[-1]} of "
                f"{len(total)} before. Record samplings in which no prompt has an area of its own."
            )
        self._sums[layer] = total + maps.cpu()
        self._calls[layer] = self._calls.get(layer, 0) + 1

    def maps(self, latents: tuple[int, int], picture: int = 0) -> WordMaps:
        """The maps of one image of the batch.

        Args:
            latents: Height and width of the latents that were sampled.
            picture: Its number in the batch, from 0.

        Raises:
            HookMisuse: Nothing was recorded, or the latents are not those that were sampled.
        """
        head_map = self.relevance.head_map
        if head_map is None or len(self._sums) != len(head_map):
            raise HookMisuse(
                "Nothing was recorded. Give the model of Record attention to the sampler whose latents are "
                "given here."
            )
        layers = []
        for layer in range(len(head_map)):
            of_picture = self._sums[layer][picture % len(self._sums[layer])] / self._calls[layer]
            height, width = _grid(of_picture.shape[-1], latents)
            on_grid = of_picture[:, : height * width].unflatten(1, (height, width))
            layers.append(on_grid[..., None].numpy())
        word = Word(self.word, 1, (), self.tokens.positions)
        return WordMaps((word,), tuple(layers), head_map)


def recorded(
    model: Any, clip: Any, relevance: Relevance, text: str, word: str, occurrence: int | None = None
) -> tuple[Any, Recording]:
    """A clone of a model, and what records the attention to a word while the clone is sampled.

    Args:
        model: ComfyUI's model; it is left as it was.
        clip: The CLIP that encodes the positive prompt.
        relevance: The relevance measured on a model with the same heads.
        text: The positive prompt.
        word: A word or phrase of it.
        occurrence: The number of the occurrence, from 1; None for all.

    Raises:
        WordNotInPrompt, HeadMapMismatch: The word is not in the prompt, or the model has different heads.
    """
    recording = Recording(relevance, word, find(clip, text, word, occurrence))
    return with_actions(model, relevance.head_map, lambda layer, _: _Watched(recording, layer)), recording


@dataclass(frozen=True, eq=False)
class _Watched:
    """One layer's attention, recorded and unchanged."""

    recording: Recording
    layer: int

    def __call__(self, attend: Attend, value: Tensor, call: LayerCall) -> Tensor:
        if call.prompted.any():
            with torch.no_grad():
                of_word = marked(self.recording.tokens, value, call)[:, None, :, None].to(value.dtype)
                columns = attend(of_word.expand(value.shape).contiguous())
                columns = columns.unflatten(-1, (value.shape[1], -1))[..., 0]  # every channel is the same
                self.recording.add(self.layer, columns.transpose(1, 2), call)
        return attend(value)


def _grid(pixels: int, latents: tuple[int, int]) -> tuple[int, int]:
    """The grid of a layer of this many pixels: the latents', halved some times and rounded up.

    Images that a transformer is shown beside its latents stand behind them.
    """
    grids = [tuple(int(np.ceil(side / 2**level)) for side in latents) for level in range(6)]
    fitting = [grid for grid in grids if grid[0] * grid[1] == pixels]
    if not fitting:
        raise HookMisuse(
            f"A layer with {pixels} pixels was recorded, which latents of {latents[0]} × {latents[1]} do not "
            "have. Give the latents that were sampled by the model of Record attention."
        )
    return fitting[0]  # type: ignore[return-value]
