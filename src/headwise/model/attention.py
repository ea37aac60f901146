r"""The one door through which anything enters a pipeline.

A cross-attention layer computes `attend(q, k, v) = softmax(q kᵀ/√d) v`. A hook stands in that place:

    hook(attend, site, query, key, value) → output

and `lambda attend, site, q, k, v: attend(q, k, v)` is the hook that does nothing. `attend` is the model's own
fused kernel, with the mask and scale its processor asked for; of several hooks each one's `attend` is the
next hook. A hook that has a method `prepare(call)` is told of each denoiser call before it begins, outside
whatever `torch.compile` compiled. A hook with an attribute `kinds` that holds "self" also stands at the
self-attention beside each of these layers, where keys are pixels too. One with an attribute `features`,
module paths of residual blocks, gets each one's output by its method `feature(output)` and returns what to go
on with. One with a method `finish(call)` is told when the denoiser call has ended.

Where text and pixels are attended jointly, a hook gets the pixels' queries, and `site.text` says which keys
are text; the text's own queries go to hooks whose `kinds` hold "text", and else are left alone.

No processor is replaced. While the context is open, the forward of every layer of the head map runs inside a
`TorchFunctionMode` that meets the layer's first call of `scaled_dot_product_attention`: norms, LoRA and
rotations have then been applied, and the processor, whichever of diffusers' many it is, does the rest as
ever. (Of an IP-Adapter's several calls the first is the one that reads the prompt.)

Which rows carry the prompt is the pipeline's own knowledge, so for the time of the context the pipeline's
class is a subclass of itself whose `__call__` notes when a call begins and ends; that makes `site.step`
restart with each call.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from headwise.errors import HookMisuse, LayerNotReached
from headwise.model.heads import HeadMap, denoiser_of, text_first, wrapped_denoiser_of
from headwise.model.pipelines import text_segments
from headwise.model.sites import (
    Attend,
    AttentionHook,
    DenoiserCall,
    PipelineCall,
    Site,
    crop_latents,
    grid_of,
    latents_in,
    least_side,
    rows_of,
)

__all__ = ["Attend", "AttentionHook", "DenoiserCall", "Site", "hooked"]


@contextmanager
def hooked(pipe: Any, *hooks: AttentionHook) -> Iterator[Any]:
    """Run `pipe` with hooks at every layer of its head map; afterwards it is what it was.

    Args:
        pipe: The user's pipeline (or a bare denoiser: then every row is conditional).
        hooks: Outermost first.

    Raises:
        HookMisuse: The same hook is entered twice, returns another shape than attend's, or somebody else
            replaced a layer's forward meanwhile.
        LayerNotReached: On a clean exit, if the denoiser was called and a layer was not.
    """
    door = _Hooked(pipe, hooks)
    try:
        door.open()
        yield pipe
    except BaseException:
        door.close()
        raise
    overwritten = door.close()
    if overwritten:
        raise HookMisuse(
            f"Something else replaced the forward of {overwritten[0]} while it was hooked "
            "and has left it replaced. Enable offloading, adapters and the like before `hooked`, "
            "or undo them inside it."
        )
    door.require_reached()


_in_use: "WeakKeyDictionary[nn.Module, list[AttentionHook]]" = WeakKeyDictionary()


class _Hooked:
    """What one `hooked` put into a pipeline, and how to take it out again."""

    def __init__(self, pipe: Any, hooks: tuple[AttentionHook, ...]) -> None:
        self.pipe, self.hooks = pipe, hooks
        self.denoiser = denoiser_of(pipe)
        self.head_map = HeadMap.of(self.denoiser)
        self.call: PipelineCall | None = None
        self.direct = PipelineCall((), 0, text_segments(pipe))  # denoiser calls outside any pipeline call
        self.now = DenoiserCall()
        self.prompted = True  # until a pipeline says that a call is the unconditional one
        self.completed, self.reached = 0, [False] * len(self.head_map)
        self.undo: list[Callable[[], str | None]] = []

    def open(self) -> None:
        """Lead every layer through the door; HookMisuse if a hook is in use already."""
        active = _in_use.setdefault(self.denoiser, [])
        for i, hook in enumerate(self.hooks):
            if any(hook is other for other in (*active, *self.hooks[:i])):
                raise HookMisuse(
                    f"{hook!r} is already hooked into this pipeline. Leave the first context before entering "
                    "again, or make a second hook."
                )
        active.extend(self.hooks)
        self.undo.append(lambda: _forget(active, self.hooks))
        # On the torch.compile wrapping where there is one: counting then happens outside the compiled graph.
        outer = wrapped_denoiser_of(self.pipe)
        before = outer.register_forward_pre_hook(self._begin, with_kwargs=True)
        after = outer.register_forward_hook(self._finish)
        self.undo += [before.remove, after.remove]
        modules = dict(self.denoiser.named_modules())
        for index, layer in enumerate(self.head_map):
            self.undo.append(_replace_forward(layer.address, modules[layer.address], self._through(index)))
            beside = _self_attention_beside(layer.address)
            if beside in modules and any("self" in _kinds(hook) for hook in self.hooks):
                through = self._through(index, "self")
                self.undo.append(_replace_forward(beside, modules[beside], through))
        for hook in self.hooks:
            for address in getattr(hook, "features", ()):
                self.undo.append(_hand_on(modules, address, hook))
        if hasattr(self.denoiser, "cache_context"):
            self.undo.append(_note_context(self.denoiser, self))
        if not isinstance(self.pipe, nn.Module):
            self.undo.append(_replace_call(self.pipe, self))

    def close(self) -> list[str]:
        """Undo everything, last first; the addresses at which somebody else had been meanwhile."""
        overwritten = [undo() for undo in reversed(self.undo)]
        return [address for address in overwritten if address is not None]

    def require_reached(self) -> None:
        """LayerNotReached, naming the first, if a completed call of the denoiser passed a layer by."""
        missing = [layer.address for layer, was in zip(self.head_map, self.reached, strict=True) if not was]
        if self.completed and missing:
            raise LayerNotReached(
                f"{missing[0]} was never called in {self.completed} calls of the denoiser, "
                "so its hooks never ran"
                + (f" (and {len(missing) - 1} more layers). " if len(missing) > 1 else ". ")
                + "The denoiser must run all its layers; switch off caching and layer skipping."
            )

    def _begin(self, module: nn.Module, args: tuple, kwargs: dict) -> None:
        given = inspect.signature(self.denoiser.forward).bind_partial(*args, **kwargs).arguments
        given |= given.pop("kwargs", {})
        latents = given[latents_in(given)]
        call = self.call or self.direct
        rows = latents.shape[0]
        pictures = rows // 2 if self._guided() else rows
        if rows != pictures * (1 + self._guided()):
            raise HookMisuse(
                f"The batch has {rows} rows, which are not one with the prompt and one without for each "
                "picture. Switch off perturbed-attention guidance and its kin."
            )
        prompts = call.prompts if len(call.prompts) == pictures else call.prompts * pictures
        names = ("encoder_hidden_states", "encoder_hidden_states_t5")
        text = [given[name] for name in names if isinstance(given.get(name), Tensor)]
        self.now = DenoiserCall(
            step=call.steps if self.prompted else max(0, call.steps - 1),
            steps=self._steps(),
            rows=rows,
            pictures=pictures,
            grid=grid_of(latents, given),
            prompts=prompts,
            tokens=sum(part.shape[1] for part in text),
            width=text[0].shape[-1] if text else 0,
            device=latents.device,
            readers=call.readers,
            head_map=self.head_map,
            prompted=self.prompted,
            again=functools.partial(self._again, given),
            travel=functools.partial(self._travel, given),
        )
        call.steps += self.prompted
        for hook in self.hooks:
            if hasattr(hook, "prepare"):
                hook.prepare(self.now)

    def _again(self, given: dict[str, Any], latents: Tensor, timestep: Tensor) -> Any:
        """The denoiser on other latents, rows with the prompt only; its own forward, which counts no step."""
        before = self.now
        own = rows_of(given, before.rows, before.conditional)
        own |= {latents_in(given): latents, "timestep": timestep}
        self.now = replace(before, rows=before.pictures)
        try:
            return self.denoiser.forward(**own)
        finally:
            self.now = before

    def _travel(self, given: dict[str, Any], hook: AttentionHook, text: Tensor, travellers: int) -> None:
        """The denoiser reading another text, of some rows with the prompt and a corner of their latents."""
        before, hooks = self.now, self.hooks
        first = before.conditional.start
        own = rows_of(given, before.rows, slice(first, first + travellers))
        own |= crop_latents(own, least_side(self.denoiser))
        text = text.to(given["encoder_hidden_states"])
        own |= {"encoder_hidden_states": text.expand(travellers, -1, -1)}
        if "txt_ids" in own:
            own["txt_ids"] = own["txt_ids"][..., :1, :].expand(*text.shape[:1], -1)
        self.hooks = (hook,)
        self.now = replace(
            before,
            rows=travellers,
            pictures=travellers,
            grid=grid_of(own[latents_in(own)], own),
            tokens=len(text),
        )
        try:
            with torch.no_grad():
                self.denoiser.forward(**own)
        finally:
            self.now, self.hooks = before, hooks

    def _steps(self) -> int:
        """How many denoiser calls this pipeline call will make, as far as the pipeline says."""
        if self.call is None:
            return 0
        timesteps = getattr(getattr(self.pipe, "scheduler", None), "timesteps", ())
        return getattr(self.pipe, "num_timesteps", None) or len(timesteps)

    def _finish(self, module: nn.Module, args: tuple, output: Any) -> None:
        self.completed += 1
        for hook in self.hooks:
            if hasattr(hook, "finish"):
                hook.finish(self.now)

    def _through(self, index: int, kind: str = "") -> Callable[[nn.Module, Callable], Callable]:
        """The forward of layer `index`, or of the self-attention beside it, led through the door."""

        def through(module: nn.Module, forward: Callable) -> Callable:
            @functools.wraps(forward)
            def met(*args: Any, **kwargs: Any) -> Any:
                meeting = _Intercept(self, index, module, kind or self.head_map.layers[index].kind)
                with meeting:
                    output = forward(*args, **kwargs)
                if not meeting.held:
                    raise LayerNotReached(
                        f"{self.head_map.layers[index].address} is run by "
                        f"{type(getattr(module, 'processor', module)).__name__}, which does not call "
                        "scaled_dot_product_attention. Use the fused processor: "
                        "pipe.unet.set_attn_processor(AttnProcessor2_0())."
                    )
                self.reached[index] |= kind != "self"
                return output

            return met

        return through

    def site(self, index: int, kind: str, module: nn.Module, pixels: int, text: slice) -> Site:
        """Where layer `index` stands in the denoiser call under way."""
        layer, now = self.head_map.layers[index], self.now
        height, width = self._grid_of(layer.address, pixels)
        return Site(
            layer=index,
            address=layer.address,
            heads=layer.heads,
            kind=kind,
            text=text,
            conditional=now.conditional,
            picture=tuple(row % now.pictures for row in range(now.rows)),
            height=height,
            width=width,
            module=module,
            call=now,
        )

    def _guided(self) -> bool:
        """Is the first half of the batch unconditional? Asked each time, as callbacks may end it."""
        if self.call is None or not self.prompted:
            return False
        guided = getattr(self.pipe, "do_classifier_free_guidance", None)
        if guided is None:  # FLUX is told its guidance as a number
            guided = self.call.guidance_scale > 1 and "guidance_embeds" not in self.denoiser.config
        return bool(guided)

    def _grid_of(self, address: str, pixels: int) -> tuple[int, int]:
        """The rung with so many pixels on the ladder of halvings, rounded up as strided convolutions do."""
        patch = getattr(self.denoiser.config, "patch_size", None) or 1
        height, width = (side // patch for side in self.now.grid)
        while height * width > pixels and height * width > 1:
            height, width = -(-height // 2), -(-width // 2)
        if height * width != pixels:
            raise HookMisuse(
                f"{address} has {pixels} pixels, which is no halving of the latents' "
                f"{self.now.grid[0]} × {self.now.grid[1]}."
            )
        return height, width


class _Intercept(TorchFunctionMode):
    """One layer's forward: the first attention it computes goes through the hooks."""

    def __init__(self, door: _Hooked, index: int, module: nn.Module, kind: str) -> None:
        super().__init__()
        self.door, self.index, self.module, self.kind, self.held = door, index, module, kind, False

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not F.scaled_dot_product_attention or self.held:
            return func(*args, **(kwargs or {}))
        self.held = True
        return self.hold(func, *args, **(kwargs or {}))

    def hold(
        self,
        kernel: Callable,
        query: Float[Tensor, "batch heads pixels dim"],
        key: Float[Tensor, "batch heads tokens dim"],
        value: Float[Tensor, "batch heads tokens dim"],
        *args: Any,
        **options: Any,
    ) -> Float[Tensor, "batch heads pixels dim"]:
        """The attention as the hooks will have it; the kernel keeps its own mask, dropout and scale."""

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return kernel(q, k, v, *args, **options)

        if self.kind == "joint":
            return self.intercept_joint(attend, query, key, value)
        text = slice(0, 0 if self.kind == "self" else key.shape[-2])
        site = self.door.site(self.index, self.kind, self.module, query.shape[-2], text)
        return self.ask(attend, site, query, key, value)

    def intercept_joint(self, kernel: Attend, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Joint attention: the pixels' queries and the text's go to hooks apart, with all keys."""
        every, tokens = query.shape[-2], self.door.now.tokens
        text, pixels = slice(every - tokens, every), slice(0, every - tokens)
        if text_first(self.module):
            text, pixels = slice(0, tokens), slice(tokens, every)
        unchanged: list[Tensor] = []

        def attend_from(rows: slice, own: Tensor, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if q is not own or k is not key or v is not value:
                return kernel(q, k, v)
            if not unchanged:  # the layer's own attention in one piece, so that its bits are the layer's own
                unchanged.append(kernel(query, key, value))
            return unchanged[0][..., rows, :]

        parts = []
        for kind, rows in sorted((("joint", pixels), ("text", text)), key=lambda part: part[1].start):
            own = query[..., rows, :]
            attend = functools.partial(attend_from, rows, own)
            site = self.door.site(self.index, kind, self.module, every - tokens, text)
            parts.append(self.ask(attend, site, own, key, value))
        return torch.cat(parts, -2)

    def ask(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """What the hooks for this kind of site make of it, outermost first."""
        for hook in reversed(self.door.hooks):
            if site.kind in _kinds(hook):
                attend = functools.partial(_ask, hook, attend, site)
        return attend(query, key, value)


def _kinds(hook: AttentionHook) -> tuple[str, ...]:
    return getattr(hook, "kinds", ("cross", "joint"))


def _self_attention_beside(address: str) -> str:
    """A transformer block of diffusers reads itself in `attn1` and the text in `attn2`."""
    return address.removesuffix("attn2") + "attn1"


def _hand_on(modules: dict[str, nn.Module], address: str, hook: Any) -> Callable[[], None]:
    if address not in modules:
        raise HookMisuse(
            f"{hook!r} asks for {address}, which this denoiser has not. Name one of its own blocks."
        )
    return modules[address].register_forward_hook(lambda module, args, output: hook.feature(output)).remove


def _note_context(denoiser: Any, door: _Hooked) -> Callable[[], None]:
    """Pipelines that call the denoiser twice a step say which call is unconditional by a cache context."""
    own = denoiser.cache_context

    @contextmanager
    def noted(name: str) -> Iterator[None]:
        door.prompted = name != "uncond"
        try:
            with own(name):
                yield
        finally:
            door.prompted = True

    denoiser.__dict__["cache_context"] = noted
    return lambda: denoiser.__dict__.pop("cache_context", None) and None


def _ask(
    hook: AttentionHook, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    output = hook(attend, site, query, key, value)
    if not isinstance(output, Tensor) or output.shape != query.shape[:-1] + value.shape[-1:]:
        came = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise HookMisuse(
            f"The hook {hook!r} returned {came} at {site.address}; expected what attend returns, "
            f"a tensor of {tuple(query.shape[:-1] + value.shape[-1:])}. "
            "Did it forget to return attend(query, key, value)?"
        )
    return output


def _replace_call(pipe: Any, door: _Hooked) -> Callable[[], None]:
    """Make `pipe` note its calls for `door`. Python looks `__call__` up on the class, hence the subclass."""
    cls = type(pipe)
    if not callable(pipe):  # a bare holder of a denoiser has no calls to note
        return lambda: None
    signature = inspect.signature(cls.__call__)

    @functools.wraps(cls.__call__)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is not pipe:
            return cls.__call__(self, *args, **kwargs)
        asked = signature.bind(self, *args, **kwargs)
        asked.apply_defaults()
        outer, door.call = door.call, PipelineCall.of(pipe, asked.arguments)
        try:
            return cls.__call__(self, *args, **kwargs)
        finally:
            door.call = outer

    names = {"__call__": __call__, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    object.__setattr__(pipe, "__class__", type(cls.__name__, (cls,), names | {"__doc__": cls.__doc__}))
    return lambda: object.__setattr__(pipe, "__class__", cls)


def _replace_forward(
    address: str, module: nn.Module, through: Callable[[nn.Module, Callable], Callable]
) -> Callable[[], str | None]:
    """Give one module another forward; the returned undo says if somebody else's is found in its place."""
    before = module.__dict__.get("forward")
    ours = through(module, module.forward)
    module.forward = ours

    def undo() -> str | None:
        found = module.__dict__.get("forward")
        if before is None:
            module.__dict__.pop("forward", None)
        else:
            module.forward = before
        return None if found is ours else address

    return undo


def _forget(active: list[AttentionHook], hooks: tuple[AttentionHook, ...]) -> None:
    for hook in hooks:
        active[:] = [other for other in active if other is not hook]
