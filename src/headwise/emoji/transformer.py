"""The pipeline of the built-in transformer: that of PixArt-Σ, with CLIP's text encoder and defaults for small
images."""

import functools
import inspect
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel
from transformers import CLIPTextModel, CLIPTokenizer

__all__ = ["EmojiTransformerPipeline"]


def _called_with(defaults: dict[str, Any]) -> Any:
    """`PixArtSigmaPipeline.__call__` with these defaults, which its signature says too."""
    theirs = PixArtSigmaPipeline.__call__
    signature = inspect.signature(theirs)

    def __call__(self: Any, *args: Any, **options: Any) -> Any:
        return theirs(self, *args, **defaults | options)

    ours: Any = functools.wraps(theirs)(__call__)
    parameters = signature.parameters.items()
    ours.__signature__ = signature.replace(
        parameters=[p.replace(default=defaults.get(name, p.default)) for name, p in parameters]
    )
    return ours


class EmojiTransformerPipeline(PixArtSigmaPipeline):
    """`PixArtSigmaPipeline` that reads its prompts with CLIP, and whose defaults fit 64×64 images.

    By its own defaults PixArt-Σ takes the nearest size of a table, of which the smallest is 256×256, and pads
    prompts to 300 tokens; in training, captions were padded to 24.
    """

    def __init__(  # diffusers takes the parts' types from here
        self,
        tokenizer: CLIPTokenizer,
        text_encoder: CLIPTextModel,
        vae: AutoencoderKL,
        transformer: PixArtTransformer2DModel,
        scheduler: DDIMScheduler,
    ) -> None:
        super().__init__(tokenizer, text_encoder, vae, transformer, scheduler)

    __call__ = _called_with(
        {"use_resolution_binning": False, "max_sequence_length": 24, "clean_caption": False}
    )
