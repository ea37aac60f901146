"""The rating page: one HTML file, a style and a module, and the few requests that they make.

Whoever has no link learns nothing, whoever has one no more than blind.py tells, and no answer counts that was
not asked for. Nothing is asked of another host, and nothing else may run on the page
(Content-Security-Policy).
"""

import contextlib
import socket
import sqlite3
from collections.abc import Awaitable, Callable, MutableMapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from headwise.errors import HeadwiseError, MissingExtra
from headwise.study.answers import Answers, Participant
from headwise.study.blind import Pictures, told
from headwise.study.description import Study
from headwise.study.order import trials_of

try:
    import uvicorn
    from fastapi import Depends, FastAPI, Header, HTTPException, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from pydantic import BaseModel, ConfigDict, Field
except ModuleNotFoundError as missing:
    raise MissingExtra(
        "The rating page needs FastAPI and uvicorn, which are not installed: pip install 'headwise[web]'"
    ) from missing

__all__ = ["page_of", "serve"]

FILES = {
    "index.html": "text/html; charset=utf-8",
    "study.css": "text/css; charset=utf-8",
    "study.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the link is a token
    "Cross-Origin-Resource-Policy": "same-origin",
}
LARGEST = 4096  # bytes that a request may have

Message = MutableMapping[str, Any]


class Given(BaseModel):
    """An answer as the page sends it: the place of the answer, not its name."""

    model_config = ConfigDict(extra="forbid", strict=True)
    trial: int = Field(ge=0)
    choice: int = Field(ge=0)
    seconds: float = Field(ge=0, le=86400, allow_inf_nan=False)


def page_of(study: Study, folder: str | Path, answers: Answers, open_to_all: bool = True) -> FastAPI:
    """The application.

    Args:
        study: What is asked.
        folder: Of its pictures.
        answers: Where answers go.
        open_to_all: Does the open link let people in, or only personal ones?
    """
    pictures = Pictures(study, Path(folder), answers.secret)
    asked = lru_cache(maxsize=4096)(lambda participant: trials_of(study, participant))
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard)

    def who(authorization: Annotated[str, Header()] = "") -> Participant:
        found = answers.participant(authorization.removeprefix("Bearer "))
        if found is None:
            raise HTTPException(403, "This link is not known. Please use the link that you were given.")
        if found.withdrew:
            raise HTTPException(410, "You have withdrawn. Your answers were deleted.")
        return found

    def state(participant: Participant) -> dict[str, Any]:
        given, trials = answers.given(participant.number), asked(participant.number)
        return {"title": study.title, "thanks": study.thanks, "done": len(given), "total": len(trials)}

    def knock(link: str) -> None:
        if not answers.knows(link) or not open_to_all and link == answers.link():
            raise HTTPException(403, "This link is not known. Please use the link that you were given.")

    @app.get("/")
    @app.get("/s/{link}")
    def page(link: str = "") -> Response:
        return _file("index.html")

    @app.get("/page/{name}")
    def file(name: str) -> Response:
        return _file(name)

    @app.get("/picture/{name}")
    def picture(name: str) -> Response:
        content = pictures.content(name)
        if content is None:
            raise HTTPException(404, "There is no such picture.")
        return Response(content, media_type="image/png", headers={"Cache-Control": "private, max-age=86400"})

    @app.get("/api/study/{link}")
    def consent(link: str) -> dict[str, Any]:
        knock(link)
        total = len(asked(0))
        return {"title": study.title, "consent": study.consent, "total": total}

    @app.post("/api/study/{link}")
    def join(link: str) -> dict[str, Any]:
        knock(link)
        found = answers.join(link, study.consent)
        return {"token": found.token, **state(who(found.token))}

    @app.get("/api/state")
    def progress(participant: Annotated[Participant, Depends(who)]) -> dict[str, Any]:
        return state(participant)

    @app.get("/api/trial/{number}")
    def trial(number: int, participant: Annotated[Participant, Depends(who)]) -> dict[str, Any]:
        trials, given = asked(participant.number), answers.given(participant.number)
        if not 0 <= number < len(trials) or number > len(given):
            raise HTTPException(404, f"Question {number + 1} cannot be asked now.")
        shown = trials[number]
        earlier = shown.options.index(given[number]) if number < len(given) else None
        return {"number": number, "total": len(trials), "given": earlier, **told(study, shown, pictures)}

    @app.post("/api/answer")
    def answer(body: Given, participant: Annotated[Participant, Depends(who)]) -> dict[str, Any]:
        trials = asked(participant.number)
        if body.trial >= len(trials) or body.choice >= len(trials[body.trial].options):
            raise HTTPException(422, "There is no such question or answer.")
        shown = trials[body.trial]
        chosen = shown.options[body.choice]
        counts = answers.record(participant.number, body.trial, shown, chosen, body.seconds)
        if counts is None:
            raise HTTPException(409, "An earlier question waits for its answer.")
        if counts != chosen:
            raise HTTPException(409, "You have answered this question already. Your first answer counts.")
        return state(participant)

    @app.post("/api/withdraw")
    def withdraw(participant: Annotated[Participant, Depends(who)]) -> dict[str, Any]:
        answers.withdraw(participant.number)
        return {}

    @app.exception_handler(RequestValidationError)
    def refused(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": "That is no answer."}, 422)  # what was sent is not sent back

    @app.exception_handler(sqlite3.Error)
    def unsaved(request: Request, error: sqlite3.Error) -> JSONResponse:
        return JSONResponse({"detail": "Your answer could not be saved. Please try again."}, 503)

    return app


def serve(app: FastAPI, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve until interrupted.

    Args:
        app: From `page_of`.
        host, port: Where; port 0 is any that is free.
        ready: Is told the address as soon as it answers.

    Raises:
        HeadwiseError: The address cannot be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise HeadwiseError(
            f"{host}:{port} cannot be listened at: {error.strerror or error}. Give another --port or --host."
        ) from None
    everywhere = host in ("0.0.0.0", "::")
    name = socket.gethostname() if everywhere else f"[{host}]" if family == socket.AF_INET6 else host
    ready(f"http://{name}:{listening.getsockname()[1]}")
    quiet = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, lifespan="off")
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(quiet).run(sockets=[listening])


class Guard:
    """Around the application: headers on every response, and no request larger than an answer can be."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(
        self, scope: Message, receive: Callable[[], Any], send: Callable[[Message], Any]
    ) -> None:
        left = LARGEST

        async def limited() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise HTTPException(413, "That is too large for an answer.")
            return message

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message["headers"] = [*message["headers"], *given]
                if not any(name == b"cache-control" for name, _ in message["headers"]):
                    message["headers"].append((b"cache-control", b"no-store"))
            await send(message)

        await self.app(scope, limited, guarded)


def _file(name: str) -> Response:
    """A file of the page: one of the four there are."""
    if name not in FILES:
        raise HTTPException(404, "There is no such file.")
    content = (Path(__file__).with_name("page") / name).read_bytes()
    return Response(content, media_type=FILES[name])
