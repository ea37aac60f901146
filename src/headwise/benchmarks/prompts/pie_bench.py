"""Edit pairs from PIE-Bench's mapping_file.json, which users provide together with its images.

Its object has an entry for each image: image_path, original_prompt, editing_prompt (words that differ may be
in brackets), editing_type_id and mask, the starts and lengths of runs of pixels, row by row, in an image of
512 × 512. A pair is left out, and counted in a warning, if its mask covers everything, so that no background
is left to compare, or if its target has no word that the source lacks.

References:
    | Direct Inversion: Boosting Diffusion-based Editing with 3 Lines of Code (Ju et al., 2023)
    | https://arxiv.org/abs/2310.01506
"""

import json
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

from headwise.benchmarks.prompts.edit_pairs import REGION_SIZE, EditPair
from headwise.errors import UnreadablePrompts
from headwise.model.words import words_of

__all__ = ["pie_pairs"]

TYPES = (
    "random", "change object", "add object", "delete object", "change content", "change pose",
    "change color", "change material", "change background", "change style",
)  # fmt: skip
# The concept of the new word, for types of edits that have one.
CONCEPTS = {"change color": "Color", "change material": "Material", "change style": "Image Style"}
FIELDS = ("image_path", "original_prompt", "editing_prompt", "editing_type_id", "mask")
EXPECTED = f"Expected PIE-Bench's mapping_file.json: an object whose entries have {', '.join(FIELDS)}"


def pie_pairs(path: str | Path, pictures: str | Path | None = None) -> list[EditPair]:
    """The pairs of a mapping_file.json, with their images, for `benchmark_given_editing`.

    Args:
        path: The file.
        pictures: The folder of the images; by default annotation_images next to the file.

    Raises:
        UnreadablePrompts: The file cannot be read, or one of its entries breaks the format.
    """
    path = Path(path)
    folder = path.parent / "annotation_images" if pictures is None else Path(pictures)
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UnreadablePrompts(f"{path} cannot be read: {error.strerror}. {EXPECTED}.") from None
    except ValueError as error:
        raise UnreadablePrompts(f"{path} is not JSON ({error}). {EXPECTED}.") from None
    if not isinstance(entries, dict) or not entries:
        raise UnreadablePrompts(f"{path} does not hold an object with entries. {EXPECTED}.")
    pairs, left_out = [], Counter[str]()
    for name, entry in entries.items():
        try:
            pair = _pair(entry, folder)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise UnreadablePrompts(
                f"{path}: entry {name!r} lacks or misspells {error}. {EXPECTED}."
            ) from None
        fault = _fault(pair)
        left_out.update([fault] * bool(fault))
        pairs += [pair] * (not fault)
    if left_out:
        reasons = " and ".join(f"{n} {reason}" for reason, n in left_out.items())
        warnings.warn(f"{path}: pairs are left out: {reasons}.", stacklevel=2)
    return pairs


def _pair(entry: dict[str, Any], folder: Path) -> EditPair:
    source, target = (re.sub(r"[\[\]]", "", entry[key]) for key in ("original_prompt", "editing_prompt"))
    new = [word for word in words_of(target) if word not in words_of(source)]
    kind = TYPES[int(entry["editing_type_id"])]
    return EditPair(
        kind,
        source,
        target,
        new[0] if new else "",
        (target, source),
        (target,),
        picture=folder / entry["image_path"],
        region=_runs(entry["mask"]),
        concept=CONCEPTS.get(kind),
    )


def _runs(mask: list[int] | str) -> tuple[tuple[int, int], ...]:
    """The starts and lengths of a mask's runs, which alternate in the file."""
    numbers = [int(number) for number in (mask.split() if isinstance(mask, str) else mask)]
    if len(numbers) % 2 or any(number < 0 for number in numbers):
        raise ValueError("mask, which must be alternating starts and lengths")
    return tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _fault(pair: EditPair) -> str:
    """Why a pair cannot be used; "" if it can."""
    if pair.region and pair.mask((REGION_SIZE[1], REGION_SIZE[0])).all():
        return "whose mask covers everything"
    return "" if pair.word else "whose target has no word of its own"
