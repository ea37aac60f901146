"""Names of the images that a sweep keeps: which prompt, by which method, and how many heads are weakened.

003 source    003 polysemy method    003 most relevant 0016
"""

import re
from pathlib import Path
from typing import NamedTuple

__all__ = ["ImageName", "kept_images"]

_FORMAT = re.compile(r"(\d{3,}) (.+?)(?: (\d{4,}))?")


class ImageName(NamedTuple):
    """What the name of a kept image says; `str` of it is the file's name without ".png".

    Args:
        number: The number of the prompt, or of the pair of prompts, from 0.
        method: The method that generated it, "source" for what was edited, or the order of heads.
        k: How many heads of the order are weakened; None where the image is not of an order.
    """

    number: int
    method: str
    k: int | None = None

    def __str__(self) -> str:
        return f"{self.number:03d} {self.method}" + ("" if self.k is None else f" {self.k:04d}")

    @classmethod
    def parse(cls, name: str) -> "ImageName | None":
        """What a file's name (without its ending) says; None where a sweep would not name an image so."""
        match = _FORMAT.fullmatch(name)
        if match is None:
            return None
        number, method, k = match.groups()
        return cls(int(number), method, None if k is None else int(k))


def kept_images(folder: Path) -> dict[ImageName, Path]:
    """The files of the images that a sweep kept in its folder, by what their names say, in that order."""
    files = sorted((folder / "pictures").glob("*.png"))
    return {name: file for file in files if (name := ImageName.parse(file.stem)) is not None}
