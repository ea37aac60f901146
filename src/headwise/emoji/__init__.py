"""The built-in model: a small latent diffusion model of a world of emoji, and an image-text model to score
it.

Plain diffusers and transformers objects, trained by the scripts in the repository's `training/` on pictures
composed of emoji, so that what a picture should show is known. README.md beside this file is the model card.
"""

import json
from pathlib import Path
from typing import Any

from headwise.errors import ModelNotLoaded

__all__ = ["EFFECT", "JUDGE", "MODEL", "RELEVANCE", "card", "load"]

_HERE = Path(__file__).parent
MODEL = _HERE / "model"
JUDGE = _HERE / "judge"
RELEVANCE = _HERE / "relevance.safetensors"  # by votes
EFFECT = _HERE / "effect.safetensors"  # the same concepts by effect


def load(dtype: Any = None) -> Any:
    """Load the pipeline: a `StableDiffusionPipeline` of 64×64 pictures, 16 cross-attention layers × 8 heads.

    Args:
        dtype: The type of the weights, such as `torch.float16`; None takes float32.

    Raises:
        ModelNotLoaded: The files of the model are missing.
    """
    import torch  # only here, so that reading the relevance does not load it
    from diffusers import StableDiffusionPipeline

    _require(MODEL / "model_index.json")
    return StableDiffusionPipeline.from_pretrained(MODEL, dtype=dtype or torch.float32, use_safetensors=True)


def card() -> dict[str, Any]:
    """The numbers that were measured of this model; README.md explains them."""
    return json.loads((_HERE / "card.json").read_text())


def _require(file: Path) -> None:
    if not file.is_file():
        raise ModelNotLoaded(f"{file} is missing: the emoji model is incomplete. Install headwise again.")
