"""Who may ask: hosts, origins, tokens, sessions, sizes; and what every answer forbids the browser."""

import re
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the page is an extra: pip install 'headwise[web]'")

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from headwise.errors import HeadwiseError
from headwise.web import security
from headwise.web.security import KEY, SESSION, Guard, Rules, rules_for

TOKEN = "correct-horse-battery"
PAGE = Path(security.__file__).parent / "page"


async def echo(request: Request) -> Response:
    """What a route sees."""
    body = await request.body()
    return JSONResponse({"owner": request.state.owner, "bytes": len(body), "path": request.url.path})


def client(rules=None, base="http://127.0.0.1:7860"):
    ways = ["GET", "POST", "DELETE"]
    inner = Starlette(routes=[Route("/{path:path}", echo, methods=ways)])
    return TestClient(
        Guard(inner, rules or Rules(), b"<form>token</form>"), base_url=base, follow_redirects=False
    )


@pytest.mark.parametrize("host", ["localhost", "localhost:7860", "127.0.0.1:7860", "[::1]:7860", "LOCALHOST"])
def test_this_machines_own_names_are_answered(host):
    assert client().get("/", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "192.168.1.5",
        "[",
        "",
    ],
)
def test_other_names_are_not_which_is_what_rebinding_needs(host):
    answer = client().get("/api/state", headers={"host": host})
    assert answer.status_code == 400 and "another name" in answer.json()["detail"]


def test_beyond_this_machine_addresses_and_given_names_are_answered():
    rules = rules_for("0.0.0.0", TOKEN, ["desk.lab.example"])
    asking = client(rules)
    known = {"authorization": f"Bearer {TOKEN}"}
    for host in ("192.168.1.5:7860", "desk.lab.example", "localhost"):
        assert asking.get("/", headers={"host": host} | known).status_code == 200
    assert asking.get("/", headers={"host": "evil.example"} | known).status_code == 400


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "http://127.0.0.1.evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
@pytest.mark.parametrize("way", ["post", "delete"])
def test_what_changes_something_comes_from_this_page(headers, way):
    answer = getattr(client(), way)("/api/runs/x", headers=headers)
    assert answer.status_code == 403 and "another site" in answer.json()["detail"]


def test_the_page_itself_and_programs_may_change_something():
    for headers in ({"origin": "http://127.0.0.1:7860"}, {"sec-fetch-site": "same-origin"}, {}):
        assert client().post("/api/generate", headers=headers).status_code == 200


def test_another_site_reads_nothing_but_may_link_to_the_page():
    foreign = {"sec-fetch-site": "cross-site"}
    assert client().get("/api/state", headers=foreign | {"sec-fetch-mode": "no-cors"}).status_code == 403
    assert client().get("/page/main.js", headers=foreign | {"sec-fetch-mode": "no-cors"}).status_code == 403
    assert client().get("/", headers=foreign | {"sec-fetch-mode": "navigate"}).status_code == 200


def test_a_browser_has_a_session_that_scripts_cannot_read():
    asking = client()
    first = asking.get("/")
    cookie = first.headers["set-cookie"]
    assert re.match(rf"{SESSION}=[\w-]{{32}}; .*HttpOnly; SameSite=Lax", cookie)
    again = asking.get("/")
    assert "set-cookie" not in again.headers and again.json()["owner"] == first.json()["owner"]
    assert client().get("/").json()["owner"] != first.json()["owner"]
    assert first.json()["owner"] not in cookie and asking.cookies[SESSION] not in first.text


def test_a_session_that_was_made_up_is_not_taken():
    asking = client()
    for made_up in ("x", "../" * 11, "a" * 33):
        answer = asking.get("/", headers={"cookie": f"{SESSION}={made_up}"})
        assert SESSION in answer.headers["set-cookie"]


def test_other_cookies_of_this_machine_do_not_disturb():
    asking = client()
    asking.get("/")
    mine = f'_xsrf=2|a"b|c; bad[name]=1; {SESSION}={asking.cookies[SESSION]}'
    assert "set-cookie" not in client().get("/", headers={"cookie": mine}).headers


@pytest.mark.parametrize("path", ["/api/state", "/page/main.js", "/api/runs/x/report", "/api/pictures/1"])
def test_without_the_token_nothing_is_told(path):
    answer = client(Rules(token=TOKEN)).get(path)
    assert answer.status_code == 401 and "token" in answer.json()["detail"] and TOKEN not in answer.text


def test_the_token_is_asked_for_and_then_left_out_of_the_address():
    asking = client(Rules(token=TOKEN))
    assert asking.get("/").status_code == 401 and "form" in asking.get("/").text
    assert asking.get("/page/style.css").status_code == 200
    assert asking.get(f"/?token={TOKEN[:-1]}").status_code == 401
    assert asking.get(f"/api/state?token={TOKEN}").status_code == 401
    entered = asking.get(f"/?token={TOKEN}")
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    assert TOKEN not in entered.headers["set-cookie"] and len(asking.cookies[KEY]) == 64
    assert asking.get("/api/state").status_code == 200


def test_the_token_may_be_typed():
    asking = client(Rules(token=TOKEN))
    assert asking.post("/token", data={"token": "wrong"}).status_code == 401
    assert asking.post("/token", data={"token": f" {TOKEN} "}).status_code == 303
    assert asking.get("/api/state").status_code == 200
    foreign = client(Rules(token=TOKEN))
    posted = foreign.post("/token", data={"token": TOKEN}, headers={"origin": "http://evil.example"})
    assert posted.status_code == 403


def test_the_key_is_good_for_its_own_session_and_token_only():
    asking = client(Rules(token=TOKEN))
    asking.get(f"/?token={TOKEN}")
    key, session = asking.cookies[KEY], asking.cookies[SESSION]
    stolen = client(Rules(token=TOKEN))
    assert stolen.get("/api/state", headers={"cookie": f"{KEY}={key}"}).status_code == 401
    renewed = client(Rules(token=TOKEN + "2"))
    both = {"cookie": f"{KEY}={key}; {SESSION}={session}"}
    assert renewed.get("/api/state", headers=both).status_code == 401
    assert stolen.get("/api/state", headers=both).status_code == 200


def test_programs_show_the_token_in_a_header():
    asking = client(Rules(token=TOKEN))
    assert asking.get("/api/state", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
    assert asking.get("/api/state", headers={"authorization": "Bearer é".encode()}).status_code == 401


def test_beyond_this_machine_there_is_always_a_token():
    for host in ("0.0.0.0", "::", "192.168.1.5", "desk.lab.example"):
        rules = rules_for(host)
        assert rules.token is not None and len(rules.token) >= 32
        assert rules_for(host).token != rules.token
    for host in ("127.0.0.1", "127.0.0.9", "::1", "localhost"):
        assert rules_for(host).token is None
        assert not rules_for(host).addresses
    with pytest.raises(HeadwiseError, match="The token has 5 characters; expected at least 16"):
        rules_for("0.0.0.0", "short")
    with pytest.raises(HeadwiseError, match="letters, digits"):
        rules_for("0.0.0.0", "with spaces and ; more")


def test_a_body_is_read_up_to_its_limit():
    rules = Rules(body=1000, upload=5000)
    assert client(rules).post("/api/generate", content=b"x" * 1000).json()["bytes"] == 1000
    assert client(rules).post("/api/generate", content=b"x" * 1001).status_code == 413
    assert client(rules).post("/api/pictures", content=b"x" * 5000).json()["bytes"] == 5000
    assert client(rules).post("/api/pictures", content=b"x" * 5001).status_code == 413
    for length in ("-1", "many", "9" * 5000):
        assert client(rules).post("/api/generate", headers={"content-length": length}).status_code == 413


def test_a_body_that_does_not_say_its_length_is_cut_all_the_same():
    sent = []

    def endless():
        for _ in range(10_000):
            sent.append(1)
            yield b"x" * 100

    answer = client(Rules(body=1000)).post("/api/generate", content=endless())
    assert answer.status_code == 413
    answer = client(Rules(body=1000, token=TOKEN)).post("/token", content=endless())
    assert answer.status_code == 413, "before the token is known, too"


def test_every_answer_forbids_what_the_page_does_not_need():
    for answer in (client().get("/"), client().get("/", headers={"host": "evil.example"})):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
        assert "script-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"


def test_a_websocket_is_refused():
    with pytest.raises(Exception) as refused:
        with client().websocket_connect("/"):
            pass
    assert "1008" in repr(refused.value) or getattr(refused.value, "code", 0) == 1008


def test_the_page_writes_texts_as_texts_and_asks_nobody_else():
    for file in PAGE.iterdir():
        text = file.read_text()
        for way in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
        ):
            assert way not in text, (file.name, way)
        hosts = set(re.findall(r"(?:https?:)?//([\w.-]+\.\w+)", text)) - {"www.w3.org"}  # the name of SVG
        assert hosts == set(), file.name
    html = (PAGE / "index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=|javascript:", html)
