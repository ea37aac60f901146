r"""Pipelines: loading one, and the few answers that depend on diffusers' internals.

`load_pipeline("emoji")` and `load_pipeline("emoji-dit")` are the built-in models; any other name is a folder
or a hub name in diffusers format, or a single-file checkpoint (single_file.py).
Weights come from safetensors only, and no code of a model's author is ever run.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headwise import emoji
from headwise.errors import ModelNotLoaded
from headwise.model.clip_skip import clip_skip_of
from headwise.model.heads import HeadMap, denoiser_of, wrapped_denoiser_of
from headwise.model.inpainting import paint_everything
from headwise.model.loras import ENCODERS, add_to_digest, loras_of, name_without_lora
from headwise.model.setup import set_up
from headwise.model.single_file import is_single_file, load_single_file
from headwise.model.text_to_image import require_text_to_image

__all__ = [
    "digest_of", "fingerprint", "fingerprint_of", "is_emoji", "load_pipeline", "model_name", "quiet",
    "settings_of_pictures", "watched",
]  # fmt: skip


def load_pipeline(
    name_or_path: str | Path,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    *,
    config: str | Path | None = None,
    loras: Mapping[str | Path, float | int] | None = None,
    scheduler: str | None = None,
    clip_skip: int | None = None,
) -> Any:
    """Load a text-to-image pipeline by hub name, folder or file, or a built-in one: "emoji", "emoji-dit".

    Models for image-to-image and inpainting are loaded as the text-to-image pipeline of the same parts; those
    for inpainting paint the whole image.

    Args:
        name_or_path: A hub name, a folder in diffusers format, or a .safetensors file that holds a model.
        dtype: Data type of the weights; float32 if None.
        device: Device of the weights; the CPU if None.
        config: For a single file only: a pipeline's folder in diffusers format, whose weights may be
            missing, or its hub name. Without it, diffusers downloads that of the file's family.
        loras: LoRA files to load with the model, and the scale of each: {"style.safetensors": 0.8}.
        scheduler: A sampler by name, such as "DPM++ 2M Karras", in place of the model's own; see samplers.py.
        clip_skip: How the text encoder is cut short: 2 leaves out its last layer; see clip_skip.py.
    """
    name = str(name_or_path)
    if config is not None and not is_single_file(name):
        raise ModelNotLoaded(
            f"A configuration was given with {name}; only a single .safetensors file takes one. Leave it out."
        )
    if (built_in := emoji.MODELS.get(name)) is not None:
        pipe = built_in.load()
        pipe = pipe if dtype is None else pipe.to(dtype)
    elif is_single_file(name):
        pipe = _of_one_type(load_single_file(name, None if config is None else str(config), dtype), dtype)
    else:
        pipe = _from_pretrained(name, require_text_to_image(name), dtype)
    HeadMap.of(pipe)
    paint_everything(pipe)
    set_up(pipe, loras=loras, scheduler=scheduler, clip_skip=clip_skip)
    return pipe if device is None else pipe.to(device)


def model_name(pipe: Any) -> str:
    """The hub name or folder that a pipeline was loaded from, else its class."""
    return _built_in_name(pipe) or _came_from(pipe) or type(pipe).__name__


def is_emoji(pipe: Any) -> bool:
    """Whether this is a built-in model, trained on the world of emoji."""
    return _built_in_name(pipe) is not None


def _came_from(pipe: Any) -> str | None:
    name = getattr(getattr(pipe, "config", None), "_name_or_path", None)
    return None if name is None else str(name)


def _built_in_name(pipe: Any) -> str | None:
    """The name of this built-in model; None if it is not one."""
    if (folder := _came_from(pipe)) is None:
        return None
    folders = {model.model.resolve(): name for name, model in emoji.MODELS.items()}
    return folders.get(Path(folder).resolve())


def fingerprint(pipe: Any) -> str:
    """A short hash of a sample of the weights, which distinguishes checkpoints.

    LoRAs are not part of it: `loras_of` distinguishes them.
    """
    return fingerprint_of(denoiser_of(pipe), *(getattr(pipe, name, None) for name in ENCODERS))


def fingerprint_of(*modules: Any) -> str:
    """A short hash of a sample of the weights of modules, kept by runs; None has no weights."""
    digest = sha256()
    for module in modules:
        for name, parameter in module.named_parameters() if isinstance(module, nn.Module) else ():
            if (plain := name_without_lora(name)) is not None:
                # the prefix of all weights of a text model in transformers before 5
                add_to_digest(digest, plain.removeprefix("text_model."), parameter)
    return digest.hexdigest()[:16]


@contextmanager
def quiet(pipe: Any) -> Iterator[None]:
    """Switch off the pipeline's progress bar and safety checker; both are restored afterwards."""
    replaced = {
        name: pipe.__dict__[name]
        for name in ("_progress_bar_config", "safety_checker")
        if name in pipe.__dict__
    }
    # Directly into __dict__: diffusers' __setattr__ would write a missing checker into the pipeline's config.
    pipe.__dict__["_progress_bar_config"] = {"disable": True}
    if "safety_checker" in replaced:
        pipe.__dict__["safety_checker"] = None
    try:
        yield
    finally:
        pipe.__dict__.pop("_progress_bar_config")
        pipe.__dict__.update(replaced)


@contextmanager
def watched(pipe: Any, on_call: Callable[[], None]) -> Iterator[None]:
    """Call `on_call` before each call of the denoiser; an exception from it ends the pipeline's call.

    It leaves the attention layers alone, so it can be combined with anything that Headwise does.
    """
    handle = wrapped_denoiser_of(pipe).register_forward_pre_hook(lambda module, inputs: on_call())
    try:
        yield
    finally:
        handle.remove()


def settings_of_pictures(pipe: Any, prompts: Sequence[str]) -> dict[str, Any]:
    """The settings of the pipeline and the prompts, which determine the images."""
    scheduler: Any = getattr(pipe, "scheduler", None)
    skipped = clip_skip_of(pipe)
    changed = {"loras": loras_of(pipe), "clip_skip": skipped if skipped > 1 else None}
    return {
        "model": model_name(pipe),
        "weights": fingerprint(pipe),
        "dtype": str(denoiser_of(pipe).dtype).removeprefix("torch."),
        "scheduler": type(scheduler).__name__,
        "scheduler_settings": digest_of(
            repr(sorted((k, str(v)) for k, v in scheduler.config.items() if k[0] != "_"))
        ),
        "head_map": f"{HeadMap.of(pipe).all_heads} heads, {digest_of(HeadMap.of(pipe).to_json())}",
        "prompts": f"{len(prompts)} prompts, {digest_of(repr(prompts))}",
        **{name: value for name, value in changed.items() if value},  # earlier runs lack these
    }


def digest_of(content: str | bytes) -> str:
    """A short hash, for settings that are too long to record."""
    return sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:12]


def _of_one_type(pipe: Any, dtype: torch.dtype | None) -> Any:
    """Give all weights one type: diffusers loads half precision as float32, transformers 5 does not.

    Versions of diffusers that do not know `dtype` leave the conversion to this, too.
    """
    wanted = dtype or denoiser_of(pipe).dtype
    for module in pipe.components.values():
        if isinstance(module, nn.Module) and module.dtype != wanted:
            module.to(wanted)
    return pipe


def _from_pretrained(name: str, kind: Any, dtype: torch.dtype | None) -> Any:
    from diffusers import DiffusionPipeline

    folder = Path(name)
    if folder.exists() and not (folder / "model_index.json").is_file():
        raise ModelNotLoaded(
            f"{name} is not a pipeline: it has no model_index.json. Give a folder in diffusers format."
        )
    looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1
    if not folder.exists() and looks_local:
        raise ModelNotLoaded(
            f"The folder {name} does not exist. "
            "Give a pipeline's folder, a .safetensors file, a hub name (owner/name), emoji or emoji-dit."
        )
    try:
        pipe = (kind or DiffusionPipeline).from_pretrained(name, dtype=dtype, use_safetensors=True)
        return _of_one_type(pipe, dtype)
    except Exception as error:  # diffusers, the hub and safetensors each raise their own kinds
        message = str(error).strip().splitlines()
        raise ModelNotLoaded(
            f"{name} could not be loaded: {message[0] if message else type(error).__name__} "
            "Check the name and the network, or give a folder in diffusers format with safetensors weights."
        ) from error
