"""The routes on a tiny pipeline: an image is the one that the library generates, and nothing is lost."""

import base64
import io
import json
import shlex
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the page is an extra: pip install 'headwise[web]'")

import typer
from starlette.testclient import TestClient

import headwise as hw
from headwise import emoji
from headwise.cli.commands import app as commands
from headwise.cli.options import Measured
from headwise.errors import HookMisuse
from headwise.measuring.attention_maps import AttentionMaps, region_relevance
from headwise.measuring.votes import Votes
from headwise.model.pipelines import quiet
from headwise.steering.compare import compare
from headwise.web import requests, snippets
from headwise.web.app import make_app
from headwise.web.security import SESSION, Rules
from helpers import PATIENCE
from web_helpers import FAST, HERE, MEASURED, RED, ask, done, ended, png


def picture(client, job, item):
    content = client.get(f"/api/jobs/{job['id']}/pictures/{item['picture']}")
    assert content.headers["content-type"] == "image/png"
    return np.asarray(Image.open(io.BytesIO(content.content)), int)


# Images


def test_the_page_and_its_parts_are_served_from_here(page):
    index = page.get("/")
    assert index.headers["content-type"].startswith("text/html") and "Headwise" in index.text
    script = page.get("/page/main.js")
    assert script.headers["content-type"].startswith("text/javascript")
    for name in ("none.js", "../app.py", "..%2Fapp.py", "token.html/../../app.py"):
        assert page.get(f"/page/{name}").status_code == 404
    for name in ("docs", "redoc", "openapi.json"):
        assert page.get(f"/{name}").status_code == 404


def test_state_and_relevance(page, service, tmp_path):
    state = page.get("/api/state").json()
    assert (state["model"], state["state"], state["measured"]) == ("tiny", "ready", True)
    assert state["weakening"] == {}
    service.session.model, service.session.file = "emoji", emoji.UNET.relevance
    card = emoji.UNET.card()["weakening_votes_reporting"]
    of_effect = emoji.UNET.card()["weakening_effect_reporting"]
    assert page.get("/api/state").json()["weakening"] == {"": card, ":votes": card, ":effect": of_effect}
    assert card["Color"]["area"] > 0
    service.session.model, service.session.file = "tiny", tmp_path / "relevance.safetensors"
    found = page.get("/api/relevance").json()
    relevance = service.relevance("")
    assert np.allclose(found["values"], relevance.values, atol=1e-4)
    assert found["concepts"] == ["Color", "Animals"] and found["errors"][0][0] is None
    assert sum(layer["heads"] for layer in found["layers"]) == relevance.values.shape[1]
    assert page.get("/api/relevance", params={"name": "nowhere"}).status_code == 422


def test_the_map_is_there_before_the_model(service):
    """What is first painted waits for nothing that is slow."""
    gate = threading.Event()
    load = service.session._load_pipeline
    service.session._load_pipeline = lambda: gate.wait(PATIENCE) and load()
    try:
        with TestClient(make_app(service, Rules()), base_url=HERE) as page:
            assert page.get("/api/state").json()["state"] == "loading"
            assert page.get("/api/relevance").json()["concepts"] == ["Color", "Animals"]
            assert page.get("/api/runs").json() == []
            job = ask(page, "generate", prompt="a red dog", steering=[RED], **FAST)
            assert job["state"] in ("waiting", "running")
            gate.set()
            assert ended(page, job)["state"] == "done"
    finally:
        gate.set()


def test_without_fastapi_the_install_line_is_told(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "headwise.web.app", raising=False)
    code, _, err = run("serve")
    assert code == 2 and "pip install 'headwise[web]'" in " ".join(err.split())


def test_serve_begins_without_a_measurement_but_not_without_the_file_it_was_given(run, tmp_path, monkeypatch):
    def file_at_start(*options, model="./mine"):
        apps = []
        monkeypatch.setattr("headwise.serving.serve", lambda app, listening: apps.append((app, listening)))
        code, _, err = run("serve", "--model", model, "--port", "0", *options)
        assert code == 0, err
        apps[0][1].close()
        return apps[0][0].state.service.session.file

    monkeypatch.chdir(tmp_path)
    assert file_at_start() is None
    code, _, err = run("serve", "--model", "./mine", "--port", "0", "--relevance", "none.safetensors")
    assert code == 2 and "none.safetensors does not exist" in err
    (tmp_path / "other" / "mine").mkdir(parents=True)
    (tmp_path / "other" / "mine" / "relevance.safetensors").touch()
    assert file_at_start("--runs", "other").as_posix() == "other/mine/relevance.safetensors"
    assert file_at_start(model="emoji") == emoji.UNET.effect
    assert file_at_start("--relevance", "votes", model="emoji") == emoji.UNET.relevance


def test_words_with_their_tokens_and_what_an_edit_changes(page):
    found = page.post("/api/words", json={"prompt": "a red frog"}).json()["words"]
    assert [(word["text"], word["concepts"]) for word in found] == [
        ("a", []),
        ("red", ["Color"]),
        ("frog", []),
    ]
    assert found[2]["pieces"] == ["f", "r", "o", "g"] and found[2]["positions"] == [3, 4, 5, 6]
    edited = page.post("/api/words", json={"prompt": "a dog car", "source": "a red car"}).json()["words"]
    assert [word["changed"] for word in edited] == [False, True, False]
    typing = page.post("/api/words", json={"prompt": "a dog", "source": "red cars"}).json()
    assert "no word in common" in typing["problem"] and not any(w["changed"] for w in typing["words"])


def test_generate_is_what_the_library_generates(page, service, sd):
    job = done(page, "generate", prompt="a red dog", steering=[RED], pictures=2, **FAST)
    hooks = [hw.strengthen(service.relevance(""), "red", "Color", 5.0)]
    drawn = compare(
        sd, "a red dog", {"plain": [], "steered": hooks}, pictures=2, batch_size=1, progress=False, **FAST
    )
    assert [(item["column"], item["number"]) for item in job["found"]] == [
        ("plain", 0),
        ("plain", 1),
        ("steered", 0),
        ("steered", 1),
    ]
    for item in job["found"]:
        expected = np.asarray(drawn[item["column"]][item["number"]], int)
        assert np.array_equal(picture(page, job, item), expected)
    assert not np.array_equal(picture(page, job, job["found"][0]), picture(page, job, job["found"][2]))


def test_what_was_generated_before_is_not_generated_again(page, service, monkeypatch):
    first = done(page, "generate", prompt="a red dog", steering=[RED], **FAST)
    monkeypatch.setattr("headwise.steering.compare.compare", lambda *args, **options: 1 / 0)
    again = done(page, "generate", prompt="a red dog", steering=[RED], **FAST)
    for a, b in zip(first["found"], again["found"], strict=True):
        assert np.array_equal(picture(page, first, a), picture(page, again, b))
    strip = done(
        page, "strip", prompt="a red dog", steering=[RED | {"strength": 1}], strengths=[0, 5], **FAST
    )
    for a, b in zip(first["found"], strip["found"], strict=True):
        assert np.array_equal(picture(page, first, a), picture(page, strip, b))
    other = ask(page, "generate", prompt="a red dog", steering=[RED | {"strength": 4}], **FAST)
    assert ended(page, other)["state"] == "failed"


@pytest.mark.parametrize("away", [None, "Animals"])
def test_relevance_by_effect_steers_by_doses_and_contrasts(page, service, sd, away):
    concepts = {"Color": ["red", "blue"], "Animals": ["dog", "cat"]}
    folder = service.runs.root / "by effect"
    relevance = hw.measure_effect(sd, concepts, pictures=4, num_inference_steps=2, out=folder, progress=False)
    asked = {"prompt": "a red dog", "relevance": "by effect"}
    red = {"word": "red", "concept": "Color", "away": away, "strength": 0.5}
    job = done(page, "generate", **asked, steering=[red], **FAST)
    if away is None:
        rule, hook = "hw.amplify(", hw.amplify(relevance, "red", "Color", 0.5)
    else:
        rule, hook = "hw.contrast(", hw.contrast(relevance, "red", "Color", away, 0.5)
    hooks = {"plain": [], "steered": [hook]}
    drawn = compare(sd, "a red dog", hooks, pictures=1, batch_size=1, progress=False, **FAST)
    for item in job["found"]:
        assert np.array_equal(picture(page, job, item), np.asarray(drawn[item["column"]][0], int))
    recipe = page.get(f"/api/jobs/{job['id']}/recipe").json()["python"]
    assert rule in recipe and recipe.count("hw.Relevance.load") == 1
    shown = page.get("/api/relevance", params={"name": "by effect"}).json()
    assert shown["kind"] == "effect" and shown["signed"] == bool((relevance.values < 0).any())


def test_a_strip_has_a_picture_for_each_strength(page):
    job = done(page, "strip", prompt="a red dog", steering=[RED], strengths=[0, 0.5, 1], **FAST)
    assert [item["times"] for item in job["found"]] == [0, 0.5, 1]
    drawn = [picture(page, job, item) for item in job["found"]]
    assert not np.array_equal(drawn[0], drawn[2])


def test_two_senses_are_adjusted(page, service, sd):
    steering = {"word": "red", "concept": "Color", "away": "Animals", "strength": 3.0}
    job = done(page, "generate", prompt="a red dog", steering=[steering], **FAST)
    hooks = [hw.adjust(service.relevance(""), "red", "Color", "Animals", 3.0)]
    (drawn,) = compare(sd, "a red dog", {"": hooks}, pictures=1, progress=False, **FAST)[""]
    assert np.array_equal(picture(page, job, job["found"][1]), np.asarray(drawn, int))


def test_a_suggestion(page, service, sd):
    job = done(page, "suggest", prompt="a red dog", word="dog", **FAST)
    found = hw.suggest(sd, service.relevance(""), "a red dog", "dog", pictures=4, progress=False, **FAST)
    assert [one["concept"] for one in job["found"][0]["concepts"]] == [one.concept for one in found]


def test_explore_shows_what_a_head_attends_to_and_what_drives_a_region(page, service, sd):
    job = done(page, "explore", prompt="a red dog", **FAST)
    seen = AttentionMaps()
    with quiet(sd), hw.hooked(sd, seen):
        from headwise.model.generate import generate

        options = {key: FAST[key] for key in ("num_inference_steps", "guidance_scale")}
        generate(sd, ["a red dog"], 3, [0], output_type="pil", **options)
    maps = seen.take()
    looked = [({"index": 0}, maps.of(0)), ({"index": 5}, maps.of(5)), ({}, maps.together())]
    for params, expected in [*looked, ({"layer": 1}, maps.layers[1].mean(0))]:
        found = page.get(f"/api/explore/{job['id']}/head", params=params).json()
        assert [word["text"] for word in found["words"]] == ["a", "red", "dog"]
        size = (found["height"], found["width"])
        values = np.frombuffer(base64.b64decode(found["words"][1]["map"]), np.uint8).reshape(size)
        top = found["words"][1]["most"]
        assert np.allclose(values / 255 * top, expected[..., 1], atol=top / 255)
    box = {"left": 0, "top": 0, "right": 0.5, "bottom": 0.5}
    region = page.get(f"/api/explore/{job['id']}/region", params=box).json()
    pulls = region_relevance(maps, service.relevance(""), (0, 0, 0.5, 0.5))[0]
    assert region["concepts"][0]["pull"] == pytest.approx(pulls.max(), rel=1e-3)
    assert region["words"][1]["share"] == pytest.approx(maps.within((0, 0, 0.5, 0.5)).mean(0)[1], rel=1e-3)
    for params in ({"index": 10_000}, {"layer": 100}, {"layer": -1}):
        assert page.get(f"/api/explore/{job['id']}/head", params=params).status_code == 422
    assert page.get(f"/api/explore/{job['id']}/region", params=box | {"right": 0}).status_code == 422


def test_explain_shows_the_heads_of_a_word_and_mute_what_is_left_without_one(page, service, sd):
    job = done(page, "explain", prompt="a red dog", words=["red", "dog"], **FAST)
    (found,) = job["found"]
    explanation = hw.explain(sd, "a red dog", ["red", "dog"], maps_of=6, **FAST)
    assert np.array_equal(picture(page, job, found), np.asarray(explanation.image, int))
    assert found["steps"] == list(explanation.steps) and [one["word"] for one in found["words"]] == [
        "red",
        "dog",
    ]

    def check(map, expected):
        values = np.frombuffer(base64.b64decode(map), np.uint8).reshape(found["height"], found["width"])
        assert np.allclose(values / 255, expected / expected.max(), atol=0.003)

    for w, word in enumerate(found["words"]):
        assert word["share"] == pytest.approx(explanation.completeness[w])
        assert [layer["share"] for layer in word["layers"]] == pytest.approx(explanation.by_layer[w])
        check(word["map"], explanation.word_maps[w])
        for map, expected in zip(word["by_step"], explanation.word_maps_by_step[w], strict=True):
            check(map, expected)
        for place, (one, share) in enumerate(
            zip(word["heads"], explanation.top(word["word"], 6), strict=True)
        ):
            assert (one["head"], one["address"]) == share[:2] and one["share"] == pytest.approx(share.share)
            check(one["map"], explanation.map_of(word["word"], share.head))
            check(one["by_step"][1], explanation.maps_by_step[w, place, 1])
    head = found["words"][0]["heads"][0]["head"]
    muted = done(page, "mute", prompt="a red dog", word="red", head=head, **FAST)
    assert [item["column"] for item in muted["found"]] == ["plain", "muted"]
    plain, without = (picture(page, muted, item) for item in muted["found"])
    assert np.array_equal(plain, picture(page, job, found))
    hook = hw.weaken(hw.HeadMap.of(sd), [head], "red", 0)
    (expected,) = compare(sd, "a red dog", {"": [hook]}, pictures=1, progress=False, **FAST)[""]
    assert np.array_equal(without, np.asarray(expected, int)) and not np.array_equal(without, plain)


def test_a_word_or_head_that_is_not_there_is_said(page):
    job = ended(page, ask(page, "explain", prompt="a red dog", words=["car"], **FAST))
    assert job["state"] == "failed" and "Its words are: a, red, dog" in job["error"]
    job = ended(page, ask(page, "mute", prompt="a red dog", word="red", head=10_000, **FAST))
    assert job["state"] == "failed" and "Heads 10000 to 10000 were given" in job["error"]


def test_edit_has_the_baselines_beside_it(page, service, sd):
    baselines = ["prompt-to-prompt", "plug-and-play", "masactrl", "free-prompt", "sdedit"]
    asked = {"prompt": "a red dog", "target": "a red cat", "concepts": {"cat": "Animals"}, "strength": 2.0}
    job = done(page, "edit", **asked, baselines=baselines, **FAST)
    assert [item["column"] for item in job["found"]] == ["source", "relevance", *baselines]
    assert not any("error" in item for item in job["found"])
    p2p = hw.PromptToPrompt(relevance=service.relevance(""), concepts={"cat": "Animals"}, strength=2.0)
    options = {"seeds": [3], "progress": False, "num_inference_steps": 2, "guidance_scale": 5.0}
    source, target = hw.edit(sd, "a red dog", ["a red cat"], p2p, **options)[0]
    assert np.array_equal(picture(page, job, job["found"][0]), np.asarray(source, int))
    assert np.array_equal(picture(page, job, job["found"][1]), np.asarray(target, int))


def test_a_baseline_that_fails_does_not_hide_the_others(page, monkeypatch, caplog):
    def breaks(name):
        raise AttributeError("its own affair") if name == "masactrl" else HookMisuse("This cannot be.")

    monkeypatch.setattr("headwise.editing.baselines.masactrl.MasaCtrl", lambda: breaks("masactrl"))
    monkeypatch.setattr("headwise.editing.baselines.free_prompt.FreePrompt", lambda: breaks("free-prompt"))
    baselines = ["masactrl", "free-prompt", "prompt-to-prompt"]
    job = done(page, "edit", prompt="a red dog", target="a red cat", baselines=baselines, **FAST)
    found = {item["column"]: item for item in job["found"]}
    assert found["masactrl"]["error"] == "This method does not work with this model (AttributeError)."
    assert found["free-prompt"]["error"] == "This cannot be."
    assert "picture" in found["source"] and "picture" in found["prompt-to-prompt"]


def test_a_picture_that_was_sent_is_edited(page):
    sent = page.post("/api/pictures", content=png()).json()
    assert sent["width"] == sent["height"] == 16
    assert sent["cropped"].startswith("Only the middle 48 × 48 of the image's 64 × 48 pixels are used")
    assert page.post("/api/pictures", content=png((32, 32))).json()["cropped"] == ""
    shown = page.get(f"/api/pictures/{sent['id']}")
    assert Image.open(io.BytesIO(shown.content)).size == (16, 16)
    asked = {"prompt": "a red dog", "target": "a red cat", "picture": sent["id"], "skip": 0.0}
    job = done(page, "edit", **asked, rivals=["prompt-to-prompt", "sdedit"], **FAST)  # the key of old runs
    assert "psnr" in job["found"][0]
    assert [item["column"] for item in job["found"][1:]] == ["source", "prompt-to-prompt", "sdedit"]


def test_the_strip_is_kept_with_the_pictures_above_it(page, service):
    pair = done(page, "generate", prompt="a red dog", steering=[RED], **FAST)
    strip = done(page, "strip", prompt="a red dog", steering=[RED], strengths=[0, 1], **FAST)
    query = {"name": "both", "strip": strip["id"]}
    assert page.post(f"/api/jobs/{pair['id']}/keep", params=query).json() == {"run": "both"}
    kept = page.get("/api/runs/both").json()["pictures"]
    assert kept == ["000-plain.png", "001-steered.png", "002---0.png", "003---1.png"]


def test_the_recipe_of_an_explored_picture_has_the_head_and_the_box(page):
    job = done(page, "explore", prompt="a red dog", **FAST)
    query = {"head": 3, "box": "0.1000,0.2000,0.5000,0.6000"}
    program = page.get(f"/api/jobs/{job['id']}/recipe", params=query).json()["python"]
    assert "maps.of(3)" in program and "(0.1, 0.2, 0.5, 0.6)" in program
    plain = page.get(f"/api/jobs/{job['id']}/recipe", params={"box": "import os"}).json()["python"]
    assert "maps.together()" in plain and "(0.25, 0.25, 0.75, 0.75)" in plain


def test_only_runs_of_this_model_are_offered(page, service):
    for name, model in (
        ("same", "tiny"),
        ("pipeline", type(service.session.pipe).__name__),
        ("other", "sdxl"),
    ):
        (service.runs.root / name).mkdir(parents=True)
        measured = service.relevance("")
        replace(measured, settings=measured.settings | {"model": model}).save(
            service.runs.root / name / "relevance.safetensors"
        )
    offered = {run["name"]: run["of_this_model"] for run in page.get("/api/runs").json()}
    assert offered == {"same": True, "pipeline": True, "other": False}


@pytest.fixture
def built_in(service, sd):
    """The service of a model that calls itself the built-in one, with two relevances beside it."""
    service.session.model, service.session.file = "emoji", emoji.UNET.effect
    return service


def test_a_built_in_model_offers_its_relevance_by_effect_and_by_votes(page, built_in):
    folder = built_in.runs.root / "mine"
    folder.mkdir(parents=True)
    votes = hw.Relevance.load(emoji.UNET.relevance)
    votes.save(folder / "relevance.safetensors")
    offered = page.get("/api/relevances").json()
    assert offered == [
        {"name": "", "title": "built in, by effect"},
        {"name": ":votes", "title": "built in, by votes"},
        {"name": "mine", "title": "mine, by votes"},
    ]
    kinds = [page.get("/api/relevance", params={"name": one["name"]}).json()["kind"] for one in offered]
    assert kinds == ["effect", "votes", "votes"]
    assert page.get("/api/relevance", params={"name": ":effect"}).json()["kind"] == "effect"
    built_in.session.file = folder / "relevance.safetensors"
    titles = [one["title"] for one in page.get("/api/relevances").json()]
    assert titles == ["of emoji, by votes", "built in, by effect", "built in, by votes", "mine, by votes"]


def test_another_model_has_no_relevance_of_a_built_in_one(page):
    assert page.get("/api/relevances").json() == [{"name": "", "title": "of tiny, by votes"}]
    assert page.get("/api/relevance", params={"name": ":effect"}).status_code in (404, 422)


def test_words_have_the_concepts_of_the_chosen_relevance(page, service, sd):
    service.session.file = None
    folder = service.runs.root / "mine"
    hw.measure_effect(sd, {"Shades": ["red"]}, pictures=2, num_inference_steps=1, out=folder, progress=False)
    asked = {"prompt": "a red frog", "relevance": "mine"}
    words = page.post("/api/words", json=asked).json()["words"]
    assert [word["concepts"] for word in words] == [[], ["Shades"], []]


def test_words_are_read_with_tokenizers_that_no_job_uses(page, service, monkeypatch):
    def borrowed(*_, **__):
        raise RuntimeError("Already borrowed")

    monkeypatch.setattr(service.session.pipe.tokenizer, "tokenize", borrowed)
    words = page.post("/api/words", json={"prompt": "a red frog"}).json()["words"]
    assert [word["text"] for word in words] == ["a", "red", "frog"]


@pytest.mark.parametrize("model", ["emoji", "emoji-dit"])
def test_the_finished_weakening_of_the_model_is_shown_and_is_no_run(page, built_in, model):
    built_in.session.model = model
    assert page.get("/api/state").json()["example"]
    found = page.get("/api/example").json()
    assert (found["concept"], found["by"], found["prompts"]) == ("Color", "effect", 16)
    assert list(found["orders"]) == ["most relevant", "least relevant", "random 0"]
    assert found["area"][1] > 0.4 and len(found["pictures"]) == 4
    for one in found["pictures"]:
        assert {len(files) for files in one["files"].values()} == {len(found["ks"])}
        for file in {file for files in one["files"].values() for file in files}:
            image = Image.open(io.BytesIO(page.get(f"/api/example/pictures/{file}").content))
            assert image.size == (64, 64)
    for name in ("none.png", "..%2Fscores.safetensors", "scores.safetensors"):
        assert page.get(f"/api/example/pictures/{name}").status_code == 404
    assert page.get("/api/runs").json() == []
    size = sum(file.stat().st_size for file in emoji.MODELS[model].weakening.rglob("*") if file.is_file())
    assert size < 400_000
    built_in.session.model = "another"
    assert page.get("/api/example").status_code == 404 and not page.get("/api/state").json()["example"]


def test_compose_has_the_baselines_beside_it(page):
    concepts = {"dog": "Animals", "cat": "Animals"}
    job = done(page, "compose", prompt="a dog and a cat", words=["dog", "cat"], concepts=concepts, **FAST)
    columns = [item["column"] for item in job["found"]]
    assert columns == ["plain", "relevance", "attend-and-excite", "composable"]
    assert not any("error" in item for item in job["found"])
    plain = done(page, "generate", prompt="a dog and a cat", steering=[RED | {"word": "dog"}], **FAST)
    assert np.array_equal(picture(page, job, job["found"][0]), picture(page, plain, plain["found"][0]))
    half = ended(
        page,
        ask(
            page,
            "compose",
            prompt="a dog and a cat",
            words=["dog", "cat"],
            concepts={"dog": "Animals"},
            **FAST,
        ),
    )
    assert half["state"] == "failed" and "No concept was chosen for 'cat'" in half["error"]


def test_weaken_shows_curves_and_pictures_together(page, service):
    offered = page.get("/api/weaken").json()
    assert "Color" in offered["concepts"] and offered["ks"][0] == 0
    job = done(page, "weaken", name="w", concept="Color", count=2, **FAST | {"num_inference_steps": 1})
    assert job["run"] == "w"
    found = page.get("/api/runs/w/weakening").json()
    assert found["concept"] == "Color" and found["ks"] == offered["ks"] and len(found["pictures"]) == 2
    assert set(found["orders"]) >= {"most relevant", "least relevant", "random 0"}
    for one in found["pictures"]:
        for files in one["files"].values():
            assert len(files) == len(found["ks"])
            for file in files:
                assert page.get(f"/api/runs/w/pictures/{file}").content[:4] == b"\x89PNG"
    report = page.get("/api/runs/w/report")
    assert report.status_code == 200 and "Is Color lost" in report.text
    assert report.headers["content-security-policy"].startswith("sandbox; default-src 'none'")


def test_a_measurement_is_listed_shown_and_used(page, service):
    job = done(page, "measure", name="mine", prompts=["a dog", "a red car"], **MEASURED, **FAST)
    assert job["found"] == [{"pictures": 6}]
    (run,) = page.get("/api/runs").json()
    assert (run["name"], run["kind"], run["state"], run["counted"]) == ("mine", "measurement", "finished", 6)
    assert run["mine"] and run["measured"] and run["job"] is None
    shown = page.get("/api/runs/mine").json()
    assert (
        shown["pictures"] == ["00000.png"]
        and page.get("/api/runs/mine/pictures/00000.png").status_code == 200
    )
    assert len(page.get("/api/relevance", params={"name": "mine"}).json()["concepts"]) == 34
    steered = done(page, "generate", prompt="a red dog", steering=[RED], relevance="mine", **FAST)
    assert len(steered["found"]) == 2


def test_a_measurement_by_effect_measures_images_of_each_concept(page, service):
    asked = MEASURED | {"pictures": 1, "concepts": "emoji", "by": "effect"}
    job = done(page, "measure", name="effects", **asked, **FAST)
    (run,) = page.get("/api/runs").json()
    measured = hw.Relevance.load(service.runs.root / "effects" / "relevance.safetensors")
    assert measured.kind == "effect" and job["found"] == [{"pictures": len(measured.concepts)}]
    assert run["counted"] == len(measured.concepts) and run["of"] is None
    assert page.get("/api/relevance", params={"name": "effects"}).json()["kind"] == "effect"
    recipe = page.get("/api/runs/effects/recipe").json()
    python = " ".join(recipe["python"].split())
    assert "hw.measure_effect( pipe, 'emoji', pictures=1," in python
    assert "--by effect --concepts emoji --pictures 1" in recipe["command"]


def test_pictures_are_kept_where_they_are_wanted(page, service):
    job = done(page, "generate", prompt="a red dog", steering=[RED], **FAST)
    assert page.post(f"/api/jobs/{job['id']}/keep", params={"name": "kept"}).json() == {"run": "kept"}
    files = sorted(file.name for file in (service.runs.root / "kept").glob("*.png"))
    assert files == ["000-plain.png", "001-steered.png"]
    from headwise.pictures import settings_in

    said = settings_in(service.runs.root / "kept" / "001-steered.png")
    assert said["prompt"] == "a red dog" and said["steering"] == '["red:Color*5"]'
    kept = page.get("/api/runs/kept").json()
    assert kept["pictures"] == files and kept["prompts"] == ["a red dog"] * 2
    assert (kept["thumbnail"], kept["caption"]) == ("000-plain.png", "a red dog")
    Image.new("RGB", (8, 8)).save(service.runs.root / "kept" / "000-plain.png")
    assert page.get("/api/runs/kept").json()["prompts"] == ["", "a red dog"]


# Snippets


def check_pictures(page, job, variables):
    """A program's images, in its variables and files, are those of the job that it was printed from."""
    kind = job["kind"]
    shown = [item for item in job["found"] if "picture" in item]
    edits = 4 + bool(job["asked"].get("concepts"))
    pictures = {"explore": 1, "explain": 1, "mute": 2, "generate": 2, "strip": 3, "edit": edits, "compose": 4}
    assert len(shown) == pictures.get(kind, 0)
    for item in shown:
        column = item["column"]
        if kind in ("mute", "generate", "strip"):
            image = variables["generated"][column][item.get("number", 0)]
        elif column in ("source", "picture"):
            image = variables[column]
        else:
            image = Image.open(f"{column}.png")
        assert np.array_equal(np.asarray(image, int), picture(page, job, item)), (kind, column)


@pytest.mark.filterwarnings("ignore:The image is reconstructed poorly")  # by a random autoencoder
def test_every_snippet_gives_the_pictures_of_its_job_and_its_command_is_understood(
    page, service, sd, monkeypatch
):
    monkeypatch.setattr("headwise.model.pipelines.load_pipeline", lambda name, **options: sd)
    monkeypatch.setattr(
        "headwise.benchmarks.clip_scorer.CLIPScorer.load", lambda name: service.session.scorer
    )
    hostile = 'a red dog \'; import os #""" <script>'
    sent = page.post("/api/pictures", content=png((16, 16))).json()["id"]
    Image.new("RGB", (16, 16), "purple").save("picture.png")
    steering = [RED, {"word": "dog", "concept": "Animals", "away": "Color", "strength": -1.5}]
    edit = {"target": "a red cat", "baselines": ["prompt-to-prompt", "masactrl", "sdedit"]}
    both = {"dog": "Animals", "cat": "Animals"}
    asked = [
        ("explore", {"prompt": hostile}),
        ("explain", {"prompt": hostile, "words": ["red", "dog"]}),
        ("mute", {"prompt": hostile, "word": "red", "head": 5}),
        ("generate", {"prompt": hostile, "steering": steering}),
        ("strip", {"prompt": "-- a red dog", "steering": steering, "strengths": [-1, 0, 2]}),
        ("suggest", {"prompt": "a red dog", "word": "dog"}),
        ("edit", {"prompt": "a red dog", "concepts": {"cat": "Animals"}, **edit}),
        ("edit", {"prompt": "a red dog", "picture": sent, "skip": 0.0, **edit}),
        ("compose", {"prompt": "a dog and a cat", "words": ["dog", "cat"], "concepts": both}),
        ("weaken", {"name": "w", "concept": "Color", "count": 1}),
        ("measure", {"name": "m", "prompts": [hostile], **MEASURED}),
    ]  # fmt: skip
    for kind, fields in asked:
        job = done(page, kind, **fields, **FAST | {"num_inference_steps": 1 if kind == "weaken" else 2})
        recipe = page.get(f"/api/jobs/{job['id']}/recipe").json()
        variables = {}
        exec(compile(recipe["python"], kind, "exec"), variables)
        check_pictures(page, job, variables)
        program, name, *arguments = shlex.split(recipe["command"])
        assert program == "headwise"
        typer.main.get_command(commands).commands[name].make_context(name, arguments)
    assert page.get("/api/runs/m/recipe").json()["python"] == recipe["python"]


@pytest.mark.parametrize("kind", ["votes", "effect"])
@pytest.mark.parametrize("name", emoji.MODELS)
def test_a_program_for_a_built_in_model_reads_its_own_relevance(name, kind):
    request = requests.Generate.model_validate({"prompt": "a red car", "steering": [RED]})
    setting = snippets.Setting(name, kind, name, kind=kind)
    program = snippets.python_of(request, setting)
    line = next(line for line in program.splitlines() if line.startswith("relevance = "))
    loaded = []
    exec(line.replace("hw.Relevance.load", "load"), {"emoji": emoji, "load": loaded.append})
    file = {"votes": emoji.MODELS[name].relevance, "effect": emoji.MODELS[name].effect}[kind]
    assert loaded == [file] and f"hw.load_pipeline({name!r})" in program
    assert ("hw.amplify" if kind == "effect" else "hw.strengthen") in program
    _, command, *arguments = shlex.split(snippets.command_of(request, setting))
    context = typer.main.get_command(commands).commands[command].make_context(command, arguments)
    assert Measured(name, relevance_file=context.params["relevance_file"]).measured_file() == file
    weaken = requests.Weaken.model_validate({"name": "w", "concept": "Color"})
    assert "--scorer" not in snippets.command_of(weaken, setting)


def test_the_command_of_a_run_goes_on_with_it(page, service, run, monkeypatch):
    """Same settings, same folder: the command finds the run whole."""
    done(page, "measure", name="m", **MEASURED, **FAST)
    recipe = page.get("/api/runs/m/recipe").json()
    before = (service.runs.root / "m" / "votes.safetensors").read_bytes()
    monkeypatch.setattr(
        "headwise.model.pipelines.load_pipeline", lambda name, **options: service.session.pipe
    )
    code, out, err = run(*shlex.split(recipe["command"])[1:], "--json")
    assert code == 0, err
    assert json.loads(out)["resumed_from"] == 6
    assert (service.runs.root / "m" / "votes.safetensors").read_bytes() == before


# What comes back, what goes on


def test_nothing_is_lost_when_the_tab_closes(app, page):
    job = ask(page, "generate", prompt="a red dog", steering=[RED], **FAST)
    again = TestClient(app, base_url=HERE, cookies={SESSION: page.cookies[SESSION]})
    (found,) = [one for one in again.get("/api/state").json()["jobs"] if one["id"] == job["id"]]
    assert found["asked"]["prompt"] == "a red dog"
    finished = ended(again, job)
    assert finished["state"] == "done" and picture(again, finished, finished["found"][1]).shape == (16, 16, 3)


def test_a_measurement_is_cancelled_and_goes_on_as_if_nothing_had_been(page, service):
    calls = []

    def cancels(*given):
        calls.append(1)
        if len(calls) == 10:  # three calls a picture: within the fourth
            service.jobs.cancel(service.jobs.writing_to("m"))

    handle = service.session.pipe.unet.register_forward_pre_hook(cancels)
    job = ended(page, ask(page, "measure", name="m", **MEASURED | {"batch_size": 1}, **FAST))
    handle.remove()
    assert job["state"] == "cancelled" and len(calls) == 10
    (run,) = page.get("/api/runs").json()
    assert (run["state"], run["counted"]) == ("unfinished", 3)
    resumed = ended(page, page.post("/api/runs/m/resume").json())
    assert resumed["state"] == "done", resumed["error"]
    done(page, "measure", name="whole", **MEASURED | {"batch_size": 1}, **FAST)
    files = [service.runs.root / name / "votes.safetensors" for name in ("m", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_picture_does_not_wait_for_a_measurement(page, service):
    asked, shown, calls = threading.Event(), threading.Event(), []

    def paced(*given):
        if service.jobs.writing_to("m").state == "running":
            calls.append(1)  # three a picture: the first is made when another waits, the rest after that one
            assert (asked if len(calls) <= 3 else shown).wait(PATIENCE)

    handle = service.session.pipe.unet.register_forward_pre_hook(paced)
    long = ask(page, "measure", name="m", **MEASURED | {"batch_size": 1}, **FAST)
    short = ask(page, "generate", prompt="a red dog", steering=[RED], **FAST)
    asked.set()
    assert ended(page, short)["state"] == "done"
    still = page.get(f"/api/jobs/{long['id']}").json()
    assert still["state"] in ("running", "waiting") and still["done"] == 1
    shown.set()
    assert ended(page, still)["state"] == "done"
    handle.remove()
    assert len(Votes.load(service.runs.root / "m" / "votes.safetensors")) == 6


def test_ten_at_once_get_their_own(app, page, service, sd):
    def one(n):
        client = TestClient(app, base_url=HERE)
        client.get("/")
        job = ended(client, ask(client, "generate", prompt="a red dog", steering=[RED], **FAST | {"seed": n}))
        assert job["state"] == "done", job["error"]
        others = [one["id"] for one in client.get("/api/state").json()["jobs"]]
        assert others == [job["id"]]
        return n, picture(client, job, job["found"][1])

    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(one, range(10)))
    hooks = [hw.strengthen(service.relevance(""), "red", "Color", 5.0)]
    for n, drawn in found:
        options = FAST | {"seed": n}
        (expected,) = compare(sd, "a red dog", {"": hooks}, pictures=1, progress=False, **options)[""]
        assert np.array_equal(drawn, np.asarray(expected, int)), n
