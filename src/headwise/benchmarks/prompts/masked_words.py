"""Images with masks that show where words of their prompt are.

They are read from a TOML file next to the images and masks:

    [[pictures]]
    picture = "07.png"
    prompt = "a red car and a dog"
    words = [
      {word = "car", concept = "Vehicles", kind = "thing", mask = "07-car.png"},
      {word = "red", concept = "Color", kind = "attribute", mask = "07-car.png"},
    ]

A mask is an image of the same size, white where the word is and black elsewhere. Results are listed by kind,
which may be any word.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image

from headwise.benchmarks.prompts.evaluation import bad_file, file_of_prompts, tables_in
from headwise.errors import UnreadablePrompts
from headwise.model.tokens import words_of
from headwise.pictures import fitted, read_picture

__all__ = ["MaskedWord", "mask_in_file", "masked_words"]


@dataclass(frozen=True)
class MaskedWord:
    """A word of an image's prompt, and where it is.

    Args:
        picture, mask_file: The files of the image and of the mask.
        prompt: A prompt that describes the image.
        word: The word or phrase, as it is in the prompt.
        concept: Its concept.
        kind: The kind that results are listed by, such as "thing" or "attribute".
    """

    picture: Path
    mask_file: Path
    prompt: str
    word: str
    concept: str
    kind: str

    def image(self) -> Image.Image:
        """The image."""
        return read_picture(self.picture)

    def mask(self, size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
        """Where the word is in the centre crop of the image, scaled to this width and height.

        Raises:
            UnreadablePrompts: The mask has another size than the image, or is the same everywhere.
        """
        return mask_in_file(self.mask_file, self.picture, size, f'"{self.word}" is')


def mask_in_file(
    mask_file: Path, picture_file: Path, size: tuple[int, int], where: str
) -> Bool[np.ndarray, "height width"]:
    """Where a mask is white in the centre crop of its image, scaled to a width and height.

    Args:
        mask_file, picture_file: The files of the mask and of its image.
        size: Width and height in pixels.
        where: What should be white, for the error message: '"car" is'.

    Raises:
        UnreadablePrompts: The mask has another size than the image, or is the same everywhere.
    """
    picture, mask = read_picture(picture_file), read_picture(mask_file)
    if mask.size != picture.size:
        raise UnreadablePrompts(
            f"{mask_file} has {mask.width} × {mask.height} pixels, but its image has {picture.width} × "
            f"{picture.height}. Give a mask of the image's size."
        )
    inside = np.asarray(fitted(mask, size).convert("L")) > 127
    if inside.all() or not inside.any():
        raise UnreadablePrompts(
            f"{mask_file} is entirely {'white' if inside.all() else 'black'} in the part of the image "
            f"used; expected white where {where} and black elsewhere."
        )
    return inside


def masked_words(source: str | Path) -> list[MaskedWord]:
    """The words of a file, grouped by image.

    Args:
        source: "emoji", or the path of a TOML file.

    Raises:
        UnreadablePrompts: The file lacks something, or a word is not in its prompt.
    """
    file = file_of_prompts(source, "segmentation")
    words = []
    for number, table in enumerate(tables_in(file).get("pictures", [])):
        try:
            picture, prompt = file.parent / table["picture"], table["prompt"]
            words += [
                MaskedWord(
                    picture, file.parent / each["mask"], prompt, each["word"], each["concept"], each["kind"]
                )
                for each in table["words"]
            ]
        except (KeyError, TypeError) as error:
            raise bad_file(file, f"number {number} of [[pictures]] lacks or misspells {error}") from None
    for word in words:
        if not set(words_of(word.word)) <= set(words_of(word.prompt)):
            raise bad_file(file, f'"{word.word}" is not in its prompt "{word.prompt}"')
    if not words:
        raise bad_file(file, "it has no [[pictures]] with words")
    return words
