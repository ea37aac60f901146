"""The built-in model: a small latent diffusion model of a drawn world, and the judge of its pictures.

Plain diffusers and transformers objects, trained by the scripts in the repository's `training/` on pictures
drawn from emoji, so that what a picture should show is known. README.md beside this file is the model card.
"""

import json
from pathlib import Path
from typing import Any

import torch

from headwise.errors import ModelNotLoaded

__all__ = ["JUDGE", "MODEL", "RELEVANCE", "card", "load"]

_HERE = Path(__file__).parent
MODEL = _HERE / "model"
JUDGE = _HERE / "judge"
RELEVANCE = _HERE / "relevance.safetensors"


def load(dtype: torch.dtype = torch.float32) -> Any:
    """The pipeline: a `StableDiffusionPipeline` of 64×64 pictures, 16 cross-attention layers × 8 heads."""
    from diffusers import StableDiffusionPipeline

    _require(MODEL / "model_index.json")
    return StableDiffusionPipeline.from_pretrained(MODEL, dtype=dtype, use_safetensors=True)


def card() -> dict[str, Any]:
    """What was measured of this model: see README.md for the words to the numbers."""
    return json.loads((_HERE / "card.json").read_text())


def _require(file: Path) -> None:
    if not file.is_file():
        raise ModelNotLoaded(f"{file} is missing: the emoji model is not whole. Install headwise again.")
