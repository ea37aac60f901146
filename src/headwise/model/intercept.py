"""One layer's forward: the first attention that it computes goes through the hooks.

No processor is replaced. The forward runs inside a `TorchFunctionMode` that intercepts the layer's first call
of `scaled_dot_product_attention`: norms, LoRA and rotary embeddings have been applied by then, and the
processor, whichever of diffusers' many it is, does the rest as usual. (Of an IP-Adapter's several calls, the
first is the one that reads the prompt.)

Joint attention is computed for pixels and text together; hooks get the queries of pixels and of text
separately, from the places given by the layout (layout.py).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from headwise.errors import HookMisuse
from headwise.model.hooks import Hook
from headwise.model.layout import Layout, put_back, reordered
from headwise.model.sites import Attend, DenoiserCall, Site

__all__ = ["Intercept"]


class Intercept(TorchFunctionMode):
    """While this mode is entered, the first fused attention is computed by the hooks.

    Args:
        hooks: The hooks to call, outermost first.
        call: The current denoiser call.
        module: The attention module whose forward is running.
        kind: The kind of the layer: "cross", "joint", "self" or "refiner".
        site_of: `site_of(kind, pixels, text, mask)` is the layer's site for queries of this kind.
        layout: `layout(length)` is the layout of a joint attention of that length.

    Attributes:
        met: Whether an attention has been intercepted.
    """

    def __init__(
        self,
        hooks: Sequence[Hook],
        call: DenoiserCall,
        module: nn.Module,
        kind: str,
        site_of: Callable[[str, int, slice, Tensor | None], Site],
        layout: Callable[[int], Layout],
    ) -> None:
        super().__init__()
        self.hooks, self.call, self.module, self.kind, self.site_of = hooks, call, module, kind, site_of
        self.layout = layout
        self.met = False

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention or self.met:
            return func(*args, **(kwargs or {}))
        self.met = True
        return self.intercept(func, *args, **(kwargs or {}))

    def intercept(
        self,
        kernel: Callable,
        query: Float[Tensor, "batch heads pixels dim"],
        key: Float[Tensor, "batch heads tokens dim"],
        value: Float[Tensor, "batch heads tokens dim"],
        attn_mask: Tensor | None = None,
        *args: Any,
        **options: Any,
    ) -> Float[Tensor, "batch heads pixels dim"]:
        """The attention as the hooks compute it; the kernel keeps its own mask, dropout and scale."""

        def attend(
            mask: Tensor | None, q: Tensor, k: Tensor, v: Tensor, rows: Tensor | None = None,
            queries: slice = slice(None),
        ) -> Tensor:  # fmt: skip
            """The kernel with this mask; `rows` and `queries` are those that q holds."""
            return kernel(q, k, v, _mask_of(mask, rows, queries), *args, **options)

        self.require_rows(len(query), key.shape[-2])
        if self.kind == "joint":
            return self.intercept_joint(attend, query, key, value, attn_mask)
        tokens = {"self": 0, "refiner": self.call.tokens}.get(self.kind, key.shape[-2])
        site = self.site_of(self.kind, query.shape[-2], slice(0, tokens), attn_mask)
        return self.call_hooks(functools.partial(attend, attn_mask), site, query, key, value)

    def require_rows(self, rows: int, keys: int) -> None:
        """Raise HookMisuse unless the layer computes the call's rows and, in cross-attention, its tokens."""
        cross = self.kind == "cross" and self.call.tokens
        if rows != self.call.rows or (cross and keys != self.call.tokens):
            raise HookMisuse(
                f"{type(self.module).__name__} attends to {keys} keys in {rows} rows, but the denoiser was "
                f"called with {self.call.rows} rows of {self.call.tokens} text tokens, so the rows or words "
                "do not match. Use a pipeline of still images whose layers read the text unchanged."
            )

    def intercept_joint(
        self, kernel: Callable[..., Tensor], query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Joint attention: the queries of pixels and of text go to hooks separately, with all keys."""
        layout = self.layout(key.shape[-2])
        unchanged = _Once(functools.partial(kernel, mask, query, key, value), layout.order)
        in_order = functools.partial(kernel, mask)
        if layout.order is not None:
            in_order = functools.partial(_in_own_order, in_order, layout.order, query)
            query, key, value = (reordered(tensor, layout.order) for tensor in (query, key, value))
            mask = None if mask is None else reordered(mask, layout.order, -1)

        def attend_from(
            part: slice, original: Tensor, q: Tensor, k: Tensor, v: Tensor, rows: Tensor | None = None
        ) -> Tensor:
            """The attention of one part of the queries, "batch heads part dim", to all keys.

            `original` is the layer's own part: while nothing is changed, all parts are slices of one call
            of the kernel. `rows` are the rows of the batch whose mask applies.
            """
            if q is original and k is key and v is value and rows is None:
                return unchanged()[..., part, :]
            return in_order(q, k, v, rows, part)

        outputs = []
        for kind, part in layout.parts(query.shape[-2]):
            queries = query[..., part, :]
            attend = functools.partial(attend_from, part, queries)
            if kind == "fill":
                outputs.append(attend(queries, key, value))
                continue
            pixels = layout.pixels.stop - layout.pixels.start
            site = self.site_of(kind, pixels, layout.text, _mask_of(mask, None, part))
            outputs.append(self.call_hooks(attend, site, queries, key, value))
        output = torch.cat(outputs, -2)
        return output if layout.order is None else put_back(output, layout.order)

    def call_hooks(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The output that the hooks for this kind of site return, outermost first."""
        for hook in reversed(self.hooks):
            if site.kind in hook.kinds:
                attend = functools.partial(_checked, hook, attend, site)
        return attend(query, key, value)


class _Once:
    """The layer's own attention, computed as a whole so that it is bit-exact, in a layout's order."""

    def __init__(self, attend: Callable[[], Tensor], order: Tensor | None) -> None:
        self.attend, self.order = attend, order
        self.output: Tensor | None = None

    def __call__(self) -> Tensor:
        if self.output is None:
            output = self.attend()
            self.output = output if self.order is None else reordered(output, self.order)
        return self.output


def _in_own_order(
    kernel: Callable[..., Tensor], order: Tensor, query: Tensor, q: Tensor, k: Tensor, v: Tensor,
    rows: Tensor | None, part: slice,
) -> Tensor:  # fmt: skip
    """The attention of one part of the queries to keys in a layout's order, computed in the layer's order.

    All queries are computed, so that multiplying keys and values by 1 changes no bit.
    """
    if rows is not None:
        order, query = order[rows.to(order.device)], query[rows.to(query.device)]
    whole = reordered(query, order)
    whole[..., part, :] = q
    output = kernel(put_back(whole, order), put_back(k, order), put_back(v, order), rows)
    return reordered(output, order)[..., part, :]


def _mask_of(mask: Tensor | None, rows: Tensor | None, queries: slice) -> Tensor | None:
    """An attention mask, "batch … queries keys", for these rows of the batch and some of the queries."""
    if mask is not None and rows is not None and len(mask) > 1:
        mask = mask[rows.to(mask.device)]
    return mask if mask is None or mask.shape[-2] == 1 else mask[..., queries, :]


def _checked(
    hook: Hook,
    attend: Attend,
    site: Site,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rows: Tensor | None = None,
) -> Tensor:
    if rows is not None:  # the previous hook passed on queries and keys of other rows
        attend = functools.partial(_in_rows, attend, rows)
    output = hook(attend, site, query, key, value)
    if not isinstance(output, Tensor) or output.shape != query.shape[:-1] + value.shape[-1:]:
        came = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise HookMisuse(
            f"The hook {hook!r} returned {came} at {site.address}; expected what attend returns, "
            f"a tensor of {tuple(query.shape[:-1] + value.shape[-1:])}. "
            "Did it forget to return attend(query, key, value)?"
        )
    return output


def _in_rows(
    attend: Attend, outer: Tensor, query: Tensor, key: Tensor, value: Tensor, rows: Tensor | None = None
) -> Tensor:
    return attend(query, key, value, rows=outer if rows is None else outer[rows])
