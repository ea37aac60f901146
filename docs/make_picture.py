"""Write docs/demo.png, the image of the README, from a folder of `headwise demo`.

python docs/make_picture.py runs/demo
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from PIL import Image

from headwise import Relevance
from headwise.pictures import settings_in
from headwise.report import plots

WIDTH, CONCEPTS = 9.0, 12
BESIDE = {-1.0: "−1: taken away", 0.0: "0: as prompted", 2.0: "+2: three times over"}


def turned(folder: Path) -> dict[tuple[str, str], list[tuple[float, Path]]]:
    """The images of every turned word, by prompt and word, in the order of the dial."""
    rows: dict[tuple[str, str], list[tuple[float, Path]]] = {}
    for file in sorted(folder.glob("*.png")):
        settings = settings_in(file)
        row = rows.setdefault((settings["prompt"], settings["word"]), [])
        row.append((float(settings["dial"]), file))
    return {key: sorted(row) for key, row in rows.items()}


def draw_turned(figure: Any, rows: dict[tuple[str, str], list[tuple[float, Path]]]) -> None:
    """A row of images for each word, with what was done above the columns."""
    grid = figure.subplots(len(rows), len(next(iter(rows.values()))), squeeze=False)
    for number, ((prompt, word), images) in enumerate(rows.items()):
        axes = grid[number]
        for ax, (dial, file) in zip(axes, images, strict=True):
            with Image.open(file) as image:
                ax.imshow(image.convert("RGB"), interpolation="bicubic")
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
            if number == 0:
                ax.set_title(BESIDE.get(dial, f"{dial:+g}".replace("-", "−")), fontsize=9)
        before, after = prompt.split(word)
        axes[0].set_ylabel(f"“{before}$\\bf{{{word}}}${after}”".replace(" in ", "\nin "), fontsize=8)


def main(run: Path) -> None:
    """Words turned up and down by their heads above, the map of the heads by which they were below."""
    relevance, rows = Relevance.load(run / "relevance.safetensors"), turned(run / "turned")
    used = {settings_in(images[0][1])["concept"] for images in rows.values()}
    others = [name for name in relevance.concepts if name not in used]
    shown = used | set(others[:: max(1, len(others) // (CONCEPTS - len(used)) + 1)])
    concepts = [name for name in relevance.concepts if name in shown]
    whole = plt.figure(figsize=(WIDTH, 8.2), layout="constrained")
    above, below = whole.subfigures(2, 1, height_ratios=[len(rows) * 1.55, 3.4])
    draw_turned(above, rows)
    plots.heat_map(relevance, concepts, ax=below.subplots())
    whole.savefig(Path(__file__).with_name("demo.png"), dpi=100)
    plt.close(whole)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
