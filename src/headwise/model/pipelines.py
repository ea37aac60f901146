r"""Pipelines: loading one, and the few questions that only diffusers' internals answer.

`load_pipeline("emoji")` and `load_pipeline("emoji-dit")` are the built-in models; any other name is a folder
or a hub name in diffusers format, or a checkpoint of a single file (single_file.py).
Weights come from safetensors only, and no code of a model's author is ever run.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headwise import emoji
from headwise.errors import HookMisuse, ModelNotLoaded, WordWithoutTokens
from headwise.model.clip_skip import clip_skip_of
from headwise.model.families import family_of
from headwise.model.heads import HeadMap, denoiser_of, wrapped_denoiser_of
from headwise.model.inpainting import paint_everything
from headwise.model.loras import ENCODERS, add_to_digest, loras_of, name_without_lora
from headwise.model.setup import set_up
from headwise.model.single_file import is_single_file, load_single_file
from headwise.model.text_to_image import require_text_to_image
from headwise.model.tokens import TextSegment, positions_in, read

__all__ = [
    "digest_of", "encode_word", "fingerprint", "fingerprint_of", "is_emoji", "load_pipeline", "model_name",
    "quiet", "settings_of_pictures", "text_segments", "watched",
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
    """A text-to-image pipeline by hub name, by folder or file, or a built-in one: "emoji", "emoji-dit".

    Models for image-to-image and inpainting are loaded as the text-to-image pipeline of the same parts; those
    for inpainting paint the whole image.

    Args:
        name_or_path: A hub name, a folder in diffusers format, or a .safetensors file that holds a model.
        dtype: Type of the weights; float32 if None.
        device: Where they are; the CPU if None.
        config: For a single file alone: a pipeline's folder in diffusers format, whose weights may be
            missing, or its hub name. Without it diffusers fetches what belongs to the file's family.
        loras: LoRA files that are loaded beside the model, and the scale of each: {"style.safetensors": 0.8}.
        scheduler: A sampler by name, such as "DPM++ 2M Karras", in place of the model's own; see samplers.py.
        clip_skip: How the text encoder is cut short: 2 leaves out its last layer; see clip_skip.py.
    """
    name = str(name_or_path)
    if config is not None and not is_single_file(name):
        raise ModelNotLoaded(
            f"A configuration was given beside {name}; only a single .safetensors file takes one. "
            "Leave it out."
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
    """The hub name or folder that a pipeline came from, else its class."""
    return _built_in_name(pipe) or _came_from(pipe) or type(pipe).__name__


def is_emoji(pipe: Any) -> bool:
    """Is this a built-in model, which draws the world of emoji?"""
    return _built_in_name(pipe) is not None


def _came_from(pipe: Any) -> str | None:
    name = getattr(getattr(pipe, "config", None), "_name_or_path", None)
    return None if name is None else str(name)


def _built_in_name(pipe: Any) -> str | None:
    """The name of the built-in model that this is; None if it is none."""
    if (folder := _came_from(pipe)) is None:
        return None
    folders = {model.model.resolve(): name for name, model in emoji.MODELS.items()}
    return folders.get(Path(folder).resolve())


def fingerprint(pipe: Any) -> str:
    """A short hash of a sample of the weights, so that another checkpoint is not taken for this one.

    LoRA are not part of it: `loras_of` tells them apart.
    """
    return fingerprint_of(denoiser_of(pipe), *(getattr(pipe, name, None) for name in ENCODERS))


def fingerprint_of(*modules: Any) -> str:
    """A short hash of a sample of the weights of modules, which runs keep; None has no weights."""
    digest = sha256()
    for module in modules:
        for name, parameter in module.named_parameters() if isinstance(module, nn.Module) else ():
            if (plain := name_without_lora(name)) is not None:
                # where transformers had all of a text model before 5.x
                add_to_digest(digest, plain.removeprefix("text_model."), parameter)
    return digest.hexdigest()[:16]


def text_segments(pipe: Any, arguments: Mapping[str, Any] | None = None) -> tuple[TextSegment, ...]:
    """The tokens of the text encoders that the denoiser reads, in the order in which they stand.

    Args:
        pipe: A pipeline, or a bare denoiser, which has none.
        arguments: The arguments of the pipeline's call, of which some change what is tokenized; those that
            are missing are its defaults.
    """
    first, second, third = (getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2", "tokenizer_3"))
    arguments = {**(_defaults(pipe.__call__) if callable(pipe) else {}), **(arguments or {})}

    def segment(tokenizer: Any, start: int = 0, argument: str = "") -> TextSegment:
        """The tokens of one tokenizer, from position `start`; `argument` names its prompt in the call."""
        is_clip = type(tokenizer).__name__.startswith("CLIP")  # which has a length that no call changes
        length = None if is_clip else arguments.get("max_sequence_length")
        padding_first = getattr(tokenizer, "padding_side", "") == "left"
        padding_first &= (
            "complex_human_instruction" not in arguments
        )  # Sana, which turns its tokenizer's side
        clean, texts = _cleaning(pipe, tokenizer, arguments), _texts_of(arguments, argument)
        return TextSegment(tokenizer, start, clean, "", length, texts, padding_first)

    if hasattr(first, "image_processor"):  # a processor of images and text, which tells no characters
        return ()
    if first is None:  # as in the refiner of SDXL, whose second encoder reads the prompt
        return () if second is None else (segment(second),)
    if hasattr(pipe, "tokenizer_3"):  # Stable Diffusion 3: CLIP's tokens, then T5's, or zeros in their place
        left_out = third is None or pipe.text_encoder_3 is None
        of_clip = (segment(first), segment(second, argument="prompt_2"))
        of_third = segment(None if left_out else third, of_clip[0].stop, "prompt_3")
        return (*of_clip, of_third)
    if type(first).__name__.startswith("CLIP") and type(second).__name__.startswith("T5"):
        return (segment(second, argument="prompt_2"),)  # FLUX, whose CLIP gives no tokens
    if type(second).__name__.startswith("T5"):  # Hunyuan-DiT
        return (segment(first), segment(second, segment(first).stop))
    if second is not None:  # SDXL, each of whose tokens is one of both
        return (segment(first), segment(second, argument="prompt_2"))
    of_first = segment(first)
    before = "\n".join(arguments.get("complex_human_instruction") or ())
    if before and of_first.length:  # Sana keeps the first token, and the last of what it pads to both lengths
        skipped = len(first.encode(before)) - 2
        length = of_first.length + skipped
        return (of_first._replace(start=-skipped, before=before, length=length, start_kept=True),)
    return (_framed(pipe, of_first),)


def _framed(pipe: Any, segment: TextSegment) -> TextSegment:
    """The tokens of the only encoder, with what its family writes around the prompt."""
    family = family_of(denoiser_of(pipe))
    segment = segment._replace(start=family.registers, multiple=family.multiple)
    if family.frame is None:
        return segment
    before, after, dropped = family.frame(pipe)
    length = None if segment.length is None else segment.length + dropped
    return segment._replace(
        start=family.registers - dropped,
        before=before,
        after=after,
        length=length,
        padding_first=segment.padding_first and not dropped,  # what drops tokens drops the padding too
    )


def encode_word(pipe: Any, word: str) -> tuple[Float[Tensor, "starts dim"], Float[Tensor, "tokens dim"]]:
    """A word encoded alone: the start token, unless the encoder has none, and the word's own tokens."""
    segments = text_segments(pipe, _defaults(pipe.encode_prompt)) if hasattr(pipe, "encode_prompt") else ()
    if not segments:
        raise ModelNotLoaded(
            f"{type(pipe).__name__} has no text encoder of its own to encode {word!r} with. "
            "Expected a text-to-image pipeline with tokenizer and text encoder."
        )
    counts = [(s.start, len(read(s, word).words)) for s in segments if s.tokenizer is not None]
    if len(set(counts)) > len({start for start, _ in counts}):
        raise ModelNotLoaded(
            f"The tokenizers of {type(pipe).__name__} make {sorted(n for _, n in counts)} tokens of "
            f"{word!r}; expected tokenizers that agree, as SDXL's do."
        )
    if any(tokens == 0 for _, tokens in counts):
        raise WordWithoutTokens(
            f"{word!r} has no token: the tokenizer makes nothing of it, so nothing can attend to it. "
            "Use another word."
        )
    options: dict[str, Any] = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    options |= {"prompt_2": None, "prompt_3": None}
    accepted = inspect.signature(pipe.encode_prompt).parameters
    with torch.no_grad():
        encoded = pipe.encode_prompt(
            prompt=word,
            device=pipe._execution_device,
            **{name: value for name, value in options.items() if name in accepted},
        )
    registers = family_of(denoiser_of(pipe)).registers
    first = read(segments[0], word)
    begin = min(position for position in first.positions if position is not None) - registers
    starts = min(first.words) - registers
    positions = [position - registers for position in positions_in(segments, word, None)]
    if max(positions) >= encoded[0].shape[1]:  # as Hunyuan-DiT's, whose second text comes apart
        raise ModelNotLoaded(
            f"{type(pipe).__name__} encodes a text of {encoded[0].shape[1]} tokens, and {word!r} stands at "
            f"{positions} of all its texts. Expected encoders whose tokens make one text, as SD 3's do."
        )
    return encoded[0][0, begin:starts], encoded[0][0, positions]


def _defaults(function: Any) -> dict[str, Any]:
    """The parameters of a function that have defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _texts_of(arguments: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """What an encoder with an argument of its own reads for each image; nothing where it reads the prompt."""
    prompts, texts = (
        [text] if isinstance(text, str) else list(text)
        for text in (arguments.get("prompt") or (), arguments.get(name) or ())
    )
    if prompts and texts and len(texts) != len(prompts):
        raise HookMisuse(
            f"{name} holds {len(texts)} texts, prompt {len(prompts)}. Give one of each for every image."
        )
    return tuple(text for text in texts for _ in range(arguments.get("num_images_per_prompt") or 1))


def _cleaning(pipe: Any, tokenizer: Any, arguments: Mapping[str, Any]) -> Callable[[str], str]:
    """What the pipeline makes of a prompt before it tokenizes it."""
    if hasattr(pipe, "_text_preprocessing"):
        clean = bool(arguments.get("clean_caption"))
        return lambda prompt: pipe._text_preprocessing(prompt, clean_caption=clean)[0]
    if hasattr(pipe, "maybe_convert_prompt"):  # textual inversion writes out words of several vectors
        return lambda prompt: pipe.maybe_convert_prompt(prompt, tokenizer)
    return str


@contextmanager
def quiet(pipe: Any) -> Iterator[None]:
    """Without the pipeline's own progress bar and safety checker, both put back afterwards."""
    replaced = {
        name: pipe.__dict__[name]
        for name in ("_progress_bar_config", "safety_checker")
        if name in pipe.__dict__
    }
    # Straight into __dict__: diffusers' __setattr__ would write a missing checker into the pipeline's config.
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
    """Call `on_call` before each call of the denoiser; what it raises ends the pipeline's call there.

    Nothing stands at the attention layers, so it works around whatever Headwise does with the pipeline.
    """
    handle = wrapped_denoiser_of(pipe).register_forward_pre_hook(lambda module, inputs: on_call())
    try:
        yield
    finally:
        handle.remove()


def settings_of_pictures(pipe: Any, prompts: Sequence[str]) -> dict[str, Any]:
    """The settings of the pipeline and the prompts that decide the images."""
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
        **{name: value for name, value in changed.items() if value},  # runs of before lack these
    }


def digest_of(content: str | bytes) -> str:
    """A short hash, for settings that are too long to write down."""
    return sha256(content.encode() if isinstance(content, str) else content).hexdigest()[:12]


def _of_one_type(pipe: Any, dtype: torch.dtype | None) -> Any:
    """Weights stored in half precision: diffusers makes them float32 on loading, transformers 5 does not.

    And versions of diffusers that do not know `dtype` leave it to this.
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
            f"There is no folder {name}. "
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
