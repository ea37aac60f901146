"""The one way in: an action that stands at every text-reading layer of a clone.

An action is given the values of a layer with heads apart, and a way to attend to other values in their place.
Queries, keys, masks and the kernel stay ComfyUI's own, or those of whatever another node has put there.

In cross-attention it stands where attention is replaced (`attn2`). In joint attention blocks are replaced
(`dit`): the block that ComfyUI would run is run, with an `optimized_attention_override` of its own, so that
each attention is known by its block and need not be counted. As in Headwise's own hooks, the action is about
what pixels attend to; the text's queries keep the attention that they have.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from headwise.errors import HookMisuse
from headwise.model.heads import HeadMap

from .blocks import Block, is_joint, slices_by_block

__all__ = [
    "TEXT_TOKENS",
    "Action",
    "AtCrossAttention",
    "AtJointAttention",
    "Attend",
    "LayerCall",
    "with_actions",
]

Attend = Callable[[Tensor], Tensor]  # values "rows heads tokens dim" → outputs of pixels "rows pixels width"
TEXT_TOKENS = "headwise_text_tokens"  # in `transformer_options`, for blocks that are not told them
Action = Callable[[Attend, Tensor, "LayerCall"], Tensor]


@dataclass(frozen=True, eq=False)
class LayerCall:
    """One call of one layer.

    Args:
        rows: The number of rows of the batch.
        options: ComfyUI's `transformer_options` of this call.
        text: The number of text tokens.
        joint: Whether pixels stand behind the text in the same attention.
    """

    rows: int
    options: dict[str, Any]
    text: int
    joint: bool = False

    @cached_property
    def prompted(self) -> Bool[Tensor, " rows"]:
        """The rows that carry the prompt: ComfyUI says for each run of rows 0 with the prompt, 1 without."""
        kinds = self.options.get("cond_or_uncond", [0])
        return torch.tensor([kind == 0 for kind in kinds]).repeat_interleave(self.rows // len(kinds))


def with_actions(model: Any, head_map: HeadMap | None, action_at: Callable[[int, slice], Action]) -> Any:
    """A clone of a model with an action at every layer of a head map.

    Args:
        model: ComfyUI's model; it is left as it was.
        head_map: The heads of the relevance.
        action_at: From the number of a layer and the place of its heads in the head map to its action.

    Raises:
        HeadMapMismatch: The model has different heads.
    """
    clone = model.clone()
    denoiser = clone.get_model_object("diffusion_model")
    for layer, (block, place) in enumerate(slices_by_block(head_map, denoiser).items()):
        action = action_at(layer, place)
        if is_joint(block):
            patch = AtJointAttention(action, _replacement(clone, "dit", block))
            clone.set_model_patch_replace(patch, "dit", *block)
        else:
            patch = AtCrossAttention(action, _replacement(clone, "attn2", block))
            clone.set_model_attn2_replace(patch, *block)
    return clone


@dataclass(frozen=True, eq=False)
class _Patch:
    """What stands at one block.

    Args:
        action: The action.
        before: What another node has put there; None where nothing stood.
    """

    action: Action
    before: Callable[..., Any] | None = None

    # ComfyUI moves patches that can be moved, and loads the models of those that have some: what stood here
    # before may be of either kind.

    def to(self, *where: Any) -> "_Patch":
        """With what stood here before moved to a device."""
        return replace(self, before=self.before.to(*where)) if hasattr(self.before, "to") else self

    def models(self) -> list[Any]:
        """The models of what stood here before."""
        return self.before.models() if hasattr(self.before, "models") else []


class AtCrossAttention(_Patch):
    """What ComfyUI calls in place of a cross-attention."""

    def __call__(
        self, query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any], **more: Any
    ) -> Tensor:
        """Called with projections "rows tokens width", in which heads stand side by side."""
        attention = self.before or _comfyui_attention

        def attend(values: Tensor) -> Tensor:
            """The attention that stood here, to other values."""
            return attention(query, key, _together(values), options, **more)

        call = LayerCall(len(value), options, value.shape[1])
        return self.action(attend, _apart(value, options["n_heads"]), call)


class AtJointAttention(_Patch):
    """What ComfyUI calls in place of a transformer block, which it runs with an attention of its own."""

    def __call__(self, given: dict[str, Any], block: dict[str, Callable[..., Any]]) -> dict[str, Tensor]:
        """Called with the inputs of the block and the block itself.

        FLUX's single blocks are given text and pixels as one; its double blocks, which come first, tell them
        how long the text is.
        """
        options = given["transformer_options"]
        if "txt" in given:
            options[TEXT_TOKENS] = given["txt"].shape[1]
        tokens = sum(given[part].shape[1] for part in ("txt", "img") if part in given)
        call = LayerCall(len(given["img"]), options, options[TEXT_TOKENS], joint=True)
        override = _Override(self.action, call, tokens, options.get("optimized_attention_override"))
        given = given | {"transformer_options": options | {"optimized_attention_override": override}}
        if self.before is not None:
            return self.before(given, block)
        out = block["original_block"](given)
        if not override.reached:
            raise HookMisuse(
                "This ComfyUI does not pass `transformer_options` from a block to its attention, so nothing "
                "can be steered. Update ComfyUI to 0.3.59 or newer."
            )
        return out


class _Override:
    """The attention of one call of a block.

    Args:
        action: The action.
        call: The call of the layer.
        tokens: The number of tokens of text and pixels, by which the joint attention is told from another of
            the same block: some of Stable Diffusion 3.5 let pixels attend to pixels once more.
        before: The override of another node.
    """

    def __init__(
        self, action: Action, call: LayerCall, tokens: int, before: Callable[..., Tensor] | None
    ) -> None:
        self.action, self.call, self.tokens, self.before = action, call, tokens, before
        self.reached = False

    def __call__(
        self,
        kernel: Callable[..., Tensor],
        query: Tensor,
        key: Tensor,
        value: Tensor,
        heads: int,
        mask: Tensor | None = None,
        part: tuple[int, int] | None = None,
        **more: Any,
    ) -> Tensor:
        """Called with ComfyUI's kernel, and heads apart or side by side, as `skip_reshape` says.

        Another override of this kind calls it for a part of the queries, from one position to another.
        """
        axis = 2 if more.get("skip_reshape", False) else 1  # of queries
        text, (first, last) = self.call.text, part or (0, query.shape[axis])
        whole: list[Tensor] = []

        def run(start: int, stop: int, values: Tensor) -> Tensor:
            """The attention of some queries, by the kernel or by the override of another node."""
            queries = query.narrow(axis, start - first, stop - start)
            options = more | {"mask": _mask_of(mask, last - first, start - first, stop - first)}
            if self.before is None:
                return kernel(queries, key, values, heads, **options)
            if isinstance(self.before, _Override):
                options["part"] = (start, stop)
            return self.before(kernel, queries, key, values, heads, **options)

        def attend(values: Tensor) -> Tensor:
            """The pixels' attention; with the layer's own values it is cut from one call, bit for bit."""
            if values is not apart:
                return run(text, last, values if axis == 2 else _together(values))
            whole[:] = whole or [run(first, last, value)]
            return whole[0][..., text - first :, :]

        if key.shape[axis] != self.tokens or last == text:
            return run(first, last, value)
        self.reached = True
        apart = value if axis == 2 else _apart(value, heads)
        of_pixels = self.action(attend, apart, self.call)
        if first == text:
            return of_pixels
        of_text = whole[0][..., :text, :] if whole else run(0, text, value)
        return torch.cat([of_text, of_pixels], -2)


def _mask_of(mask: Tensor | None, queries: int, start: int, stop: int) -> Tensor | None:
    """A mask for some of the queries, where it has a row for each."""
    has_rows = mask is not None and mask.ndim > 1 and mask.shape[-2] == queries
    return mask[..., start:stop, :] if has_rows else mask


def _apart(value: Tensor, heads: int) -> Tensor:
    """Heads apart, without a copy.

    Values come as "rows tokens width" or, from Stable Diffusion 3, as "rows tokens heads dim".
    """
    return (value if value.ndim == 4 else value.unflatten(-1, (heads, -1))).transpose(1, 2)


def _together(value: Tensor) -> Tensor:
    """Heads side by side: "rows heads tokens dim" → "rows tokens width"."""
    return value.transpose(1, 2).flatten(-2)


def _replacement(model: Any, kind: str, block: Block) -> Callable[..., Any] | None:
    """What other nodes have put at a block, looked for as ComfyUI looks for it."""
    replaced = model.model_options["transformer_options"].get("patches_replace", {}).get(kind, {})
    return replaced.get(block, replaced.get(block[:2]))


def _comfyui_attention(
    query: Tensor, key: Tensor, value: Tensor, options: dict[str, Any], **_: Any
) -> Tensor:
    from comfy.ldm.modules.attention import optimized_attention

    precision = options.get("attn_precision")
    return optimized_attention(
        query, key, value, options["n_heads"], attn_precision=precision, transformer_options=options
    )
