"""Images know what made them and are read whatever their kind; grids show all of them."""

import json
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from headwise import __version__, pictures
from headwise.errors import UnreadableFile, UnwritableFolder
from headwise.pictures import (
    beside,
    cropped,
    holds,
    picture_in,
    read_picture,
    save_columns,
    save_picture,
    settings_in,
    size_of_shape,
)
from headwise.steering.compare import compare
from headwise.steering.steer import strengthen
from helpers import relevance_for


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


def read_as_a1111_does(text):
    """Prompt, negative prompt and settings, by the pattern with which its readers take them apart."""
    *lines, last = text.split("\n")
    found = re.findall(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)', last)
    assert len(found) >= 3, "else the line is taken for prompt"
    settings = {name: json.loads(value) if value.startswith('"') else value for name, value in found}
    start = next((n for n, line in enumerate(lines) if line.startswith("Negative prompt:")), len(lines))
    negative = "\n".join(lines[start:]).removeprefix("Negative prompt: ")
    return "\n".join(lines[:start]), negative, settings


MADE = {
    "prompt": "a café, \u732b\nin the snow",
    "model": "models/mine.v1.safetensors",
    "seed": 7,
    "num_inference_steps": 20,
    "guidance_scale": 6.5,
    "sampler": "DPM++ 2M Karras",
    "negative_prompt": "fog, rain",
    "loras": {"loras/style.safetensors": 0.8},
    "clip_skip": 2,
    "steering": ["red:Color*1.5", "vase:Color-Plants"],
}


def test_other_programs_read_the_settings_too(tmp_path):
    save_picture(tmp_path / "one.png", plain("red", (24, 16)), MADE)
    prompt, negative, settings = read_as_a1111_does(settings_in(tmp_path / "one.png")["parameters"])
    assert prompt == MADE["prompt"] + " <lora:style:0.8>" and negative == "fog, rain"
    assert settings == {
        "Steps": "20",
        "Sampler": "DPM++ 2M Karras",
        "CFG scale": "6.5",
        "Seed": "7",
        "Size": "24x16",
        "Model": "mine.v1",
        "Clip skip": "2",
        "Steering": "red:Color*1.5, vase:Color-Plants",
        "Version": f"Headwise {__version__}",
    }
    assert holds(tmp_path / "one.png", MADE), "ours are what they were"


def test_each_picture_of_an_edit_has_its_own_prompt_and_seed_and_a_sheet_none(tmp_path):
    settings = {"source": "a dog", "targets": ["a cat"], "seeds": [3, 5], "num_inference_steps": 2}
    columns = {name: [plain("red")] * 2 for name in ("source", "a cat")}
    *files, sheet = save_columns(tmp_path, columns, settings)
    said = [read_as_a1111_does(settings_in(file)["parameters"]) for file in files]
    assert [(prompt, of["Seed"]) for prompt, _, of in said] == [
        ("a dog", "3"), ("a dog", "5"), ("a cat", "3"), ("a cat", "5"),
    ]  # fmt: skip
    assert "parameters" not in settings_in(sheet)


def test_what_does_not_say_how_it_was_made_has_no_parameters(tmp_path):
    for settings in ({}, {"prompt": "a dog"}, {"prompt": "a dog", "seed": 3}):
        save_picture(tmp_path / "one.png", plain("red"), settings)
        assert "parameters" not in settings_in(tmp_path / "one.png")


def test_whether_a_file_holds_a_picture_made_in_this_way(tmp_path):
    file, made_of = tmp_path / "one.png", {"prompt": "a café", "seed": 3, "dial": -0.5}
    assert not holds(file, made_of), "there is none"
    save_picture(file, plain("red", (64, 64)), made_of)
    assert holds(file, made_of)
    assert not holds(file, made_of | {"seed": 4}) and not holds(file, made_of | {"steps": 20})
    whole = file.read_bytes()
    for length in range(len(whole) - 32):  # without what ends a PNG all its pixels may be there
        file.write_bytes(whole[:length])
        assert not holds(file, made_of), f"{length} of {len(whole)} bytes"


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnwritableFolder, match="could not be written"):
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


def written(path, picture, **options):
    picture.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I;16", "F"])
def test_pictures_of_every_kind_become_rgb(tmp_path, mode):
    name = "one.tif" if mode in ("CMYK", "YCbCr", "F") else "one.png"
    if mode == "I;16":
        grey = Image.fromarray(np.full((9, 8), 32768, np.uint16))
    else:
        grey = Image.new("L", (8, 9), 128).convert("RGB").convert(mode)
    found = read_picture(written(tmp_path / name, grey))
    assert (found.mode, found.size) == ("RGB", (8, 9))
    assert np.array_equal(read_picture(grey), found)
    middle = np.asarray(found).mean()
    assert middle == 255 if mode == "F" else abs(middle - 128) < (128 if mode == "1" else 3)


def test_a_picture_is_turned_as_the_camera_held_it_and_laid_on_white(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    turned = written(tmp_path / "held.jpg", Image.new("RGB", (8, 16)), exif=exif)
    assert read_picture(turned).size == (16, 8)
    clear = written(tmp_path / "clear.png", Image.new("RGBA", (8, 8), (255, 0, 0, 0)))
    assert np.asarray(read_picture(clear)).min() == 255


def bomb(path):
    """A few bytes that claim to be 20,000 pixels on each side."""
    body = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    path.write_bytes(start + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT")))
    return path


def cut_short(path):
    written(path, Image.effect_noise((64, 64), 50))
    path.write_bytes(path.read_bytes()[:900])
    return path


def moving(path):
    frames = [Image.new("RGB", (9, 9), color) for color in ("red", "blue", "green")]
    return written(path, frames[0], save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    "made, said",
    [
        (lambda path: path / "not-there.png", "No such file"),
        (lambda path: path, "directory"),
        (lambda path: written(path / "point.png", Image.new("RGB", (1, 1))), "is 1 × 1 pixels"),
        (lambda path: bomb(path / "bomb.png"), "at most 64 million"),
        (lambda path: written(path / "wide.png", Image.new("1", (100_000, 900))), "is 100000 × 900 pixels"),
        (lambda path: moving(path / "moving.gif"), "has 3 frames"),
        (lambda path: cut_short(path / "short.png"), "not an image, or it is damaged"),
    ],
)
def test_what_is_no_picture_to_edit_is_refused_in_a_sentence(tmp_path, made, said):
    with pytest.raises(UnreadableFile, match=said):
        read_picture(made(tmp_path))


@pytest.mark.parametrize("bytes_", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"<svg></svg>"])
def test_bytes_that_are_no_picture(tmp_path, bytes_):
    (tmp_path / "text.png").write_bytes(bytes_)
    with pytest.raises(UnreadableFile, match="not an image"):
        read_picture(tmp_path / "text.png")


def test_what_was_sent_is_read_as_a_file_is_and_only_if_browsers_send_such(tmp_path):
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8)
    for name in ("a.png", "a.webp"):
        path = written(tmp_path / name, Image.fromarray(grey))
        assert np.array_equal(picture_in(path.read_bytes()), read_picture(path))
    path = written(tmp_path / "a.tiff", Image.fromarray(grey))
    read_picture(path)
    with pytest.raises(UnreadableFile, match=r"^The image cannot be read: it is not an image"):
        picture_in(path.read_bytes())
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    for content in (b"", b"<svg/>", eps, path.read_bytes()[:20]):
        with pytest.raises(UnreadableFile, match="me.png cannot be read"):
            picture_in(content, "me.png")


def boxes(text):
    """How many letters of a title are drawn as the box that stands for no letter."""
    font, title = pictures._drawable(text)
    box = bytes(font.getmask("\uffff"))
    return sum(bytes(font.getmask(letter)) == box for letter in title)


TITLES = ["plain", "× 2", "− 1", "café", "naïve ½", "日本語 red", "red 🐕", "ж"]


@pytest.mark.parametrize("title", TITLES)
def test_no_title_is_drawn_in_a_font_that_lacks_its_letters(title):
    assert boxes(title) == 0
    assert beside([[plain("red")]], [title]).getpixel((20, 40)) == (255, 0, 0)


@pytest.mark.parametrize(
    "title, drawn",
    [("plain", "plain"), ("× −2", "x -2"), ("café", "cafe"), ("赤 dog", "\\u8d64 dog")],
)
def test_without_any_other_font_letters_are_spelled(title, drawn, monkeypatch):
    monkeypatch.setattr(pictures, "FONTS", ())
    assert pictures._drawable(title)[1] == drawn
    assert boxes(title) == 0


def test_letters_that_one_font_of_several_has_are_kept():
    pytest.importorskip("matplotlib")
    for title in ("× 2", "− 1", "café"):
        assert pictures._drawable(title)[1] == title


@pytest.mark.parametrize(
    "shape, own",
    [((600, 400), (624, 416)), ((400, 600), (416, 624)), ((9, 9), (512, 512)), ((900, 9), (5120, 48))],
)
def test_a_picture_s_own_shape_has_as_many_pixels(shape, own):
    assert size_of_shape(plain("red", shape), (512, 512), 8) == own


@pytest.mark.parametrize(
    "size, to, said",
    [((16, 16), (8, 8), ""), ((17, 16), (8, 8), "16 × 16 of the image's 17 × 16"), ((24, 16), (12, 8), "")],
)
def test_what_is_cropped_is_said(size, to, said):
    assert said in cropped(plain("red", size), to) and bool(said) == bool(cropped(plain("red", size), to))
