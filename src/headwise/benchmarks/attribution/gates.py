r"""Learned gates: the few heads that preserve what a concept's words do.

With D(s) the denoiser's output when the values of the word are scaled by s[h] in head h, gates g in (0, 1)^H
minimise

    ‖D(g) − D(1)‖² / ‖D(0) − D(1)‖² + λ Σ_h g[h] / H

averaged over calls and images: 1 with all gates shut, λ with all of them open.

References:
    | Causal head gating: a framework for interpreting roles of attention heads in transformers (Nam et al.,
      2025)
    | https://arxiv.org/abs/2505.13737
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from headwise.benchmarks.attribution.tuning import Sampling, Tuning, batches_of, generate_with, tokens_of
from headwise.measuring.effect import ScaledWords, output_of
from headwise.model.heads import HeadMap
from headwise.model.hooks import Hook
from headwise.model.sites import DenoiserCall

__all__ = ["gates"]


def gates(
    pipe: Any,
    tuning: Tuning,
    seed: int,
    *,
    penalty: float = 0.5,
    rounds: int = 10,
    rate: float = 0.3,
    sampling: Sampling = Sampling(),
) -> Float[np.ndarray, " all_heads"]:
    """A gate for each head, such that few open gates preserve what the concept's words do.

    Args:
        pipe, tuning, seed: As in every estimator.
        penalty: The cost λ of all gates open, relative to that of all gates shut.
        rounds: The number of Adam steps at each denoiser call.
        rate: Adam's learning rate for the gates' logits.
        sampling: How the images are generated.

    Returns:
        The gates, 0 … 1.
    """
    learned = _Gates(HeadMap.of(pipe).all_heads, penalty, rounds, rate)
    for numbers in batches_of(tuning, sampling):
        learned.words = [tuning.words[i] for i in numbers]
        prompts = [tuning.prompts[i] for i in numbers]
        generate_with(pipe, learned, prompts, [(seed, i) for i in numbers], sampling)
    return torch.sigmoid(learned.logits).detach().double().cpu().numpy()


class _Gates(Hook):
    """Learns one gate per head from all calls of each batch of images."""

    once_per_step = True

    def __init__(self, all_heads: int, penalty: float, rounds: int, rate: float) -> None:
        self.penalty, self.rounds = penalty, rounds
        self.words: Sequence[str] = ()
        self.logits = torch.zeros(all_heads, requires_grad=True)
        self.adam = torch.optim.Adam([self.logits], lr=rate)
        self.calls: list[DenoiserCall] = []

    def finish(self, call: DenoiserCall) -> None:
        """Keep the call; after the last one, learn from early and late calls in turn."""
        if not call.prompted or call.rerun is None:
            return
        self.calls.append(call)
        if call.step + 1 < call.steps:
            return
        targets = [self._target(each) for each in self.calls]
        for _ in range(self.rounds):
            for each, (of_word, whole, size) in zip(self.calls, targets, strict=True):
                self._step(each, of_word, whole, size)
        self.calls = []

    def _target(self, call: DenoiserCall) -> tuple[Tensor, Tensor, Tensor]:
        """The word's tokens, the output with all gates open, and ‖D(0) − D(1)‖² of each image."""
        of_word = tokens_of(call, self.words)
        with torch.no_grad():
            shut, whole = (self._output(call, of_word, torch.full_like(self.logits, s)) for s in (0.0, 1.0))
        return of_word, whole, (shut - whole).flatten(1).square().sum(1)

    def _step(self, call: DenoiserCall, of_word: Tensor, whole: Tensor, size: Tensor) -> None:
        with torch.enable_grad():
            gates = torch.sigmoid(self.logits)
            lost = (self._output(call, of_word, gates) - whole).flatten(1).square().sum(1)
            loss = (lost / size.clamp_min(torch.finfo(size.dtype).tiny)).mean() + self.penalty * gates.mean()
            self.adam.zero_grad()
            loss.backward()
        self.adam.step()

    def _output(self, call: DenoiserCall, of_word: Tensor, factors: Tensor) -> Tensor:
        scale = factors.to(call.device).expand(call.pictures, -1)
        assert call.rerun is not None
        return output_of(call.rerun(ScaledWords(of_word, scale)))
