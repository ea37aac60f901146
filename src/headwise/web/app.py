"""The routes of the page: each parses a request, calls the service, and answers.

Everything slow is a job of the service's queue. Errors of Headwise are answered with their own message.
`make_app` is all that a test needs; `serving.listen` and `serving.serve` add the socket.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from headwise import __version__
from headwise.benchmarks.defaults import defaults_of
from headwise.editing.baselines.table import OFFERED
from headwise.errors import HeadwiseError, MissingExtra, PromptsNotAlike
from headwise.web.jobs import Job, TooManyJobs
from headwise.web.run_store import Forbidden, NotFound, OutsideRuns
from headwise.web.service import REQUESTS, Service

try:
    from fastapi import Depends, FastAPI, Query, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, Response
    from starlette.concurrency import run_in_threadpool

    from headwise.web import requests, weakenings
    from headwise.web.security import HEADERS, Guard, Rules
except ModuleNotFoundError as missing:
    raise MissingExtra(
        "The page needs FastAPI and uvicorn, which are not installed: pip install 'headwise[web]'"
    ) from missing

__all__ = ["make_app"]

PAGE = Path(__file__).parent / "page"
MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
SHOWN = 48  # images of a run that the page shows
LONG_POLL = 15.0  # seconds that a request for a job waits for news
STATUS: dict[type[Exception], int] = {
    OutsideRuns: 404, NotFound: 404, Forbidden: 403, TooManyJobs: 429, HeadwiseError: 422,
}  # fmt: skip
# A report has its own style and images; it runs nothing and loads nothing, whatever its file holds.
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def _service(request: Request) -> Service:
    return request.app.state.service


def _owner(request: Request) -> str:
    return request.state.owner


def _job(request: Request, id: str) -> Job:
    """A job of the session that asks for it."""
    job = _service(request).jobs.get(id, _owner(request))
    if job is None:
        raise NotFound("This job no longer exists. Start it again.")
    return job


ServiceOf = Annotated[Service, Depends(_service)]
Owner = Annotated[str, Depends(_owner)]
OwnJob = Annotated[Job, Depends(_job)]
Json = dict[str, Any]


def make_app(service: Service, rules: Rules) -> FastAPI:
    """Build the application.

    Args:
        service: The model, the runs and the queue.
        rules: Which requests are answered.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await run_in_threadpool(service.jobs.close)

    # No pages of documentation: they would load scripts from another host.
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.service, app.state.rules = service, rules
    app.add_middleware(Guard, rules=rules, token_page=(PAGE / "token.html").read_bytes())  # type: ignore[arg-type]
    for kind, status in STATUS.items():
        app.add_exception_handler(kind, _answer_with(status))
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    model, work = (_add_page, _add_model, _add_words), (_add_submitting, _add_jobs)
    for add in (*model, *work, _add_exploring, _add_pictures, _add_runs):
        add(app)
    return app


def _answer_with(status: int) -> Callable[[Request, Exception], JSONResponse]:
    return lambda request, error: JSONResponse({"detail": str(error)}, status)


def _answer_invalid(request: Request, error: Exception) -> JSONResponse:
    """Which field is wrong and why, without what was sent."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("body", "query"))
    return JSONResponse({"detail": f"{where or 'The request'}: {first['msg']}."}, 422)


def _png(content: bytes) -> Response:
    return Response(content, media_type="image/png", headers={"cache-control": "private, max-age=86400"})


def _add_page(app: FastAPI) -> None:
    files = {file.name: file for file in PAGE.iterdir() if file.suffix in MEDIA_TYPES}

    @app.get("/")
    def index() -> Response:
        return Response((PAGE / "index.html").read_bytes(), media_type="text/html")

    @app.get("/page/{name}")
    def page_file(name: str) -> Response:
        if name not in files:
            raise NotFound("No file of the page has this name.")
        content, media_type = files[name].read_bytes(), MEDIA_TYPES[files[name].suffix]
        return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})


def _add_model(app: FastAPI) -> None:
    @app.get("/api/state")
    def state(service: ServiceOf, owner: Owner) -> Json:
        """The model and how far it is loaded, what the forms begin with, and this browser's jobs."""
        session = service.session
        return {
            "version": __version__,
            "model": session.model,
            "state": session.state,
            "error": session.error,
            "scorer": session.scorer_name,
            "measured": session.file is not None,
            "concepts": defaults_of(session.model).concepts,
            "num_inference_steps": session.steps,
            "guidance_scale": session.guidance_scale,
            "weakening": weakenings.known(session),
            "example": weakenings.has_example(session.model),
            "takes": session.takes | {"lora_files": list(session.lora_files())},
            "upload": app.state.rules.upload,
            "baselines": {name: baseline.title for name, baseline in OFFERED.items()},
            "jobs": [job.to_json() for job in service.jobs.owned_by(owner)],
        }

    @app.get("/api/relevance")
    def relevance(service: ServiceOf, name: str = "") -> Json:
        """Relevance, concepts × heads; `top` is where colours end, from −`top` where values are `signed`."""
        relevance = service.relevance(name)
        layers = relevance.head_map or ()
        return {
            "concepts": list(relevance.concepts),
            "layers": [{"address": layer.address, "heads": layer.heads} for layer in layers],
            "values": _numbers(relevance.values),
            "errors": _numbers(relevance.standard_errors),
            "split_half": _numbers(relevance.split_half),
            "kind": relevance.kind,
            "top": max(2.0, float(np.quantile(np.abs(relevance.values), 0.99))),
            "signed": bool((relevance.values < 0).any()),
            "words": relevance.settings.get("concepts", []),
            "model": relevance.settings.get("model"),
            "pictures": relevance.settings.get("pictures"),
        }

    @app.get("/api/relevances")
    def relevances(service: ServiceOf) -> list[Json]:
        return service.relevances()

    @app.get("/api/weaken")
    def weaken(service: ServiceOf, name: str = "") -> Json:
        return service.weakening_options(name)

    @app.get("/api/example")
    def example(service: ServiceOf) -> Json:
        """The finished weakening that comes with the model."""
        return weakenings.curves(weakenings.example(service.session.model))

    @app.get("/api/example/pictures/{file}")
    def example_picture(file: str, service: ServiceOf) -> Response:
        return _png(weakenings.example_picture(service.session.model, file))


def _add_words(app: FastAPI) -> None:
    @app.post("/api/words")
    def words(request: requests.Prompts, service: ServiceOf) -> Json:
        """The words of a prompt with their tokens and concepts, and which of them the source lacks."""
        words, problem = service.session.words(request.prompt), ""
        changed = words
        if request.source is not None:
            try:
                changed = service.session.changed_words(request.source, request.prompt)
            except PromptsNotAlike as error:  # not a fault: the prompt is still being typed
                changed, problem = (), str(error)
        relevance = service.relevance_or_none(request.relevance)
        lists = [] if relevance is None else relevance.settings.get("concepts", [])
        described = [
            {**word._asdict(), "changed": word in changed, "concepts": _listing(lists, word.text)}
            for word in words
        ]
        return {"words": described, "problem": problem}


def _listing(concepts: list[Any], word: str) -> list[str]:
    """The concepts whose words include this one."""
    return [name for name, words in concepts if word.casefold() in map(str.casefold, words)]


def _numbers(values: np.ndarray) -> Any:
    """For JSON, which has no NaN."""
    return np.where(np.isfinite(values), np.round(values, 4), None).tolist()  # type: ignore[call-overload]


def _add_submitting(app: FastAPI) -> None:
    """A route for each kind of request, which answers with a job."""
    for name, kind in REQUESTS.items():
        app.post(f"/api/{name}")(_submitting(kind))


def _submitting(kind: type) -> Callable[..., Json]:
    def submit(request: kind, service: ServiceOf, owner: Owner) -> Json:  # type: ignore[valid-type]
        return service.submit(request, owner).to_json()

    return submit


def _add_jobs(app: FastAPI) -> None:
    @app.get("/api/jobs/{id}")
    async def job(job: OwnJob, service: ServiceOf, since: int = -1) -> Json:
        """A job, as soon as its version is higher than `since`."""
        until = time.monotonic() + LONG_POLL
        while job.version <= since and not job.over and time.monotonic() < until:
            await asyncio.sleep(0.03)
        return job.to_json() | {"before": service.jobs.ahead_of(job)}

    @app.post("/api/jobs/{id}/cancel")
    def cancel(job: OwnJob, service: ServiceOf) -> Json:
        service.jobs.cancel(job)
        return job.to_json()

    @app.get("/api/jobs/{id}/pictures/{number}")
    def picture(job: OwnJob, number: int) -> Response:
        if not 0 <= number < len(job.pictures):
            raise NotFound("The job has no such image.")
        return _png(job.pictures[number])

    @app.get("/api/jobs/{id}/recipe")
    def recipe(job: OwnJob, service: ServiceOf, head: int | None = None, box: str = "") -> Json:
        """A job as a program: `head` and `box` (left,top,right,bottom) are what is looked at."""
        looked_at: Json = {} if head is None else {"head": head}
        if re.fullmatch(r"[01]\.\d{1,4}(,[01]\.\d{1,4}){3}", box):
            looked_at["box"] = tuple(map(float, box.split(",")))
        return service.snippets(job.kind, job.request, **looked_at)

    @app.post("/api/jobs/{id}/keep")
    def keep(
        job: OwnJob,
        name: Annotated[requests.RunName, Query()],
        service: ServiceOf,
        owner: Owner,
        strip: str = "",
    ) -> Json:
        """Keep the images of a job, and those of its strip, as a run of this name, which is returned."""
        service.keep(job, name, service.jobs.get(strip, owner) if strip else None)
        return {"run": name}


def _add_exploring(app: FastAPI) -> None:
    @app.get("/api/explore/{id}/head")
    def head(job: OwnJob, service: ServiceOf, index: int | None = None, layer: int | None = None) -> Json:
        return service.head_map(job, index, layer)

    @app.get("/api/explore/{id}/region")
    def region(
        job: OwnJob, service: ServiceOf, left: float, top: float, right: float, bottom: float, name: str = ""
    ) -> Json:
        return service.region(job, name, (left, top, right, bottom))


def _add_pictures(app: FastAPI) -> None:
    @app.post("/api/pictures")
    async def upload(request: Request, service: ServiceOf, owner: Owner) -> Json:
        """Keep an image: the body is the file, read up to the limit and only if it is an image."""
        content = b"".join([chunk async for chunk in request.stream()])
        id, picture, left_out = await run_in_threadpool(service.receive, content, owner)
        return {"id": id, "width": picture.width, "height": picture.height, "cropped": left_out}

    @app.get("/api/pictures/{id}")
    def uploaded(id: str, service: ServiceOf, owner: Owner) -> Response:
        from headwise.pictures import png_of

        return _png(png_of(service.upload(id, owner), {}))


def _add_runs(app: FastAPI) -> None:
    @app.get("/api/runs")
    def runs(service: ServiceOf, owner: Owner) -> list[Json]:
        return [service.run_to_json(run, owner) for run in service.runs.all()]

    @app.get("/api/runs/{name}")
    def run(name: str, service: ServiceOf, owner: Owner) -> Json:
        run = service.runs.run(name)
        prompts = [service.runs.prompt(run, file) for file in run.pictures[:SHOWN]]
        details = {"pictures": list(run.pictures), "prompts": prompts, "sure": service.split_half(run)}
        return service.run_to_json(run, owner) | details

    @app.post("/api/runs/{name}/resume")
    def resume(name: str, service: ServiceOf, owner: Owner) -> Json:
        return service.resume(name, owner).to_json()

    @app.delete("/api/runs/{name}")
    def remove(name: str, service: ServiceOf, owner: Owner) -> Json:
        service.remove(name, owner)
        return {"removed": name}

    @app.get("/api/runs/{name}/recipe")
    def recipe(name: str, service: ServiceOf) -> Json:
        return service.snippets_of_run(name)

    @app.get("/api/runs/{name}/weakening")
    def weakening(name: str, service: ServiceOf) -> Json:
        return service.weakening(name)

    @app.get("/api/runs/{name}/pictures/{file}")
    def picture(name: str, file: str, service: ServiceOf) -> Response:
        return _png(service.runs.picture(name, file).read_bytes())

    @app.get("/api/runs/{name}/report")
    def report(name: str, service: ServiceOf) -> Response:
        headers = HEADERS | {"content-security-policy": REPORT_POLICY}
        return Response(service.report(name), media_type="text/html", headers=headers)
