r"""What a picture shows, scored: CLIP similarity, zero-shot choice, similarity of pictures, background kept.

With f(picture) and g(text) the unit vectors of a CLIP model's two towers,

    similarity   f(picture) · g(text)                         image–text; the score of the paper's tables
    choice       argmax over texts of f(picture) · g(text)    zero-shot
    image        f(a) · f(b)                                  image–image; DINOv2 if one is loaded, else CLIP

and the background of an edit is compared with the object's mask laid over both images: by similarity, and in
decibels over the pixels outside the mask, PSNR = 10 log₁₀ (1 / mean (a − b)²) for pixels from 0 to 1.

Any CLIP or DINOv2 by hub name or folder; "emoji" is the CLIP model that comes with the built-in model.

References:
    | Learning Transferable Visual Models From Natural Language Supervision (Radford et al., 2021)
    | https://arxiv.org/abs/2103.00020
    | DINOv2: Learning Robust Visual Features without Supervision (Oquab et al., 2023)
    | https://arxiv.org/abs/2304.07193
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from PIL import Image
from torch import Tensor

from headwise.benchmarks.prompts import EvalPrompt
from headwise.errors import HeadwiseError, ModelNotLoaded

__all__ = ["ImageEncoder", "CLIPScorer", "background_psnr", "scoring", "without_object"]

Pictures = Sequence[Image.Image]
AT_ONCE = 64


class ImageEncoder:
    """Unit vectors of pictures by a vision model: the similarity of two pictures is their product.

    Args:
        model: A transformers model with an image tower: CLIPModel, or one such as Dinov2Model.
        processor: Its image processor.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = model.eval(), processor

    @classmethod
    def load(cls, name: str | Path = "emoji", device: str | torch.device = "cpu") -> "ImageEncoder":
        """By hub name or folder, such as facebook/dinov2-base; "emoji" is the built-in CLIP model."""
        from transformers import AutoModel

        folder = _folder(name)
        return cls(_loaded(AutoModel, folder).to(device), _processor(folder))

    @torch.no_grad()
    def embed_images(self, pictures: Pictures) -> Float[Tensor, "pictures dim"]:
        """Unit vectors of pictures."""
        vectors = [self._tower(pixels.to(self.model.device)) for pixels in self._pixels(pictures)]
        return F.normalize(torch.cat(vectors).float(), dim=-1)

    def image_similarity(self, a: Pictures, b: Pictures) -> Float[np.ndarray, " pairs"]:
        """How similar the pictures of each pair are: cosine, −1 … 1."""
        return (self.embed_images(a) * self.embed_images(b)).sum(-1).cpu().numpy()

    def _tower(self, pixels: Tensor) -> Tensor:
        if hasattr(self.model, "visual_projection"):
            return self.model.visual_projection(self.model.vision_model(pixel_values=pixels).pooler_output)
        return self.model(pixel_values=pixels).pooler_output

    def _pixels(self, pictures: Pictures) -> Iterator[Tensor]:
        if not len(pictures):
            raise HeadwiseError("No picture was given to score. Give one or more.")
        for start in range(0, len(pictures), AT_ONCE):
            some = [picture.convert("RGB") for picture in pictures[start : start + AT_ONCE]]
            yield self.processor(images=some, return_tensors="pt")["pixel_values"].to(self.model.dtype)


class CLIPScorer(ImageEncoder):
    """A CLIP model that scores how well pictures and texts fit.

        scorer = CLIPScorer.load("openai/clip-vit-large-patch14")
        scorer.similarity(pictures, ["a red car", "a blue car"])

    Args:
        model: A `CLIPModel`.
        processor: Its image processor.
        tokenizer: Its tokenizer.
    """

    name: str | Path | None = None

    def __init__(self, model: Any, processor: Any, tokenizer: Any) -> None:
        super().__init__(model, processor)
        self.tokenizer = tokenizer
        self._text_cache: dict[str, Tensor] = {}  # the same few texts are compared with again and again

    @classmethod
    def load(cls, name: str | Path = "emoji", device: str | torch.device = "cpu") -> "CLIPScorer":
        """By hub name or folder; "emoji" is the built-in CLIP model."""
        from transformers import AutoTokenizer, CLIPModel

        folder = _folder(name)
        model = _loaded(CLIPModel, folder).to(device)
        scorer = cls(model, _processor(folder), AutoTokenizer.from_pretrained(folder))
        scorer.name = name
        return scorer

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A scorer that was loaded by name goes to other machines by name, without its weights."""
        if self.name is None:
            return super().__reduce_ex__(protocol)
        return type(self).load, (self.name, str(self.model.device))

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

    def similarity(self, pictures: Pictures, texts: Sequence[str]) -> Float[np.ndarray, "pictures texts"]:
        """How well each picture fits each text: cosine, −1 … 1."""
        return (self.embed_images(pictures) @ self.embed_texts(texts).T).cpu().numpy()

    def choose(self, pictures: Pictures, texts: Sequence[Sequence[str]]) -> Int[np.ndarray, " pictures"]:
        """The index of the text that each picture fits best among its texts, the first of equals."""
        return np.array([scores.argmax() for scores in self._scores(pictures, texts)])

    def probability(
        self, pictures: Pictures, texts: Sequence[Sequence[str]]
    ) -> Float[np.ndarray, " pictures"]:
        """The probability, 0 … 1, of the first of each picture's texts among them."""
        scale = float(self.model.logit_scale.detach().exp())
        scores = [scale * (s - s.max()) for s in self._scores(pictures, texts)]
        return np.array([float(np.exp(s[0]) / np.exp(s).sum()) for s in scores])

    def _scores(self, pictures: Pictures, texts: Sequence[Sequence[str]]) -> list[np.ndarray]:
        if len(pictures) != len(texts):
            raise HeadwiseError(
                f"{len(pictures)} pictures and {len(texts)} lists of texts were given; expected one list for "
                "each picture."
            )
        vectors = self.embed_images(pictures)
        return [
            (self.embed_texts(choices) @ vector).cpu().numpy()
            for vector, choices in zip(vectors, texts, strict=True)
        ]


def scoring(
    scorer: CLIPScorer, kind: Literal["choice", "certainty", "similarity"]
) -> Callable[[Pictures, Sequence[EvalPrompt]], Float[np.ndarray, " pictures"]]:
    """A function that scores how well each picture shows the first of its prompt's texts.

    Args:
        scorer: A CLIP model that compares pictures with texts.
        kind: "choice" is 1 where the scorer picks the first text, else 0; "certainty" its probability;
            "similarity" the cosine with it, which needs no other texts.
    """

    def choice(pictures: Pictures, prompts: Sequence[EvalPrompt]) -> np.ndarray:
        return (scorer.choose(pictures, [prompt.texts for prompt in prompts]) == 0).astype(np.float64)

    def certainty(pictures: Pictures, prompts: Sequence[EvalPrompt]) -> np.ndarray:
        return scorer.probability(pictures, [prompt.texts for prompt in prompts])

    def similarity(pictures: Pictures, prompts: Sequence[EvalPrompt]) -> np.ndarray:
        vectors = scorer.embed_texts([prompt.texts[0] for prompt in prompts])
        return (scorer.embed_images(pictures) * vectors).sum(-1).double().cpu().numpy()

    return {"choice": choice, "certainty": certainty, "similarity": similarity}[kind]


def without_object(picture: Image.Image, mask: Bool[np.ndarray, "height width"]) -> Image.Image:
    """The picture with the mean colour of its background laid over the object (mask true)."""
    pixels = np.asarray(picture.convert("RGB")).copy()
    _require_mask(pixels, mask)
    pixels[mask] = pixels[~mask].mean(0).round() if (~mask).any() else 0
    return Image.fromarray(pixels)


def background_psnr(before: Image.Image, after: Image.Image, mask: Bool[np.ndarray, "height width"]) -> float:
    """How well the background was kept, in decibels: inf where no pixel outside the mask has changed."""
    a, b = (np.asarray(picture.convert("RGB"), np.float64) / 255 for picture in (before, after))
    if a.shape != b.shape:
        raise HeadwiseError(f"The pictures are {before.size} and {after.size} large; expected the same size.")
    _require_mask(a, mask)
    if mask.all():
        raise HeadwiseError("The mask covers the whole picture, so there is no background to compare.")
    error = ((a - b)[~mask] ** 2).mean()
    return float("inf") if error == 0 else float(-10 * np.log10(error))


def _require_mask(pixels: np.ndarray, mask: np.ndarray) -> None:
    if mask.shape != pixels.shape[:2]:
        raise HeadwiseError(
            f"The mask is {mask.shape}, the picture {pixels.shape[:2]} (height, width); expected the same."
        )


def _folder(name: str | Path) -> str:
    if str(name) == "emoji":
        from headwise import emoji

        return str(emoji.JUDGE)
    return str(name)


def _loaded(kind: Any, folder: str) -> Any:
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")  # it would advise to install torchvision
    try:
        return kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError) as error:
        lines = str(error).strip().splitlines()
        raise ModelNotLoaded(
            f"{folder} could not be loaded as a {kind.__name__}: "
            f"{lines[0] if lines else type(error).__name__} Check the name "
            "and the network, or give a folder with safetensors weights."
        ) from error


def _processor(folder: str) -> Any:
    from transformers import AutoImageProcessor

    return AutoImageProcessor.from_pretrained(folder, use_fast=False)
