"""Edit pairs whose sources are given images.

They are read from PIE-Bench's mapping_file.json (pie_bench.py), or from a TOML file next to the images:

    [[pictures]]
    picture = "07.png"
    mask = "07-mask.png"
    truth = "07-truth.png"
    attribute = "Color"
    source = "a red car"
    target = "a blue car"
    word = "blue"
    texts = ["a blue car", "a red car", "a green car"]
    things = ["a blue car", "a blue bus"]

A mask is an image of the same size, white where an edit may change the image and black elsewhere; without a
mask, whole images are compared. `truth` is the image that an edit should reach, if it is known.
"""

from pathlib import Path
from typing import Any

from headwise.benchmarks.prompts.edit_pairs import EditPair
from headwise.benchmarks.prompts.evaluation import bad_file, file_of_prompts, sample, tables_in
from headwise.benchmarks.prompts.pie_bench import pie_pairs
from headwise.model.words import words_of

__all__ = ["given_pairs"]


def given_pairs(source: str | Path, count: int | None = None) -> list[EditPair]:
    """The pairs of a file, each with its image.

    Args:
        source: "emoji"; or the path of a TOML file, or of a mapping_file.json with annotation_images next to
            it.
        count: The maximum number of pairs per attribute; None for all.

    Raises:
        UnreadablePrompts: The file lacks something, or a target's word is in its source too.
    """
    pairs = pie_pairs(source) if str(source).endswith(".json") else _pairs_in_toml(source)
    by_attribute: dict[str, list[EditPair]] = {}
    for pair in pairs:
        by_attribute.setdefault(pair.attribute, []).append(pair)
    return [
        pair for group in by_attribute.values() for pair in (group if count is None else sample(group, count))
    ]


def _pairs_in_toml(source: str | Path) -> list[EditPair]:
    file, pairs = file_of_prompts(source, "given"), []
    for number, table in enumerate(tables_in(file).get("pictures", [])):
        try:
            pairs.append(_pair(file.parent, table))
        except (KeyError, TypeError, AttributeError) as error:
            raise bad_file(file, f"number {number} of [[pictures]] lacks or misspells {error}") from None
    for pair in pairs:
        new = set(words_of(pair.word)) - set(words_of(pair.source))
        if not new or not set(words_of(pair.word)) <= set(words_of(pair.target)):
            raise bad_file(file, f'"{pair.word}" is not a word of "{pair.target}" that "{pair.source}" lacks')
        if pair.texts[:1] != (pair.target,):
            raise bad_file(file, f'the first of the texts of "{pair.target}" is not the target itself')
    if not pairs:
        raise bad_file(file, "it has no [[pictures]]")
    return pairs


def _pair(folder: Path, table: dict[str, Any]) -> EditPair:
    mask, truth = (folder / table[key] if key in table else None for key in ("mask", "truth"))
    return EditPair(
        table["attribute"],
        table["source"],
        table["target"],
        table["word"],
        tuple(table["texts"]),
        tuple(table["things"]),
        picture=folder / table["picture"],
        mask_file=mask,
        truth=truth,
    )
