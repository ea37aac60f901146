"""The rating page: one HTML file, a style sheet and a script, and the few requests that they make.

A request without a valid link gets no data; one with a link gets no more than blind.py reveals; and an answer
counts only if its question was asked. The page loads nothing from other hosts and runs no other scripts
(Content-Security-Policy).
"""

import contextlib
import socket
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

from headwise.errors import MissingExtra
from headwise.study.answers import Answers, Participant
from headwise.study.blind import Pictures, trial_to_json
from headwise.study.description import Study
from headwise.study.order import Trial, trials_of

try:
    from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, Response
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse
    from pydantic import BaseModel, ConfigDict, Field
    from starlette.datastructures import Headers
    from starlette.types import ASGIApp, Receive, Scope, Send

    from headwise import serving
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
HEADERS = serving.SECURITY_HEADERS | {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",  # since the link holds a token
}
MAX_BODY = 4096  # bytes of a request
UNKNOWN_LINK = "This link is not valid. Please use the link that you were given."


class AnswerIn(BaseModel):
    """An answer as the page sends it: the position of the chosen option, not its name."""

    model_config = ConfigDict(extra="forbid", strict=True)
    trial: int = Field(ge=0)
    choice: int = Field(ge=0)
    seconds: float = Field(ge=0, le=86400, allow_inf_nan=False)


@dataclass(eq=False)
class _Rating:
    """The state that all routes share.

    Args:
        study: The questions and their images.
        answers: The file of answers.
        pictures: The study's images under their blind names.
        open_to_all: Whether the open link admits people; otherwise only personal links do.
    """

    study: Study
    answers: Answers
    pictures: Pictures
    open_to_all: bool

    def __post_init__(self) -> None:
        self.trials: Callable[[int], list[Trial]] = lru_cache(maxsize=4096)(
            lambda participant: trials_of(self.study, participant)
        )

    def require_link(self, link: str) -> None:
        """Refuse an unknown link, and the open one if only personal links are valid."""
        if not self.answers.has_link(link) or not self.open_to_all and link == self.answers.link():
            raise HTTPException(403, UNKNOWN_LINK)

    def participant(self, token: str) -> Participant:
        """The participant with this token; refused if there is none, or if they have withdrawn."""
        participant = self.answers.participant(token)
        if participant is None:
            raise HTTPException(403, UNKNOWN_LINK)
        if participant.withdrew:
            raise HTTPException(410, "You have withdrawn. Your answers were deleted.")
        return participant

    def progress(self, participant: Participant) -> dict[str, Any]:
        """The progress of a participant, with the texts that the page always needs."""
        done, total = len(self.answers.choices(participant.number)), len(self.trials(participant.number))
        return {"title": self.study.title, "thanks": self.study.thanks, "done": done, "total": total}


def _rating(request: Request) -> _Rating:
    return request.app.state.rating


Rating = Annotated[_Rating, Depends(_rating)]


def _current_participant(rating: Rating, authorization: Annotated[str, Header()] = "") -> Participant:
    return rating.participant(authorization.removeprefix("Bearer "))


Current = Annotated[Participant, Depends(_current_participant)]
files, consent, questions = APIRouter(), APIRouter(prefix="/api/study"), APIRouter(prefix="/api")


def page_of(study: Study, folder: str | Path, answers: Answers, open_to_all: bool = True) -> FastAPI:
    """Build the application that serves a study.

    Args:
        study: The questions and their images.
        folder: The folder that holds the images.
        answers: The file that answers are written to.
        open_to_all: Whether the open link admits people; otherwise only personal links do.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.rating = _Rating(study, answers, Pictures(study, Path(folder), answers.secret), open_to_all)
    app.add_middleware(Guard)
    for router in (files, consent, questions):
        app.include_router(router)
    app.add_exception_handler(RequestValidationError, _refuse_answer)
    app.add_exception_handler(sqlite3.Error, _report_unsaved)
    return app


def serve(app: FastAPI, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve a study until the process is interrupted.

    Args:
        app: The application, from `page_of`.
        host: The address at which the server listens.
        port: Its port; 0 takes any free one.
        ready: Called with the page's address as soon as the server listens.

    Raises:
        HeadwiseError: The address is in use or not allowed.
    """
    listening = serving.listen(host, port)
    everywhere = host in ("0.0.0.0", "::")
    is_v6 = listening.family == socket.AF_INET6
    name = socket.gethostname() if everywhere else f"[{host}]" if is_v6 else host
    ready(f"http://{name}:{listening.getsockname()[1]}")
    with contextlib.suppress(KeyboardInterrupt):
        serving.serve(app, listening)


class Guard:
    """Middleware that adds headers to every response and refuses requests larger than any answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it if its declared body is too large."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        send = serving.with_headers(send, HEADERS)
        if serving.is_too_large(Headers(scope=scope), MAX_BODY):
            refusal = JSONResponse(
                {"detail": serving.too_large(MAX_BODY).detail}, 413, {"connection": "close"}
            )
            return await refusal(scope, receive, send)
        return await self.app(scope, serving.limit_body(receive, MAX_BODY), send)


@files.get("/")
@files.get("/s/{link}")
def _index(link: str = "") -> Response:
    return _file("index.html")


@files.get("/page/{name}")
def _file(name: str) -> Response:
    """One of the four files of the page."""
    if name not in FILES:
        raise HTTPException(404, "No file has this name.")
    content = (Path(__file__).with_name("page") / name).read_bytes()
    return Response(content, media_type=FILES[name])


@files.get("/picture/{name}")
def _picture(name: str, rating: Rating) -> Response:
    content = rating.pictures.content(name)
    if content is None:
        raise HTTPException(404, "No image has this name.")
    return Response(content, media_type="image/png", headers={"Cache-Control": "private, max-age=86400"})


@consent.get("/{link}")
def _consent(link: str, rating: Rating) -> dict[str, Any]:
    rating.require_link(link)
    study = rating.study
    return {"title": study.title, "consent": study.consent, "total": len(rating.trials(0))}


@consent.post("/{link}")
def _join(link: str, rating: Rating) -> dict[str, Any]:
    rating.require_link(link)
    participant = rating.answers.join(link, rating.study.consent)
    if participant is None:
        raise HTTPException(403, UNKNOWN_LINK)
    return {"token": participant.token, **rating.progress(rating.participant(participant.token))}


@questions.get("/state")
def _progress(participant: Current, rating: Rating) -> dict[str, Any]:
    return rating.progress(participant)


@questions.get("/trial/{number}")
def _trial(number: int, participant: Current, rating: Rating) -> dict[str, Any]:
    trials, choices = rating.trials(participant.number), rating.answers.choices(participant.number)
    if not 0 <= number < len(trials) or number > len(choices):
        raise HTTPException(404, f"Question {number + 1} is not available now.")
    trial = trials[number]
    earlier = trial.options.index(choices[number]) if number < len(choices) else None
    page = trial_to_json(rating.study, trial, rating.pictures)
    return {"number": number, "total": len(trials), "given": earlier, **page}


@questions.post("/answer")
def _answer(body: AnswerIn, participant: Current, rating: Rating) -> dict[str, Any]:
    trials = rating.trials(participant.number)
    if body.trial >= len(trials) or body.choice >= len(trials[body.trial].options):
        raise HTTPException(422, "The study does not ask this question, or it has no such answer.")
    trial = trials[body.trial]
    choice = trial.options[body.choice]
    counted = rating.answers.record(participant.number, body.trial, trial, choice, body.seconds)
    if counted is None:
        raise HTTPException(409, "An earlier question has not been answered yet.")
    if counted != choice:
        raise HTTPException(409, "You have already answered this question. Your first answer counts.")
    return rating.progress(participant)


@questions.post("/withdraw")
def _withdraw(participant: Current, rating: Rating) -> dict[str, Any]:
    rating.answers.withdraw(participant.number)
    return {}


def _refuse_answer(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "This is not a valid answer."}, 422)  # without echoing the input


def _report_unsaved(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "Your answer could not be saved. Please try again."}, 503)
