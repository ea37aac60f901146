"""The section of turned words: rows of one image in which a word is turned down and up in its heads.

The metadata of each PNG in the folder has its prompt, the word, the concept of the heads, and the dial.
"""

from pathlib import Path

from headwise.pictures import settings_in
from headwise.report.page import Picture, Section, Strip

__all__ = ["turned_section"]

TEXT = (
    "Each row shows one image from the same noise, in which one word is turned down and up in the heads that "
    "carry its concept, as measured below. The dial is the multiple of the word's effect that is added: at "
    "−1 the effect is removed, at 0 the image is unchanged, at 1 the effect is doubled, at 2 tripled."
)


def turned_section(folder: Path) -> Section | None:
    """The section of a folder with such images; None if it has none.

    Args:
        folder: The folder, such as `turned` in the folder of a measurement.
    """
    rows: dict[tuple[str, str, str], list[tuple[float, Picture]]] = {}
    for path in sorted(folder.glob("*.png")):
        settings = settings_in(path)
        if settings.keys() >= {"prompt", "word", "concept", "dial"}:
            row = rows.setdefault((settings["prompt"], settings["word"], settings["concept"]), [])
            row.append((float(settings["dial"]), Picture.of(path)))
    strips = tuple(
        Strip(
            f"“{prompt}”: {word}, in the heads of {concept}",
            [(f"dial {dial:g}".replace("-", "−"), picture) for dial, picture in sorted(row, key=_dial)],
            wide=True,
        )
        for (prompt, word, concept), row in rows.items()
    )
    return Section("One word, turned up and down", TEXT, strips=strips) if strips else None


def _dial(turned: tuple[float, Picture]) -> float:
    return turned[0]
