"""Latents between denoiser calls: what hooks change before the first and after each step.

After a step, hooks are called by the pipeline's own `callback_on_step_end`, before the user's callback; in a
pipeline that has none, by the step of its scheduler. Before the first call there is no such callback: the
pipeline's call is begun and stopped at its first denoiser call, and then made again from other latents.
Generators are not reset in between, since the latents have been sampled from them and the noise of later
steps has not. Of nested contexts, the innermost changes the latents first.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from headwise.errors import HookMisuse
from headwise.model.hooks import Hook, overrides
from headwise.model.pipelines import quiet
from headwise.model.replacing import prepared_by
from headwise.model.sites import DenoiserCall

__all__ = ["FirstCall", "add_after_step", "moved_start", "require_steps"]

CALLBACK, INPUTS = "callback_on_step_end", "callback_on_step_end_tensor_inputs"


class FirstCall(Exception):
    """Raised in place of the first denoiser call of a pipeline call that is only begun."""

    def __init__(self, call: DenoiserCall) -> None:
        super().__init__("the pipeline's call was only begun")
        self.call = call


def require_steps(pipe: Any, hooks: Sequence[Hook]) -> None:
    """Raise HookMisuse if a hook changes latents in a pipeline that offers no way to change them."""
    parameters = inspect.signature(type(pipe).__call__).parameters
    for hook in hooks:
        steps = {CALLBACK, INPUTS} <= {*parameters} or hasattr(getattr(pipe, "scheduler", None), "step")
        if overrides(hook, "after_step") and not steps:
            raise HookMisuse(
                f"{hook!r} changes latents after each step, but {type(pipe).__name__} has neither "
                f"{CALLBACK} nor a scheduler. Use a pipeline that has one, or leave the hook out."
            )
        # FLUX.2 prepares rows of patches, but cannot be called with them.
        movable = "latents" in parameters and hasattr(pipe, "prepare_latents")
        if overrides(hook, "before_first_step") and (not movable or hasattr(pipe, "_patchify_latents")):
            raise HookMisuse(
                f"{hook!r} changes the latents before the first step, but {type(pipe).__name__} cannot be "
                "called with latents. Use a text-to-image pipeline, or leave the hook out."
            )


def moved_start(
    pipe: Any,
    hooks: Sequence[Hook],
    run: Callable[..., Any],
    arguments: inspect.BoundArguments,
) -> Tensor | None:
    """The `latents` to call the pipeline with, after each hook's `before_first_step`.

    Args:
        pipe: The user's pipeline.
        hooks: The hooks of the context, of which some change the first latents.
        run: The pipeline's call, which raises `FirstCall` at its first denoiser call.
        arguments: The arguments of the call.

    Returns:
        Latents of unit scale, as a pipeline takes them; None if the denoiser was not called.
    """
    begun = inspect.BoundArguments(arguments.signature, arguments.arguments.copy())  # type: ignore[arg-type]
    if isinstance(prompt := begun.arguments.get("prompt"), list):
        begun.arguments["prompt"] = list(prompt)  # into which some pipelines write their templates
    try:
        with quiet(pipe), prepared_by(pipe) as prepared:
            run(*begun.args, **begun.kwargs)
    except FirstCall as first:
        latents = prepared[0]
        with torch.no_grad():
            for hook in hooks:
                latents = hook.before_first_step(latents, first.call)
        return latents / float(getattr(pipe.scheduler, "init_noise_sigma", 1.0))
    return None


def add_after_step(
    pipe: Any,
    hooks: Sequence[Hook],
    call_of_step: Callable[[], DenoiserCall],
    arguments: inspect.BoundArguments,
) -> Callable[[], None]:
    """Pass the latents of a pipeline's call through the hooks' `after_step`; returns how to end that.

    Args:
        pipe: The user's pipeline.
        hooks: The hooks of the context.
        call_of_step: Returns the denoiser call of the step that has been made.
        arguments: The arguments of the call, to which a callback is added, before the user's own.
    """
    if INPUTS not in arguments.signature.parameters:
        return _after_scheduler_step(pipe.scheduler, hooks, call_of_step)
    default = arguments.signature.parameters[INPUTS].default
    users = arguments.arguments.get(CALLBACK)
    names = arguments.arguments.get(INPUTS, default)
    # diffusers' PipelineCallback declares itself which tensors it takes.
    names = tuple(getattr(users, "tensor_inputs", names) or ())

    def callback(pipe: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """The latents after the hooks, "images channels height width", and what the user's own returns."""
        latents = tensors["latents"]
        for hook in hooks:
            latents = hook.after_step(latents, call_of_step())
        if users is None:
            return {"latents": latents}
        chosen = {name: latents if name == "latents" else tensors[name] for name in names}
        return {"latents": latents} | (users(pipe, step, timestep, chosen) or {})

    arguments.arguments[CALLBACK] = callback
    arguments.arguments[INPUTS] = list(dict.fromkeys(["latents", *names]))
    return lambda: None


def _after_scheduler_step(
    scheduler: Any, hooks: Sequence[Hook], call_of_step: Callable[[], DenoiserCall]
) -> Callable[[], None]:
    """Pass what a scheduler's step returns through the hooks' `after_step`; returns how to end that."""
    original, before = scheduler.step, scheduler.__dict__.get("step")

    @functools.wraps(original)
    def step(*args: Any, **kwargs: Any) -> Any:
        """The step's own output, with the latents after the hooks."""
        output = original(*args, **kwargs)
        latents = output[0]
        for hook in hooks:
            latents = hook.after_step(latents, call_of_step())
        if isinstance(output, tuple):
            return (latents, *output[1:])
        output["prev_sample"] = latents
        return output

    def end() -> None:
        scheduler.__dict__.pop("step", None)
        if before is not None:
            scheduler.__dict__["step"] = before

    scheduler.__dict__["step"] = step  # as diffusers' __setattr__ writes unknown names into the configuration
    return end
