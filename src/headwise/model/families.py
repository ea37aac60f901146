r"""Families of denoisers: which layers read text in each, and where the text stands there.

A denoiser belongs to the family whose class it is, or derives from. In *cross-attention* pixels ask and text
answers. In *joint attention* text and pixels are one sequence, in which the text stands before the pixels or
behind them.

Some denoisers put tokens of their own, *registers*, before the text, or fill text and pixels up with such
tokens. In some the text attends to itself alone before it meets the pixels, in *refiners*, whose heads read
no text for pixels and are in no head map. Some pipelines write a text around the prompt, its *frame*, of
which the text encoder reads all and the denoiser gets all or only the end.

A class of diffusers that is in no family is refused by name: layers of one name read another text in another
order, and a hook that took one for the other would act on the wrong tokens without a word.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple

__all__ = [
    "FAMILIES", "Family", "Frame", "Places", "family_of", "heads_in", "is_known", "named_families", "refusal",
]  # fmt: skip


class Frame(NamedTuple):
    """What a pipeline writes around a prompt.

    Args:
        before, after: The text before and behind the prompt.
        dropped: How many tokens of the text encoder, from the first, the denoiser does not get.
        behind_padding: How many tokens stand behind the padding; they count towards the text's length.
    """

    before: str
    after: str
    dropped: int = 0
    behind_padding: int = 0


class Places(NamedTuple):
    """What makes rotations of coordinates, of which the first is a token's place in the text.

    Args:
        path: The path of the module or function in the denoiser.
        first: The place of the first token of the text.
    """

    path: str
    first: int = 0


class Family(NamedTuple):
    """What one family of denoisers has in common.

    Args:
        name: What people call its models.
        denoiser: The name of the class in diffusers.
        joint: A pattern that the addresses of all layers with joint attention match in full; None where the
            text is read in cross-attention, which its layers say of themselves.
        text_first: Whether the text stands before the pixels in joint attention.
        registers: How many tokens of its own the denoiser puts before the text.
        filled: The multiple of tokens to which the denoiser fills up the pixels, and the text of each row,
            with tokens of its own; None where it does not.
        ragged: Whether the text stands first in each row without its padding, so that the pixels of each row
            follow its own text.
        trimmed: Whether the pipeline takes the padding off each prompt, so that every text begins at its
            first token whichever side the tokenizer pads.
        refiner: A pattern that the addresses of all layers match in full in which the text attends to itself
            alone; None where there are none.
        frame: The frame of a prompt, from the pipeline and the arguments of its call; None where there is
            none.
        multiple: The text is padded in front to a multiple of this many tokens, and no further; None where it
            is padded to its length.
        rotary: The name of the module that makes the rotations of pixels and text, where the text stands at
            places of its own; None where it has none, or where the denoiser is told them (`txt_ids`).
        places: What makes rotations of coordinates, where a token's place in the text is among them; None
            where there is no such part, or where the denoiser is told them (`txt_ids`).
        timestep_scale: What pipelines multiply the scheduler's timestep t by before the denoiser gets it.
        from_noise: Whether the denoiser's time runs from 0, noise, to 1, the image: 1 − scale · t.
        prompt_first: Whether what carries the prompt, rows of a batch or a call of its own, comes before what
            is unconditional.
        names: The denoiser's names of `hidden_states`, `timestep`, `encoder_hidden_states` and
            `text_lengths`, the number of tokens of each row, where they are others.
        latents_factor: How many latents one step of the autoencoder's `vae_scale_factor` has at a side.
        image_side: The side, in pixels, of the images of pipelines that do not say it; None where they do.
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
        """How a module of the denoiser reads text; None if it does not, or if it is something else."""
        if not (heads_in(module) and hasattr(module, "processor")):
            return None
        if self.joint is not None:
            return "joint" if re.fullmatch(self.joint, address) else None
        if getattr(module, "add_k_proj", None) is not None:
            return None  # its keys are pixels and text together
        return "cross" if getattr(module, "is_cross_attention", False) else None

    def refiners_among(self, addresses: Iterable[str]) -> tuple[str, ...]:
        """The addresses of the layers in which the text attends to itself alone."""
        return tuple(a for a in addresses if self.refiner is not None and re.fullmatch(self.refiner, a))


def heads_in(module: Any) -> int | None:
    """The number of heads of an attention module; None if it is something else."""
    return getattr(module, "heads", None) or getattr(module, "num_heads", None)


def _chat(pipe: Any, arguments: Mapping[str, Any], thinking: bool = False) -> Frame:
    """The user's turn in a conversation, before the model's answer, or before what it thinks."""
    mark = "\0"
    turn = [{"role": "user", "content": mark}]
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": thinking}
    before, _, after = pipe.tokenizer.apply_chat_template(turn, **options).partition(mark)
    return Frame(before, after)


def _thinking(pipe: Any, arguments: Mapping[str, Any]) -> Frame:
    """The user's turn in a conversation, before what the model thinks."""
    return _chat(pipe, arguments, thinking=True)


def _described(pipe: Any, arguments: Mapping[str, Any]) -> Frame:
    """The user's turn, which begins with what the pipeline asks for; the beginning is dropped."""
    before, after, *_ = _chat(pipe, arguments)
    return Frame(before + pipe.system_prompt, after, pipe.user_prompt_begin_id)


def _system(pipe: Any, arguments: Mapping[str, Any]) -> Frame:
    """The call's own system prompt, or the pipeline's."""
    return Frame((arguments.get("system_prompt") or pipe.system_prompt) + " <Prompt Start> ", "")


def _prefix(pipe: Any, arguments: Mapping[str, Any]) -> Frame:
    """The beginning of the template that the pipeline holds, whose end stands behind the padding."""
    start, behind = pipe.prompt_template_encode_start_idx, pipe.prompt_template_encode_num_suffix_tokens
    return Frame(pipe.prompt_template_encode_prefix, "", start, behind)


def _template(pipe: Any, arguments: Mapping[str, Any]) -> Frame:
    """The template that the pipeline holds."""
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

_CUSTOM = Family("a custom denoiser", "")  # whose layers say of themselves that they read text
_UNKNOWN = Family("no family", "", r"(?!)")  # of which no layer is known


def family_of(denoiser: Any) -> Family:
    """The family of a denoiser, or of a class of denoisers; one without layers where it is in none."""
    bases = (denoiser if isinstance(denoiser, type) else type(denoiser)).__mro__
    by_name = {family.denoiser: family for family in FAMILIES}
    known = [by_name[base.__name__] for base in bases if base.__name__ in by_name]
    if known:
        return known[0]
    return _UNKNOWN if any(base.__module__.startswith("diffusers.") for base in bases) else _CUSTOM


def is_known(denoiser: Any) -> bool:
    """Is this a denoiser, or a class of denoisers, whose layers are known?"""
    return family_of(denoiser) is not _UNKNOWN


def named_families() -> str:
    """The names of all families, as a sentence has them."""
    names = [family.name for family in FAMILIES]
    return f"{', '.join(names[:-1])} or {names[-1]}"


def refusal(denoiser: str) -> str:
    """Why a class of denoisers is in no family, as the end of a sentence about it."""
    return f"has a denoiser of another kind (`{denoiser}`)"
