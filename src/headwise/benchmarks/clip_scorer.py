r"""What an image shows, scored by a CLIP model: similarity, zero-shot choice, similarity of images.

With f(image) and g(text) the unit vectors of the model's two towers,

    similarity   f(image) · g(text)                         image–text; the score of the paper's tables
    choice       argmax over texts of f(image) · g(text)    zero-shot
    image        f(a) · f(b)                                  image–image

The backgrounds of an edit are compared by the similarity of both images with the object covered. Any CLIP
model can be used, by hub name or folder; "emoji" and "emoji-dit" name the scorer of the built-in models.

References:
    | Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021)
    | https://arxiv.org/abs/2103.00020
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from headwise import emoji
from headwise.benchmarks.prompts.evaluation import EvalPrompt
from headwise.errors import HeadwiseError, ModelNotLoaded
from headwise.model.pipelines import fingerprint_of

__all__ = ["CLIPScorer", "scoring", "without_object"]

Pictures = Sequence[Image.Image]
AT_ONCE = 64


class CLIPScorer:
    """A CLIP model that scores how well images and texts fit.

        scorer = CLIPScorer.load("openai/clip-vit-large-patch14")
        scorer.similarity(images, ["a red car", "a blue car"])

    Args:
        model: A `CLIPModel`.
        processor: Its image processor.
        tokenizer: Its tokenizer.
    """

    name: str | Path | None = None

    def __init__(self, model: Any, processor: Any, tokenizer: Any) -> None:
        self.model, self.processor, self.tokenizer = model.eval(), processor, tokenizer
        self._text_cache: dict[str, Tensor] = {}  # images are compared with the same few texts repeatedly

    @classmethod
    def load(cls, name: str | Path = "emoji", device: str | torch.device = "cpu") -> "CLIPScorer":
        """Load a scorer.

        Args:
            name: A hub name or folder; "emoji" or "emoji-dit" for the scorer of that built-in model.
            device: Where its weights are placed.

        Raises:
            ModelNotLoaded: The name or folder could not be loaded as a CLIP model.
        """
        from transformers import AutoImageProcessor, AutoTokenizer

        built_in = emoji.MODELS.get(str(name))
        folder = str(built_in.scorer if built_in else name)
        model = _loaded(folder).to(device)
        processor = AutoImageProcessor.from_pretrained(folder, use_fast=False)
        scorer = cls(model, processor, AutoTokenizer.from_pretrained(folder))
        scorer.name = name
        return scorer

    @property
    def weights(self) -> str:
        """A short hash of a sample of its weights, kept in a run's settings so that no run mixes scorers."""
        return fingerprint_of(getattr(self, "model", None))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle a scorer that was loaded by name as its name, without its weights."""
        if self.name is None:
            return super().__reduce_ex__(protocol)
        return type(self).load, (self.name, str(self.model.device))

    @torch.no_grad()
    def embed_images(self, pictures: Pictures) -> Float[Tensor, "images dim"]:
        """Unit vectors of images."""
        if not len(pictures):
            raise HeadwiseError("No image was given to score. Give one or more.")
        vectors = []
        for start in range(0, len(pictures), AT_ONCE):
            some = [picture.convert("RGB") for picture in pictures[start : start + AT_ONCE]]
            pixels = self.processor(images=some, return_tensors="pt")["pixel_values"]
            pixels = pixels.to(self.model.device, self.model.dtype)
            pooled = self.model.vision_model(pixel_values=pixels).pooler_output
            vectors.append(self.model.visual_projection(pooled))
        return F.normalize(torch.cat(vectors).float(), dim=-1)

    def image_similarity(self, a: Pictures, b: Pictures) -> Float[np.ndarray, " pairs"]:
        """The similarity of the images of each pair: cosine, −1 … 1."""
        return (self.embed_images(a) * self.embed_images(b)).sum(-1).cpu().numpy()

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "texts dim"]:
        """Unit vectors of texts."""
        new = [text for text in dict.fromkeys(texts) if text not in self._text_cache]
        for start in range(0, len(new), AT_ONCE):
            some = new[start : start + AT_ONCE]
            length = self.model.config.text_config.max_position_embeddings
            ids = self.tokenizer(
                some, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
            ).input_ids.to(self.model.device)
            vectors = self.model.text_projection(self.model.text_model(input_ids=ids).pooler_output)
            self._text_cache |= dict(zip(some, F.normalize(vectors.float(), dim=-1), strict=True))
        return torch.stack([self._text_cache[text] for text in texts])

    def similarity(self, pictures: Pictures, texts: Sequence[str]) -> Float[np.ndarray, "images texts"]:
        """How well each image fits each text: cosine, −1 … 1."""
        return (self.embed_images(pictures) @ self.embed_texts(texts).T).cpu().numpy()

    def choose(self, pictures: Pictures, texts: Sequence[Sequence[str]]) -> Int[np.ndarray, " images"]:
        """The index of the text that fits each image best among its texts; a tie goes to the first."""
        return np.array([scores.argmax() for scores in self._scores(pictures, texts)])

    def probability(self, pictures: Pictures, texts: Sequence[Sequence[str]]) -> Float[np.ndarray, " images"]:
        """The probability, 0 … 1, of the first of each image's texts among its texts."""
        return np.array([float(each[0]) for each in self.probabilities(pictures, texts)])

    def probabilities(
        self, pictures: Pictures, texts: Sequence[Sequence[str]]
    ) -> list[Float[np.ndarray, " texts"]]:
        """The probabilities, 0 … 1, of each image's texts: a softmax over them."""
        scale = float(self.model.logit_scale.detach().exp())
        scores = [np.exp(scale * (s - s.max())) for s in self._scores(pictures, texts)]
        return [each / each.sum() for each in scores]

    def _scores(self, pictures: Pictures, texts: Sequence[Sequence[str]]) -> list[np.ndarray]:
        if len(pictures) != len(texts):
            raise HeadwiseError(
                f"{len(pictures)} images and {len(texts)} lists of texts were given; expected one list for "
                "each image."
            )
        unique = {id(picture): picture for picture in pictures}  # an image may come with several texts
        vectors = dict(zip(unique, self.embed_images(list(unique.values())), strict=True))
        return [
            (self.embed_texts(choices) @ vectors[id(picture)]).cpu().numpy()
            for picture, choices in zip(pictures, texts, strict=True)
        ]


def scoring(
    scorer: CLIPScorer, kind: Literal["choice", "certainty", "similarity"]
) -> Callable[[Pictures, Sequence[EvalPrompt]], Float[np.ndarray, " images"]]:
    """A function that scores how well each image shows the first of its prompt's texts.

    Args:
        scorer: A CLIP model that compares images with texts.
        kind: "choice" is 1 if the scorer chooses the first text, else 0; "certainty" is its probability;
            "similarity" is the cosine with it, which needs no other texts.
    """

    def choice(pictures: Pictures, prompts: Sequence[EvalPrompt]) -> np.ndarray:
        return (scorer.choose(pictures, [prompt.texts for prompt in prompts]) == 0).astype(np.float64)

    def certainty(pictures: Pictures, prompts: Sequence[EvalPrompt]) -> np.ndarray:
        return scorer.probability(pictures, [prompt.texts for prompt in prompts])

    def similarity(pictures: Pictures, prompts: Sequence[EvalPrompt]) -> np.ndarray:
        vectors = scorer.embed_texts([prompt.texts[0] for prompt in prompts])
        return (scorer.embed_images(pictures) * vectors).sum(-1).cpu().double().numpy()

    return {"choice": choice, "certainty": certainty, "similarity": similarity}[kind]


def without_object(picture: Image.Image, mask: Bool[np.ndarray, "height width"]) -> Image.Image:
    """The image with the object (where the mask is true) covered by the mean colour of the background."""
    pixels = np.asarray(picture.convert("RGB")).copy()
    if mask.shape != pixels.shape[:2]:
        raise HeadwiseError(
            f"The mask is {mask.shape}, the image {pixels.shape[:2]} (height, width); expected the same."
        )
    pixels[mask] = pixels[~mask].mean(0).round() if (~mask).any() else 0
    return Image.fromarray(pixels)


def _loaded(folder: str) -> Any:
    from transformers import CLIPModel

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # else it recommends installing torchvision
    try:
        return CLIPModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError) as error:
        lines = str(error).strip().splitlines()
        raise ModelNotLoaded(
            f"{folder} could not be loaded as a CLIPModel: {lines[0] if lines else type(error).__name__} "
            "Check the name and the network, or give a folder of safetensors weights."
        ) from error
