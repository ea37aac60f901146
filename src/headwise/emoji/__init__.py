"""The built-in models: two small latent diffusion models of one emoji world, and a CLIP model that scores
the images of both.

They are plain diffusers and transformers objects, trained by the scripts in the repository's `training/` on
images composed of emoji, so that what an image should show is known. README.md in a model's folder is its
model card.
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
    """A built-in model and its files.

    Args:
        name: Its name in `load_pipeline`.
        pipeline: The class of its pipeline, with its module.
        folder: The folder of its files.
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
        """The folder of the CLIP model that scores its images, shared by all models of this world."""
        return _HERE / "judge"

    @property
    def relevance(self) -> Path:
        """The file of its packaged relevance by votes."""
        return self.folder / "relevance.safetensors"

    @property
    def effect(self) -> Path:
        """The file of its packaged relevance by effect, for the same concepts."""
        return self.folder / "effect.safetensors"

    @property
    def weakening(self) -> Path:
        """The folder of a finished weakening of its heads, as an example; not every model has one."""
        return self.folder / "weakening"

    def load(self, dtype: Any = None) -> Any:
        """Load the pipeline.

        Args:
            dtype: The type of the weights, such as `torch.float16`; None for float32.

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
        """Measured properties of the model; README.md explains them."""
        return dict(json.loads((self.folder / "card.json").read_text()))


UNET = BuiltIn("emoji", "diffusers.StableDiffusionPipeline", _HERE)
DIT = BuiltIn("emoji-dit", "headwise.emoji.transformer.EmojiTransformerPipeline", _HERE / "dit")
MODELS = {model.name: model for model in (UNET, DIT)}

# Short names for the first model.
MODEL, SCORER, RELEVANCE, EFFECT = UNET.model, UNET.scorer, UNET.relevance, UNET.effect
load, card = UNET.load, UNET.card
