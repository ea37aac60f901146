r"""The hook protocol: what may take the place of a pipeline's attention, and when its methods are called.

A cross-attention layer computes `attend(q, k, v) = softmax(q kᵀ/√d) v`. A hook takes its place; `attend` is
the model's own fused kernel, with the mask and scale that its processor passed. With several hooks, the
`attend` of each is the next hook. If queries and keys are taken from other rows of the batch, naming the rows
masks their padding: `attend(q[rows], k[rows], v, rows=rows)`. During one call of the pipeline a hook's
methods are called in this order:

    before_first_step(latents, call)            once, before the first call of the denoiser
    for each call of the denoiser:
        prepare(call)
        __call__(attend, site, query, key, value)    at each layer of its `kinds`
        feature(output)                              at each residual block of its `features_among`
        finish(call)
    after_step(latents, call)                   after each step of the scheduler

By default, methods change nothing. A plain callable with the arguments of `__call__` is a hook too.
"""

from collections.abc import Collection, Sequence
from typing import Any

from torch import Tensor

from headwise.errors import HookMisuse
from headwise.model.sites import Attend, AttentionHook, DenoiserCall, Site

__all__ = ["Hook", "as_hook", "overrides", "require_once_per_step", "stands_beside"]


class Hook:
    """Base class of everything that `hooked` puts into a pipeline.

        class Louder(Hook):
            def __call__(self, attend, site, query, key, value):
                return attend(query, key, 1.5 * value)

        with hooked(pipe, Louder()):
            pipe("a dog")

    Attributes:
        kinds: The kinds of site at which `__call__` is called: "cross" and "joint" where pixels read text,
            "self" at the self-attention beside each of these layers, where keys are pixels too, and "text"
            for the queries of the text in joint attention. "refiner" is for layers in which the text
            attends only to itself, outside the head map. Linear self-attention, such as Sana's, has no maps:
            a hook is not called there, and a hook of kind "self" alone is refused.
        features: Module paths of residual blocks whose output is passed through `feature`.
        once_per_step: Whether the hook needs one row with the prompt for each image, once per step. Guidance
            that computes more, such as perturbed-attention guidance, is then refused.
    """

    kinds: tuple[str, ...] = ("cross", "joint")
    features: tuple[str, ...] = ()
    once_per_step: bool = False

    def __repr__(self) -> str:
        return type(self).__name__

    def before_first_step(self, latents: Tensor, call: DenoiserCall) -> Tensor:
        """Change the latents that the first denoiser call starts from.

        The pipeline's call is begun, stopped at its first denoiser call, and made again from the returned
        latents, so this costs a second encoding of the prompt. No other method has been called yet.

        Args:
            latents: What the pipeline prepared, noise at the scheduler's own scale.
            call: The first denoiser call, which has not been made.
        """
        return latents

    def prepare(self, call: DenoiserCall) -> None:
        """Prepare for a denoiser call, outside any code compiled by `torch.compile`."""

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return the layer's output, of the shape that `attend` returns.

        Args:
            attend: The attention that would have been computed, from query, key and value.
            site: Which layer of which denoiser call this is, and what its rows and keys are.
            query: "rows heads pixels dim"; the text's own queries at sites of kind "text".
            key, value: "rows heads keys dim"; `site.text` says which keys are text.
        """
        return attend(query, key, value)

    def features_among(self, modules: Collection[str]) -> tuple[str, ...]:
        """Return the module paths of the residual blocks whose output is passed through `feature`.

        Args:
            modules: The paths of the denoiser's modules, in its own order.
        """
        return self.features

    def feature(self, output: Tensor) -> Tensor:
        """Return the replacement for the output of a residual block of `features_among`."""
        return output

    def finish(self, call: DenoiserCall) -> None:
        """Finish a denoiser call, after its output has been computed."""

    def after_step(self, latents: Tensor, call: DenoiserCall) -> Tensor:
        """Change the latents after a step of the scheduler, before the user's own callback.

        Args:
            latents: What the scheduler's step returned.
            call: The step's denoiser call; if the step makes two, the one with the prompt.
        """
        return latents


_PROTOCOL = {name for name in vars(Hook) if not name.startswith("_")}


class _Plain(Hook):
    """A plain callable as a hook."""

    def __init__(self, function: AttentionHook, kinds: tuple[str, ...]) -> None:
        self.function, self.kinds = function, kinds

    def __call__(self, attend: Attend, site: Site, query: Tensor, key: Tensor, value: Tensor) -> Any:
        return self.function(attend, site, query, key, value)

    def __repr__(self) -> str:
        return repr(self.function)


def as_hook(hook: AttentionHook, kinds: tuple[str, ...] = Hook.kinds) -> Hook:
    """A plain callable as a `Hook`, for sites of these kinds; a `Hook` is returned as it is.

    Raises:
        HookMisuse: The callable has a member of the protocol without being a `Hook`, so the member would be
            ignored.
    """
    if isinstance(hook, Hook):
        return hook
    ignored = sorted(name for name in _PROTOCOL if hasattr(hook, name))
    if ignored:
        raise HookMisuse(
            f"{hook!r} has {ignored[0]!r}, but is not a headwise.Hook. Make its class a subclass of Hook."
        )
    return _Plain(hook, kinds)


def stands_beside(hook: Hook, module: Any) -> bool:
    """Whether a hook stands at this self-attention: at a linear one, only a hook of kind "self" alone."""
    linear = "Linear" in type(module.processor).__name__
    return "self" in hook.kinds and (not linear or set(hook.kinds) == {"self"})


def overrides(hook: Hook, method: str) -> bool:
    """Whether this hook's class defines the method itself."""
    return getattr(type(hook), method) is not getattr(Hook, method)


def require_once_per_step(hooks: Sequence[Hook], call: DenoiserCall, again: bool) -> None:
    """Raise HookMisuse if a hook needs one row with the prompt per image and step, and there are more.

    Args:
        hooks: The hooks of a context.
        call: A denoiser call with the prompt.
        again: Whether this step already had such a call.
    """
    rows = call.conditional.stop - call.conditional.start
    for hook in hooks:
        if hook.once_per_step and (again or rows != call.pictures):
            seen = "a second call in one step" if again else f"{rows} rows for {call.pictures} images"
            raise HookMisuse(
                f"{hook!r} needs one row with the prompt for each image, once per step; the denoiser got "
                f"{seen}. Switch off perturbed-attention guidance, skip-layer guidance and similar methods."
            )
