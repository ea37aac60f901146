"""The pipeline of the built-in transformer: PixArt-Σ's, with CLIP's text encoder and defaults for small
images."""

import functools
import inspect
from typing import Any

from diffusers import AutoencoderKL, DDIMScheduler, PixArtSigmaPipeline, PixArtTransformer2DModel
from transformers import CLIPTextModel, CLIPTokenizer

__all__ = ["EmojiTransformerPipeline"]


def _called_with(defaults: dict[str, Any]) -> Any:
    """`PixArtSigmaPipeline.__call__` with these defaults, also in its signature."""
    original = PixArtSigmaPipeline.__call__
    signature = inspect.signature(original)

    def __call__(self: Any, *args: Any, **options: Any) -> Any:
        return original(self, *args, **defaults | options)

    with_defaults: Any = functools.wraps(original)(__call__)
    parameters = signature.parameters.items()
    with_defaults.__signature__ = signature.replace(
        parameters=[p.replace(default=defaults.get(name, p.default)) for name, p in parameters]
    )
    return with_defaults


class EmojiTransformerPipeline(PixArtSigmaPipeline):
    """`PixArtSigmaPipeline` that reads its prompts with CLIP, and whose defaults fit 64×64 images.

    By default PixArt-Σ rounds sizes to the nearest in a table, whose smallest is 256×256, and pads prompts to
    300 tokens; in training, captions were padded to 24.
    """

    def __init__(  # diffusers reads the components' types from this signature
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
