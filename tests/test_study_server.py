"""The rating page's server: blind, strict, and nothing that it acknowledged is lost."""

import importlib
import io
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image

from headwise.errors import HeadwiseError, MissingExtra, RunMismatch, UnreadableFile
from headwise.study.answers import Answers
from headwise.study.order import trials_of
from headwise.study.reading import read_study
from headwise.study.server import page_of, serve
from helpers import PATIENCE, wait
from study_helpers import HOSTILE, begun, editing, polysemy, served, several

TELLING = ["003", "relevance", "prompt-to-prompt", "sdedit", ".png", "pictures/"]


class Person:
    """Somebody with a browser, as far as the server can tell."""

    def __init__(self, client, link):
        self.client = client
        joined = client.post(f"/api/study/{link}", json={})
        assert joined.status_code == 200, joined.text
        self.headers = {"Authorization": f"Bearer {joined.json()['token']}"}
        self.done, self.total = joined.json()["done"], joined.json()["total"]

    def get(self, path):
        return self.client.get(path, headers=self.headers)

    def trial(self, number):
        return self.get(f"/api/trial/{number}").json()

    def answer(self, number, choice=0, seconds=1.5, **more):
        body = {"trial": number, "choice": choice, "seconds": seconds, **more}
        return self.client.post("/api/answer", json=body, headers=self.headers)

    def attentively(self, number, choice=0):
        """Reads what is asked: does what a check says."""
        asked = self.trial(number)
        check = re.search("choose “(.+)”", asked["text"]) if "checks your" in asked["text"] else None
        return self.answer(number, asked["answers"].index(check[1]) if check else choice)


@pytest.fixture
def folder(tmp_path):
    return editing(tmp_path / "study")


@pytest.fixture
def answers(folder):
    return begun(folder)[1]


@pytest.fixture
def client(folder, answers):
    return TestClient(page_of(read_study(folder), folder, answers))


def test_a_participant_answers_from_consent_to_thanks(client, answers):
    told = client.get(f"/api/study/{answers.link()}").json()
    assert "voluntary" in told["consent"] and answers.participants() == [], "nobody is known before consent"
    person = Person(client, answers.link())
    for number in range(person.total):
        assert person.trial(number)["given"] is None
        state = person.answer(number, number % 2)
        assert state.status_code == 200 and state.json()["done"] == number + 1
    assert person.trial(0)["given"] == 0 and person.trial(1)["given"] == 1
    assert person.get(f"/api/trial/{person.total}").status_code == 404
    study = answers.study
    for saved, trial in zip(answers, trials_of(study, 0), strict=True):
        assert saved.answer == trial.options[saved.trial % 2]
        assert (saved.question, saved.case) == (trial.item.question.name, trial.item.case.name)
        assert (saved.shown, saved.check, saved.seconds) == (trial.item.methods, trial.check, 1.5)


def test_the_browser_is_told_nothing_that_unblinds(client, answers, folder):
    person = Person(client, answers.link())
    told = [client.get(f"/api/study/{answers.link()}").text, person.get("/api/state").text]
    for number in range(person.total):
        told.append(person.get(f"/api/trial/{number}").text)
        person.answer(number)
    said = [re.sub("[0-9a-f]{32}", "", text) for text in told]  # random names may hold any digits
    assert not [word for word in TELLING for text in said if word in text]
    asked = [json.loads(text) for text in told[2:]]
    assert {len(one) for one in asked} == {8}, "a check looks like any other question"
    for one in asked:
        for name in [*one["pictures"], *([one["reference"]] if one["reference"] else [])]:
            assert re.fullmatch("[0-9a-f]{32}", name)


def test_pictures_come_bare(client, answers, folder):
    person = Person(client, answers.link())
    names = {name for number in range(1) for name in person.trial(number)["pictures"]}
    for name in names:
        sent = client.get(f"/picture/{name}")
        assert sent.headers["content-type"] == "image/png" and b"a blue car" not in sent.content
        with Image.open(io.BytesIO(sent.content)) as picture:
            assert picture.text == {} and picture.size == (16, 16)
    kept = (folder / "pictures" / "000 relevance.png").read_bytes()
    assert b"a blue car" in kept, "the file itself does say it"


def test_names_of_pictures_differ_from_study_to_study(tmp_path):
    names = []
    for n in range(2):
        place = editing(tmp_path / str(n))
        study, answers = begun(place)
        person = Person(TestClient(page_of(study, place, answers)), answers.link())
        names.append(set(person.trial(0)["pictures"]))
    assert names[0].isdisjoint(names[1])


def test_the_same_answer_twice_is_one_and_another_is_refused(client, answers):
    person = Person(client, answers.link())
    assert person.answer(0, 1).status_code == 200
    again = person.answer(0, 1)
    assert again.status_code == 200 and again.json()["done"] == 1, "sent again, as after a lost connection"
    other = person.answer(0, 0)
    assert other.status_code == 409 and "first answer counts" in other.json()["detail"]
    assert [a.answer for a in answers] == [trials_of(answers.study, 0)[0].options[1]]


def test_nobody_answers_ahead(client, answers):
    person = Person(client, answers.link())
    assert person.answer(3).status_code == 409 and person.get("/api/trial/3").status_code == 404
    assert list(answers) == []


@pytest.mark.parametrize(
    "body",
    [
        {"trial": 0, "choice": 2, "seconds": 1},
        {"trial": 0, "choice": -1, "seconds": 1},
        {"trial": -1, "choice": 0, "seconds": 1},
        {"trial": 10**9, "choice": 0, "seconds": 1},
        {"trial": "0", "choice": 0, "seconds": 1},
        {"trial": 0, "choice": True, "seconds": 1},
        {"trial": 0, "choice": 0.0, "seconds": 1},
        {"trial": 0, "choice": 0, "seconds": -1},
        {"trial": 0, "choice": 0, "seconds": 1e9},
        {"trial": 0, "choice": 0},
        {"trial": 0, "choice": 0, "seconds": 1, "answer": "relevance"},
        [],
        "'; DROP TABLE answers; --",
    ],
)
def test_what_is_no_answer_is_refused(client, answers, body):
    person = Person(client, answers.link())
    sent = client.post("/api/answer", json=body, headers=person.headers)
    assert sent.status_code == 422 and list(answers) == []


@pytest.mark.parametrize("seconds", ["NaN", "Infinity", "1e999"])
def test_a_time_that_is_no_number_is_refused(client, answers, seconds):
    person = Person(client, answers.link())
    body = f'{{"trial": 0, "choice": 0, "seconds": {seconds}}}'
    headers = person.headers | {"Content-Type": "application/json"}
    assert client.post("/api/answer", content=body, headers=headers).status_code == 422


def test_strangers_learn_nothing(client, answers):
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": f"Bearer {answers.link()}"}):
        for path in ("/api/state", "/api/trial/0"):
            refused = client.get(path, headers=headers)
            assert refused.status_code == 403 and "use the link" in refused.json()["detail"]
        body = {"trial": 0, "choice": 0, "seconds": 1}
        assert client.post("/api/answer", json=body, headers=headers).status_code == 403
        assert client.post("/api/withdraw", headers=headers).status_code == 403
    assert client.get("/api/study/x").status_code == 403 == client.post("/api/study/x").status_code
    assert answers.participants() == []


@pytest.mark.parametrize(
    "path",
    [
        "/picture/../study.toml",
        "/picture/..%2fstudy.toml",
        "/picture/%2e%2e%2fanswers.sqlite",
        "/picture/000%20relevance.png",
        "/picture/pictures%2f000%20relevance.png",
        "/page/..%2fserver.py",
        "/page/%2e%2e/server.py",
        "/page/server.py",
        "/answers.sqlite",
        "/study.toml",
        "/docs",
        "/openapi.json",
    ],
)
def test_no_file_is_served_but_the_pages_own(client, path):
    assert client.get(path).status_code == 404


def test_every_reply_forbids_what_the_page_does_not_do(client, answers):
    for path in ("/", f"/s/{answers.link()}", "/page/study.js", "/api/state", "/nowhere"):
        policy = client.get(path).headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert client.get(path).headers["referrer-policy"] == "no-referrer"
        assert client.get(path).headers["x-frame-options"] == "DENY"


def test_the_page_asks_no_other_host_and_has_nothing_inline(client):
    page = client.get("/").text
    for name in ("index.html", "study.css", "study.js", "icon.svg"):
        text = client.get(f"/page/{name}").text
        assert not re.search(r"(?<!xmlns=\")https?://|@import|innerHTML|eval\(", text), name
    assert "<style" not in page and " style=" not in page and " on" not in re.sub(r">[^<]*<", "><", page)
    assert re.findall(r"<script[^>]*>(.*?)</script>", page) == [""]


def test_a_large_request_is_refused(client, answers):
    person = Person(client, answers.link())
    headers = person.headers | {"Content-Type": "application/json"}
    assert client.post("/api/answer", content=b"[" * 10**6, headers=headers).status_code == 413
    unannounced = (b"[" * 1000 for _ in range(100))
    assert client.post("/api/answer", content=unannounced, headers=headers).status_code == 413


def test_hostile_text_is_only_text(tmp_path):
    study, answers = begun(several(tmp_path / "study"))
    person = Person(TestClient(page_of(study, tmp_path / "study", answers)), answers.link())
    texts = [person.trial(n)["text"] for n in range(person.total) if person.answer(n).status_code == 200]
    assert any(HOSTILE in text for text in texts)
    assert person.get("/api/trial/0").headers["content-type"] == "application/json"


def test_a_restart_in_the_middle_goes_on(client, answers, folder):
    person = Person(client, answers.link())
    before = [person.trial(n) for n in range(3) if person.answer(n, n % 2).status_code == 200]
    answers.close()
    study, again = begun(folder)
    person.client = TestClient(page_of(study, folder, again))
    assert person.get("/api/state").json()["done"] == 3
    assert [person.trial(n) for n in range(3)] == [b | {"given": n % 2} for n, b in enumerate(before)]
    assert person.answer(3).json()["done"] == 4


def test_a_personal_link_is_one_person_on_any_device(folder, answers):
    client = TestClient(page_of(read_study(folder), folder, answers, open_to_all=False))
    assert client.post(f"/api/study/{answers.link()}").status_code == 403, "the open link is shut"
    first, second = answers.invite(2)
    ada = Person(client, first)
    ada.answer(0)
    assert Person(client, first).done == 1 and Person(client, first).headers == ada.headers
    assert Person(client, second).done == 0
    assert len(answers.participants()) == 2


def test_who_withdraws_takes_the_answers_along(client, answers, folder):
    ada, bob = Person(client, answers.link()), Person(client, answers.link())
    for person in (ada, bob):
        person.answer(0)
    assert client.post("/api/withdraw", headers=ada.headers).status_code == 200
    assert [a.participant for a in answers] == [1], "and nobody else's"
    refused = ada.answer(0)
    assert refused.status_code == 410 and "withdrawn" in refused.json()["detail"]


def test_a_full_disk_says_so_and_is_tried_again(client, answers, monkeypatch):
    person = Person(client, answers.link())
    with monkeypatch.context() as patch:
        patch.setattr(
            answers, "record", lambda *given: (_ for _ in ()).throw(sqlite3.OperationalError("full"))
        )
        refused = person.answer(0)
    assert refused.status_code == 503 and "try again" in refused.json()["detail"]
    assert person.answer(0).status_code == 200


def test_answers_to_something_else_are_refused(folder, answers, tmp_path):
    (folder / "study.toml").write_text((folder / "study.toml").read_text().replace("fits", "suits"))
    with pytest.raises(RunMismatch, match="holds answers to different questions or images"):
        begun(folder)
    (tmp_path / "x.sqlite").write_bytes(b"no database at all, but long enough to be read as one")
    for name in ("x.sqlite", "missing.sqlite"):
        with pytest.raises(UnreadableFile, match="cannot be read as answers of a study"):
            Answers(tmp_path / name)
    assert not (tmp_path / "missing.sqlite").exists()


def test_a_taken_port_is_said():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(
            HeadwiseError, match=r"Cannot serve at 127.0.0.1, port \d+: .* Give another --port"
        ):
            serve(FastAPI(), "127.0.0.1", taken.getsockname()[1], print)


def post(url, body=None, token=""):
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with urlopen(Request(url, json.dumps(body or {}).encode(), headers), timeout=PATIENCE) as reply:
        return json.load(reply)


def rate(address, link, acknowledged, token=None, stop=10**9):
    """One simulated rater: answers until the server is gone or all is done; notes what was acknowledged."""
    try:
        state = post(f"{address}/api/study/{link}") if token is None else {"token": token, "done": 0}
        while state["done"] < min(stop, state.get("total", 1)):
            body = {"trial": state["done"], "choice": state["done"] % 2, "seconds": 0.5}
            state |= post(f"{address}/api/answer", body, state["token"])
            acknowledged.append((state["token"], body["trial"]))
    except HTTPError:
        raise
    except OSError:
        return  # killed


def saved_in(file):
    """(token, trial) of all answers, read past the library."""
    with sqlite3.connect(file) as db:
        found = db.execute("SELECT token, trial FROM answers JOIN participants ON participant = number")
        rows = set(found.fetchall())
    db.close()
    return rows


def test_a_hundred_raters_at_once_lose_no_answer(folder):
    begun(folder)[1].close()
    acknowledged = []
    with served(folder) as (address, link, _), ThreadPoolExecutor(100) as people:
        for done in [people.submit(rate, address, link, acknowledged, stop=5) for _ in range(100)]:
            done.result()
    assert len(acknowledged) == 500 and saved_in(folder / "answers.sqlite") == set(acknowledged)
    answers = Answers(folder / "answers.sqlite")
    assert [person.number for person in answers.participants()] == list(range(100))
    for answer in answers:
        trial = trials_of(answers.study, answer.participant)[answer.trial]
        assert answer.answer == trial.options[answer.trial % 2]


def test_killed_at_any_moment_it_has_every_answer_that_it_acknowledged(folder):
    begun(folder)[1].close()
    acknowledged = []
    for killed_after in (7, 60, 150):
        with served(folder) as (address, link, process), ThreadPoolExecutor(20) as people:
            for _ in range(20):
                people.submit(rate, address, link, acknowledged)
            wait(lambda enough=killed_after: len(acknowledged) >= enough)
            os.kill(process.pid, signal.SIGKILL)
        assert len(acknowledged) >= killed_after
        assert set(acknowledged) <= saved_in(folder / "answers.sqlite")
    token, _ = acknowledged[0]
    with served(folder) as (address, link, _):  # and whoever was cut off goes on to the end
        rate(address, link, acknowledged, token=token)
    answers = Answers(folder / "answers.sqlite")
    (number,) = [person.number for person in answers.participants() if person.token == token]
    assert len(answers.choices(number)) == len(trials_of(answers.study, number))
    check = sqlite3.connect(folder / "answers.sqlite")
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()


def test_ctrl_c_ends_it_and_leaves_one_whole_file(folder):
    begun(folder)[1].close()
    acknowledged = []
    with served(folder) as (address, link, process):
        rate(address, link, acknowledged, stop=3)
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    assert [file.name for file in folder.glob("answers*")] == ["answers.sqlite"]
    assert saved_in(folder / "answers.sqlite") == set(acknowledged) != set()


def test_the_sense_form_has_words_for_answers(tmp_path):
    study, answers = begun(polysemy(tmp_path / "study"))
    person = Person(TestClient(page_of(study, tmp_path / "study", answers)), answers.link())
    for number in range(person.total):
        asked = person.trial(number)
        assert not asked["chooses"] and len(asked["pictures"]) == 1 and asked["reference"] is None
        assert asked["answers"][2:] == ["both of them", "neither of them"]
        assert person.attentively(number, 2).status_code == 200
    given = [a for a in answers if a.check is None]
    assert {a.answer for a in given} == {"both"} and all(a.answer == a.check for a in answers if a.check)


def test_without_the_extra_only_the_page_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    monkeypatch.delitem(sys.modules, "headwise.study.server")
    with pytest.raises(MissingExtra, match=r"pip install 'headwise\[web\]'"):
        importlib.import_module("headwise.study.server")


def test_asking_people_loads_no_torch():
    script = "import sys, headwise.study.server; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
