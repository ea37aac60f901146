"""The built-in model: a small latent diffusion model of a drawn world, and the judge of its pictures.

Plain diffusers and transformers objects, trained by the scripts in the repository's `training/` on pictures
drawn from emoji, so that what a picture should show is known. README.md beside this file is the model card.
"""

import json
from pathlib import Path
from typing import Any

from headwise.errors import ModelNotLoaded

__all__ = ["JUDGE", "MODEL", "RELEVANCE", "card", "load"]

_HERE = Path(__file__).parent
MODEL = _HERE / "model"
JUDGE = _HERE / "judge"
RELEVANCE = _HERE / "relevance.safetensors"


def load(dtype: Any = None) -> Any:
    """The pipeline: a `StableDiffusionPipeline` of 64×64 pictures, 16 cross-attention layers × 8 heads.

    Args:
        dtype: Of the weights, such as `torch.float16`; float32 if None.
    """
    import torch  # not before: who only wants the relevance need not wait for it
    from diffusers import StableDiffusionPipeline

    _require(MODEL / "model_index.json")
    return StableDiffusionPipeline.from_pretrained(MODEL, dtype=dtype or torch.float32, use_safetensors=True)


def card() -> dict[str, Any]:
    """What was measured of this model: see README.md for the words to the numbers."""
    return json.loads((_HERE / "card.json").read_text())


def _require(file: Path) -> None:
    if not file.is_file():
        raise ModelNotLoaded(f"{file} is missing: the emoji model is not whole. Install headwise again.")
