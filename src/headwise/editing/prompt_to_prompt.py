r"""Prompt-to-prompt: edit a picture by editing its prompt, on the attention maps of the unedited one.

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

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from headwise.editing.alignment import Alignment, align
from headwise.editing.local_blend import LocalBlend, source_rows
from headwise.errors import BadStrength, HeadwiseError, HookMisuse, PromptsNotAlike, WordNotInPrompt
from headwise.measuring.relevance import Relevance
from headwise.model.attention import hooked
from headwise.model.generate import generator_for, latent_shape
from headwise.model.heads import denoiser_of
from headwise.model.pipelines import quiet
from headwise.model.sites import Attend, AttentionHook, DenoiserCall, Site
from headwise.model.tokens import token_positions
from headwise.steering.steer import strengthen

__all__ = ["PromptToPrompt", "check_targets", "generate_edits", "edit"]

Share = float | int


class PromptToPrompt:
    """A hook that draws targets on the attention maps of their source.

        p2p = PromptToPrompt(relevance=relevance, concepts={"blue": "Color"})
        pictures = edit(pipe, "a red car", ["a blue car"], p2p)

    Args:
        targets: How many follow each source in the batch.
        cross: The share of denoiser calls, from 0, in which map columns come from the source; by words of the
            targets, if a mapping, with "" for all others.
        self_attention: The share in which coarse self-attention comes from the source; the paper of
            prompt-to-prompt has 0.4, that of relevance 0.9, which are the defaults without and with concepts.
        coarse: Self-attention is exchanged in layers of at most this share of the latents' positions: 1/16 is
            16² of 64².
        weights: Factors on words of the targets, at all calls.
        relevance, concepts: Words of the targets, and the concept by whose heads each is strengthened instead
            of taking the source's map.
        strength: s in 1 + s (R − 1).
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
        strength: float | int = 1.0,
    ) -> None:
        if concepts and relevance is None:
            raise HookMisuse("Concepts were given to strengthen words by, but no relevance. Give both.")
        self.targets = targets
        self.cross: Mapping[str, Share] = cross if isinstance(cross, Mapping) else {"": cross}
        self.self_attention = (0.9 if concepts else 0.4) if self_attention is None else self_attention
        self.coarse, self.weights, self.relevance = coarse, dict(weights or {}), relevance
        self.factors = {
            word: strengthen(relevance, word, concept, strength).factors[0]
            for word, concept in (concepts or {}).items()
            if relevance is not None
        }
        for share in (*self.cross.values(), self.self_attention):
            if not 0 <= share <= 1:
                raise BadStrength(f"{share} was given as a share of the denoiser calls; expected 0 to 1.")
        self._prepared: Any = None

    def prepare(self, call: DenoiserCall) -> None:
        """Lay out M, a and b for this call; the prompts' part once, the windows' part where one ends."""
        known = (call.prompts, call.tokens, call.rows, call.device)
        if known != self._prepared:
            self._read(call)
            self._prepared, self._inside = known, None
        if not call.steps:
            raise HookMisuse("How many denoiser calls there will be is not known. Call the pipeline.")
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
        own = self._own[site.layer].to(value.dtype)
        output = attend(query, key, value * own)
        if not self._borrows:
            return output
        borrowed = torch.einsum("rst,rhtd->rhsd", self._borrowed.to(value.dtype), value)
        return output + attend(query[rows], key[rows], borrowed)

    def _read(self, call: DenoiserCall) -> None:
        """What the prompts say: alignments, windows, factors; one entry for each picture."""
        self._rows = source_rows(call, self.targets)
        sources = self._rows[call.conditional] - call.conditional.start
        blank = np.zeros((call.pictures, call.tokens))
        self._matrix = torch.zeros(call.pictures, call.tokens, call.tokens, dtype=torch.float64)
        until, weight = blank.copy(), blank + 1
        factor = np.ones((call.pictures, call.head_map.all_heads, call.tokens))
        strengthened = blank > 0
        if self.relevance is not None and self.relevance.head_map is not None:
            self.relevance.head_map.require(call.head_map, "The relevance", "the pipeline")
        targets = [p for p in range(call.pictures) if sources[p] != p]
        positions = self._positions(call, targets)
        for p in targets:
            found = _alignment(call, int(sources[p]), p)
            self._matrix[p] = torch.from_numpy(found.matrix)
            until[p] = self.cross.get("", 0.8)
            for word, tokens in positions[p].items():
                until[p, tokens] = self.cross.get(word, until[p, tokens])
                weight[p, tokens] *= self.weights.get(word, 1.0)
                if word in self.factors:
                    factor[p][:, tokens], strengthened[p, tokens] = self.factors[word][:, None], True
        self._until, self._weight = torch.from_numpy(until), torch.from_numpy(weight)
        self._factor = torch.from_numpy(factor)
        self._from_source = (self._matrix.sum(1) > 0) & ~torch.from_numpy(strengthened)

    def _positions(self, call: DenoiserCall, targets: list[int]) -> dict[int, dict[str, list[int]]]:
        """Where each named word stands in each target that has it; it must stand in one."""
        found: dict[int, dict[str, list[int]]] = {p: {} for p in targets}
        for word in {*self.cross, *self.weights, *self.factors} - {""}:
            refused = None
            for p in targets:
                try:
                    found[p][word] = list(token_positions(call.tokenizer, call.prompts[p], word))
                except WordNotInPrompt as error:
                    refused = error
            if refused and not any(word in of_target for of_target in found.values()):
                raise refused
        return found

    def _lay_out(self, call: DenoiserCall, inside: Tensor) -> None:
        """a and b of this call, in rows of the batch; rows without the prompt keep their own maps."""
        a = (self._from_source & inside) * self._weight
        own = torch.where(inside[:, None], self._factor, 1.0) * self._weight[:, None]
        own = torch.where((self._from_source & inside)[:, None], 0.0, own)
        all_own = torch.ones(call.rows, *own.shape[1:], dtype=own.dtype)
        all_own[call.conditional] = own
        borrowed = torch.zeros(call.rows, call.tokens, call.tokens, dtype=own.dtype)
        borrowed[call.conditional] = self._matrix * a[:, None]
        self._borrows = bool(a.any())
        self._borrowed = borrowed.to(call.device)
        all_own = all_own.to(call.device)[..., None]
        self._own = [all_own[:, start:stop] for start, stop in call.head_map.slices]


def generate_edits(
    pipe: Any,
    groups: Sequence[Sequence[str]],
    hooks: Sequence[AttentionHook],
    *,
    seeds: Sequence[int],
    latents: Float[Tensor, "groups channels height width"] | None = None,
    height: int | None = None,
    width: int | None = None,
    negative_prompt: str | None = None,
    **options: Any,
) -> list[list[Any]]:
    """The pictures of several sources and their targets, in one batch.

    Args:
        groups: Source and targets, as many targets in each; pictures of a group share latents and noise.
        hooks: What makes targets resemble sources.
        seeds: Of each group.
        latents: Of each group; drawn from the seeds if None.
        height, width, negative_prompt, options: Passed to the pipeline.
    """
    prompts = [prompt for group in groups for prompt in group]
    each = [seed for seed, group in zip(seeds, groups, strict=True) for _ in group]
    generators = [generator_for(seed, 0) for seed in each]
    shape, dtype = latent_shape(pipe, height, width), denoiser_of(pipe).dtype
    start = torch.stack([torch.randn(shape, generator=generator) for generator in generators])
    if latents is not None:
        start = torch.stack(
            [of_group for of_group, group in zip(latents, groups, strict=True) for _ in group]
        )
    blends = [hook for hook in hooks if isinstance(hook, LocalBlend)]
    if blends:
        options["callback_on_step_end"] = _blending(blends)
    with hooked(pipe, *hooks):
        drawn = pipe(
            prompt=prompts,
            negative_prompt=None if negative_prompt is None else [negative_prompt] * len(prompts),
            latents=start.to(dtype),
            generator=generators,
            height=height,
            width=width,
            **options,
        ).images
    pictures = iter(drawn)
    return [[next(pictures) for _ in group] for group in groups]


def edit(
    pipe: Any,
    source: str,
    targets: Sequence[str],
    *hooks: AttentionHook,
    seeds: Sequence[int] = (0,),
    batch_size: int = 8,
    progress: bool = True,
    **options: Any,
) -> list[list[Any]]:
    """Draw a prompt and its edits.

    Args:
        pipe: The user's pipeline; it is left as it was.
        source: The prompt to edit.
        targets: The same, with words changed or added.
        hooks: What makes targets resemble the source; `PromptToPrompt` if none is given.
        seeds: One group of pictures each.
        batch_size: Pictures per pipeline call, at most, though a group is never cut.
        progress: Show a bar on stderr.
        options: Passed to the pipeline: `num_inference_steps`, `latents` (one for each seed) …

    Returns:
        For each seed the picture of the source, then those of the targets.

    Raises:
        PromptsNotAlike: A target is the source, or has no word of it.
    """
    check_targets(pipe, source, targets)
    hooks = hooks or (PromptToPrompt(targets=len(targets)),)
    group = [source, *targets]
    at_once, drawn = max(1, batch_size // len(group)), []
    latents = options.pop("latents", None)
    with quiet(pipe), tqdm(total=len(seeds), unit="edit", disable=not progress) as bar:
        for start in range(0, len(seeds), at_once):
            some = seeds[start : start + at_once]
            own = None if latents is None else latents[start : start + at_once]
            drawn += generate_edits(pipe, [group] * len(some), hooks, seeds=some, latents=own, **options)
            bar.update(len(some))
    return drawn


def check_targets(pipe: Any, source: str, targets: Sequence[str]) -> None:
    """PromptsNotAlike, or HeadwiseError if there is none, before anything is drawn."""
    for target in targets:
        if target.split() == source.split():
            raise PromptsNotAlike(
                f'Source and target are both "{source}", so there is nothing to edit. '
                "Change a word of the target."
            )
        align(pipe.tokenizer, source, target)
    if not targets:
        raise HeadwiseError("No target was given. Give one or more prompts to edit the source into.")


def _blending(blends: list[LocalBlend]) -> Callable[..., dict[str, Any]]:
    def after_step(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        for blend in blends:
            tensors["latents"] = blend.blend(tensors["latents"])
        return tensors

    return after_step


def _alignment(call: DenoiserCall, source: int, target: int) -> Alignment:
    return align(call.tokenizer, call.prompts[source], call.prompts[target], call.tokens)
