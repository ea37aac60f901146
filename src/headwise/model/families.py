r"""Families of denoisers: which layers read text in each, and where the text stands there.

A denoiser belongs to the family whose class it is, or derives from. In *cross-attention* pixels ask and text
answers. In *joint attention* text and pixels are one sequence, in which the text stands before the pixels or
behind them.

Some denoisers put tokens of their own, *registers*, before the text. Some pipelines write a text around the
prompt, its *frame*, of which the text encoder reads all and the denoiser gets all or only the end.

A class of diffusers that is in no family is refused by name: layers of one name read another text in another
order, and a hook that took one for the other would act on the wrong tokens without a word.
"""

import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

__all__ = ["FAMILIES", "Family", "Frame", "family_of", "is_known", "named_families", "refusal"]


class Frame(NamedTuple):
    """What a pipeline writes around a prompt.

    Args:
        before, after: The text before and behind the prompt.
        dropped: How many tokens of the text encoder, from the first, the denoiser does not get.
    """

    before: str
    after: str
    dropped: int = 0


class Family(NamedTuple):
    """What one family of denoisers has in common.

    Args:
        name: What people call its models.
        denoiser: The name of the class in diffusers.
        joint: A pattern that the addresses of all layers with joint attention match in full; None where the
            text is read in cross-attention, which its layers say of themselves.
        text_first: Whether the text stands before the pixels in joint attention.
        registers: How many tokens of its own the denoiser puts before the text.
        frame: The frame of a prompt in a pipeline of the family; None where there is none.
        multiple: The text is padded in front to a multiple of this many tokens, and no further; None where it
            is padded to its length.
        rotary: The name of the module that makes the rotations of pixels and text, where the text stands at
            places of its own; None where it has none, or where the denoiser is told them (`txt_ids`).
        timestep_scale: What pipelines multiply the scheduler's timestep by before the denoiser gets it.
    """

    name: str
    denoiser: str
    joint: str | None = None
    text_first: bool = False
    registers: int = 0
    frame: Callable[[Any], Frame] | None = None
    multiple: int | None = None
    rotary: str | None = None
    timestep_scale: float = 1.0

    def kind_of(self, address: str, module: Any) -> Literal["cross", "joint"] | None:
        """How a module of the denoiser reads text; None if it does not, or if it is something else."""
        if not (hasattr(module, "heads") and hasattr(module, "processor")):
            return None
        if self.joint is not None:
            return "joint" if re.fullmatch(self.joint, address) else None
        if getattr(module, "add_k_proj", None) is not None:
            return None  # its keys are pixels and text together
        return "cross" if getattr(module, "is_cross_attention", False) else None


def _chat(pipe: Any) -> Frame:
    """The user's turn in a conversation, before the answer of a model that is not asked to think."""
    mark = "\0"
    turn = [{"role": "user", "content": mark}]
    options = {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
    before, _, after = pipe.tokenizer.apply_chat_template(turn, **options).partition(mark)
    return Frame(before, after)


def _template(pipe: Any) -> Frame:
    """The template that the pipeline holds."""
    before, _, after = pipe.prompt_template_encode.partition("{}")
    return Frame(before, after, pipe.prompt_template_encode_start_idx)


_BLOCKS = r"(single_)?transformer_blocks\.\d+\.attn"
_TO_1 = 0.001  # timesteps from 0 to 1
FAMILIES = (
    Family("Stable Diffusion 1, 2, XL", "UNet2DConditionModel"),
    Family("PixArt", "PixArtTransformer2DModel"),
    Family("Sana", "SanaTransformer2DModel"),
    Family("Stable Diffusion 3", "SD3Transformer2DModel", r"transformer_blocks\.\d+\.attn"),
    Family("FLUX.1", "FluxTransformer2DModel", _BLOCKS, text_first=True, timestep_scale=_TO_1),
    Family("Chroma", "ChromaTransformer2DModel", _BLOCKS, text_first=True, timestep_scale=_TO_1),
    Family("FLUX.2", "Flux2Transformer2DModel", _BLOCKS, text_first=True, frame=_chat, timestep_scale=_TO_1),
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
