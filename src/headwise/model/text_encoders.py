r"""Text encoders: which of their tokens a denoiser reads, and encoding a single word.

In the text of a denoiser, the tokens of several encoders are one after the other, or side by side. This
module also knows what pipelines do to a prompt before an encoder reads it, such as adding a template.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from headwise.errors import HookMisuse, ModelNotLoaded, WordWithoutTokens
from headwise.model.families import family_of
from headwise.model.heads import denoiser_of
from headwise.model.tokens import TextSegment, positions_in, read

__all__ = ["embedding_of", "encode_word", "require_own_words", "text_segments"]


def text_segments(pipe: Any, arguments: Mapping[str, Any] | None = None) -> tuple[TextSegment, ...]:
    """The tokens of the text encoders that the denoiser reads, in order.

    Args:
        pipe: A pipeline, or a bare denoiser, which has none.
        arguments: The arguments of the pipeline's call, some of which change what is tokenized; missing ones
            take their defaults.
    """
    first, second, third = (getattr(pipe, name, None) for name in ("tokenizer", "tokenizer_2", "tokenizer_3"))
    arguments = {**(_defaults(pipe.__call__) if callable(pipe) else {}), **(arguments or {})}

    def segment(tokenizer: Any, start: int = 0, argument: str = "") -> TextSegment:
        """The tokens of one tokenizer, from position `start`; `argument` names its prompt in the call."""
        is_clip = type(tokenizer).__name__.startswith("CLIP")  # which has a fixed length
        length = None if is_clip else arguments.get("max_sequence_length")
        length = getattr(pipe, "max_sequence_length", length)  # Lumina-Next's, which is fixed
        padding_first = getattr(tokenizer, "padding_side", "") == "left"
        padding_first &= (
            "complex_human_instruction" not in arguments
        )  # Sana, which changes its tokenizer's side
        clean, texts = _cleaning(pipe, tokenizer, arguments), _texts_of(arguments, argument)
        return TextSegment(tokenizer, start, clean, "", length, texts, padding_first)

    if hasattr(first, "image_processor"):  # a processor of images and text, without character offsets
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
    if type(second).__name__.startswith("T5"):  # Hunyuan-DiT, whose pipeline has these lengths
        return (segment(first)._replace(length=77), segment(second, 77)._replace(length=256))
    if second is not None:  # SDXL, each of whose tokens combines one of each
        return (segment(first), segment(second, argument="prompt_2"))
    of_first = segment(first)
    before = "\n".join(arguments.get("complex_human_instruction") or ())
    if before and of_first.length:  # Sana keeps the first token, and the last of what it pads to both lengths
        skipped = len(first.encode(before)) - 2
        length = of_first.length + skipped
        return (of_first._replace(start=-skipped, before=before, length=length, start_kept=True),)
    return (_framed(pipe, of_first, arguments),)


def _framed(pipe: Any, segment: TextSegment, arguments: Mapping[str, Any]) -> TextSegment:
    """The tokens of the only encoder, with what its family adds around the prompt."""
    family = family_of(denoiser_of(pipe))
    segment = segment._replace(
        start=family.registers,
        multiple=family.multiple,
        padding_first=segment.padding_first and not family.trimmed,
    )
    if family.frame is None:
        return segment
    before, after, dropped, behind = family.frame(pipe, arguments)
    length = None if segment.length is None else segment.length + dropped - behind
    return segment._replace(
        start=family.registers - dropped,
        before=before,
        after=after,
        length=length,
        padding_first=segment.padding_first and not dropped,  # what drops tokens drops the padding too
        behind=behind,
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
            f"{word!r} has no token: the tokenizer drops it, so nothing can attend to it. Use another word."
        )
    options: dict[str, Any] = {"num_images_per_prompt": 1, "do_classifier_free_guidance": False}
    options |= {"prompt_2": None, "prompt_3": None}
    accepted = inspect.signature(pipe.encode_prompt).parameters
    with torch.no_grad():
        encoded = embedding_of(
            pipe.encode_prompt(
                prompt=word,
                device=pipe._execution_device,
                **{name: value for name, value in options.items() if name in accepted},
            )
        )
    assert encoded is not None
    registers = family_of(denoiser_of(pipe)).registers
    first = read(segments[0], word)
    begin = min(position for position in first.positions if position is not None) - registers
    starts = min(first.words) - registers
    positions = [position - registers for position in positions_in(segments, word, None)]
    if max(positions) >= encoded.shape[1]:  # as Hunyuan-DiT's, whose second text is separate
        raise ModelNotLoaded(
            f"{type(pipe).__name__} encodes a text of {encoded.shape[1]} tokens, but {word!r} is at "
            f"{positions} of all its texts. Expected encoders whose tokens form one text, as SD 3's do."
        )
    return encoded[0, begin:starts].flatten(1), encoded[0, positions].flatten(1)


def require_own_words(pipe: Any, arguments: Mapping[str, Any]) -> None:
    """Raise HookMisuse if this call of the pipeline encodes words other than those of the prompt."""
    if arguments.get("use_pe") and getattr(pipe, "pe", None) is not None:
        raise HookMisuse(
            f"{type(pipe).__name__} rewrites the prompt with a language model (`pe`) before encoding it, so "
            "no word of the prompt can be found. Pass use_pe=False, or set pipe.pe = None."
        )


def embedding_of(encoded: Any) -> Tensor | None:
    """The embedding of each prompt, "prompts tokens …", in what `encode_prompt` returned; else None.

    Prompts of different lengths, which come as a list, are padded with zeros.
    """
    if isinstance(encoded, list) and encoded and all(isinstance(e, Tensor) and e.ndim == 2 for e in encoded):
        return pad_sequence(encoded, batch_first=True)
    if isinstance(encoded, list | tuple):
        return embedding_of(encoded[0]) if encoded else None
    return encoded if isinstance(encoded, Tensor) and encoded.ndim > 2 else None


def _defaults(function: Any) -> dict[str, Any]:
    """The parameters of a function that have defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not p.empty}


def _texts_of(arguments: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """What an encoder with an argument of its own reads for each image; empty if it reads the prompt."""
    prompts, texts = (
        [text] if isinstance(text, str) else list(text)
        for text in (arguments.get("prompt") or (), arguments.get(name) or ())
    )
    if prompts and texts and len(texts) != len(prompts):
        raise HookMisuse(
            f"{name} holds {len(texts)} texts, but prompt {len(prompts)}. Give one of each for every image."
        )
    return tuple(text for text in texts for _ in range(arguments.get("num_images_per_prompt") or 1))


def _cleaning(pipe: Any, tokenizer: Any, arguments: Mapping[str, Any]) -> Callable[[str], str]:
    """How the pipeline changes a prompt before tokenizing it."""
    if hasattr(pipe, "_text_preprocessing"):
        clean = bool(arguments.get("clean_caption"))
        return lambda prompt: pipe._text_preprocessing(prompt, clean_caption=clean)[0]
    if hasattr(pipe, "maybe_convert_prompt"):  # textual inversion expands words of several vectors
        return lambda prompt: pipe.maybe_convert_prompt(prompt, tokenizer)
    return str
