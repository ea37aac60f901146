"""The built-in models: small latent diffusion models of one world of emoji, and an image-text model that
reads the images of both.

Plain diffusers and transformers objects, trained by the scripts in the repository's `training/` on images
composed of emoji, so that what an image should show is known. README.md in a model's folder is its card.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headwise.errors import ModelNotLoaded

__all__ = ["DIT", "EFFECT", "SCORER", "MODEL", "MODELS", "RELEVANCE", "UNET", "BuiltIn", "card", "load"]

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class BuiltIn:
    """A model of this package and what belongs to it.

    Args:
        name: What `load_pipeline` calls it.
        pipeline: The class of its pipeline, by module and name.
        folder: Where its files are.
    """

    name: str
    pipeline: str
    folder: Path

    @property
    def model(self) -> Path:
        """The folder of the pipeline, in diffusers format."""
        return self.folder / "model"

    @property
    def scorer(self) -> Path:
        """The folder of the CLIP model that reads its images: one for all models of this world."""
        return _HERE / "judge"

    @property
    def relevance(self) -> Path:
        """The file of its relevance by votes."""
        return self.folder / "relevance.safetensors"

    @property
    def effect(self) -> Path:
        """The file of the same concepts' relevance by effect."""
        return self.folder / "effect.safetensors"

    @property
    def weakening(self) -> Path:
        """The folder of a finished weakening of its heads, as an example; not every model has one."""
        return self.folder / "weakening"

    def load(self, dtype: Any = None) -> Any:
        """Load the pipeline.

        Args:
            dtype: The type of the weights, such as `torch.float16`; None takes float32.

        Raises:
            ModelNotLoaded: The files of the model are missing.
        """
        from importlib import import_module

        import torch  # only here, so that reading the relevance does not load it

        if not (index := self.model / "model_index.json").is_file():
            raise ModelNotLoaded(
                f"{index} is missing: the model {self.name} is incomplete. Install headwise again."
            )
        module, _, name = self.pipeline.rpartition(".")
        pipeline = getattr(import_module(module), name)
        return pipeline.from_pretrained(self.model, dtype=dtype or torch.float32, use_safetensors=True)

    def card(self) -> dict[str, Any]:
        """The numbers that were measured of it; README.md explains them."""
        return dict(json.loads((self.folder / "card.json").read_text()))


UNET = BuiltIn("emoji", "diffusers.StableDiffusionPipeline", _HERE)
DIT = BuiltIn("emoji-dit", "headwise.emoji.transformer.EmojiTransformerPipeline", _HERE / "dit")
MODELS = {model.name: model for model in (UNET, DIT)}

# The first of them, by short names.
MODEL, SCORER, RELEVANCE, EFFECT = UNET.model, UNET.scorer, UNET.relevance, UNET.effect
load, card = UNET.load, UNET.card
