r"""Families of denoisers: which of their layers read text, and where the text is in them.

A denoiser belongs to the family of its class, or of a base class. In *cross-attention*, queries come from
pixels, and keys and values from text. In *joint attention*, text and pixels form one sequence, in which the
text comes before the pixels or after them.

Some denoisers put tokens of their own, *registers*, before the text, or pad text and pixels with such tokens.
In some, the text attends only to itself before it meets the pixels, in *refiners*; their heads read no text
for pixels and are in no head map. Some pipelines write text around the prompt, its *frame*: the text encoder
reads all of it, and the denoiser gets all or only the end.

A class of diffusers that is in no family is refused by name: layers of the same name may read different text
in a different order, and a hook would silently act on the wrong tokens.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

__all__ = [
    "FAMILIES", "Family", "Frame", "Places", "family_of", "heads_in", "is_known", "named_families", "refusal",
]  # fmt: skip


class Frame(NamedTuple):
    """The text that a pipeline writes around a prompt.

    Args:
        before, after: The text before and after the prompt.
        dropped: The number of first tokens of the text encoder that the denoiser does not get.
        behind_padding: The number of tokens after the padding; they count towards the text's length.
    """

    before: str
    after: str
    dropped: int = 0
    behind_padding: int = 0


class Places(NamedTuple):
    """The part that makes rotary embeddings of coordinates, the first of which is a place in the text.

    Args:
        path: The path of the module or function in the denoiser.
        first: The place of the first token of the text.
    """

    path: str
    first: int = 0


class Family(NamedTuple):
    """What one family of denoisers has in common.

    Args:
        name: The common name of its models.
        denoiser: The name of the class in diffusers.
        joint: A pattern that fully matches the addresses of all layers with joint attention; None if text is
            read in cross-attention, which layers declare themselves.
        text_first: Whether the text comes before the pixels in joint attention.
        registers: The number of tokens of its own that the denoiser puts before the text.
        filled: The multiple of tokens to which the denoiser pads the pixels, and the text of each row, with
            tokens of its own; None if it does not.
        ragged: Whether each row begins with its text without padding, so that the pixels of each row directly
            follow its own text.
        trimmed: Whether the pipeline removes the padding of each prompt, so that every text begins at its
            first token whichever side the tokenizer pads.
        refiner: A pattern that fully matches the addresses of all layers in which the text attends only to
            itself; None if there are none.
        frame: The frame of a prompt, from the pipeline and the arguments of its call; None if there is none.
        multiple: The text is padded in front to a multiple of this many tokens, and no further; None if it is
            padded to its full length.
        rotary: The name of the module that makes the rotary embeddings of pixels and text, if text has places
            of its own; None if it has none, or if they are passed to the denoiser (`txt_ids`).
        places: The part that makes rotary embeddings of coordinates, if a token's place in the text is among
            them; None if it has no such part, or if they are passed to the denoiser (`txt_ids`).
        timestep_scale: The factor by which pipelines multiply the scheduler's timestep t for the denoiser.
        from_noise: Whether the denoiser's time runs from 0, noise, to 1, the image: 1 − scale · t.
        prompt_first: Whether the rows of a batch with the prompt, or the call with it, come before the
            unconditional ones.
        names: The denoiser's names of `hidden_states`, `timestep`, `encoder_hidden_states` and
            `text_lengths`, the number of tokens of each row, if they differ.
        latents_factor: The number of latents along a side for each `vae_scale_factor` pixels.
        image_side: The side of images, in pixels, for pipelines that do not declare it; None for those that
            do.
    """

    name: str
    denoiser: str
    joint: str | None = None
    text_first: bool = False
    registers: int = 0
    filled: int | None = None
    ragged: bool = False
    trimmed: bool = False
    refiner: str | None = None
    frame: Callable[[Any, Mapping[str, Any]], Frame] | None = None
    multiple: int | None = None
    rotary: str | None = None
    places: Places | None = None
    timestep_scale: float = 1.0
    from_noise: bool = False
    prompt_first: bool = False
    names: Mapping[str, str] = {}
    latents_factor: int = 1
    image_side: int | None = None

    def kind_of(self, address: str, module: Any) -> Literal["cross", "joint"] | None:
        """How a module of the denoiser reads text; None if it does not, or is not an attention module."""
        if not (heads_in(module) and hasattr(module, "processor")):
            return None
        if self.joint is not None:
            return "joint" if re.fullmatch(self.joint, address) else None
        if getattr(module, "add_k_proj", None) is not None:
            return None  # its keys are pixels and text together
        return "cross" if getattr(module, "is_cross_attention", False) else None

    def refiners_among(self, addresses: Iterable[str]) -> tuple[str, ...]:
        """The addresses of the layers in which the text attends only to itself."""
        return tuple(a for a in addresses if self.refiner is not None and re.fullmatch(self.refiner, a))


def heads_in(module: Any) -> int | None:
    """The number of heads of an attention module; None for other modules."""
    return getattr(module, "heads", None) or getattr(module, "num_heads", None)


def _chat(pipe: Any, arguments: Mapping[str, Any], thinking: bool = False) -> Frame:
    """The frame of a user's turn in a conversation, up to the model's answer or its thinking."""
    mark = "\0"
    turn = [{"role": "user", "content": mark}]
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": thinking}
    before, _, after = pipe.tokenizer.apply_chat_template(turn, **options).partition(mark)
    return Frame(before, after)


def _thinking(pipe: Any, arguments: Mapping[str, Any]) -> Frame:
    """The frame of a user's turn in a conversation, up to the model's thinking."""
    return _chat(pipe, arguments, thinking=True)


def _described(pipe: Any, arguments: Mapping[str, Any]) -> Frame:
    """The frame of a user's turn that begins with the pipeline's system prompt, which is dropped."""
    before, after, *_ = _chat(pipe, arguments)
    return Frame(before + pipe.system_prompt, after, pipe.user_prompt_begin_id)


def _system(pipe: Any, arguments: Mapping[str, Any]) -> Frame:
    """The system prompt of the call, or else of the pipeline, as a frame."""
    return Frame((arguments.get("system_prompt") or pipe.system_prompt) + " <Prompt Start> ", "")


def _prefix(pipe: Any, arguments: Mapping[str, Any]) -> Frame:
    """The beginning of the pipeline's template, whose end comes after the padding."""
    start, behind = pipe.prompt_template_encode_start_idx, pipe.prompt_template_encode_num_suffix_tokens
    return Frame(pipe.prompt_template_encode_prefix, "", start, behind)


def _template(pipe: Any, arguments: Mapping[str, Any]) -> Frame:
    """The pipeline's template."""
    before, _, after = pipe.prompt_template_encode.partition("{}")
    return Frame(before, after, pipe.prompt_template_encode_start_idx)


_BLOCKS = r"(single_)?transformer_blocks\.\d+\.attn"
_TO_1 = 0.001  # timesteps from 0 to 1
FAMILIES = (
    Family("Stable Diffusion 1, 2, XL", "UNet2DConditionModel"),
    Family("PixArt", "PixArtTransformer2DModel"),
    Family("Hunyuan-DiT", "HunyuanDiT2DModel"),
    Family("Sana", "SanaTransformer2DModel"),
    Family("Stable Diffusion 3", "SD3Transformer2DModel", r"transformer_blocks\.\d+\.attn"),
    Family("FLUX.1", "FluxTransformer2DModel", _BLOCKS, text_first=True, timestep_scale=_TO_1),
    Family("Chroma", "ChromaTransformer2DModel", _BLOCKS, text_first=True, timestep_scale=_TO_1),
    Family("FLUX.2", "Flux2Transformer2DModel", _BLOCKS, text_first=True, frame=_chat, timestep_scale=_TO_1),
    Family("Bria", "BriaTransformer2DModel", _BLOCKS, text_first=True, latents_factor=2),
    Family(
        "Ovis-Image", "OvisImageTransformer2DModel", _BLOCKS, text_first=True, frame=_described,
        timestep_scale=_TO_1,
    ),
    Family(
        "Qwen-Image", "QwenImageTransformer2DModel", _BLOCKS, text_first=True, frame=_template,
        rotary="pos_embed", timestep_scale=_TO_1,
    ),
    Family(
        "AuraFlow", "AuraFlowTransformer2DModel", f"(joint_)?{_BLOCKS}", text_first=True, registers=8,
        timestep_scale=_TO_1,
    ),
    Family("CogView 3+", "CogView3PlusTransformer2DModel", f"{_BLOCKS}1", text_first=True),
    Family("CogView 4", "CogView4Transformer2DModel", f"{_BLOCKS}1", text_first=True, multiple=16),
    Family(
        "Krea 2", "Krea2Transformer2DModel", _BLOCKS, text_first=True, frame=_prefix,
        refiner=r"text_fusion\.refiner_blocks\.\d+\.attn", timestep_scale=_TO_1, prompt_first=True,
    ),
    Family(
        "Lumina 2", "Lumina2Transformer2DModel", r"layers\.\d+\.attn", text_first=True, ragged=True,
        refiner=r"context_refiner\.\d+\.attn", frame=_system, places=Places("rope_embedder._get_freqs_cis"),
        timestep_scale=_TO_1, from_noise=True, prompt_first=True,
    ),
    Family(
        "Z-Image", "ZImageTransformer2DModel", r"layers\.\d+\.attention", filled=32, trimmed=True,
        refiner=r"context_refiner\.\d+\.attention", frame=_thinking, places=Places("rope_embedder", 1),
        timestep_scale=_TO_1, from_noise=True, prompt_first=True, image_side=1024,
        names={"hidden_states": "x", "timestep": "t", "encoder_hidden_states": "cap_feats"},
    ),
    Family(
        "ERNIE-Image", "ErnieImageTransformer2DModel", r"layers\.\d+\.self_attention", trimmed=True,
        places=Places("pos_embed"), names={"encoder_hidden_states": "text_bth", "text_lengths": "text_lens"},
    ),
    Family(
        "Lumina-Next", "LuminaNextDiT2DModel", multiple=8, timestep_scale=_TO_1, from_noise=True,
        prompt_first=True,
    ),
)  # fmt: skip

_CUSTOM = Family("a custom denoiser", "")  # whose layers declare whether they read text
_UNKNOWN = Family("no family", "", r"(?!)")  # none of whose layers is known


def family_of(denoiser: Any) -> Family:
    """The family of a denoiser, or of a class of denoisers; one without layers if it is in none."""
    bases = (denoiser if isinstance(denoiser, type) else type(denoiser)).__mro__
    by_name = {family.denoiser: family for family in FAMILIES}
    known = [by_name[base.__name__] for base in bases if base.__name__ in by_name]
    if known:
        return known[0]
    return _UNKNOWN if any(base.__module__.startswith("diffusers.") for base in bases) else _CUSTOM


def is_known(denoiser: Any) -> bool:
    """Whether this is a denoiser, or a class of denoisers, whose layers are known."""
    return family_of(denoiser) is not _UNKNOWN


def named_families() -> str:
    """The names of all families, listed for a sentence."""
    names = [family.name for family in FAMILIES]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def refusal(denoiser: str) -> str:
    """Why a class of denoisers is in no family, as the end of a sentence about it."""
    return f"has a denoiser of another kind (`{denoiser}`)"
