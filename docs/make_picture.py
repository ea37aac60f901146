"""Write docs/demo.png, the picture of the README, from a folder of `headwise demo`.

python docs/make_picture.py runs/demo
"""

import io
import sys
from pathlib import Path

from PIL import Image

from headwise import Relevance
from headwise.report import plots

COLUMNS, GAP = 16, 6


def strip(files: list[Path], width: int) -> Image.Image:
    """The sample pictures in rows of `COLUMNS`, together `width` wide."""
    size = (width - GAP * (COLUMNS - 1)) // COLUMNS
    sheet = Image.new("RGB", (width, -(-len(files) // COLUMNS) * (size + GAP)), "white")
    for i, file in enumerate(files):
        with Image.open(file) as picture:
            place = (i % COLUMNS * (size + GAP), i // COLUMNS * (size + GAP))
            sheet.paste(picture.convert("RGB").resize((size, size), Image.Resampling.LANCZOS), place)
    return sheet


def main(run: Path) -> None:
    """Sample pictures above, the concept × head map below."""
    figure = plots.heat_map(Relevance.load(run / "relevance.safetensors"), width=12)
    heat_map = Image.open(io.BytesIO(plots.as_png(figure))).convert("RGB")
    above = strip(sorted((run / "pictures").glob("*.png")), heat_map.width)
    whole = Image.new("RGB", (heat_map.width, above.height + heat_map.height), "white")
    whole.paste(above, (0, 0))
    whole.paste(heat_map, (0, above.height))
    whole.save(Path(__file__).with_name("demo.png"), optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
