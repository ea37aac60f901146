"""Whether a pipeline is text-to-image, decided by its class, before any weight is loaded."""

import inspect
import json
import re
from pathlib import Path
from typing import Any, get_args, get_type_hints

from torch import nn

from headwise.errors import ModelNotLoaded
from headwise.model.families import is_known, refusal

__all__ = ["class_for", "obstacle", "require_class", "require_text_to_image"]

NEEDED = ("prompt", "num_inference_steps", "generator", "latents", "output_type")
PARTS = ("vae", "tokenizer")
OTHER_INPUT = re.compile(r"(?!num_|negative_|ip_adapter_)(.*_)?images?(_.*)?$")
OTHER_OUTPUT = re.compile(r"(.*_)?(videos?|frames?|audio)(_.*)?$")
ALONE = ("Flux2KleinPipeline",)  # takes images too, but needs only a prompt
NO_OFFSETS = "has a tokenizer that does not give the characters of its tokens"
AS_VIDEO = "generates an image as one frame of a video, in latents of five dimensions"
REFUSED = {  # whatever the signature of their call
    "BriaFiboPipeline": "gives each layer of its denoiser a different layer of the text encoder "
    "(`text_encoder_layers`)",
    "Cosmos2TextToImagePipeline": AS_VIDEO,
    "Flux2Pipeline": "reads its prompt with a processor of images and text, in which words cannot be found",
    "HiDreamImagePipeline": "gives each layer of its denoiser a different layer of Llama "
    "(`encoder_hidden_states_llama3`)",
    "HunyuanImagePipeline": "puts the tokens of two text encoders in an order that differs from prompt to "
    "prompt (`encoder_hidden_states_2`)",
    "Ideogram4Pipeline": "gives its denoiser text and pixels as one sequence (`indicator`)",
    "Kandinsky5T2IPipeline": AS_VIDEO,
    "KolorsPipeline": NO_OFFSETS,
    "KolorsPAGPipeline": NO_OFFSETS,
    "LongCatImagePipeline": "rewrites the prompt with a language model before it encodes it "
    "(`enable_prompt_rewrite`)",
    "PRXPipeline": "passes one timestep for each half of a guided batch, so that two prompts cannot share it",
    "StableAudio3Pipeline": "generates sound",
    "StableDiffusionLDM3DPipeline": "generates depth besides images",
    "StableUnCLIPPipeline": "first makes an image embedding of the prompt (`prior`)",
}


def require_text_to_image(name: str) -> Any:
    """The class to load a pipeline with; those that need more than a prompt, or make no images, are refused.

    Args:
        name: A folder in diffusers format, or a hub name. One without a description, or of a class that
            diffusers does not have, passes: loading it will explain the problem.

    Raises:
        ModelNotLoaded: It is of another kind, such as video.
    """
    kind = class_for(name)
    require_class(name, kind)
    return kind


def class_for(name: str) -> Any:
    """The class of diffusers that generates images from prompts with the parts of a folder or hub name.

    It is the class in the description or, for image-to-image and inpainting, the text-to-image class of the
    same parts. None if it is unknown.
    """
    import diffusers

    description = _description(name)
    described = str(description.get("_class_name"))
    kind = getattr(diffusers, described, None)
    if description.get("requires_aesthetics_score"):  # as the refiner of SDXL, which finishes images
        return kind
    other = getattr(diffusers, described.replace("Img2Img", "").replace("Inpaint", ""), None)
    return kind if other is None or obstacle(other) is not None else other


def require_class(name: str, kind: Any) -> None:
    """`require_text_to_image` for the class of a pipeline; None passes."""
    reason = None if kind is None else obstacle(kind)
    if kind is not None and reason is not None:
        raise ModelNotLoaded(
            f"{name} is a {kind.__name__}, which {reason}; expected a text-to-image pipeline. "
            "Give the model that it was made from, or another text-to-image model."
        )


def _description(name: str) -> dict[str, Any]:
    """The contents of model_index.json; empty if it cannot be read."""
    from diffusers import DiffusionPipeline

    try:
        if Path(name).exists():
            return dict(json.loads((Path(name) / "model_index.json").read_bytes()))
        return dict(DiffusionPipeline.load_config(name))
    except Exception:  # the hub raises errors of many kinds, which loading will raise again and explain
        return {}


def obstacle(kind: Any) -> str | None:
    """Why a class of pipelines does not generate images from a prompt; None if it does."""
    taken, parts = inspect.signature(kind.__call__).parameters, inspect.signature(kind.__init__).parameters
    if kind.__name__ in REFUSED:
        return REFUSED[kind.__name__]
    if "dummy" in kind.__module__:
        return None  # the placeholder of a class whose packages are missing
    for name in taken:
        if OTHER_INPUT.match(name) and kind.__name__ not in ALONE:
            return f"takes an image besides the prompt (`{name}`)"
        if OTHER_OUTPUT.match(name):
            return f"generates video or sound (`{name}`)"
    required = [
        name
        for name, parameter in taken.items()
        if parameter.default is parameter.empty
        and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        and name not in ("self", "prompt")
    ]
    missing = [name for name in NEEDED if name not in taken]
    absent = [name for name in PARTS if name not in parts]
    for names, why in ((required, "cannot be called without"), (missing, "takes no"), (absent, "has no")):
        if names:
            return f"{why} `{names[0]}`"
    denoisers = _denoisers(kind)
    if denoisers and not any(map(is_known, denoisers)):
        return refusal(denoisers[0].__name__)
    return None


def _denoisers(kind: Any) -> list[type]:
    """The classes of denoisers that a class of pipelines declares."""
    parts = inspect.signature(kind.__init__).parameters
    said = [parts[name].annotation for name in ("unet", "transformer") if name in parts]
    if any(isinstance(annotation, str) for annotation in said):
        said = [get_type_hints(kind.__init__)[name] for name in ("unet", "transformer") if name in parts]
    each = [kind for annotation in said for kind in (get_args(annotation) or (annotation,))]
    return [kind for kind in each if isinstance(kind, type) and issubclass(kind, nn.Module)]
