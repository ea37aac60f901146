r"""Prompt-to-prompt: edit an image by editing its prompt, with the attention maps of the unedited one.

Source and targets stand side by side in one batch, from the same latents. With A the map of the source's
picture, A* that of a target's, V* the target's values and M the alignment of the two prompts (alignment.py),
column t of the target's map becomes, in the first calls,

    (A M)[:, t]      where the word was there before, or stands in the place of another   (replace)
    A*[:, t]         where the word is new                                                (refine)
    w[t] · …         where a word is weighted                                             (reweight)
    R[h] · A*[:, t]  where the word is strengthened by the relevance R of a concept

and afterwards its own again. No map is made: with a and b the factors of the two kinds of columns,

    output = attend(q, k, M diag(a) V*) + attend(q*, k*, diag(b) V*)

is the same sum. In the first calls, too, self-attention at coarse layers is the source's, so that the layout
stays: attend(q, k, V*).

References:
    | Prompt-to-Prompt Image Editing with Cross Attention Control (Hertz et al., 2022)
    | https://arxiv.org/abs/2208.01626
    | Cross-Attention Head Position Patterns Can Align with Human Visual Concepts (Park et al., 2024)
    | https://arxiv.org/abs/2412.02237
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from headwise.editing.alignment import Alignment, align
from headwise.editing.groups import generate_edits, source_rows
from headwise.editing.support import require_support
from headwise.errors import BadStrength, HeadwiseError, HookMisuse, PromptsNotAlike, WordNotInPrompt
from headwise.measuring.relevance import Relevance
from headwise.model.generate import Key
from headwise.model.hooks import Hook
from headwise.model.pipelines import quiet
from headwise.model.sites import Attend, AttentionHook, DenoiserCall, Site
from headwise.model.tokens import token_positions
from headwise.steering.steer import strengthen

__all__ = ["PromptToPrompt", "check_targets", "edit"]

Share = float | int


class PromptToPrompt(Hook):
    """A hook that generates targets with the attention maps of their source.

        p2p = PromptToPrompt(relevance=relevance, concepts={"blue": "Color"})
        images = edit(pipe, "a red car", ["a blue car"], p2p)

    Args:
        targets: The number of targets that follow each source in the batch.
        cross: The share of the denoiser calls, from 0, in which map columns come from the source; by words of
            the targets, if a mapping, with "" for all other words.
        self_attention: The share in which coarse self-attention comes from the source; the paper of
            prompt-to-prompt has 0.4, that of relevance 0.9, which are the defaults without and with concepts.
        coarse: The largest share of the latents' positions at which a layer's self-attention is exchanged:
            1/16 is 16² of 64².
        weights: The weight w of words of the targets, at all calls.
        relevance, concepts: Words of the targets, and the concept by whose heads each is strengthened instead
            of taking the source's map.
        strength: The strength s in R = 1 + s (relevance − 1); by words of the concepts, if a mapping.
    """

    kinds = ("cross", "self")

    def __init__(
        self,
        *,
        targets: int = 1,
        cross: Share | Mapping[str, Share] = 0.8,
        self_attention: Share | None = None,
        coarse: Share = 1 / 16,
        weights: Mapping[str, float | int] | None = None,
        relevance: Relevance | None = None,
        concepts: Mapping[str, str] | None = None,
        strength: float | int | Mapping[str, float | int] = 1.0,
    ) -> None:
        if concepts and relevance is None:
            raise HookMisuse("Concepts were given to strengthen words by, but no relevance. Give both.")
        self.targets = targets
        self.cross: Mapping[str, Share] = cross if isinstance(cross, Mapping) else {"": cross}
        self.self_attention = (0.9 if concepts else 0.4) if self_attention is None else self_attention
        self.coarse, self.weights, self.relevance = coarse, dict(weights or {}), relevance
        self.factors = {
            word: strengthen(
                relevance, word, concept, strength[word] if isinstance(strength, Mapping) else strength
            ).factors[0]
            for word, concept in (concepts or {}).items()
            if relevance is not None
        }
        for share in (*self.cross.values(), self.self_attention):
            if not 0 <= share <= 1:
                raise BadStrength(f"{share} was given as a share of the denoiser calls; expected 0 to 1.")
        self._prepared: Any = None

    def prepare(self, call: DenoiserCall) -> None:
        """Lay out M, a and b for this call, anew only where the batch or the exchanged words change."""
        batch = (call.prompts, call.tokens, call.rows, call.device)
        if batch != self._prepared:
            self._read(call)
            self._prepared, self._inside = batch, None
        if not call.steps:
            raise HookMisuse("The number of denoiser calls to come is unknown. Call the pipeline.")
        done = call.step / call.steps
        inside = done < self._until
        if self._inside is None or not torch.equal(inside, self._inside):
            self._inside = inside
            self._lay_out(call, inside)
        self._same_layout = done < self.self_attention

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend with columns of two maps; at coarse self-attention with the source's map."""
        rows = self._rows
        if site.kind == "self":
            grid = site.call.grid[0] * site.call.grid[1]
            if not self._same_layout or site.height * site.width > self.coarse * grid:
                return attend(query, key, value)
            return attend(query[rows], key[rows], value)
        b = self._b[site.layer].to(value.dtype)
        output = attend(query, key, value * b)  # A* diag(b) V*
        if self._ma is None:
            return output
        mav = torch.einsum("rst,rhtd->rhsd", self._ma.to(value.dtype), value)
        return output + attend(query[rows], key[rows], mav)  # A M diag(a) V*

    def _read(self, call: DenoiserCall) -> None:
        """Read from the prompts, for each image: M, the share of calls of each token, w and R."""
        require_support(call.head_map, self)
        self._rows = source_rows(call, self.targets)
        sources = self._rows[call.conditional] - call.conditional.start
        blank = np.zeros((call.pictures, call.tokens))
        self._m = torch.zeros(call.pictures, call.tokens, call.tokens, dtype=torch.float64)
        until, w = blank.copy(), blank + 1
        r = np.ones((call.pictures, call.head_map.all_heads, call.tokens))
        strengthened = blank > 0
        if self.relevance is not None:
            self.relevance.require(call.head_map)
        targets = [p for p in range(call.pictures) if sources[p] != p]
        positions = self._positions(call, targets)
        for p in targets:
            self._m[p] = torch.from_numpy(_alignment(call, int(sources[p]), p).matrix)
            until[p] = self.cross.get("", 0.8)
            for word, tokens in positions[p].items():
                until[p, tokens] = self.cross.get(word, until[p, tokens])
                w[p, tokens] *= self.weights.get(word, 1.0)
                if word in self.factors:
                    r[p][:, tokens], strengthened[p, tokens] = self.factors[word][:, None], True
        self._until, self._w, self._r = torch.from_numpy(until), torch.from_numpy(w), torch.from_numpy(r)
        self._from_source = (self._m.sum(1) > 0) & ~torch.from_numpy(strengthened)

    def _positions(self, call: DenoiserCall, targets: list[int]) -> dict[int, dict[str, list[int]]]:
        """Where each named word stands in each target that has it; it must stand in one of them."""
        positions: dict[int, dict[str, list[int]]] = {p: {} for p in targets}
        for word in {*self.cross, *self.weights, *self.factors} - {""}:
            refused = None
            for p in targets:
                try:
                    positions[p][word] = list(token_positions(call.tokenizer, call.prompts[p], word))
                except WordNotInPrompt as error:
                    refused = error
            if refused and not any(word in of_target for of_target in positions.values()):
                raise refused
        return positions

    def _lay_out(self, call: DenoiserCall, inside: Tensor) -> None:
        """M diag(a) and b of this call, in rows of the batch; rows without the prompt keep their own maps."""
        from_source = self._from_source & inside
        a = from_source * self._w
        b = torch.where(inside[:, None], self._r, 1.0) * self._w[:, None]
        b = torch.where(from_source[:, None], 0.0, b)
        b_of_rows = torch.ones(call.rows, *b.shape[1:], dtype=b.dtype)
        b_of_rows[call.conditional] = b
        b_of_rows = b_of_rows.to(call.device)[..., None]
        self._b = [b_of_rows[:, start:stop] for start, stop in call.head_map.slices]
        ma = torch.zeros(call.rows, call.tokens, call.tokens, dtype=b.dtype)
        ma[call.conditional] = self._m * a[:, None]
        self._ma = ma.to(call.device) if a.any() else None


def edit(
    pipe: Any,
    source: str,
    targets: Sequence[str],
    *hooks: AttentionHook,
    seeds: Sequence[Key] = (0,),
    batch_size: int = 8,
    progress: bool = True,
    **options: Any,
) -> list[list[Any]]:
    """Generate a prompt and its edits.

    Args:
        pipe: The user's pipeline; it is left as it was.
        source: The prompt to edit.
        targets: The same prompt, with words changed or added.
        hooks: The hooks that make targets resemble the source; `PromptToPrompt` if there are none.
        seeds: The key of each group of images: (seed, picture), or a seed s for (s, 0).
        batch_size: The largest number of images per pipeline call, though a group is never cut.
        progress: Whether to show a bar on stderr.
        options: Passed to the pipeline: `num_inference_steps`, `latents` (one for each seed) …

    Returns:
        For each seed the image of the source, then those of the targets.

    Raises:
        Unsupported: One of the hooks does not work on this kind of model.
        PromptsNotAlike: A target is the source, or has no word of it.
    """
    hooks = hooks or (PromptToPrompt(targets=len(targets)),)
    require_support(pipe, *hooks)
    check_targets(pipe, source, targets)
    group: list[str] = [source, *targets]
    groups_per_call, edits = max(1, batch_size // len(group)), []
    latents = options.pop("latents", None)
    with quiet(pipe), tqdm(total=len(seeds), unit="edit", disable=not progress) as bar:
        for start in range(0, len(seeds), groups_per_call):
            batch = slice(start, start + groups_per_call)
            keys, noise = seeds[batch], None if latents is None else latents[batch]
            edits += generate_edits(pipe, [group] * len(keys), hooks, seeds=keys, latents=noise, **options)
            bar.update(len(keys))
    return edits


def check_targets(pipe: Any, source: str, targets: Sequence[str]) -> None:
    """PromptsNotAlike, or HeadwiseError if there is none, before anything is generated."""
    for target in targets:
        if target.split() == source.split():
            raise PromptsNotAlike(
                f'Source and target are both "{source}", so there is nothing to edit. '
                "Change a word of the target."
            )
        align(pipe.tokenizer, source, target)
    if not targets:
        raise HeadwiseError("No target was given. Give one or more prompts to edit the source into.")


def _alignment(call: DenoiserCall, source: int, target: int) -> Alignment:
    return align(call.tokenizer, call.prompts[source], call.prompts[target], call.tokens)
