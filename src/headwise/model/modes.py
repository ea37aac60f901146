"""Modes that other code switches on in a denoiser, and what hooks must do about them.

A *cache* skips layers by what it saw in earlier calls, so a pass beside these calls would change the image. A
module that was *compiled in place* compiles its hooks too. A *replaced forward* of a module may count calls
or keep outputs. *Gradient checkpointing* and storage in *float8* recompute what a gradient needs.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from headwise.errors import HookMisuse
from headwise.model.families import Family
from headwise.model.heads import HeadMap

__all__ = [
    "caches_of", "differentiated", "mark", "register_calls", "require_gradients", "require_no_cache",
    "rotated", "run_blocks_uncompiled", "side_pass", "text_weights", "tracked", "without_masks",
]  # fmt: skip

_TEXT_PARTS = ("encoder_hid_proj", "caption_projection", "caption_norm", "context_embedder")
_OF_ADAPTERS = ("scaling", "active_adapters", "disable_adapters", "merged_adapters")
_MARK = "_of_headwise"


def caches_of(denoiser: nn.Module) -> tuple[str, ...]:
    """The active caches of a denoiser: hooks of diffusers that keep state between calls."""
    config = getattr(denoiser, "_cache_config", None)
    if config is not None:
        return (type(config).__name__.removesuffix("Config"),)
    hooks = {name: hook for module in denoiser.modules() for name, hook in _hooks_of(module).items()}
    return tuple(sorted(name for name, hook in hooks.items() if hook._is_stateful))


def require_no_cache(denoiser: nn.Module) -> None:
    """Raise HookMisuse if a cache is active: it would mistake a side pass for one of the denoiser's calls."""
    caches = caches_of(denoiser)
    if caches:
        enabled = getattr(denoiser, "_cache_config", None) is not None
        cure = "pipe.transformer.disable_cache()" if enabled else "load the pipeline again"
        raise HookMisuse(
            f"{type(denoiser).__name__} has a cache ({', '.join(caches)}), which skips layers and would be "
            f"disturbed by a pass over other words or latents. Switch off caching: {cure}."
        )


def require_gradients(denoiser: nn.Module) -> None:
    """Raise HookMisuse if no gradient can be computed through this denoiser."""
    if any("layerwise_casting" in _hooks_of(module) for module in denoiser.modules()):
        raise HookMisuse(
            "The denoiser stores its weights in one type and computes in another (enable_layerwise_casting), "
            "through which no gradient passes. Load the pipeline without it to move latents by gradients."
        )
    if any(parameter.is_inference() for parameter in denoiser.parameters()):
        raise HookMisuse(
            "The denoiser was loaded inside torch.inference_mode(), so no gradient passes through its "
            "weights. Load the pipeline outside it."
        )


def text_weights(denoiser: nn.Module, head_map: HeadMap) -> tuple[Any, ...]:
    """A value that changes with the weights that compute the keys of text in cross-attention.

    It sees weights that were loaded, moved or changed by operations that torch counts (`load_state_dict`,
    `copy_`, an optimiser's step), and LoRA adapters, scales and merging. It does not see changes through
    `.data` or a NumPy view.

    Args:
        denoiser: The denoiser.
        head_map: Its head map.
    """
    parts = [getattr(denoiser, name, None) for name in _TEXT_PARTS]
    for layer in head_map:
        attention = denoiser.get_submodule(layer.address)
        parts += [getattr(attention, name, None) for name in ("norm_cross", "to_k", "norm_k")]
    modules = [module for part in parts if isinstance(part, nn.Module) for module in part.modules()]
    weights = [(p.data_ptr(), _version(p)) for module in modules for p in module.parameters(recurse=False)]
    adapters = [
        tuple(repr(getattr(module, name)) for name in _OF_ADAPTERS)
        for module in modules
        if all(hasattr(module, name) for name in _OF_ADAPTERS)
    ]
    return (*weights, *adapters)


@contextmanager
def side_pass(denoiser: nn.Module) -> Iterator[None]:
    """Run the denoiser beside its calls, with the forward of its class.

    Forwards replaced by other code are removed, and gradient checkpointing is off; what accelerate and
    diffusers put around a forward to move or cast weights stays.

    Raises:
        HookMisuse: A cache is active.
    """
    require_no_cache(denoiser)
    modules = list(denoiser.modules())
    foreign = [(module, vars(module).pop("forward")) for module in modules if _is_foreign(module)]
    checkpointing = [module for module in modules if getattr(module, "gradient_checkpointing", False) is True]
    for module in checkpointing:
        module.gradient_checkpointing = False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in checkpointing:
            module.gradient_checkpointing = True  # type: ignore[assignment]
        for module, forward in foreign:
            vars(module)["forward"] = forward


@contextmanager
def differentiated(denoiser: nn.Module, checkpointing: bool = False) -> Iterator[None]:
    """Prepare for a gradient with respect to anything but the weights, for which nothing is kept.

    Args:
        denoiser: The denoiser.
        checkpointing: Whether blocks that can do so recompute their activations in the backward pass.
    """
    trained = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
    names = ("gradient_checkpointing", "_gradient_checkpointing_func")
    blocks = [module for module in denoiser.modules() if checkpointing and hasattr(module, names[0])]
    before = [{name: vars(block)[name] for name in names if name in vars(block)} for block in blocks]
    for parameter in trained:
        parameter.requires_grad_(False)
    for block in blocks:
        vars(block).update(zip(names, (True, partial(checkpoint, use_reentrant=False)), strict=True))
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for block, values in zip(blocks, before, strict=True):
            for name in names:
                vars(block).pop(name)
            vars(block).update(values)


def mark(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a forward that `hooked` gives a layer, so that `side_pass` leaves it in place."""
    setattr(forward, _MARK, True)
    return forward


def register_calls(
    module: nn.Module, before: Callable[[nn.Module, tuple, dict], None], after: Callable[..., None]
) -> Callable[[], None]:
    """Call `before` and `after` around each call of a module, outside compiled code; returns the undo."""
    compiled = module._compiled_call_impl
    if compiled is None:
        handles = ExitStack()
        handles.callback(module.register_forward_pre_hook(before, with_kwargs=True).remove)
        handles.callback(module.register_forward_hook(after).remove)
        return handles.close

    def call(*args: Any, **kwargs: Any) -> Any:  # as hooks of the module would be compiled with it
        before(module, args, kwargs)
        output = compiled(*args, **kwargs)
        after(module, args, output)
        return output

    module._compiled_call_impl = call
    return lambda: setattr(module, "_compiled_call_impl", compiled)


def run_blocks_uncompiled(denoiser: nn.Module) -> Callable[[], None]:
    """Run blocks that were compiled one by one without compilation; returns the undo.

    Such blocks share one compiled graph, in which a hook could not tell them apart.
    """
    blocks = [module for module in denoiser.modules() if module is not denoiser]
    compiled = [(block, block._compiled_call_impl) for block in blocks if block._compiled_call_impl]
    for block, _ in compiled:
        block._compiled_call_impl = None

    def undo() -> None:
        for block, call in compiled:
            block._compiled_call_impl = call

    return undo


def without_masks(inputs: dict[str, Any]) -> dict[str, Any]:
    """The denoiser inputs that hold an attention mask of the prompt's tokens, with it removed."""
    return {
        name: value | {"attention_mask": None}
        for name, value in inputs.items()
        if isinstance(value, dict) and "attention_mask" in value
    }


@contextmanager
def rotated(denoiser: nn.Module, family: Family, places: Tensor) -> Iterator[None]:
    """Make rotary embeddings for text at these places, if a part of the denoiser makes them.

    Args:
        denoiser: The denoiser.
        family: Its family, which names that part, `rotary` or `places`, if there is one.
        places: The place of each token in the text.
    """

    def chosen(module: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The rotary embeddings of one pixel, and of the text at these places."""
        pixels, text = output
        return pixels[:1], text[places.to(text.device)]

    with ExitStack() as ending:
        if family.rotary is not None:
            ending.callback(denoiser.get_submodule(family.rotary).register_forward_hook(chosen).remove)
        if family.places is not None:
            moved = partial(_at_places, family.places.first, places)
            ending.callback(_change_argument(denoiser, family.places.path, moved))
        yield


def _at_places(first: int, places: Tensor, coordinates: Tensor) -> Tensor:
    """Coordinates, the first of which is a place in the text, moved to these places; pixels come after."""
    table = torch.cat([places, places.max()[None] + 1]).to(coordinates.device)
    number = coordinates[..., 0].long() - first
    moved = table[number.clamp(0, len(places))] + first
    place = torch.where(number < 0, coordinates[..., 0], moved.to(coordinates))  # padding comes before
    return torch.cat([place[..., None], coordinates[..., 1:]], -1)


def _change_argument(
    denoiser: nn.Module, path: str, change: Callable[[Tensor], Tensor]
) -> Callable[[], None]:
    """Pass `change(argument)` to a module or a function of the denoiser; returns the undo."""
    above, _, name = path.rpartition(".")
    owner = denoiser.get_submodule(above)
    original = getattr(owner, name)
    if isinstance(original, nn.Module):
        return original.register_forward_pre_hook(lambda module, args: (change(args[0]), *args[1:])).remove
    before = {name: vars(owner)[name]} if name in vars(owner) else {}
    vars(owner)[name] = lambda coordinates: original(change(coordinates))

    def undo() -> None:
        vars(owner).pop(name)
        vars(owner).update(before)

    return undo


def tracked(value: Any) -> Any:
    """A denoiser input, with tensors made in inference mode copied so that autograd accepts them."""
    if isinstance(value, dict):
        return {name: tracked(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(tracked(item) for item in value)
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def _hooks_of(module: nn.Module) -> dict[str, Any]:
    return getattr(getattr(module, "_diffusers_hook", None), "hooks", {})


def _is_foreign(module: nn.Module) -> bool:
    """Whether code other than torch, diffusers, accelerate and Headwise replaced the module's forward."""
    forward = vars(module).get("forward")
    known = hasattr(module, "_hf_hook") or hasattr(module, "_orig_mod") or _hooks_of(module)
    replaced = forward is not None and type(module).forward is not nn.Module.forward
    return replaced and not known and not getattr(forward, _MARK, False)


def _version(parameter: Tensor) -> int:
    return 0 if parameter.is_inference() else parameter._version
