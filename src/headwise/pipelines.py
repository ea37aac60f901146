r"""Pipelines: loading one, and the few questions that only diffusers' internals answer.

`load_pipeline("emoji")` is the built-in model; any other name is a folder or a hub name in diffusers format.
Weights come from safetensors only, and no code of a model's author is ever run.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwise.errors import ModelNotLoaded
from headwise.heads import HeadMap, denoiser_of
from headwise.tokens import tokens_of

__all__ = ["encode_word", "fingerprint", "is_emoji", "load_pipeline", "model_name", "quiet"]

_EMOJI = Path(__file__).parent / "emoji" / "model"


def load_pipeline(
    name_or_path: str | Path, dtype: torch.dtype | None = None, device: str | torch.device | None = None
) -> Any:
    """A text-to-image pipeline by hub name, by folder, or "emoji"."""
    if str(name_or_path) == "emoji":
        pipe = _load_emoji()
        pipe = pipe if dtype is None else pipe.to(dtype)
    else:
        pipe = _from_pretrained(str(name_or_path), dtype)
    HeadMap.of(pipe)
    return pipe if device is None else pipe.to(device)


def model_name(pipe: Any) -> str:
    """The hub name or folder that a pipeline came from, else its class."""
    if is_emoji(pipe):
        return "emoji"
    return getattr(getattr(pipe, "config", None), "_name_or_path", None) or type(pipe).__name__


def is_emoji(pipe: Any) -> bool:
    """Is this the built-in model?"""
    name = getattr(getattr(pipe, "config", None), "_name_or_path", None)
    return name is not None and Path(name).resolve() == _EMOJI.resolve()


def fingerprint(pipe: Any) -> str:
    """A short hash of a sample of the weights, so that another checkpoint is not taken for this one."""
    digest = sha256()
    modules = [denoiser_of(pipe), getattr(pipe, "text_encoder", None), getattr(pipe, "text_encoder_2", None)]
    for module in modules:
        for name, parameter in module.named_parameters() if isinstance(module, nn.Module) else ():
            digest.update(f"{name} {tuple(parameter.shape)}".encode())
            if parameter.device.type != "meta":  # as under offloading, where only names and shapes are known
                sample = parameter.detach().flatten()[:: max(1, parameter.numel() // 32)]
                digest.update(sample.double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def encode_word(pipe: Any, word: str) -> Float[Tensor, "tokens dim"]:
    """The start token and the word's own tokens, the word being encoded alone."""
    tokenizers = [getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2")]
    counts = {tokens_of(tokenizer, word) for tokenizer in tokenizers if tokenizer is not None}
    if len(counts) != 1:
        raise ModelNotLoaded(
            f"The tokenizers of {type(pipe).__name__} make {sorted(counts)} tokens of {word!r}; "
            "expected tokenizers that agree, as SDXL's do."
        )
    with torch.no_grad():
        encoded = pipe.encode_prompt(
            prompt=word,
            device=pipe._execution_device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
    return encoded[0][0, : 1 + counts.pop()]


@contextmanager
def quiet(pipe: Any) -> Iterator[None]:
    """Without the pipeline's own progress bar and safety checker, both put back afterwards."""
    held = {
        name: pipe.__dict__[name]
        for name in ("_progress_bar_config", "safety_checker")
        if name in pipe.__dict__
    }
    # Straight into __dict__: diffusers' __setattr__ would write a missing checker into the pipeline's config.
    pipe.__dict__["_progress_bar_config"] = {"disable": True}
    if "safety_checker" in held:
        pipe.__dict__["safety_checker"] = None
    try:
        yield
    finally:
        pipe.__dict__.pop("_progress_bar_config")
        pipe.__dict__.update(held)


def _load_emoji() -> Any:
    try:
        from headwise import emoji
    except ImportError:
        raise ModelNotLoaded("The emoji model is not in this installation. Install headwise again.") from None
    return emoji.load()


def _of_one_type(pipe: Any) -> Any:
    """Weights stored in half precision: diffusers makes them float32 on loading, transformers 5 does not."""
    wanted = denoiser_of(pipe).dtype
    for part in pipe.components.values():
        if isinstance(part, nn.Module) and part.dtype != wanted:
            part.to(wanted)
    return pipe


def _from_pretrained(name: str, dtype: torch.dtype | None) -> Any:
    from diffusers import DiffusionPipeline

    folder = Path(name)
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise ModelNotLoaded(
            f"{name} is no pipeline: it holds no model_index.json. Give a folder in diffusers format."
        )
    looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1
    if not folder.exists() and looks_local:
        raise ModelNotLoaded(
            f"There is no folder {name}. Give a pipeline's folder, a hub name (owner/name) or emoji."
        )
    try:
        pipe = DiffusionPipeline.from_pretrained(name, dtype=dtype, use_safetensors=True)
        return _of_one_type(pipe)
    except Exception as error:  # diffusers, the hub and safetensors each raise their own kinds
        said = str(error).strip().splitlines()
        raise ModelNotLoaded(
            f"{name} could not be loaded: {said[0] if said else type(error).__name__} "
            "Check the name and the network, or give a folder in diffusers format with safetensors weights."
        ) from error
