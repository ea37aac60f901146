"""A relevance as a table: rows by concept, columns by head, as text, HTML or a pandas data frame."""

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from headwise.display import Html, colour_limit, html_strip, html_table
from headwise.errors import HeadMapMismatch, MissingExtra, UnknownConcept, VotesMismatch
from headwise.measuring.concepts import unknown_concept
from headwise.measuring.ranking import HeadRank, address_of
from headwise.model.heads import HeadMap

if TYPE_CHECKING:
    import pandas

__all__ = [
    "ConceptRow", "frame_of", "html_of", "look_up", "names_of_rows", "row_of", "text_of",
]  # fmt: skip

ConceptRow = tuple[str, float, Float[np.ndarray, " all_heads"], Sequence[HeadRank]]
"""A concept's name, its split-half correlation, its relevance and its most relevant heads."""

_BARE = re.compile(r"head (\d+)")  # the address of a head in arrays without a head map


def row_of(concept: str | int, concepts: Sequence[str]) -> int:
    """The row of a concept, given by name or by index; a negative index counts from the end.

    Raises:
        UnknownConcept: No concept has this name or index.
    """
    if isinstance(concept, str):
        if concept not in concepts:
            raise unknown_concept(concept, concepts)
        return concepts.index(concept)
    if not isinstance(concept, int | np.integer) or not -len(concepts) <= concept < len(concepts):
        raise UnknownConcept(
            f"{concept!r} is not a concept. Give the name of one, or a row from 0 to {len(concepts) - 1}."
        )
    return int(concept)


def look_up(
    key: Any,
    values: Float[np.ndarray, "concepts all_heads"],
    concepts: Sequence[str],
    head_map: HeadMap | None,
) -> Any:
    """Look up a row, a column or one value, as `Relevance.__getitem__` describes.

    Raises:
        UnknownConcept: A concept was not measured.
        HeadMapMismatch: The head is not in the head map.
    """
    if isinstance(key, tuple):
        if len(key) != 2:
            raise UnknownConcept(f"{key!r} was given; expected a concept and a head.")
        return float(values[row_of(key[0], concepts), _column_of(key[1], head_map, values.shape[1])])
    if isinstance(key, str) and key not in concepts and _is_address(key, head_map):
        return values[:, _column_of(key, head_map, values.shape[1])]
    return values[row_of(key, concepts)]


def _is_address(key: str, head_map: HeadMap | None) -> bool:
    """Whether a key is meant as the address of a head, valid or not, or of a layer."""
    if head_map is None:
        return _BARE.fullmatch(key) is not None
    return key.endswith("]") or key in (layer.address for layer in head_map)


def _column_of(head: str | int, head_map: HeadMap | None, all_heads: int) -> int:
    if isinstance(head, str) and head_map is not None:
        return head_map.head(head)
    bare = _BARE.fullmatch(head) if isinstance(head, str) else None
    index = int(bare[1]) if bare else head
    if not isinstance(index, int | np.integer) or not 0 <= index < all_heads:
        raise HeadMapMismatch(
            f"{head!r} is not a head. Give an address such as {address_of(0, head_map)!r}, or an index "
            f"from 0 to {all_heads - 1}."
        )
    return int(index)


def names_of_rows(votes: np.ndarray, concepts: Sequence[str] | None) -> tuple[str, ...]:
    """Check a bare array of votes, and return the names of its rows.

    Args:
        votes: The array.
        concepts: The names, one per row; None for "concept 0", "concept 1", …

    Raises:
        VotesMismatch: The array does not hold counts by concept and head, or names and rows differ in number.
    """
    if votes.ndim != 2:
        raise VotesMismatch(f"Expected votes of shape (concepts, all_heads), got {votes.shape}.")
    if votes.dtype.kind not in "biuf" or not np.isfinite(votes).all() or (votes < 0).any():
        raise VotesMismatch(
            "The votes are not all finite numbers of 0 or more. Give counts of votes; construct a Relevance "
            "directly if its values are known."
        )
    names = tuple(concepts) if concepts is not None else tuple(f"concept {c}" for c in range(len(votes)))
    if len(names) != len(votes):
        raise VotesMismatch(f"{len(names)} names for {len(votes)} rows of votes. Give one name per row.")
    return names


def frame_of(
    values: Float[np.ndarray, "concepts all_heads"],
    standard_errors: Float[np.ndarray, "concepts all_heads"],
    concepts: Sequence[str],
    head_map: HeadMap | None,
) -> "pandas.DataFrame":
    """The data frame that `Relevance.to_frame` describes.

    Raises:
        MissingExtra: pandas is not installed.
    """
    try:
        import pandas
    except ModuleNotFoundError as missing:
        raise MissingExtra(
            "A data frame needs pandas, which is not installed: pip install pandas"
        ) from missing
    all_heads = values.shape[1]
    addresses = [address_of(head, head_map) for head in range(all_heads)]
    layers = [layer.address for layer in head_map or () for _ in range(layer.heads)] or [""] * all_heads
    columns: dict[str, Any] = {
        "concept": np.repeat(np.array(concepts, object), all_heads),
        "head": np.tile(np.arange(all_heads), len(concepts)),
        "layer": layers * len(concepts),
        "address": addresses * len(concepts),
        "relevance": values.ravel(),
        "standard_error": standard_errors.ravel(),
    }
    return pandas.DataFrame(columns)


def text_of(rows: Sequence[ConceptRow], notes: Sequence[str]) -> str:
    """The most relevant heads of each concept as lines of text, and notes below them."""
    width = max(7, *(len(name) for name, *_ in rows))
    lines = [f"{'concept':{width}}  split-half  most relevant heads"]
    lines += [f"{name:{width}}  {half:10.2f}  {_heads(top)}" for name, half, _, top in rows]
    return "\n".join([*lines, *notes])


def html_of(caption: str, rows: Sequence[ConceptRow], notes: Sequence[str]) -> Html:
    """The most relevant heads of each concept, next to its row of the map.

    Args:
        caption: What was measured.
        rows: The concepts.
        notes: Sentences below the table.
    """
    values = np.stack([row for _, _, row, _ in rows])
    limit, signed = colour_limit(values, 2.0), bool((values < 0).any())
    shown = f"relevance of all heads (colours end at {limit:.1f})"
    columns = ("concept", "split-half", shown, "most relevant heads", "address of the first")
    cells = []
    for name, half, row, top in rows:
        alt = f"{name}: highest {row.max():.1f} at head {row.argmax()}"
        cells.append((name, f"{half:.2f}", html_strip(row, limit, signed, alt), _heads(top), top[0].address))
    return html_table(caption, columns, cells, notes)


def _heads(top: Sequence[HeadRank]) -> str:
    return ", ".join(f"{rank.index} ({rank.relevance:.1f})" for rank in top)
