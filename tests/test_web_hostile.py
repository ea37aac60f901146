"""What is sent to harm: outside paths, foreign runs, scripts in texts, images that are none."""

import io
import json
import threading

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the page is an extra: pip install 'headwise[web]'")

from starlette.testclient import TestClient

from headwise.web.app import make_app
from headwise.web.run_store import RunStore
from headwise.web.security import Rules
from headwise.web.service import Service
from headwise.web.session import ModelSession
from helpers import PATIENCE
from web_helpers import FAST, HERE, MEASURED, RED, ask, done, ended, png


def test_nobody_gets_at_the_jobs_of_another(page, other):
    job = done(page, "explore", prompt="a red dog", **FAST)
    paths = ["", "/pictures/0", "/recipe"]
    for path in paths:
        assert page.get(f"/api/jobs/{job['id']}{path}").status_code == 200
        assert other.get(f"/api/jobs/{job['id']}{path}").status_code == 404
    assert other.get(f"/api/explore/{job['id']}/head").status_code == 404
    assert other.post(f"/api/jobs/{job['id']}/cancel").status_code == 404
    assert other.post(f"/api/jobs/{job['id']}/keep", params={"name": "x"}).status_code == 404
    assert other.get("/api/state").json()["jobs"] == []
    sent = page.post("/api/pictures", content=png()).json()["id"]
    assert other.get(f"/api/pictures/{sent}").status_code == 404
    stolen = other.post(
        "/api/edit", json={"prompt": "a red dog", "target": "a red cat", "picture": sent, **FAST}
    )
    assert stolen.status_code == 404


def test_a_run_is_deleted_by_who_started_it_and_by_nobody_else(page, other, service):
    done(page, "measure", name="mine", **MEASURED, **FAST)
    folder = service.runs.root / "mine"
    assert other.get("/api/runs").json()[0]["mine"] is False
    for refused in (other.delete("/api/runs/mine"), other.post("/api/runs/mine/resume")):
        assert refused.status_code == 403 and "not started from this browser" in refused.json()["detail"]
    taken = other.post("/api/measure", json={"name": "mine", **MEASURED, **FAST})
    assert taken.status_code == 403 and "Give another name" in taken.json()["detail"]
    assert (folder / "votes.safetensors").is_file()
    assert page.delete("/api/runs/mine").status_code == 200 and not folder.exists()


def test_runs_of_the_command_line_are_shown_and_nobody_deletes_them(page, service):
    folder = service.runs.root / "by-hand"
    folder.mkdir(parents=True)
    service.relevance("").save(folder / "relevance.safetensors")
    (folder / "command.txt").write_text("headwise demo --out runs/by-hand\n")
    (run,) = page.get("/api/runs").json()
    assert not run["mine"] and not run["made_here"] and run["state"] == "finished"
    assert page.delete("/api/runs/by-hand").status_code == 403 and folder.exists()
    assert page.get("/api/runs/by-hand/recipe").json()["command"] == "headwise demo --out runs/by-hand"
    card = {"kind": "measure", "asked": {}, "owner": ""}
    (folder / "web.json").write_text(json.dumps(card))
    assert page.delete("/api/runs/by-hand").status_code == 403
    (folder / "web.json").write_text("[1, 2")
    assert page.get("/api/runs").status_code == 200


def test_a_run_at_work_is_not_deleted(page, service):
    gate = threading.Event()
    handle = service.session.pipe.unet.register_forward_pre_hook(lambda *given: gate.wait(PATIENCE) and None)
    try:
        job = ask(page, "measure", name="busy", **MEASURED, **FAST)
        refused = page.delete("/api/runs/busy")
        assert refused.status_code == 403 and "Cancel it first" in refused.json()["detail"]
        twice = page.post("/api/measure", json={"name": "busy", **MEASURED, **FAST})
        assert twice.status_code == 403 and "is already" in twice.json()["detail"]
    finally:
        gate.set()
        handle.remove()
    assert ended(page, job)["state"] == "done"


OUTSIDE = ["%2e%2e", "%2e", "..%2f..%2fetc", "%2fetc", "x%00y", "x%5c..%5cy", "no-such-run", "...", " "]


@pytest.mark.parametrize("name", OUTSIDE)
def test_paths_outside_the_folder_of_runs_are_refused(page, service, name):
    secret = service.runs.root.parent / "secret.png"
    secret.write_bytes(png())
    for path in (
        "",
        "/report",
        "/recipe",
        "/weakening",
        "/pictures/secret.png",
        "/pictures/..%2f..%2fsecret.png",
    ):
        answer = page.get(f"/api/runs/{name}{path}")
        assert answer.status_code == 404, (path, answer.text)
        assert str(service.runs.root.resolve().parent) not in answer.text
    assert page.delete(f"/api/runs/{name}").status_code == 404
    bad = page.post(
        "/api/measure", json={"name": name.replace("%2f", "/").replace("%2e", "."), **MEASURED, **FAST}
    )
    assert bad.status_code == (200 if name == "no-such-run" else 422)


def test_links_out_of_the_folder_of_runs_are_not_followed(page, service, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    service.relevance("").save(outside / "relevance.safetensors")
    (outside / "a.png").write_bytes(png())
    done(page, "measure", name="mine", **MEASURED, **FAST)
    (service.runs.root / "link").symlink_to(outside)
    (service.runs.root / "mine" / "pictures" / "b.png").symlink_to(outside / "a.png")
    (service.runs.root / "broken").symlink_to(tmp_path / "nothing")
    assert [run["name"] for run in page.get("/api/runs").json()] == ["mine"]
    for path in ("/api/runs/link", "/api/runs/link/pictures/a.png", "/api/runs/mine/pictures/b.png"):
        assert page.get(path).status_code == 404
    assert page.get("/api/relevance", params={"name": "link"}).status_code == 404
    assert page.delete("/api/runs/mine").status_code == 200
    assert (outside / "a.png").is_file() and (outside / "relevance.safetensors").is_file()


def test_scripts_in_prompts_and_names_stay_text(page, service):
    bad = "<img src=x onerror=alert(1)>"
    folder = service.runs.root / bad
    folder.mkdir(parents=True)
    (folder / "<script>.png").write_bytes(png())
    job = done(page, "generate", prompt=f"a red dog {bad}", steering=[RED], **FAST)
    answers = [page.get("/api/runs"), page.get(f"/api/runs/{bad}"), page.get(f"/api/jobs/{job['id']}")]
    for answer in answers:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert page.get(f"/api/runs/{bad}/pictures/<script>.png").headers["content-type"] == "image/png"
    measured = done(page, "measure", name="m", prompts=[bad], **MEASURED, **FAST)
    assert measured["state"] == "done"
    assert bad not in page.get("/api/runs/m/report").text
    refused = page.post("/api/measure", json={"name": bad, **MEASURED, **FAST})
    assert refused.status_code == 422 and "<img" not in refused.text
    assert refused.json()["detail"].startswith("name: expected up to 80 letters, digits, spaces")


def test_a_report_that_somebody_else_wrote_runs_nothing(page, service):
    folder = service.runs.root / "planted"
    folder.mkdir(parents=True)
    service.relevance("").save(folder / "relevance.safetensors")
    (folder / "index.html").write_text("<script>alert(1)</script>")
    answer = page.get("/api/runs/planted/report")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox; default-src 'none'") and "script" not in policy


@pytest.mark.parametrize(
    "content",
    [b"", b"no image", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%!PS-Adobe-3.0 EPSF-3.0\n",
     b"GIF89a", png()[:60], b"\x80\x04\x95pickle"],
)  # fmt: skip
def test_what_is_no_picture_is_not_taken(page, content):
    refused = page.post("/api/pictures", content=content)
    assert refused.status_code == 422 and "The image" in refused.json()["detail"]


def test_a_picture_that_is_too_large_is_cut_off(page, service):
    sent = []

    def endless():
        for _ in range(5000):
            sent.append(1)
            yield b"\x89PNG" * 250

    assert page.post("/api/pictures", content=endless()).status_code == 413
    assert page.post("/api/pictures", content=b"x" * 200_001).status_code == 413
    bomb = io.BytesIO()
    Image.new("1", (12_000, 12_000)).save(bomb, format="PNG")
    assert len(bomb.getvalue()) < 200_000
    refused = page.post("/api/pictures", content=bomb.getvalue())
    assert refused.status_code == 422 and "at most 64 million pixels" in refused.json()["detail"]
    assert service.uploads == {}


@pytest.mark.parametrize(
    ("kind", "asked"),
    [
        ("explore", {"prompt": ""}),
        ("explore", {"prompt": "a\0b"}),
        ("explore", {"prompt": "x" * 1001}),
        ("explore", {"prompt": "a dog", "num_inference_steps": 100_000}),
        ("explore", {"prompt": "a dog", "guidance_scale": "NaN"}),
        ("explore", {"prompt": "a dog", "seed": -1}),
        ("explore", {"prompt": "a dog", "path": "/etc/passwd"}),
        ("explore", {"prompt": ["a dog"]}),
        ("explain", {"prompt": "a dog", "words": [""]}),
        ("explain", {"prompt": "a dog", "words": ["dog"], "batch_size": 10_000}),
        ("mute", {"prompt": "a dog", "word": "dog", "head": -1}),
        ("mute", {"prompt": "a dog", "word": "dog", "head": 0.5}),
        ("generate", {"prompt": "a red dog", "steering": []}),
        ("generate", {"prompt": "a red dog", "steering": [RED | {"strength": 1e9}]}),
        ("generate", {"prompt": "a red dog", "steering": [RED], "relevance": "../../etc"}),
        ("edit", {"prompt": "a dog", "target": "a cat", "picture": "../x"}),
        ("edit", {"prompt": "a dog", "target": "a cat", "baselines": ["__import__"]}),
        ("measure", {"name": "../x"}),
        ("measure", {"name": "x", "concepts": "/etc/passwd"}),
        ("measure", {"name": "x", "pictures": 10**9}),
        ("weaken", {"name": ".hidden", "concept": "Color"}),
    ],
)
def test_what_is_out_of_range_is_refused_in_a_sentence(page, service, kind, asked):
    refused = page.post(f"/api/{kind}", json=asked)
    assert refused.status_code == 422 and refused.json()["detail"].endswith(".")
    assert not service.runs.root.exists() or not list(service.runs.root.iterdir())


def test_json_that_is_none_is_refused(page):
    for content in (
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"prompt": NaN}',
        b"\xff\xfe",
        b'{"seed": 1e999, "prompt": "a"}',
    ):
        answer = page.post("/api/explore", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 422, content
        assert "Traceback" not in answer.text


def test_what_the_library_refuses_comes_as_its_sentence(page):
    job = ended(page, ask(page, "generate", prompt="a dog", steering=[RED], **FAST))
    assert job["state"] == "failed" and "'red' is not a word of" in job["error"]
    job = ended(page, ask(page, "edit", prompt="a dog", target="a dog", **FAST))
    assert job["state"] == "failed" and "nothing to edit" in job["error"]


def test_a_model_that_cannot_be_loaded_is_said_and_the_page_stays(tmp_path):
    from headwise.model.pipelines import load_pipeline

    session = ModelSession("./none", lambda: load_pipeline("./none"))
    service = Service(session, RunStore(tmp_path / "runs"))
    with TestClient(make_app(service, Rules()), base_url=HERE) as page:
        job = ended(page, ask(page, "explore", prompt="a dog", **FAST))
        assert job["state"] == "failed" and "The folder ./none does not exist" in job["error"]
        state = page.get("/api/state").json()
        assert state["state"] == "failed" and not state["measured"]
        assert page.post("/api/words", json={"prompt": "a dog"}).status_code == 422
        missing = page.get("/api/relevance")
        assert (
            missing.status_code == 422
            and "Nothing has been measured of ./none yet" in missing.json()["detail"]
        )
        assert page.get("/").status_code == 200
