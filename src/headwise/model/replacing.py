"""What `hooked` replaces in a pipeline while it is open. Each function returns how to undo it.

Only the pipeline knows which rows carry the prompt, and the latents between denoiser calls; so a pipeline's
class becomes a subclass of itself whose `__call__` goes through the context.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from headwise.errors import HookMisuse
from headwise.model.hooks import Hook

__all__ = [
    "Undo", "prepared_by", "register_feature", "replace_cache_context", "replace_call", "replace_forward",
]  # fmt: skip

Undo = Callable[[], str | None]  # returns the address if other code replaced ours there


def replace_forward(address: str, module: nn.Module, wrap: Callable[[nn.Module, Callable], Callable]) -> Undo:
    """Replace the forward of a module by `wrap(module, forward)`."""
    before = module.__dict__.get("forward")
    ours = wrap(module, module.forward)
    module.forward = ours

    def undo() -> str | None:
        present = module.__dict__.get("forward")
        if before is None:
            module.__dict__.pop("forward", None)
        else:
            module.forward = before
        return None if present is ours else address

    return undo


def register_feature(
    modules: dict[str, nn.Module], address: str, hook: Hook, left: Callable[[], bool]
) -> Undo:
    """Pass the output of a residual block through the hook's `feature`, until its context is left."""
    if address not in modules:
        raise HookMisuse(
            f"{hook!r} names {address} as a feature, which this denoiser does not have. "
            "Name one of its own blocks."
        )
    feature = lambda module, args, output: None if left() else hook.feature(output)  # noqa: E731
    return modules[address].register_forward_hook(feature).remove


def replace_cache_context(denoiser: Any, on_unconditional: Callable[[bool], None]) -> Undo:
    """Report when a denoiser call is the unconditional one.

    Pipelines that call the denoiser twice per step mark the unconditional call by a cache context.
    """
    original, before = denoiser.cache_context, denoiser.__dict__.get("cache_context")

    @contextmanager
    def noted(name: str, *args: Any, **options: Any) -> Iterator[None]:
        on_unconditional(name == "uncond")
        try:
            with original(name, *args, **options):
                yield
        finally:
            on_unconditional(False)

    denoiser.__dict__["cache_context"] = noted

    def undo() -> None:
        denoiser.__dict__.pop("cache_context", None)
        if before is not None:
            denoiser.__dict__["cache_context"] = before

    return undo


def replace_call(pipe: Any, around: Callable[[Callable, inspect.BoundArguments], Any]) -> Undo:
    """Make `pipe(…)` return `around(call, arguments)`.

    Python looks `__call__` up on the class, hence the subclass.
    """
    cls = type(pipe)
    signature = inspect.signature(cls.__call__)

    @functools.wraps(cls.__call__)
    def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is not pipe:
            return cls.__call__(self, *args, **kwargs)
        return around(cls.__call__, signature.bind(self, *args, **kwargs))

    names = {"__call__": __call__, "__module__": cls.__module__, "__qualname__": cls.__qualname__}
    object.__setattr__(pipe, "__class__", type(cls.__name__, (cls,), names | {"__doc__": cls.__doc__}))
    return lambda: object.__setattr__(pipe, "__class__", cls)


@contextmanager
def prepared_by(pipe: Any) -> Iterator[list[Any]]:
    """The latents that the pipeline prepares while this is open, at the scheduler's own scale."""
    prepared: list[Any] = []
    prepare = pipe.prepare_latents

    def noting(*args: Any, **kwargs: Any) -> Any:
        result = prepare(*args, **kwargs)
        prepared.append(result[0] if isinstance(result, tuple) else result)
        return result

    before = {name: pipe.__dict__[name] for name in ("prepare_latents",) if name in pipe.__dict__}
    # Directly into __dict__: diffusers' __setattr__ writes unknown names into the pipeline's config.
    pipe.__dict__["prepare_latents"] = noting
    try:
        yield prepared
    finally:
        pipe.__dict__.pop("prepare_latents")
        pipe.__dict__.update(before)
