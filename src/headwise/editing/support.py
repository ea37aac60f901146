"""Which models each editing method works on, checked before anything is generated."""

from typing import Any, NamedTuple

from headwise.errors import HookMisuse, Unsupported
from headwise.model.families import family_of
from headwise.model.heads import HeadMap, denoiser_of

__all__ = ["require_cross_attention", "require_support", "supports"]

UNET = "Stable Diffusion 1, 2, XL"
TEXT_ALONE = "Stable Diffusion 1, 2"
PIXART = "PixArt"
SANA = "Sana"  # whose self-attention is linear, and has no maps
JOINT = "Stable Diffusion 3, FLUX"
JOINT_FAMILIES = ("Stable Diffusion 3", "FLUX.1")  # what `JOINT` is called in model/families.py
EVERY = (UNET, PIXART, SANA, JOINT)
NO_LAYOUT = (
    "self_attention was given, but this model's self-attention is linear and has no maps to exchange. "
    "Leave self_attention out."
)


class _Method(NamedTuple):
    """The name of a method, as its authors write it, and the model families that it works on."""

    title: str
    families: tuple[str, ...] = (UNET,)


METHODS = {  # by the name of the hook class or function
    "PromptToPrompt": _Method("Prompt-to-prompt", EVERY),
    "LocalBlend": _Method("Local blending", EVERY),
    "MasaCtrl": _Method("MasaCtrl", (UNET, PIXART)),
    "FreePrompt": _Method("Free-prompt editing", (UNET, PIXART)),
    "PlugAndPlay": _Method("Plug-and-Play"),
    "Patch": _Method("Patching", (UNET, PIXART, SANA)),
    "Excite": _Method("Attend-and-Excite", EVERY),
    "invert": _Method("Inversion", EVERY),
    "compose": _Method("Composable diffusion", (TEXT_ALONE,)),
    "sdedit": _Method("SDEdit", (UNET, JOINT)),
}


def require_support(model: Any, *methods: Any) -> None:
    """Refuse a model on which a method would do nothing or fail.

    Args:
        model: A pipeline, or its head map.
        methods: Hooks, hook classes, functions, or the names of either; the user's own hooks always pass.

    Raises:
        Unsupported: One of the methods does not work on this model.
    """
    if any(getattr(method, "needs_layout", False) for method in methods) and _families(model) == {SANA}:
        raise Unsupported(NO_LAYOUT)
    for method in filter(None, map(_known, methods)):
        if not supports(model, method):
            name = "this model" if isinstance(model, HeadMap) else type(model).__name__
            raise Unsupported(
                f"{method.title} works on {', '.join(method.families)}, but not on {name}. "
                "Use a supported model, or leave this method out."
            )


def supports(model: Any, method: Any) -> bool:
    """Whether a method works on a model; arguments as in `require_support`."""
    known = _known(method)
    return known is None or bool(_families(model) & set(known.families))


def require_cross_attention(head_map: HeadMap) -> None:
    """Refuse joint attention, for which the published code was not written.

    Raises:
        HookMisuse: A layer has joint attention.
    """
    if any(layer.kind == "joint" for layer in head_map):
        raise HookMisuse("The published code does not work in joint attention. Leave as_published out.")


def _known(method: Any) -> _Method | None:
    """The entry of a method; None for the user's own hooks."""
    if isinstance(method, _Method):
        return method
    if isinstance(method, str):
        return METHODS[method]
    kind = method if hasattr(method, "__name__") else type(method)
    names = [base.__name__ for base in getattr(kind, "__mro__", (kind,))]
    return next((METHODS[name] for name in names if name in METHODS), None)


def _families(model: Any) -> set[str]:
    """The families that a model belongs to."""
    head_map = model if isinstance(model, HeadMap) else HeadMap.of(model)
    if any(layer.kind == "joint" for layer in head_map):
        known = isinstance(model, HeadMap) or family_of(denoiser_of(model)).name in JOINT_FAMILIES
        return {JOINT} if known else set()
    if any(layer.address.startswith("transformer_blocks") for layer in head_map):
        if isinstance(model, HeadMap):
            return {PIXART, SANA}
        return {SANA if type(denoiser_of(model)).__name__.startswith("Sana") else PIXART}
    config = getattr(None if isinstance(model, HeadMap) else denoiser_of(model), "config", None)
    alone = getattr(config, "addition_embed_type", None) is None
    return {UNET, TEXT_ALONE} if alone else {UNET}
