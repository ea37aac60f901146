r"""`hooked`, the one door through which anything enters a pipeline.

While the context is open, the forward of every layer of the head map runs inside an `Intercept`
(intercept.py), and the hooks (hooks.py) compute its attention. In joint attention, a hook gets the pixels'
queries, and `site.text` says which keys are text.

Only the pipeline knows which rows carry the prompt, so while the context is open the pipeline's `__call__`
goes through it too (replacing.py). This also makes `site.step` restart with each call, and lets hooks change
latents before the first step and after each one (steps.py).
"""

import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from headwise.errors import HookMisuse, LayerNotReached
from headwise.model import modes
from headwise.model.calls import PipelineCall, require_hooked_pipeline, watch_call
from headwise.model.contexts import Contexts
from headwise.model.families import family_of, heads_in
from headwise.model.heads import HeadMap, denoiser_of, self_attention_beside, wrapped_denoiser_of
from headwise.model.hooks import as_hook, overrides, require_once_per_step, stands_beside
from headwise.model.inputs import (
    at_time,
    call_denoiser,
    grid_of,
    latents_in,
    patch_side,
    patches,
    reading,
    rows_of,
    standard,
    text_in,
)  # fmt: skip
from headwise.model.intercept import Intercept
from headwise.model.layout import layout_of
from headwise.model.replacing import (
    Undo,
    register_feature,
    replace_cache_context,
    replace_call,
    replace_forward,
)
from headwise.model.sites import AttentionHook, DenoiserCall, Site, layer_grid
from headwise.model.steps import FirstCall, add_after_step, moved_start, require_steps
from headwise.model.text_encoders import text_segments

__all__ = ["hooked"]


@contextmanager
def hooked(pipe: Any, *hooks: AttentionHook) -> Iterator[Any]:
    """Run `pipe` with hooks at every layer of its head map; afterwards it is unchanged.

    Args:
        pipe: The user's pipeline (or a bare denoiser: then every row is conditional).
        hooks: Hooks and plain callables, outermost first.

    Contexts of one pipeline may be left in any order. While one is open, every call of the pipeline is
    hooked, from any thread, so another thread cannot open a second one.

    Raises:
        HookMisuse: A hook is entered twice, returns a shape other than attend's, or changes latents in a
            pipeline that cannot be called with them; another thread has hooked the pipeline; the rows of a
            call cannot be told apart; or other code replaced a layer's forward in the meantime.
        LayerNotReached: On a clean exit, if the denoiser was called and a layer was not.
    """
    context = _Hooked(pipe, hooks)
    try:
        context.open()
        yield pipe
    except BaseException:
        context.close()
        raise
    overwritten = context.close()
    if overwritten:
        raise HookMisuse(
            f"Other code replaced the forward of {overwritten[0]} while it was hooked "
            "and left it replaced. Enable offloading, adapters and the like before `hooked`, "
            "or undo them inside it."
        )
    context.require_reached()


class _Hooked:
    """What one `hooked` context puts into a pipeline, and how to remove it again."""

    def __init__(self, pipe: Any, hooks: tuple[AttentionHook, ...]) -> None:
        self.pipe, self.passed, self.hooks = pipe, hooks, tuple(map(as_hook, hooks))
        self.denoiser = denoiser_of(pipe)
        self.head_map, self.family = HeadMap.of(self.denoiser), family_of(self.denoiser)
        self.shared = Contexts.of(self.denoiser)
        self.pipeline_call: PipelineCall | None = None
        self.calls_outside = 0  # denoiser calls outside any pipeline call
        self.denoiser_call = self.prompted_call = DenoiserCall()
        self.unconditional = False  # whether the pipeline says that a call is the unconditional one
        self.completed, self.reached = 0, [False] * len(self.head_map)
        self.left = False
        self.undo: list[Undo] = []

    def open(self) -> None:
        """Put the hooks at every layer; HookMisuse if one is already in use."""
        self.shared.enter(self)
        # On the torch.compile wrapping, if there is one: counting then happens outside the compiled graph.
        outer = wrapped_denoiser_of(self.pipe)
        self.undo.append(modes.register_calls(outer, self._begin, self._finish))
        self.undo.append(modes.run_blocks_uncompiled(self.denoiser))
        modules = dict(self.denoiser.named_modules())
        for index, layer in enumerate(self.head_map):
            wrap = functools.partial(self._wrapped, layer.address, index, layer.kind)
            self.undo.append(replace_forward(layer.address, modules[layer.address], wrap))
            beside = self_attention_beside(layer.address)
            if beside in modules and any(stands_beside(hook, modules[beside]) for hook in self.hooks):
                wrap = functools.partial(self._wrapped, layer.address, index, "self")
                self.undo.append(replace_forward(beside, modules[beside], wrap))
        for address in self.family.refiners_among(modules):
            wrap = functools.partial(self._wrapped, address, -1, "refiner")
            self.undo.append(replace_forward(address, modules[address], wrap))
        for hook in self.hooks:
            for address in hook.features_among(modules):
                self.undo.append(register_feature(modules, address, hook, lambda: self.left))
        if hasattr(self.denoiser, "cache_context"):
            note = functools.partial(setattr, self, "unconditional")
            self.undo.append(replace_cache_context(self.denoiser, note))
        if callable(self.pipe) and not isinstance(self.pipe, nn.Module):
            require_steps(self.pipe, self.hooks)
            self.undo.append(replace_call(self.pipe, self._call_pipeline))

    def close(self) -> list[str]:
        """Undo everything, once no later context is in place above this one.

        Returns:
            The addresses of layers whose forward other code replaced in the meantime.
        """
        return self.shared.leave(self)

    def require_reached(self) -> None:
        """Raise LayerNotReached, naming the first, if completed denoiser calls skipped any layers."""
        missing = [layer.address for layer, was in zip(self.head_map, self.reached, strict=True) if not was]
        if self.completed and missing:
            raise LayerNotReached(
                f"{missing[0]} was never called in {self.completed} calls of the denoiser, "
                "so its hooks never ran"
                + (f" (and {len(missing) - 1} more layers). " if len(missing) > 1 else ". ")
                + "The denoiser must run all its layers; switch off caching and layer skipping."
            )

    def _call_pipeline(self, run: Callable[..., Any], arguments: inspect.BoundArguments) -> Any:
        """One call of the pipeline, whose latents hooks may change."""
        if self.left:
            return run(*arguments.args, **arguments.kwargs)
        named = inspect.BoundArguments(arguments.signature, arguments.arguments.copy())  # type: ignore[arg-type]
        named.apply_defaults()
        with ExitStack() as ending:
            ending.callback(setattr, self, "pipeline_call", self.pipeline_call)
            self.pipeline_call = PipelineCall.of(self.pipe, named.arguments)
            ending.callback(watch_call(self.pipe, self.pipeline_call))
            if any(overrides(hook, "before_first_step") for hook in self.hooks) and not self.shared.beginning:
                self.shared.beginning = self
                try:
                    latents = moved_start(self.pipe, self.hooks, run, arguments)
                finally:
                    self.shared.beginning = None
                self.pipeline_call.restart()
                if latents is not None:
                    arguments.arguments["latents"] = latents
            if any(overrides(hook, "after_step") for hook in self.hooks):
                ending.callback(add_after_step(self.pipe, self.hooks, lambda: self.prompted_call, arguments))
            return run(*arguments.args, **arguments.kwargs)

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        """Record what a denoiser call holds, before it is made."""
        if self.left or self.shared.beginning not in (None, self):
            return  # or a call that another context will stop
        signature = inspect.signature(type(self.denoiser).forward)
        inputs = signature.bind_partial(self.denoiser, *args, **kwargs).arguments
        inputs = {name: inputs[name] for name in list(inputs)[1:]}
        inputs |= inputs.pop("kwargs", {})
        self.denoiser_call = self._describe(standard(inputs, self.family))
        if self.shared.beginning is self:
            raise FirstCall(self.denoiser_call)
        if self.denoiser_call.prompted:
            again = self.pipeline_call is not None and self.pipeline_call.prompted
            require_once_per_step(self.hooks, self.denoiser_call, again)
            if self.pipeline_call is not None:
                self.pipeline_call.prompted = True
            self.prompted_call = self.denoiser_call
        for hook in self.hooks:
            hook.prepare(self.denoiser_call)

    def _describe(self, inputs: dict[str, Any]) -> DenoiserCall:
        latents, pipeline_call = inputs[latents_in(inputs)], self.pipeline_call
        grid, rows = grid_of(latents, inputs), latents.shape[0]
        text = text_in(inputs, self.family)
        if pipeline_call is None:
            if not isinstance(self.pipe, nn.Module):
                require_hooked_pipeline(self.pipe)
            call = PipelineCall((), 0, text_segments(self.pipe))
            call.step, self.calls_outside = self.calls_outside, self.calls_outside + 1
            held = call.rows(None, rows, False, self.unconditional)
        else:
            call = pipeline_call
            call.begin_denoiser_call(inputs.get("timestep"))
            guided, first = call.guided(self.pipe, self.denoiser), self.family.prompt_first
            unconditional = self.unconditional or (first and guided and call.prompted)
            held = call.rows(text.embedding, rows, guided, unconditional, first)
        described = DenoiserCall(
            step=call.step,
            steps=0 if pipeline_call is None else pipeline_call.steps_of(self.pipe),
            rows=rows,
            pictures=held.images,
            picture=held.image,
            conditional=held.conditional,
            grid=grid,
            prompts=call.prompts_of(held.images),
            tokens=text.tokens,
            lengths=text.lengths,
            width=text.width,
            device=latents.device,
            dtype=latents.dtype,
            segments=call.segments,
            head_map=self.head_map,
            scheduler=getattr(self.pipe, "scheduler", None),
        )
        described.rerun = functools.partial(self._rerun, described, inputs)
        described.encode_text = functools.partial(self._encode_text, described, inputs)
        return described

    def _rerun(
        self,
        call: DenoiserCall,
        inputs: dict[str, Any],
        hook: AttentionHook,
        latents: Tensor | None = None,
        timestep: Tensor | None = None,
        *,
        images: Sequence[int] | None = None,
        latents_of: Sequence[int] | None = None,
        then: Callable[[Any], Any] = lambda output: output,
        checkpointing: bool = False,
    ) -> Any:
        """Run the denoiser again, as `DenoiserCall.rerun` describes."""
        modes.require_gradients(self.denoiser)
        first, name = call.conditional.start, latents_in(inputs)
        rows = [first + image for image in (range(call.pictures) if images is None else images)]
        changed = {} if latents is None else at_time(self.denoiser, inputs, latents, modes.tracked(timestep))
        if latents_of is not None:
            changed = {name: modes.tracked(inputs[name][[first + image for image in latents_of]])}
        inputs = modes.tracked(rows_of(inputs, call.rows, rows)) | changed
        text = text_in(inputs, self.family)
        beside = call.of_rows(len(rows), tokens=text.tokens, lengths=text.lengths)
        with self._side_pass(hook, beside), modes.differentiated(self.denoiser, checkpointing):
            return then(call_denoiser(self.denoiser, self.family, inputs))

    def _encode_text(
        self,
        call: DenoiserCall,
        inputs: dict[str, Any],
        hook: AttentionHook,
        text: Tensor,
        rows: int,
        places: Tensor | None = None,
    ) -> None:
        """Run the denoiser once on another text, as `DenoiserCall.encode_text` describes."""
        first = call.conditional.start
        places = torch.arange(len(text)) if places is None else places
        inputs = rows_of(inputs, call.rows, slice(first, first + rows))
        changed, grid = reading(inputs, text.expand(rows, -1, -1), places, self.denoiser)
        beside = call.of_rows(rows, grid=grid, tokens=len(text) + self.family.registers, lengths=())
        with (
            self._side_pass(hook, beside),
            modes.rotated(self.denoiser, self.family, places),
            torch.no_grad(),
        ):
            call_denoiser(self.denoiser, self.family, inputs | changed)

    @contextmanager
    def _side_pass(self, hook: AttentionHook, call: DenoiserCall) -> Iterator[None]:
        """Run the denoiser's own forward beside its calls, with one hook; this counts no step."""
        before, outer = (self.denoiser_call, self.hooks), self.shared.in_side_pass
        self.denoiser_call, self.hooks, self.shared.in_side_pass = call, (as_hook(hook),), self
        try:
            with modes.side_pass(self.denoiser):
                yield
        finally:
            (self.denoiser_call, self.hooks), self.shared.in_side_pass = before, outer

    def _finish(self, module: nn.Module, args: tuple, output: Any) -> None:
        if self.left:
            return
        self.completed += 1
        for hook in self.hooks:
            hook.finish(self.denoiser_call)

    def _wrapped(self, address: str, index: int, kind: str, module: nn.Module, forward: Callable) -> Callable:
        """The forward of layer `index`, the self-attention beside it, or a refiner, with hooks in it."""

        @functools.wraps(forward)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            """The layer's output; LayerNotReached if no attention of it could be intercepted."""
            if self.left or self.shared.in_side_pass not in (None, self):
                return forward(*args, **kwargs)
            site_of = functools.partial(self._site, address, index, module)
            layout = functools.partial(layout_of, self.family, self.denoiser_call, patch_side(self.denoiser))
            intercept = Intercept(self.hooks, self.denoiser_call, module, kind, site_of, layout)
            with intercept:
                output = forward(*args, **kwargs)
            if not intercept.met:
                if modes.caches_of(module):  # which returned the output of an earlier call
                    return output
                raise LayerNotReached(
                    f"{address} is run by "
                    f"{type(getattr(module, 'processor', module)).__name__}, which does not call "
                    "scaled_dot_product_attention. Use the fused processor: "
                    "pipe.unet.set_attn_processor(AttnProcessor2_0())."
                )
            self.reached[index] |= kind in ("cross", "joint")
            return output

        return modes.mark(wrapped)

    def _site(
        self, address: str, index: int, module: nn.Module, kind: str, pixels: int, text: slice,
        mask: Tensor | None,
    ) -> Site:  # fmt: skip
        """The site of layer `index`, or of the refiner at `address`, in the current denoiser call."""
        call, height, width = self.denoiser_call, 0, 0
        if kind != "refiner":
            height, width = layer_grid(address, patches(call.grid, self.denoiser, pixels), pixels)
        return Site(
            layer=index,
            address=address,
            heads=heads_in(module) or 0,
            kind=kind,
            text=text,
            conditional=call.conditional,
            picture=call.picture,
            height=height,
            width=width,
            module=module,
            call=call,
            mask=mask,
        )
