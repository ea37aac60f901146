"""Pictures know what made them; grids show all of them; comparisons start from the same latents."""

import numpy as np
import pytest
from PIL import Image

from headwise.comparison import compare
from headwise.errors import UnwritableFolder
from headwise.pictures import beside, save_picture, settings_in
from headwise.steer import strengthen
from test_steer import relevance_for


def plain(color, size=(8, 8)):
    return Image.new("RGB", size, color)


def test_a_picture_says_how_it_was_made(tmp_path):
    said = {"prompt": "a café\n<b>", "seed": 3, "steering": ["red:Color*1.5"], "negative_prompt": None}
    save_picture(tmp_path / "new" / "one.png", plain("red"), said)
    expected = {
        "prompt": "a café\n<b>",
        "seed": "3",
        "steering": '["red:Color*1.5"]',
        "negative_prompt": "null",
    }
    assert settings_in(tmp_path / "new" / "one.png") == expected
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["one.png"]


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwritableFolder, match="cannot take a picture"):
        save_picture(tmp_path / "file" / "one.png", plain("red"), {})


def test_a_grid_shows_every_picture_in_its_place():
    colors = [["red", "green", "blue"], ["black", "yellow", "purple"]]
    sheet = beside(
        [[plain(c) for c in row] for row in colors], ["a", "b", "a name far too long for it"], least=40
    )
    for r, row in enumerate(colors):
        for c, color in enumerate(row):
            assert sheet.getpixel((8 + c * 48 + 20, 28 + r * 48 + 20)) == plain(color).getpixel((0, 0))


def test_columns_start_from_the_same_latents_in_any_batch(sd):
    relevance = relevance_for(sd)
    columns = {"plain": [], "nothing": [strengthen(relevance, "red", "Color", 0)]}
    columns["steered"] = [strengthen(relevance, "red", "Color", 5)]
    options = {"num_inference_steps": 2, "progress": False}
    drawn = compare(sd, "a red dog", columns, pictures=3, batch_size=2, **options)
    pixels = {name: np.stack([np.asarray(p, float) for p in images]) for name, images in drawn.items()}
    assert np.array_equal(pixels["plain"], pixels["nothing"])
    assert not np.array_equal(pixels["plain"], pixels["steered"])
    alone = compare(sd, "a red dog", {"plain": []}, pictures=3, batch_size=3, **options)["plain"]
    assert np.abs(np.stack([np.asarray(p, float) for p in alone]) - pixels["plain"]).max() <= 1
