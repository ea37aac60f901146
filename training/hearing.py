"""Which text layers hear the words of a training sample: no few layers alone may learn to read.

A layer that does not hear a sample meets the empty caption in place of its words. A *rule* says how often:

    even 0.15        every layer is deaf in 15 % of the samples, each for itself
    top 0.65 0.05    the layers of the highest resolution are deaf in 65 %, the others in 5 %
    turns 0.75       in three samples of four every layer hears with a chance that is drawn for the sample, 0.1 … 1: now a few
                     layers hear, now many, and each in turn must do without the others

    heads 0.75       as turns, and in the samples that not all hear every head of a hearing layer hears with a chance of its own,
                     0.3 … 1, so that no few heads alone may learn to read
    window 0.8       as heads, and in the samples that not all hear only neighbouring layers hear: how many, and from which on, is
                     drawn for the sample, so that neither the first nor the last, which skip connections favour, can do it all

Layers may be told apart further: `Ears` can also say how alike the heads of a layer look at words, so that training can make
them disagree.

References:
    | Multi-Head Attention with Disagreement Regularization (Li et al., 2018)
    | https://arxiv.org/abs/1810.10183
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

__all__ = ["Ears", "draw_hearing", "listen", "text_layers"]


def text_layers(denoiser: nn.Module) -> list[tuple[str, nn.Module]]:
    """Names and modules of the layers that read text, in forward order."""
    order = ("down_blocks", "mid_block", "up_blocks", "transformer_blocks")
    layers = [(n, m) for n, m in denoiser.named_modules() if n.endswith("attn2")]
    return sorted(layers, key=lambda layer: order.index(layer[0].split(".")[0]))


def draw_hearing(rule: str, samples: int, top: Tensor, heads: int, generator: torch.Generator) -> Tensor:
    """Who hears: samples × layers × heads. `top` marks the layers of the highest resolution."""
    kind, *numbers = rule.split()
    hears = _layers_hear(kind, [float(n) for n in numbers], samples, top, generator)
    each = torch.ones(samples, len(top), heads, dtype=torch.bool)
    if kind in ("heads", "window"):
        rate = 0.3 + 0.7 * torch.rand(samples, 1, 1, generator=generator)
        each = hears.all(1)[:, None, None] | (torch.rand(each.shape, generator=generator) < rate)
    return hears[..., None] & each


def _layers_hear(
    kind: str, shares: list[float], samples: int, top: Tensor, generator: torch.Generator
) -> Tensor:
    chance = torch.rand(samples, len(top), generator=generator)
    if kind == "even":
        return chance >= shares[0]
    if kind == "top":
        return chance >= torch.where(top, shares[0], shares[1])
    rate = 0.1 + 0.9 * torch.rand(samples, 1, generator=generator)
    all_hear = torch.rand(samples, 1, generator=generator) >= shares[0]
    hears = chance < rate
    alone = torch.randint(0, len(top), (samples,), generator=generator)  # somebody hears, always
    hears[torch.arange(samples), alone] = True
    if kind == "window":
        many = torch.randint(1, len(top) + 1, (samples, 1), generator=generator)
        first = (torch.rand(samples, 1, generator=generator) * (len(top) - many + 1)).long()
        number = torch.arange(len(top))
        hears = (first <= number) & (number < first + many)
    return all_hear | hears


class Ears:
    """What the text layers share in training: who hears which sample, which tokens are words, how alike heads look."""

    def __init__(self, empty: Tensor, layers: int, heads: int, samples: int) -> None:
        self.empty = empty
        self.unheard: Tensor | None = (
            None  # what layers meet in place of `empty` where the denoiser projects captions first
        )
        self.hears = torch.ones(samples, layers, heads, dtype=torch.bool, device=empty.device)
        self.words = torch.zeros(samples, empty.shape[0], dtype=torch.bool, device=empty.device)
        self.looks: list[Tensor] = []
        self.compares = False

    def likeness(self, everywhere: bool = False) -> Tensor:
        """How alike two heads look at words: the mean cosine over pairs of heads of a layer, or of all layers; forgets the looks."""
        looks, self.looks = self.looks, []
        groups = [torch.cat(looks)] if everywhere else looks
        return torch.stack([_cosine(heads) for heads in groups]).mean()


class Listening:
    """An attention processor of one text layer that hears only some samples."""

    def __init__(self, ears: Ears, layer: int) -> None:
        self.ears, self.layer = ears, layer

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """softmax(q kᵀ/√d) v with the words, or for a deaf sample with the empty caption."""
        ears, text = self.ears, encoder_hidden_states
        split = lambda x: x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # noqa: E731
        q, k, v = split(attn.to_q(hidden_states)), split(attn.to_k(text)), split(attn.to_v(text))
        if attn.training:
            empty = (ears.empty if ears.unheard is None else ears.unheard).to(text)[None]
            hears = ears.hears[:, self.layer, :, None, None]
            k = torch.where(hears, k, split(attn.to_k(empty)))
            v = torch.where(hears, v, split(attn.to_v(empty)))
        logits = q @ k.transpose(-1, -2) * attn.scale
        shares = (logits if attention_mask is None else logits + attention_mask[:, None]).softmax(-1)
        if ears.compares and attn.training:
            ears.looks.append(self._look(shares))
        out = (shares.to(v) @ v).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out)) / attn.rescale_output_factor

    def _look(self, shares: Tensor) -> Tensor:
        """How much each head attends to each word of the samples that all heads hear, at length 1: heads × (samples tokens)."""
        ears = self.ears
        looked = shares.float().mean(2) * ears.words[:, None]  # samples × heads × tokens
        looked = (
            looked * ears.hears.all(2).all(1)[:, None, None]
        )  # where some are deaf, heads differ by chance
        return F.normalize(looked.transpose(0, 1).flatten(1), dim=1, eps=1e-4)


def _cosine(heads: Tensor) -> Tensor:
    alike = heads @ heads.T
    return (alike.sum() - alike.diagonal().sum()) / (len(heads) * (len(heads) - 1))


def listen(denoiser: nn.Module, ears: Ears) -> None:
    """Place the processors of training at the text layers; self-attention goes without the masks that it never has."""
    for name, module in denoiser.named_modules():
        if name.endswith("attn1"):
            module.set_processor(AttnProcessor())
    for number, (_, layer) in enumerate(text_layers(denoiser)):
        layer.set_processor(Listening(ears, number))
