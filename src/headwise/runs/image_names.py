"""Names of the images that a sweep keeps: which prompt, by which method, and how many heads are weakened.

003 source    003 polysemy method    003 most relevant 0016
"""

import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["ImageName", "kept_images"]

_FORMAT = re.compile(r"(\d{3,}) (.+?)(?: (\d{4,}))?")


class ImageName(NamedTuple):
    """The parts of a kept image's name; `str` of it is the file's name without ".png".

    Args:
        number: The number of the prompt, or of the pair of prompts, from 0.
        method: The method that generated it, "source" for the image before an edit, or the order of heads.
        k: How many heads of the order are weakened; None if the image belongs to no order.
    """

    number: int
    method: str
    k: int | None = None

    def __str__(self) -> str:
        return f"{self.number:03d} {self.method}" + ("" if self.k is None else f" {self.k:04d}")

    @classmethod
    def parse(cls, name: str) -> "ImageName | None":
        """Parse a file's name without its extension; None if it is not the name of a kept image."""
        match = _FORMAT.fullmatch(name)
        if match is None:
            return None
        number, method, k = match.groups()
        return cls(int(number), method, None if k is None else int(k))


def kept_images(folder: Path) -> dict[ImageName, Path]:
    """The files of the images that a sweep kept in its folder, by their parsed names and in that order."""
    files = sorted((folder / "pictures").glob("*.png"))
    return {name: file for file in files if (name := ImageName.parse(file.stem)) is not None}
