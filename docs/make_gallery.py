"""Write the figures of docs/gallery.md by running the code above each of them.

    python docs/make_gallery.py

The blocks of the page form one program. Each image on the page is the `figure` of the block before it.
"""

import io
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from headwise.report import plots
from headwise.report.style import Figure

DOCS = Path(__file__).parent
PAGE = DOCS / "gallery.md"
BLOCK = re.compile(r"^```python\n(.*?)^```|^!\[[^]]*\]\((\S+)\)", re.M | re.S)


def figures(page: str) -> Iterator[tuple[str, Figure]]:
    """Run the code of a page; yield each image's path and the figure that the code before it made."""
    names: dict[str, object] = {}
    for code, image in BLOCK.findall(page):
        if code:
            names["figure"] = None
            exec(compile(code, PAGE.name, "exec"), names)
        else:
            yield image, names["figure"]


def save(figure: Figure, path: Path) -> None:
    """Write a PNG of 256 colors, which is a third of the size."""
    image = Image.open(io.BytesIO(plots.as_png(figure, dpi=140))).convert("RGB")
    image.quantize(256).save(path, optimize=True)


def main() -> None:
    """Run the page in a new folder that links to the benchmark results where the page expects them."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "benchmarks").symlink_to(DOCS.parent / "benchmarks")
        os.chdir(folder)
        for image, figure in figures(PAGE.read_text()):
            save(figure, DOCS / image)


if __name__ == "__main__":
    main()
