"""Samplers, LoRA files, clip skip, sizes and negative prompts, as the browser asks for them."""

import io
import shlex

import numpy as np
import pytest
import typer
from PIL import Image

pytest.importorskip("fastapi", reason="the page is an extra: pip install 'headwise[web]'")
pytest.importorskip("peft", reason="peft is not installed; the extra 'test' brings it")

import headwise as hw
from conftest import tiny_sd
from headwise.cli.commands import app as commands
from headwise.model.setup import set_up
from headwise.pictures import settings_in
from test_loras import lora_file
from web_helpers import FAST, RED, ask, done, ended, png

SET_UP = {"scheduler": "Euler", "clip_skip": 2, "loras": {"ink.safetensors": 0.75}}
PICTURE = {"negative_prompt": "-- a 'blue' dog", "height": 24, "width": 32}


@pytest.fixture
def service(service, tmp_path):
    """The page's service, whose folder of LoRA files has one of its own, a link to another, and a text."""
    service.session.loras = tmp_path / "loras"
    lora_file(tmp_path / "loras" / "ink.safetensors")
    outside = lora_file(tmp_path / "elsewhere" / "secret.safetensors", seed=1)
    (tmp_path / "loras" / "link.safetensors").symlink_to(outside)
    (tmp_path / "loras" / "notes.txt").touch()
    return service


def content_of(page, job, item):
    return page.get(f"/api/jobs/{job['id']}/pictures/{item['picture']}").content


def image_of(page, job, item):
    return Image.open(io.BytesIO(content_of(page, job, item)))


def loaded_so(service):
    """A pipeline that was loaded as SET_UP says."""
    pipe = tiny_sd()
    set_up(pipe, scheduler="Euler", clip_skip=2, loras={service.session.loras / "ink.safetensors": 0.75})
    return pipe


def test_a_request_gives_the_images_of_a_model_that_was_loaded_so(page, service, tmp_path):
    plain = done(page, "generate", prompt="a red dog", steering=[RED], **FAST)
    job = done(page, "generate", prompt="a red dog", steering=[RED], **SET_UP, **PICTURE, **FAST)
    hooks = [hw.strengthen(service.relevance(""), "red", "Color", 5.0)]
    columns = {"plain": [], "steered": hooks}
    options = {"pictures": 1, "progress": False, **PICTURE, **FAST}
    expected = hw.compare(loaded_so(service), "a red dog", columns, **options)
    for item in job["found"]:
        image = image_of(page, job, item)
        assert image.size == (32, 24)
        assert np.array_equal(np.asarray(image), np.asarray(expected[item["column"]][0]))
    (tmp_path / "plain.png").write_bytes(content_of(page, job, job["found"][0]))
    said = settings_in(tmp_path / "plain.png")
    assert said["sampler"] == "Euler" and said["negative_prompt"] == PICTURE["negative_prompt"]
    assert "ink.safetensors" in said["loras"] and said["clip_skip"] == "2"
    again = done(page, "generate", prompt="a red dog", steering=[RED | {"strength": 5.5}], **FAST)
    first, second = (np.asarray(image_of(page, each, each["found"][0])) for each in (plain, again))
    service.session.images.clear()
    third = done(page, "generate", prompt="a red dog", steering=[RED], **FAST)
    assert np.array_equal(first, second)  # which came from the images that were kept
    assert np.array_equal(first, np.asarray(image_of(page, third, third["found"][0])))


def test_the_page_is_told_what_the_model_takes(page):
    takes = page.get("/api/state").json()["takes"]
    assert takes["lora_files"] == ["ink.safetensors"]
    assert takes["size"] == {"width": 16, "height": 16, "step": 8}
    assert "DPM++ 2M Karras" in takes["samplers"] and takes["sampler"] == "PNDM"
    assert takes["loras"] and takes["clip_skip"] >= 2


@pytest.mark.parametrize("name", ["link.safetensors", "notes.txt", "none.safetensors"])
def test_only_files_of_the_folder_are_loaded(page, name):
    answer = page.post("/api/explore", json={"prompt": "a dog", "loras": {name: 1.0}})
    assert answer.status_code == 422
    assert (
        f"'{name}' was not found among the LoRA files of this server. Choose one of: ink.safetensors."
        in answer.json()["detail"]
    )


@pytest.mark.parametrize("name", ["../elsewhere/secret.safetensors", "/etc/passwd", "a\\b", "a\0b"])
def test_a_path_is_refused(page, name):
    assert page.post("/api/explore", json={"prompt": "a dog", "loras": {name: 1.0}}).status_code == 422


def test_without_a_folder_the_option_is_named(page, service):
    service.session.loras = None
    answer = page.post("/api/explore", json={"prompt": "a dog", "loras": {"ink.safetensors": 1.0}})
    assert "Start the server with --loras FOLDER." in answer.json()["detail"]
    assert page.get("/api/state").json()["takes"]["lora_files"] == []


@pytest.mark.parametrize(
    ("asked", "part"),
    [
        ({"height": 32}, "expected both height and width, or neither"),
        ({"scheduler": "Euler b"}, "expected one of: Euler"),
        ({"clip_skip": 0}, "greater than or equal to 1"),
        ({"width": 5000, "height": 32}, "less than or equal to 4096"),
        ({"loras": {"ink.safetensors": 11}}, "less than or equal to 10"),
    ],
)
def test_what_is_out_of_range_is_refused(page, asked, part):
    answer = page.post("/api/explore", json={"prompt": "a dog", **asked})
    assert answer.status_code == 422 and part in answer.json()["detail"]


def test_what_the_model_does_not_take_fails_and_leaves_it_alone(page, service):
    before = done(page, "explore", prompt="a red dog", **FAST)
    for asked, part in (
        ({"height": 20, "width": 16}, "expected multiples of 8"),
        ({"clip_skip": 90}, "A clip skip of 90"),
    ):
        job = ended(page, ask(page, "explore", prompt="a red dog", **asked, **FAST))
        assert job["state"] == "failed" and part in job["error"]
    after = done(page, "explore", prompt="a red dog", **FAST)
    images = [np.asarray(image_of(page, job, job["found"][0])) for job in (before, after)]
    assert np.array_equal(*images)
    service.session.loading = {"clip_skip": 2}
    answer = page.post("/api/explore", json={"prompt": "a dog", "clip_skip": 1})
    assert "The server was started with --clip-skip 2. Leave the clip skip out." in answer.json()["detail"]


def made_of(variables, kind, column):
    """The image of a column that a program has made, in its variables or files."""
    if column in ("picture", "source"):
        return variables[column]
    if kind in ("edit", "compose"):
        return Image.open(f"{column}.png")
    return variables["generated"][column][0]


def test_an_uploaded_image_has_the_size_of_the_model(page):
    sent = page.post("/api/pictures", content=png((16, 16))).json()["id"]
    asked = {"prompt": "a red dog", "target": "a red cat", "picture": sent, "height": 24, "width": 32}
    answer = page.post("/api/edit", json=asked)
    assert answer.status_code == 422
    assert "expected no height and width with an uploaded image" in answer.json()["detail"]


def test_settings_change_every_way_to_edit_and_compose(page):
    """None of the ways ignores the negative prompt, the size or a sampler that adds noise."""
    ways = ["prompt-to-prompt", "plug-and-play", "masactrl", "free-prompt", "sdedit"]
    asked = {
        "edit": {"prompt": "a red dog", "target": "a red cat", "baselines": ways},
        "compose": {"prompt": "a dog and a cat", "words": ["dog", "cat"]},
    }
    for kind, fields in asked.items():
        plain = done(page, kind, **fields, **FAST)
        for settings in (PICTURE, {"negative_prompt": "a blue dog"}, {"scheduler": "Euler a"}):
            job, again = (done(page, kind, **fields, **settings, **FAST) for _ in range(2))
            for item, repeated, before in zip(*(each["found"] for each in (job, again, plain)), strict=True):
                assert "error" not in item, item
                content = content_of(page, job, item)
                assert content == content_of(page, again, repeated), (kind, item, settings)
                assert content != content_of(page, plain, before), (kind, item, settings)
                assert image_of(page, job, item).size == ((32, 24) if settings == PICTURE else (16, 16))


@pytest.mark.filterwarnings("ignore:The image is reconstructed poorly")  # by a random autoencoder
def test_every_snippet_sets_the_model_up(page, service, monkeypatch):
    """The program loads a pipeline with the options, and gives the image; the command understands them."""

    def load(name, **options):
        pipe = tiny_sd()
        set_up(pipe, **options)
        return pipe

    monkeypatch.setattr("headwise.model.pipelines.load_pipeline", load)
    sent = page.post("/api/pictures", content=png((16, 16))).json()["id"]
    Image.new("RGB", (16, 16), "purple").save("picture.png")
    edit = {"baselines": ["prompt-to-prompt", "sdedit"]}
    asked = [
        ("explore", PICTURE),
        ("explain", {"words": ["red"], **PICTURE}),
        ("mute", {"word": "red", "head": 5, **PICTURE}),
        ("generate", {"steering": [RED], **PICTURE}),
        ("strip", {"steering": [RED], "strengths": [0, 2], **PICTURE}),
        ("suggest", {"word": "dog"}),
        ("edit", {"target": "a blue dog", **edit, **PICTURE}),
        ("edit", {"target": "a blue dog", "picture": sent, "skip": 0.0, **edit, "negative_prompt": "a cat"}),
        ("compose", {"words": ["dog"], **PICTURE}),
    ]
    for kind, fields in asked:
        job = done(page, kind, prompt="a red dog", **fields, **SET_UP, **FAST)
        recipe = page.get(f"/api/jobs/{job['id']}/recipe").json()
        program, name, *arguments = shlex.split(recipe["command"])
        parsed = typer.main.get_command(commands).commands[name].make_context(name, arguments).params
        assert parsed["scheduler"] == "Euler" and parsed["clip_skip"] == 2 and program == "headwise"
        assert parsed["loras"] == [f"{service.session.loras / 'ink.safetensors'}:0.75"]
        if kind == "suggest":
            continue
        assert {key: parsed[key] for key in PICTURE if key in fields} == {
            key: fields[key] for key in PICTURE if key in fields
        }
        variables = {}
        exec(compile(recipe["python"], kind, "exec"), variables)
        shown = [item for item in job["found"] if "picture" in item]
        assert len(shown) >= 3 or kind not in ("edit", "compose")
        for item in shown[-3:]:
            made = made_of(variables, kind, item["column"])
            assert np.array_equal(np.asarray(made), np.asarray(image_of(page, job, item))), (kind, item)
            assert made.size == ((32, 24) if "width" in fields else (16, 16))


def test_the_folder_must_be_there(run, tmp_path):
    code, _, err = run("serve", "--loras", str(tmp_path / "none"), "--port", "0")
    assert code == 2 and "expected a folder of LoRA files." in " ".join(err.split())
