"""Pairs of prompts to edit: a source, and a target that differs in one word of an attribute.

They are read from TOML files like those of a concept's prompts (evaluation.py), with the `box` of the object
and `siblings`, further words of the attribute that images are compared with; or from CSV files with the
columns source_prompt, target_prompt and attribute. Pairs with images are read by given_pictures.py.
"""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool

from headwise.benchmarks.prompts.evaluation import bad_file, filled, read_toml, sample
from headwise.benchmarks.prompts.masked_words import mask_in_file
from headwise.errors import UnreadablePrompts
from headwise.model.tokens import words_of

__all__ = ["EditPair", "REGION_SIZE", "edit_pairs"]

REGION_SIZE = (512, 512)
"""Height and width of the image in which a region's runs of pixels are counted."""


class EditPair(NamedTuple):
    """A source prompt and a target that differs in one word of an attribute.

    Args:
        attribute: The concept of the word that differs.
        source, target: The prompts.
        word: The word that only the target has.
        texts: The texts that the target's image is compared with: the target's, then those with other words
            of the attribute.
        things: The same for objects: the prompt's text, then those with other objects.
        box: Where the object is in the image: left, top, right and bottom as fractions of width and height,
            0 … 1; None if unknown.
        keeps_object: Whether the object should stay and its surroundings change, instead of the reverse.
        picture: The file of an image to edit; None if the source is generated.
        region: Where the image may differ, in place of a box: the starts and lengths of runs of pixels, row
            by row, at `REGION_SIZE`.
        mask_file: The file of an image of the same size, white where the image may differ, in place of a
            box or region.
        truth: The file of the image that an edit should reach; None if unknown.
        concept: The concept of the word, if the attribute is only the name of a group.
    """

    attribute: str
    source: str
    target: str
    word: str
    texts: tuple[str, ...]
    things: tuple[str, ...]
    box: tuple[float, float, float, float] | None = None
    keeps_object: bool = False
    picture: Path | None = None
    region: tuple[tuple[int, int], ...] = ()
    mask_file: Path | None = None
    truth: Path | None = None
    concept: str | None = None

    def mask(self, size: tuple[int, int]) -> Bool[np.ndarray, "height width"]:
        """Where images of this width and height may differ, to be covered when they are compared.

        Raises:
            UnreadablePrompts: The mask has another size than the image, or is the same everywhere.
        """
        width, height = size
        if self.mask_file is not None and self.picture is not None:
            return mask_in_file(self.mask_file, self.picture, size, "the image may change")
        if self.region:
            indices = (np.arange(n) * of // n for n, of in zip((height, width), REGION_SIZE, strict=True))
            return _mask_of_runs(self.region)[np.ix_(*indices)]
        covered = np.zeros((height, width), bool)
        if self.box is not None:
            left, top, right, bottom = self.box
            rows = slice(round(top * height), round(bottom * height))
            covered[rows, round(left * width) : round(right * width)] = True
        return ~covered if self.keeps_object and self.box is not None else covered


def edit_pairs(source: str | Path, count: int = 20) -> list[EditPair]:
    """The pairs of a file.

    Args:
        source: "emoji"; or the path of a TOML file, or of a CSV with the columns source_prompt, target_prompt
            and attribute.
        count: The maximum number of pairs per attribute, sampled over words and objects.

    Raises:
        UnreadablePrompts: The file cannot be read, or lacks something.
    """
    if str(source).endswith(".csv"):
        return _pairs_in_csv(Path(source), count)
    pairs: list[EditPair] = []
    for attribute, table in read_toml(source, "editing").items():
        try:
            each = [
                _pair(attribute, table, prompt, thing, before, after)
                for prompt in table["prompts"]
                for thing in table["things"]
                for before in table["words"]
                for after in table["words"]
                if before != after
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise bad_file(source, f"[{attribute}] lacks or misspells {error}") from None
        pairs += sample(each, count)
    return pairs


def _mask_of_runs(region: tuple[tuple[int, int], ...]) -> Bool[np.ndarray, "height width"]:
    flat = np.zeros(REGION_SIZE[0] * REGION_SIZE[1], bool)
    for start, length in region:
        flat[start : start + length] = True
    return flat.reshape(REGION_SIZE)


def _pair(
    attribute: str, table: dict[str, Any], prompt: str, thing: str, before: str, after: str
) -> EditPair:
    words = dict.fromkeys([*table["words"], *table.get("siblings", [])])
    prompts = {word: filled(prompt, {"word": word, "thing": thing}) for word in words}
    texts = (prompts[after], *(text for word, text in prompts.items() if word != after))
    others = (other for other in table["things"] if other != thing)
    things = tuple(filled(prompt, {"word": after, "thing": name}) for name in (thing, *others))
    box = tuple(float(edge) for edge in table["box"]) if "box" in table else None
    keeps = table.get("edits", "object") == "surroundings"
    return EditPair(
        attribute,
        prompts[before],
        prompts[after],
        after,
        texts,
        things,
        box,  # type: ignore[arg-type]
        keeps,
    )


def _pairs_in_csv(path: Path, count: int) -> list[EditPair]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnreadablePrompts(
            f"{path} cannot be read: {error}. Give a CSV with source_prompt, target_prompt and attribute."
        ) from None
    pairs: dict[str, list[EditPair]] = {}
    for number, row in enumerate(rows, 2):
        source, target = row.get("source_prompt"), row.get("target_prompt")
        if not source or not target or not row.get("attribute"):
            raise bad_file(path, f"line {number} lacks source_prompt, target_prompt or attribute")
        words = [word for word in words_of(target) if word not in words_of(source)]
        if not words:
            raise bad_file(path, f"line {number}: the target has no word that the source lacks")
        pair = EditPair(row["attribute"], source, target, words[0], (target, source), (target,))
        pairs.setdefault(row["attribute"], []).append(pair)
    return [pair for group in pairs.values() for pair in sample(group, count)]
