r"""Prompt-to-prompt: edit an image by editing its prompt, reusing the attention maps of the unedited image.

Source and targets are side by side in one batch, from the same latents. With A the map of the source's image,
A* that of a target's, V* the target's values and M the alignment of the two prompts (alignment.py), column t
of the target's map becomes, in the first calls,

    (A M)[:, t]      if the word is also in the source, or replaces one of its words   (replace)
    A*[:, t]         if the word is new                                                (refine)
    w[t] · …         if the word is weighted                                           (reweight)
    R[h] · A*[:, t]  if the word is strengthened by the relevance R of a concept

and is A*[:, t] again afterwards. No map is computed: with a and b the factors of the two kinds of columns,

    output = attend(q, k, M diag(a) V*) + attend(q*, k*, diag(b) V*)

is the same sum (exchange.py, which also covers joint attention). In the first calls, self-attention maps at
coarse layers are the source's too, so that the layout stays: attend(q, k, V*).

`as_published` restores what the published code does differently: it aligns prompts in its own way
(alignment_published.py), counts its windows in steps and rounds them down, and weights words in the first
calls only.

References:
    | Prompt-to-Prompt Image Editing with Cross Attention Control (Hertz et al., 2022)
    | https://arxiv.org/abs/2208.01626
    | Cross-Attention Head Position Patterns Can Align with Human Visual Concepts (Park et al., 2024)
    | https://arxiv.org/abs/2412.02237
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from headwise.editing.alignment import Alignment, align, align_images
from headwise.editing.alignment_published import align_as_published
from headwise.editing.exchange import Columns, exchange_cross, exchange_joint
from headwise.editing.groups import generate_edits, is_coarse, source_rows
from headwise.editing.support import NO_LAYOUT, require_cross_attention, require_support
from headwise.errors import (
    BadStrength,
    HeadwiseError,
    HookMisuse,
    PromptsNotAlike,
    Unsupported,
    WordNotInPrompt,
)
from headwise.measuring.relevance import Relevance
from headwise.model.generate import Key
from headwise.model.hooks import Hook
from headwise.model.pipelines import quiet
from headwise.model.sites import Attend, AttentionHook, DenoiserCall, Site
from headwise.model.text_encoders import text_segments
from headwise.steering.spelling import steering_rule

__all__ = ["PromptToPrompt", "check_targets", "edit"]

Fraction = float | int


class PromptToPrompt(Hook):
    """A hook that generates targets with the attention maps of their source.

        p2p = PromptToPrompt(relevance=relevance, concepts={"blue": "Color"})
        images = edit(pipe, "a red car", ["a blue car"], p2p)

    Args:
        targets: The number of targets that follow each source in the batch.
        cross: The fraction of the denoiser calls, from the first, in which map columns come from the source,
            0 … 1; or a mapping of words of the targets to fractions, with "" for all other words.
        self_attention: The fraction of the calls in which coarse self-attention maps come from the source,
            0 … 1. The default is the prompt-to-prompt paper's 0.4; with concepts, the relevance paper's 0.9.
        coarse: The largest grid at which a layer's self-attention is exchanged, as a fraction of the latents'
            positions, 0 … 1. By default 1/16, such as 16² of 64², but at least 8²; transformers have one
            grid, and all layers are exchanged. Sana's self-attention is linear and has no maps: none is
            exchanged, and a fraction given for `self_attention` is refused.
        weights: The weight w of words of the targets, in all calls.
        relevance, concepts: The relevance, and for words of the targets the concept whose heads strengthen
            each word instead of its taking the source's map.
        strength: The strength s in R = 1 + s (relevance − 1) or, for relevance by effect, the dose that
            `amplify` reaches; or a mapping of the words in `concepts` to strengths.
        as_published: Whether prompts are aligned, and calls counted, as in the published code: of n inference
            steps, `cross` is the first ⌊f · (n + 1)⌋ calls and `self_attention` the first ⌊f · n⌋, with f the
            fraction; words are weighted while `cross` lasts; and in a mapping without "", other words have
            the fraction 1.

    Raises:
        BadStrength: A fraction or a strength is out of range.
        HookMisuse: Concepts were given without relevance.
    """

    kinds = ("cross", "joint", "self")
    once_per_step = True

    def __init__(
        self,
        *,
        targets: int = 1,
        cross: Fraction | Mapping[str, Fraction] = 0.8,
        self_attention: Fraction | None = None,
        coarse: Fraction | None = None,
        weights: Mapping[str, float | int] | None = None,
        relevance: Relevance | None = None,
        concepts: Mapping[str, str] | None = None,
        strength: float | int | Mapping[str, float | int] = 1.0,
        as_published: bool = False,
    ) -> None:
        if concepts and relevance is None:
            raise HookMisuse("Concepts were given without relevance to strengthen words by. Give both.")
        self.targets, self.as_published = targets, as_published
        self.cross: Mapping[str, Fraction] = cross if isinstance(cross, Mapping) else {"": cross}
        self.self_attention = (0.9 if concepts else 0.4) if self_attention is None else self_attention
        self.coarse, self.weights, self.relevance = coarse, dict(weights or {}), relevance
        self.factors = {
            word: steering_rule(relevance.kind, two_senses=False)(
                relevance, word, concept, strength[word] if isinstance(strength, Mapping) else strength
            ).factors[0]
            for word, concept in (concepts or {}).items()
            if relevance is not None
        }
        for fraction in (*self.cross.values(), self.self_attention):
            if not 0 <= fraction <= 1:
                raise BadStrength(f"A fraction of {fraction} of the calls was given; expected 0 to 1.")
        self.needs_layout, self._met_layout = bool(self_attention), False
        self._prepared: Any = None

    @torch.inference_mode(False)  # kept for later calls, whatever mode the first is made in
    def prepare(self, call: DenoiserCall) -> None:
        """Lay out M, a and b for this call, again only if the batch or the exchanged words change."""
        if not call.prompted:
            return
        text = (call.prompts, call.tokens, call.segments)
        batch = (text, call.rows, call.conditional, call.device, call.dtype, call.head_map)
        if not call.step or batch != self._prepared:
            self._read(call)
            self._prepared, self._inside = batch, None
        if not call.steps:
            raise HookMisuse("The number of denoiser calls is unknown outside a pipeline. Call the pipeline.")
        inside = self._within(call, self._until, more=1)
        if self._inside is None or not torch.equal(inside, self._inside):
            self._inside = inside
            self._lay_out(call, inside)
        self._same_layout = bool(self._within(call, torch.tensor(self.self_attention, dtype=torch.float64)))

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attend with columns of both maps; among pixels with the source's map, while the layout is kept."""
        if not site.call.prompted:
            return attend(query, key, value)
        if site.kind == "cross":
            return exchange_cross(attend, site, query, key, value, self._columns)
        self._met_layout = True
        same_layout = self._same_layout and self._is_coarse(site)
        if site.kind == "joint":
            return exchange_joint(attend, site, query, key, value, self._columns, same_layout)
        return attend(query[self._rows], key[self._rows], value) if same_layout else attend(query, key, value)

    def finish(self, call: DenoiserCall) -> None:
        """Raise Unsupported if self-attention was to be exchanged but the model has no such maps."""
        if call.prompted and self.needs_layout and not self._met_layout:
            raise Unsupported(NO_LAYOUT)

    def _is_coarse(self, site: Site) -> bool:
        if self.coarse is None:
            return is_coarse(site, smaller=True)
        return site.height * site.width <= self.coarse * site.call.grid[0] * site.call.grid[1]

    def _within(self, call: DenoiserCall, until: Tensor, more: int = 0) -> Tensor:
        """Whether a call is in the window; published windows are fractions of the steps plus `more`."""
        if not self.as_published:
            return call.step / call.steps < until
        steps = min(call.steps, getattr(call.scheduler, "num_inference_steps", None) or call.steps)
        return call.step < (until * (steps + more)).floor()

    def _read(self, call: DenoiserCall) -> None:
        """Find for each image M and, for each token, the fraction of the calls, w and R."""
        require_support(call.head_map, self)
        if self.as_published:
            require_cross_attention(call.head_map)
        self._rows = source_rows(call, self.targets)
        sources = self._rows[call.conditional] - call.conditional.start
        blank = np.zeros((call.pictures, call.tokens))
        self._m = torch.zeros(call.pictures, call.tokens, call.tokens, dtype=torch.float64)
        until, w = blank.copy(), blank + 1
        r = np.ones((call.pictures, call.head_map.all_heads, call.tokens))
        strengthened, taken = blank > 0, blank > 0
        if self.relevance is not None:
            self.relevance.require(call.head_map)
        targets = [p for p in range(call.pictures) if sources[p] != p]
        positions = self._positions(call, targets)
        for p in targets:
            alignment = self._alignment(call, int(sources[p]), p)
            self._m[p] = torch.from_numpy(alignment.matrix)
            taken[p] = ~alignment.new if self.as_published else alignment.matrix.any(0)
            until[p] = self.cross.get("", 1.0 if self.as_published else 0.8)
            for word, tokens in positions[p].items():
                until[p, tokens] = self.cross.get(word, until[p, tokens])
                w[p, tokens] *= self.weights.get(word, 1.0)
                if word in self.factors:
                    r[p][:, tokens], strengthened[p, tokens] = self.factors[word][:, None], True
        self._until, self._w, self._r = torch.from_numpy(until), torch.from_numpy(w), torch.from_numpy(r)
        self._from_source = torch.from_numpy(taken & ~strengthened)

    def _alignment(self, call: DenoiserCall, source: int, target: int) -> Alignment:
        if not self.as_published:
            return align_images(call, source, target)
        first, prompts = call.segments[0], call.prompts
        of_source, of_target = first.clean(prompts[source]), first.clean(prompts[target])
        return align_as_published(first.tokenizer, of_source, of_target, call.tokens)

    def _positions(self, call: DenoiserCall, targets: list[int]) -> dict[int, dict[str, list[int]]]:
        """The positions of each named word in each target that has it; at least one must."""
        positions: dict[int, dict[str, list[int]]] = {p: {} for p in targets}
        for word in {*self.cross, *self.weights, *self.factors} - {""}:
            refused = None
            for p in targets:
                try:
                    positions[p][word] = list(call.positions(p, word))
                except WordNotInPrompt as error:
                    refused = error
            if refused and not any(word in in_target for in_target in positions.values()):
                raise refused
        return positions

    def _lay_out(self, call: DenoiserCall, inside: Tensor) -> None:
        """The columns of this call: within its window, each comes from the source or is strengthened."""
        w = torch.where(inside, self._w, 1.0) if self.as_published else self._w
        r = torch.where(inside[:, None], self._r, 1.0)
        self._columns = Columns.of(call, self._rows, self._m, self._from_source & inside, w, r)


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
    """Generate the image of a prompt and its edits.

    Args:
        pipe: The user's pipeline; it is left unchanged.
        source: The prompt to edit.
        targets: The same prompt with words changed or added, once for each edit.
        hooks: The hooks that make targets resemble the source; `PromptToPrompt` if none are given.
        seeds: The key of each group of images: (seed, image), or a seed s for (s, 0).
        batch_size: The largest number of images per pipeline call, but a group is never split.
        progress: Whether to show a bar on stderr.
        options: Passed to the pipeline: `num_inference_steps`, `latents` (one for each seed) …

    Returns:
        For each seed the image of the source, then those of the targets.

    Raises:
        Unsupported: One of the hooks does not work on this kind of model.
        PromptsNotAlike: A target equals the source, is read like the source, or shares no word with it.
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
    """Check targets before anything is generated.

    Args:
        pipe: The pipeline.
        source: The prompt to edit.
        targets: The prompts to edit it into.

    Raises:
        PromptsNotAlike: A target equals the source, is read like the source, or shares no word with it.
        HeadwiseError: No target was given.
    """
    segments = text_segments(pipe)
    prompt_by_tokens = {_as_read(pipe, source): source}
    for target in targets:
        if target.split() == source.split():
            raise PromptsNotAlike(
                f'Source and target are both "{source}", so there is nothing to edit. '
                "Change a word of the target."
            )
        alike = prompt_by_tokens.setdefault(_as_read(pipe, target), target)
        if alike == source:
            raise PromptsNotAlike(
                f'The text encoder reads "{target}" like the source, so there is nothing to edit. '
                "Change a word that it reads: it ignores letter case and words beyond its length."
            )
        if alike != target:
            warnings.warn(
                f'The text encoder reads "{alike}" and "{target}" alike, so their images will be the same. '
                "Change a word that it reads: it ignores letter case and words beyond its length.",
                stacklevel=3,
            )
        align(segments, source, target)
    if not targets:
        raise HeadwiseError("No target was given. Give one or more prompts to edit the source into.")


def _as_read(pipe: Any, prompt: str) -> tuple[tuple[int, ...], ...]:
    """The tokens of a prompt up to each text encoder's length, without the end token."""
    tokenizers = [getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2", "tokenizer_3")]
    convert = getattr(pipe, "maybe_convert_prompt", lambda prompt, tokenizer: prompt)
    by_encoder = []
    for tokenizer in filter(None, tokenizers):
        tokens = tokenizer(convert(prompt, tokenizer)).input_ids
        ended = bool(tokens) and tokens[-1] == tokenizer.eos_token_id  # Gemma adds no end token
        by_encoder.append(tuple(tokens[:-1] if ended else tokens)[: tokenizer.model_max_length - 1])
    return tuple(by_encoder)
