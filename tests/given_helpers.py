"""Two given images with the pairs to edit them by, and a mapping_file.json of PIE-Bench."""

import json

import numpy as np
from PIL import Image

PIXELS = np.random.Generator(np.random.Philox(3)).integers(0, 255, (16, 16, 3), dtype=np.uint8)
ENTRY = """
[[pictures]]
picture = "{name}.png"
mask = "mask.png"
truth = "truth.png"
attribute = "{attribute}"
source = "{source}"
target = "{target}"
word = "{word}"
texts = ["{target}", "{source}"]
things = ["{target}", "a red vase"]
"""


def write_drawings(tmp_path):
    """The file of two images with their pairs, a mask and a truth."""
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    Image.fromarray(PIXELS[::-1].copy()).save(tmp_path / "b.png")
    Image.fromarray(255 - PIXELS).save(tmp_path / "truth.png")
    mask = np.zeros((16, 16), bool)
    mask[:8] = True
    Image.fromarray(mask).save(tmp_path / "mask.png")
    color = dict(name="a", attribute="Color", source="a red dog", target="a orange dog", word="orange")
    animal = dict(name="b", attribute="Animals", source="a red dog", target="a red cat", word="cat")
    (tmp_path / "given.toml").write_text(ENTRY.format(**color) + ENTRY.format(**animal))
    return tmp_path / "given.toml"


def mapping_file(folder):
    """A mapping_file.json of PIE-Bench with one pair."""
    (folder / "annotation_images").mkdir()
    Image.fromarray(PIXELS).save(folder / "annotation_images" / "0.png")
    entry = {"image_path": "0.png", "original_prompt": "a [red] dog", "editing_prompt": "a [orange] dog"}
    entry |= {"editing_type_id": "6", "mask": [0, 512 * 256]}
    (folder / "mapping_file.json").write_text(json.dumps({"0": entry}))
    return folder / "mapping_file.json"
